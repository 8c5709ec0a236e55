"""Print how close this package comes to the reference: ``make golden-report``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from tests.golden.cases import MODEL_CASES
from tests.golden.comparison import run_losses, run_model, run_post_processing, run_processor
from tests.golden.fingerprints import decompose_all, largest_difference
from tests.golden.loss_cases import LOSS_CASES
from tests.golden.processor_cases import POST_PROCESS_CASES, PROCESSOR_CASES, write_panoptic_masks
from tests.golden.storage import read_arrays

BAR = 1e-4
GROUPS = ("outputs", "losses", "gradients")


def difference(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest absolute difference; infinite where names differ."""
    if sorted(actual) != sorted(expected):
        return float("inf")
    return max((largest_difference(actual[key], expected[key]) for key in expected), default=0.0)


def by_group(name: str, dtype: torch.dtype, suffix: str = "") -> dict[str, float]:
    """Return the largest difference of a case's outputs, losses and gradients."""
    actual, expected = run_model(name, dtype).arrays(), read_arrays(f"model_{name}{suffix}")
    return {
        group: difference(*({key: a[key] for key in a if key.startswith(f"{group}/")} for a in (actual, expected)))
        for group in GROUPS
    }


def of_case(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Select one case's arrays from a file of many."""
    return {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{name}/")}


def main() -> int:
    """Print the report; the exit status is 1 if a difference is above the bar."""
    torch.set_num_threads(1)
    single = {case.name: by_group(case.name, torch.float32) for case in MODEL_CASES}
    double = {case.name: by_group(case.name, torch.float64, ".float64") for case in MODEL_CASES if case.float64}
    print(f"{'float32':42}{'outputs':>10}{'losses':>10}{'gradients':>11}")
    for name, found in single.items():
        print(f"{name:42}{found['outputs']:10.1e}{found['losses']:10.1e}{found['gradients']:11.1e}")
    print("float64")
    for name, found in double.items():
        print(f"{name:42}{found['outputs']:10.1e}{found['losses']:10.1e}{found['gradients']:11.1e}")
    worst = {group: max(found[group] for found in single.values()) for group in GROUPS}

    stored = read_arrays("losses")
    worst["made-up losses"] = max(difference(run_losses(case), of_case(stored, case.name)) for case in LOSS_CASES)
    stored = read_arrays("processor")
    with tempfile.TemporaryDirectory() as folder:
        write_panoptic_masks(Path(folder))
        worst["processor"] = max(
            difference(decompose_all(run_processor(case, Path(folder))[0]), of_case(stored, case.name))
            for case in PROCESSOR_CASES
        )
    stored = read_arrays("post_processing")
    worst["post-processing"] = max(
        difference(run_post_processing(case), of_case(stored, case.name)) for case in POST_PROCESS_CASES
    )
    print()
    print(
        f"{len(MODEL_CASES)} model configurations ({len(double)} also in float64), {len(LOSS_CASES)} made-up matchings,"
    )
    print(
        f"{len(PROCESSOR_CASES)} processor cases, {len(POST_PROCESS_CASES)} post-processing cases; the bar is {BAR:g}"
    )
    for name, value in worst.items():
        print(f"largest absolute difference, {name:16} {value:.1e}")
    return int(max(worst.values()) > BAR)


if __name__ == "__main__":
    sys.exit(main())
