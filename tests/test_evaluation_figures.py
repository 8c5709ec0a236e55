"""The report as pictures and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.evaluation import score_dataset
from ddetr_lab.evaluation_figures import draw_confusion, draw_report, draw_worst, write_report
from ddetr_lab.evaluation_report import Confusion, per_image_report


@pytest.fixture(scope="module")
def scenes() -> DigitScenes:
    return DigitScenes("val", num_scenes=6, size=96)


def answers(scenes: DigitScenes) -> list[dict[str, Any]]:
    """The truth, with every third class wrong and one box from nowhere."""
    entries = scenes.coco_ground_truth()["annotations"]
    rows = [
        {
            "image_id": entry["image_id"],
            "category_id": (entry["category_id"] + (number % 3 == 0)) % 10,
            "bbox": entry["bbox"],
            "score": 0.9,
        }
        for number, entry in enumerate(entries)
    ]
    return [*rows, {"image_id": 0, "category_id": 3, "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.8}]


def test_a_picture_shows_its_detections_and_what_was_missed(scenes: DigitScenes) -> None:
    report = per_image_report(scenes.coco_ground_truth(), answers(scenes))[0]
    figure = draw_report(scenes[report.position][0], report, scenes.categories)
    (ax,) = figure.axes
    words = [text.get_text() for text in ax.texts]
    unseen = report.missed - report.count("confused")
    assert len(words) == len(report.detections) + unseen
    assert sum(word.startswith("missed ") for word in words) == unseen
    wrong = next(entry for entry in report.detections if entry.kind == "confused")
    name = scenes.categories[report.objects[wrong.partner or 0].category_id]
    assert f"≠ {scenes.categories[wrong.category_id]}, is {name}, 0.90" in words
    assert ax.get_title() == report.line()


def test_the_worst_pictures_in_their_order(scenes: DigitScenes) -> None:
    reports = per_image_report(scenes.coco_ground_truth(), answers(scenes))
    figure = draw_worst(scenes, reports, count=3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"picture {report.image_id}: {_mistakes(report.mistakes)}" for report in reports[:3]]
    with pytest.raises(ValueError, match="no picture has a mistake"):
        draw_worst(scenes, [report for report in reports if not report.mistakes])
    with pytest.raises(ValueError, match="pass the dataset that the ground truth came from"):
        draw_worst(_Reversed(scenes), reports, count=2)  # type: ignore[arg-type]


def _mistakes(count: int) -> str:
    return f"{count} mistake" + ("s" if count > 1 else "")


class _Reversed:
    def __init__(self, scenes: DigitScenes) -> None:
        self.scenes, self.categories = scenes, scenes.categories

    def __getitem__(self, index: int) -> Any:
        return self.scenes[len(self.scenes) - 1 - index]


def test_the_matrix_is_drawn_in_shares_with_its_numbers() -> None:
    figure = draw_confusion(Confusion(("a", "b", "background"), np.array([[3, 1, 0], [0, 0, 2], [0, 1, 0]])))
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.get_images()[0].get_array(), [[0.75, 0.25, 0], [0, 0, 1], [0, 1, 0]])
    assert [text.get_text() for text in ax.texts] == ["3", "1", "2", "1"]
    many = Confusion((*map(str, range(80)), "background"), np.ones((81, 81), dtype=np.int64))
    assert len(draw_confusion(many).axes[0].texts) == 0


def test_everything_is_written_and_an_earlier_report_goes(scenes: DigitScenes, tmp_path: Path) -> None:
    (tmp_path / "worst_99_image_7.png").touch()
    (tmp_path / "worst_case_of_my_thesis.png").touch()
    found = [*answers(scenes), {"image_id": 1, "category_id": 77, "bbox": [0.0, 0.0, 9.0, 9.0], "score": 0.9}]
    result = score_dataset(scenes, found)
    lines = write_report(tmp_path, scenes, found, result, worst=2)
    reports = per_image_report(scenes.coco_ground_truth(), answers(scenes))
    names = {"report.json", "confusion.png", "worst.png", "worst_case_of_my_thesis.png"}
    names |= {f"worst_{number:02d}_image_{report.image_id}.png" for number, report in enumerate(reports[:2], 1)}
    assert {path.name for path in tmp_path.iterdir()} == names
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["scores"]["ap"] == pytest.approx(result.ap)
    assert [entry["image_id"] for entry in content["images"]] == [report.image_id for report in reports]
    assert content["totals"]["objects"] == result.num_ground_truth
    assert lines[0].startswith(f"above a score of 0.5: {result.num_ground_truth} objects, ")
    assert lines[1].startswith("taken for another: ") and lines[2:] == [report.line() for report in reports[:2]]
    with Image.open(tmp_path / "worst.png") as picture:
        assert picture.width > 400


def test_without_a_mistake_there_is_no_worst_picture(scenes: DigitScenes, tmp_path: Path) -> None:
    entries = scenes.coco_ground_truth()["annotations"]
    perfect = [{key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for entry in entries]
    lines = write_report(tmp_path, scenes, perfect, score_dataset(scenes, perfect))
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "confusion.png"}
    assert len(lines) == 1
