"""Print what the solution of chapter 18's lab scores on five orders of its batches: what the threshold stands on.

`python -m tests.checks.lab_scores`; it takes some minutes.
"""

import statistics
import sys
from typing import Any

from ddetr_lab.checks import chapter18
from ddetr_lab.data.trees import TreeCrowns
from ddetr_lab.evaluation_scores import evaluate_detections
from tests.checks.test_notebooks import exercises
from tests.conftest import ROOT


def solution() -> Any:
    """Return `find_crowns` of the notebook."""
    (found,) = (one for one in exercises(ROOT / "book" / "18_fine_tuning.ipynb") if "find_crowns" in one[2])
    names: dict[str, Any] = {}
    exec(f"from __future__ import annotations\n{found[0]}\n{found[1]}", names)
    return names["find_crowns"]


def main() -> None:
    """Run the solution and print a line a seed, then the median and the threshold."""
    find_crowns, held_out = solution(), TreeCrowns("val", tile=chapter18.LAB_TILE)
    pictures, scores = [held_out[index][0] for index in range(len(held_out))], []
    for seed in range(5):
        results = [
            {"image_id": index, "category_id": 0, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for index, one in enumerate(find_crowns(chapter18.Batches(seed), pictures))
            for score, (x0, y0, x1, y1) in zip(one["scores"].tolist(), one["boxes"].tolist(), strict=True)
        ]
        scores.append(evaluate_detections(held_out.coco_ground_truth(), results).ap50)
        sys.stdout.write(f"order {seed}: AP50 {scores[-1]:.3f}\n")
    sys.stdout.write(f"median {statistics.median(scores):.3f}, threshold {chapter18.LAB_THRESHOLD}\n")


if __name__ == "__main__":
    main()
