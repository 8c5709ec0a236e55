"""The per-image report as pictures: the worst ones, and the matrix of classes; and all of it written to a folder.

Built in chapter 15.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddetr_lab.boxes import xywh_to_xyxy
from ddetr_lab.evaluation_report import (
    Confusion,
    DetectionReport,
    ImageReport,
    ObjectReport,
    confusion_of,
    per_image_report,
    totals,
)
from ddetr_lab.rendering import OKABE_ITO
from ddetr_lab.visualization import draw_boxes, panels, use_book_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ddetr_lab.data.coco import DetectionDataset
    from ddetr_lab.evaluation_scores import EvaluationResult

__all__ = ["draw_confusion", "draw_report", "draw_worst", "write_report"]

# A mark in front of the words tells the kinds apart without colour.
_MARKS = {"matched": "", "confused": "≠ ", "duplicate": "2× ", "poorly localised": "~ ", "false positive": "? "}
_COLOURS = dict(zip(_MARKS, (OKABE_ITO[2], OKABE_ITO[5], OKABE_ITO[6], OKABE_ITO[0], OKABE_ITO[5]), strict=True))
_MISSED = OKABE_ITO[1]
LEGEND = "green: matched   ≠ confused   2× duplicate   ~ poorly localised   ? false positive   dashed blue: missed"
WORST = 8
_OF_A_REPORT = re.compile(r"worst(_\d{2,}_image_-?\d+)?\.png")
_NUMBERS_UP_TO = 20  # classes; a matrix of more is drawn without its numbers


def draw_report(
    image: Any, report: ImageReport, categories: Mapping[int, str], title: str | None = None, ax: Axes | None = None
) -> Figure:
    """Draw a picture's detections, each with the kind of its mistake, and dashed the objects that nobody saw.

    An object that was found as another class is told in its detection's words.

    Args:
        image: the picture.
        report: of this picture.
        categories: label to name.
        title: of the axes; by default the report's line.
        ax: where to draw; by default on a new figure.

    Built in chapter 15.
    """
    found = report.detections
    missed = [entry for entry in report.objects if entry.kind not in ("matched", "confused")]
    figure = draw_boxes(
        image,
        _corners(found),
        labels=[_words(entry, report, categories) for entry in found],
        scores=[entry.score for entry in found],
        colours=[_COLOURS[entry.kind] for entry in found],
        title=report.line() if title is None else title,
        ax=ax,
    )
    return draw_boxes(
        None,
        _corners(missed),
        labels=[f"missed {categories[entry.category_id]}" for entry in missed],
        colours=_MISSED,
        linestyle="--",
        ax=figure.axes[0] if ax is None else ax,
    )


def _words(entry: DetectionReport, report: ImageReport, categories: Mapping[int, str]) -> str:
    name = categories[entry.category_id]
    if entry.kind == "confused" and entry.partner is not None:
        name = f"{name}, is {categories[report.objects[entry.partner].category_id]},"
    return _MARKS[entry.kind] + name


def _corners(entries: Sequence[DetectionReport | ObjectReport]) -> torch.Tensor:
    """Return boxes (N, 4) xyxy in pixels."""
    return xywh_to_xyxy(torch.tensor([entry.bbox for entry in entries], dtype=torch.float64).reshape(-1, 4))


def draw_worst(dataset: DetectionDataset, reports: Sequence[ImageReport], count: int = WORST) -> Figure:
    """Draw the pictures with the most mistakes.

    Args:
        dataset: where the pictures are.
        reports: from :func:`~ddetr_lab.evaluation_report.per_image_report`, worst first.
        count: how many; those without a mistake are left out.

    Raises:
        ValueError: if there is no picture with a mistake, or the dataset's order is not that of the reports.

    Built in chapter 15.
    """
    chosen = [report for report in reports[:count] if report.mistakes]
    if not chosen:
        raise ValueError("no picture has a mistake, so there is no worst one: lower the score threshold")
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, axes = panels(rows, columns, width=2.6 * columns, height=2.9 * rows + 0.3)
    for ax in axes:
        ax.set_axis_off()
    for ax, report in zip(axes, chosen, strict=False):
        title = f"picture {report.image_id}: {report.mistakes} mistake{'s' if report.mistakes > 1 else ''}"
        draw_report(_picture(dataset, report), report, dataset.categories, title, ax)
    with use_book_style():
        figure.supxlabel(LEGEND, fontsize=8)
    return figure


def _picture(dataset: DetectionDataset, report: ImageReport) -> Any:
    picture, annotation = dataset[report.position]
    if annotation["image_id"] != report.image_id:
        raise ValueError(
            f"picture {report.position} of the dataset has the id {annotation['image_id']}, the report's has "
            f"{report.image_id}: pass the dataset that the ground truth came from"
        )
    return picture


def draw_confusion(matrix: Confusion) -> Figure:
    """Draw which class was taken for which, each row in shares of the objects of its class.

    Built in chapter 15.
    """
    counts, classes = matrix.counts, len(matrix.names)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = min(8.0, 2.4 + 0.36 * classes)
    figure, (ax,) = panels(1, 1, width=side, height=side)
    with use_book_style():
        ax.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        ax.set(xlabel="taken for", ylabel="is", title="Objects by class, and what each was taken for")
        numbered = classes <= _NUMBERS_UP_TO + 1
        ticks = range(0, classes, 1 if numbered else -(-classes // _NUMBERS_UP_TO))
        names = [matrix.names[tick] for tick in ticks]
        ax.set_xticks(list(ticks), names, rotation=90)
        ax.set_yticks(list(ticks), names)
        for row in range(classes if numbered else 0):
            for column in range(classes):
                if counts[row, column]:
                    colour = "black" if shares[row, column] > 0.6 else "white"
                    ax.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    return figure


def write_report(
    folder: str | Path,
    dataset: DetectionDataset,
    detections: Sequence[Mapping[str, Any]],
    result: EvaluationResult,
    score_threshold: float = 0.5,
    overlap: float = 0.5,
    worst: int = WORST,
) -> list[str]:
    """Write ``report.json``, ``confusion.png``, ``worst.png`` and the worst pictures one by one into a folder.

    Args:
        folder: made if missing; ``worst.png`` and ``worst_NN_image_ID.png`` of an earlier report are removed.
        dataset: what was evaluated.
        detections: from :func:`~ddetr_lab.evaluation.detect_dataset`.
        result: the scores.
        score_threshold: detections at or below it are left out of everything but the scores.
        overlap: the IoU from which on a detection is in place.
        worst: how many pictures to draw.

    Returns:
        What a reader should see first, in lines.

    Built in chapter 15.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        if _OF_A_REPORT.fullmatch(left.name):
            left.unlink()
    truth = dataset.coco_ground_truth()
    known = [detection for detection in detections if detection["category_id"] in dataset.categories]
    reports = per_image_report(truth, known, score_threshold, overlap)
    matrix, counted = confusion_of(reports, truth), totals(reports)
    content = {
        "score_threshold": score_threshold,
        "overlap": overlap,
        "scores": result.to_dict(),
        "totals": counted,
        "confusion": matrix.to_dict(),
        "images": [report.to_dict() for report in reports],
    }
    (folder / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    _save(draw_confusion(matrix), folder / "confusion.png")
    drawn = [report for report in reports[:worst] if report.mistakes]
    if drawn:
        _save(draw_worst(dataset, drawn, worst), folder / "worst.png")
    for number, report in enumerate(drawn, start=1):
        figure = draw_report(_picture(dataset, report), report, dataset.categories)
        _save(figure, folder / f"worst_{number:02d}_image_{report.image_id}.png")
    return _summary(counted, matrix, drawn, score_threshold)


def _save(figure: Figure, path: Path) -> None:
    with use_book_style():
        figure.savefig(path, metadata={"Software": None})


def _summary(
    counted: Mapping[str, int], matrix: Confusion, drawn: Sequence[ImageReport], threshold: float
) -> list[str]:
    lines = [f"above a score of {threshold}: " + ", ".join(f"{count} {name}" for name, count in counted.items())]
    if pairs := matrix.worst():
        lines.append("taken for another: " + ", ".join(f"{what} for {other} {n}x" for what, other, n in pairs))
    return [*lines, *(report.line() for report in drawn)]
