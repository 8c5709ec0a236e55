"""Figures that chapters share: boxes, scenes, where queries look, and maps of weights.

Every function draws on matplotlib axes and returns the figure: on yours if you pass ``ax``, on a new one if not. New
figures are made without pyplot, so that nothing is shown, registered or left open behind your back; a notebook shows
the one that a cell ends with, at its own size. Colours are those of ``ddetr_lab.rendering``, whose
``render_detections`` draws on the picture itself and is at hand here too.

Used in every chapter.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddetr_lab.boxes import xywh_to_xyxy
from ddetr_lab.rendering import (
    OKABE_ITO,
    caption,
    label_colour,
    label_names,
    numbers,
    pixels_of,
    render_detections,
    text_colour,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "OKABE_ITO",
    "draw_attention_heat",
    "draw_boxes",
    "draw_sampling_points",
    "label_colour",
    "panels",
    "render_detections",
    "show_scene",
    "use_book_style",
]

_LEVEL_MARKERS = ("o", "s", "^", "D", "v", "P")  # a second sign beside the colour, for print in grey

_STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "savefig.bbox": None,  # "tight" would make the size of a PNG depend on its labels
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": f"cycler('color', {list(OKABE_ITO)!r})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "font.size": 9,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "image.cmap": "cividis",
    "lines.linewidth": 1.8,
}


def _settings() -> Any:
    import matplotlib

    return matplotlib.rcParams


class _BookStyle:
    """The style is on from the call; used in a ``with`` statement it goes off again at its end."""

    def __init__(self) -> None:
        settings = _settings()
        self._before = {key: settings[key] for key in _STYLE}
        settings.update(_STYLE)

    def __enter__(self) -> _BookStyle:
        return self

    def __exit__(self, *_: object) -> None:
        _settings().update(self._before)


def use_book_style() -> _BookStyle:
    """Switch matplotlib to the book's style: fixed sizes, colour-blind-safe colours, quiet axes.

    Call it at the top of a notebook, or write ``with use_book_style():`` to keep it to a block. The functions of
    this module have the style in any case.

    Built in chapter 0.
    """
    return _BookStyle()


def panels(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float | None = None
) -> tuple[Figure, NDArray[Any]]:
    """Make a figure of a fixed size with a grid of axes, without pyplot.

    Args:
        rows: of the grid.
        columns: of the grid.
        width: inches; at 100 dots an inch 6.4 is 640 pixels.
        height: inches; by default panels are square.

    Returns:
        The figure, and its axes as an array (rows * columns,) in reading order.

    Raises:
        ValueError: if the grid is empty.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"rows = {rows}, columns = {columns}: a grid needs at least one of each")
    size = (width, width * rows / columns if height is None else height)
    with use_book_style():
        figure = _figure_class()(figsize=size, layout="constrained")
        return figure, np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).reshape(-1)  # (rows * columns,)


@cache
def _figure_class() -> type[Figure]:
    """Make the class of the book's figures, once matplotlib is needed: importing it takes longer than this package."""
    from matplotlib.figure import Figure

    class BookFigure(Figure):
        """A figure that notebooks show as a PNG of its own size, whichever backend is active."""

        def bundle(self) -> dict[str, str]:
            """Return the PNG, base64 as notebooks store it, and a text without an address in it."""
            buffer = io.BytesIO()
            with use_book_style():
                # No metadata: a new matplotlib version alone should not change a committed picture.
                self.savefig(buffer, format="png", metadata={"Software": None})
            width, height = (round(inches * self.dpi) for inches in self.get_size_inches())
            text = f"<Figure size {width}x{height} with {len(self.axes)} Axes>"
            return {"text/plain": text, "image/png": base64.b64encode(buffer.getvalue()).decode("ascii")}

        def _ipython_display_(self) -> None:
            # Ahead of the inline backend's own way, which crops to the content once pyplot has been imported.
            from IPython.display import display

            display(self.bundle(), raw=True)

    return BookFigure


