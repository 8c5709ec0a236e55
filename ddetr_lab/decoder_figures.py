"""Figures of what a decoder starts from: reference points, and how strongly each counts.

Built in chapter 11, used again in chapter 12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddetr_lab.rendering import OKABE_ITO, numbers
from ddetr_lab.visualization import draw_boxes, use_book_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_reference_points"]


def draw_reference_points(
    image: Any,
    points: Any,
    strengths: Any | None = None,
    colour: str = OKABE_ITO[0],
    marker: str = "o",
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the points that queries look from.

    Args:
        image: as ``ddetr_lab.visualization.draw_boxes`` takes it; None draws on what the axes show already.
        points: (Q, 2), (x, y) in 0-1 of the picture, or (Q, 4) cxcywh boxes of which the centres are drawn.
        strengths: (Q,) not negative; a point's area grows with its share of the largest. None draws all alike.
        colour: of the points.
        marker: matplotlib's, a second sign beside the colour.
        title: of the axes.
        ax: where to draw; by default on a new figure.

    Raises:
        ValueError: if the shapes do not fit together, or a number is not finite.

    Built in chapter 11.
    """
    places = numbers(points, "points")
    if places.ndim != 2 or places.shape[1] not in (2, 4):
        raise ValueError(f"points has shape {places.shape}, expected (Q, 2) points or (Q, 4) boxes")
    area: Any = 26.0
    if strengths is not None:
        shares = numbers(strengths, "strengths")
        if shares.shape != (len(places),):
            raise ValueError(f"strengths has shape {shares.shape}, expected {(len(places),)}: one a point")
        area = 4.0 + 140.0 * shares / (shares.max(initial=0.0) or 1.0)
    figure = draw_boxes(image, [], title=title, ax=ax)
    axes = figure.axes[0] if ax is None else ax
    height, width = axes.get_images()[0].get_size()
    centres = places[:, :2] * (width, height) - 0.5  # (Q, 2), in pixels as axes count them
    with use_book_style():
        axes.scatter(centres[:, 0], centres[:, 1], s=area, c=colour, marker=marker, edgecolors="black", linewidths=0.6)
    return figure
