"""Figures of a data set that was looked over: its pictures with their boxes, its classes, the sizes of its boxes.

Built in chapter 18.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageOps

from ddetr_lab.data.findings import ValidationReport
from ddetr_lab.data.validate import Looked
from ddetr_lab.data.validate_entries import Box, ImageEntry
from ddetr_lab.image_inputs import load_image
from ddetr_lab.rendering import label_colour
from ddetr_lab.visualization import use_book_style

__all__ = ["box_sizes", "class_counts", "contact_sheet", "write_figures"]

_CELL = 200  # side of a picture on the contact sheet, px
_COLUMNS, _ROWS = 6, 4
_CAPTION = 16
_CLASSES = 40  # bars that can still be read


def contact_sheet(report: ValidationReport, looked: Sequence[Looked]) -> Image.Image:
    """Show up to 24 pictures with their boxes, those with a box or a size that is wrong first.

    Boxes are drawn as the file has them, read as [x, y, width, height]: the eye sees at once whether they are that.
    Pictures that cannot be read are left out.
    """
    suspects = {
        (finding.file, finding.image_id)
        for finding in report.findings
        if finding.severity == "error" or finding.kind.startswith("box")
    }
    everything = [
        (one.part.name, image, path)
        for one in looked
        for image, path in zip(one.content.images, one.paths, strict=True)
        if path is not None
    ]
    everything.sort(key=lambda entry: ((entry[0], entry[1].id) not in suspects, not entry[1].boxes))
    sheet = Image.new("RGB", (_COLUMNS * _CELL, _ROWS * (_CELL + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    place = 0
    for _, image, path in everything:
        if place == _COLUMNS * _ROWS:
            break
        try:
            picture = load_image(path)
        except (ValueError, OSError):  # reported by its id already
            continue
        x, y = place % _COLUMNS * _CELL, place // _COLUMNS * (_CELL + _CAPTION)
        sheet.paste(_with_boxes(picture, image), (x, y))
        draw.text(
            (x + 3, y + _CELL + 2),
            f"{image.id}: {image.file_name}"[-32:].encode("ascii", "replace").decode(),
            fill="black",
        )
        place += 1
    return sheet


def _with_boxes(picture: Image.Image, image: ImageEntry) -> Image.Image:
    small = ImageOps.contain(picture, (_CELL - 4, _CELL - 4))
    draw = ImageDraw.Draw(small)
    scale_x, scale_y = small.width / picture.width, small.height / picture.height
    for box in image.boxes:
        x, y, w, h = box.values
        corners = (x * scale_x, y * scale_y, (x + w) * scale_x, (y + h) * scale_y)
        # Reversed or far outside, a box is drawn as what of it can be drawn.
        x0, y0, x1, y1 = (min(max(value, -10.0), _CELL + 10.0) for value in corners)
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=_colour(box), width=2)
    return small


def _colour(box: Box) -> str:
    return label_colour(box.category_id if isinstance(box.category_id, int) else 0)


def class_counts(report: ValidationReport) -> Figure:
    """Draw how many boxes each class has, the most frequent first."""
    counts = report.boxes_of.most_common(_CLASSES)
    with use_book_style():
        figure = Figure(figsize=(7, max(2.0, 0.25 * len(counts) + 1)))
        axes = figure.add_subplot()
        axes.barh(range(len(counts)), [count for _, count in counts])
        axes.set_yticks(range(len(counts)), [_plain(name) for name, _ in counts])
        axes.invert_yaxis()
        left_out = len(report.boxes_of) - len(counts)
        axes.set_xlabel("boxes" + (f" ({left_out} rarer classes are left out)" if left_out else ""))
        figure.tight_layout()
    return figure


def _plain(name: str) -> str:
    """Write a class name so that it is drawn as it stands: a dollar sign would begin a formula."""
    return name[:30].encode("utf-8", "replace").decode("utf-8").replace("$", r"\$")


def box_sizes(report: ValidationReport) -> Figure:
    """Draw how large boxes are: the side of a square of the same area, in pixels, on a logarithmic axis."""
    sides = [math.sqrt(width * height) for width, height in report.sizes if 0 < width * height < math.inf]
    with use_book_style():
        figure = Figure(figsize=(7, 3))
        axes = figure.add_subplot()
        if sides:
            # A little wider than the data at both ends, or rounding would leave out the smallest or the largest box.
            axes.hist(sides, bins=np.geomspace(min(sides) * (1 - 1e-6), max(sides) * (1 + 1e-6), 31).tolist())
            axes.set_xscale("log")
        for side, name in ((32, "small | medium"), (96, "medium | large")):
            axes.axvline(side, color="black", linestyle="--", linewidth=1)
            axes.annotate(name, (side, 1), xycoords=("data", "axes fraction"), fontsize=8, ha="center", va="bottom")
        axes.set_xlabel("side of a box, pixels")
        axes.set_ylabel("boxes")
        figure.tight_layout()
    return figure


def write_figures(report: ValidationReport, looked: Sequence[Looked], folder: Path) -> list[Path]:
    """Write the three figures as PNG into a folder, which is made, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("contact_sheet.png", "class_counts.png", "box_sizes.png")]
    contact_sheet(report, looked).save(paths[0])
    class_counts(report).savefig(paths[1], dpi=100)
    box_sizes(report).savefig(paths[2], dpi=100)
    return paths