def draw_boxes(
    image: Any,
    boxes_xyxy: Any,
    labels: Sequence[int | str] | Any | None = None,
    scores: Any | None = None,
    id2label: Mapping[int, str] | None = None,
    colours: Sequence[str] | str | None = None,
    linestyle: str = "-",
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw boxes on a picture, each with its label and score.

    Args:
        image: Pillow picture, (H, W, 3) array, or (3, H, W) tensor; floats in 0-1 or integers in 0-255. None draws
            on what the axes show already, for a second set of boxes.
        boxes_xyxy: (N, 4) corners in pixels of the picture.
        labels: N labels; integers go through ``id2label`` and choose the colour, strings are written as they are.
        scores: N numbers in 0-1, written after the label.
        id2label: label to name.
        colours: one colour, or one for each box, instead of the labels'.
        linestyle: matplotlib's; dashed tells a second set apart without colour.
        title: of the axes.
        ax: where to draw; by default on a new figure.

    Raises:
        ValueError: if the shapes do not fit together, or a box is NaN.

    Built in chapter 2.
    """
    boxes = _boxes(boxes_xyxy)
    names, label_colours = label_names(labels, len(boxes), id2label)
    values = _scores(scores, len(boxes))
    if colours is not None:
        label_colours = [colours] * len(boxes) if isinstance(colours, str) else list(colours)
        if len(label_colours) != len(boxes):
            raise ValueError(f"colours has {len(label_colours)} entries, but there are {len(boxes)} boxes")
    with use_book_style():
        ax = _picture_axes(image, ax, title)
        from matplotlib.patches import Rectangle

        for (x0, y0, x1, y1), name, value, colour in zip(boxes, names, values, label_colours, strict=True):
            corner, size = (x0 - 0.5, y0 - 0.5), (x1 - x0, y1 - y0)
            # A dark line under the coloured one keeps a box visible on any ground.
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor="black", linewidth=3.0, alpha=0.55))
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.6, linestyle=linestyle))
            text = caption(name, value)
            if text:
                ax.annotate(
                    text,
                    (max(x0, 0.0) - 0.5, max(y0, 0.0) - 0.5),
                    xytext=(1.2, 2.0),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=text_colour(colour),
                    verticalalignment="bottom",
                    annotation_clip=False,
                    bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
                )
        return ax.figure  # type: ignore[return-value]


def show_scene(
    image: Any,
    annotation: Mapping[str, Any],
    categories: Mapping[int, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a dataset item: the picture with its COCO annotation.

    Args:
        image: see ``draw_boxes``.
        annotation: ``{"annotations": [{"bbox": [x, y, w, h], "category_id": label}, ...]}`` in pixels.
        categories: label to name, as ``dataset.categories``.
        title: of the axes.
        ax: where to draw; by default on a new figure.

    Built in chapter 2.
    """
    entries = annotation["annotations"]
    xywh = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    labels = [entry["category_id"] for entry in entries]
    boxes_xyxy = xywh_to_xyxy(torch.from_numpy(xywh))
    return draw_boxes(image, boxes_xyxy, labels=labels, id2label=categories, title=title, ax=ax)


def draw_sampling_points(
    image: Any,
    reference_points: Any,
    sampling_locations: Any,
    weights: Any,
    title: str | None = None,
    ax: Axes | None = None,
    strongest: float | None = None,
) -> Figure:
    """Draw where queries look: each reference point, and the points sampled for it.

    A point's area and opacity grow with its attention weight; its colour and shape tell the level.

    Args:
        image: see ``draw_boxes``; the picture whose frame the points are in (the padded one for _padnorm).
        reference_points: (Q, 2) in 0-1 of the picture, (x, y); or (Q, 4) boxes cxcywh, drawn dashed.
        sampling_locations: (Q, M, L, P, 2) in 0-1 of the picture, (x, y).
        weights: (Q, M, L, P), summing to 1 over L and P.
        title: of the axes.
        ax: where to draw; by default on a new figure.
        strongest: the weight that is drawn largest, for figures that shall compare; by default the largest one here.

    Raises:
        ValueError: if the shapes do not fit together.

    Built in chapter 6.
    """
    references = numbers(reference_points, "reference_points")
    locations = numbers(sampling_locations, "sampling_locations")
    strengths = numbers(weights, "weights")
    if references.ndim != 2 or references.shape[1] not in (2, 4):
        raise ValueError(f"reference_points has shape {references.shape}, expected (Q, 2) points or (Q, 4) boxes")
    if locations.ndim != 5 or locations.shape[0] != len(references) or locations.shape[-1] != 2:
        raise ValueError(
            f"sampling_locations has shape {locations.shape}, expected (Q, M, L, P, 2) with Q = {len(references)}: "
            "take one picture and one layer of them"
        )
    if strengths.shape != locations.shape[:-1]:
        raise ValueError(f"weights has shape {strengths.shape}, expected {locations.shape[:-1]}")
    with use_book_style():
        from matplotlib.colors import to_rgba_array
        from matplotlib.patches import Rectangle

        ax = _picture_axes(image, ax, title, legend=1.1)
        width, height = _extent(ax)
        strongest = strongest or float(strengths.max(initial=0.0)) or 1.0
        for level in range(locations.shape[2]):
            points = locations[:, :, level].reshape(-1, 2) * (width, height) - 0.5  # (Q * M * P, 2)
            share = strengths[:, :, level].reshape(-1) / strongest  # (Q * M * P,)
            ax.scatter(
                points[:, 0],
                points[:, 1],
                s=6.0 + 44.0 * share,
                c=to_rgba_array(OKABE_ITO[level % len(OKABE_ITO)], np.clip(0.25 + 0.75 * share, 0.0, 1.0)),
                marker=_LEVEL_MARKERS[level % len(_LEVEL_MARKERS)],
                edgecolors="black",
                linewidths=0.4,
                label=f"level {level}",
            )
        for x, y, *size in references:
            if size:
                w, h = size[0] * width, size[1] * height
                corner = (x * width - w / 2 - 0.5, y * height - h / 2 - 0.5)
                ax.add_patch(Rectangle(corner, w, h, fill=False, edgecolor="white", linewidth=1.4, linestyle="--"))
        centres = references[:, :2] * (width, height) - 0.5  # (Q, 2)
        star: dict[str, Any] = {"s": 90, "marker": "*", "c": "white", "edgecolors": "black", "linewidths": 0.8}
        ax.scatter(centres[:, 0], centres[:, 1], label="reference", **star)
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3, handletextpad=0.2)
        return ax.figure  # type: ignore[return-value]


def draw_attention_heat(
    image: Any, heat: Any, opacity: float = 0.65, title: str | None = None, ax: Axes | None = None
) -> Figure:
    """Lay a map of weights over a picture, bright where there is most.

    Args:
        image: see ``draw_boxes``.
        heat: (h, w) non-negative, any resolution: its cells are stretched over the whole picture.
        opacity: of the brightest cell.
        title: of the axes.
        ax: where to draw; by default on a new figure.

    Raises:
        ValueError: if ``heat`` is not an (h, w) map of finite numbers, or ``opacity`` is not in 0-1.

    Built in chapter 4.
    """
    values = numbers(heat, "heat")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"heat has shape {values.shape}, expected an (h, w) map with at least one cell")
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"opacity = {opacity}, expected 0 to 1")
    with use_book_style():
        ax = _picture_axes(image, ax, title)
        width, height = _extent(ax)
        low, high = float(values.min()), float(values.max())
        share = (values - low) / (high - low) if high > low else np.zeros_like(values)
        ax.imshow(
            values,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            cmap="inferno",
            alpha=opacity * (0.25 + 0.75 * share),
            interpolation="nearest",
        )
        return ax.figure  # type: ignore[return-value]


def _picture_axes(image: Any, ax: Axes | None, title: str | None, legend: float = 0.0) -> Axes:
    """Show a picture on axes, new ones in its shape if there are none; without a picture take the axes as they are.

    ``legend`` is the room beside the picture, in inches, that new axes leave.
    """
    if image is None:
        if ax is None or not ax.get_images():
            raise ValueError("image is None: that draws on top of a picture, so pass the ax that shows one")
    else:
        pixels = pixels_of(image)
        if ax is None:
            height, width = pixels.shape[:2]
            inches = min(4.8, 6.4 * width / height)
            figure, (ax,) = panels(1, 1, width=inches + legend, height=inches * height / width + 0.35)
        ax.imshow(pixels, interpolation="nearest")
        ax.set_axis_off()
    if title is not None:
        ax.set_title(title)
    return ax


def _extent(ax: Axes) -> tuple[int, int]:
    """Return (width, height) of the picture that the axes show."""
    height, width = np.asarray(ax.get_images()[0].get_array()).shape[:2]
    return width, height


def _boxes(boxes_xyxy: Any) -> NDArray[np.float64]:
    boxes = numbers(boxes_xyxy, "boxes_xyxy")
    if boxes.size == 0:
        return boxes.reshape(-1, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes_xyxy has shape {boxes.shape}, expected (N, 4)")
    return boxes


def _scores(scores: Any, count: int) -> list[float | None]:
    if scores is None:
        return [None] * count
    values = numbers(scores, "scores")
    if values.shape != (count,):
        raise ValueError(f"scores has shape {values.shape}, but there are {count} boxes")
    return [float(value) for value in values]
