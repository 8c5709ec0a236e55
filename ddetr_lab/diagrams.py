"""Diagrams of boxes and arrows on a grid: the map of the book, and what happens to a picture on its way.

Drawn with matplotlib like every other figure, so that a page needs no script from elsewhere and a diagram can be
changed where it stands.

Built in chapters 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ddetr_lab.visualization import OKABE_ITO, panels, use_book_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Block", "draw_diagram"]

_BOX_WIDTH, _BOX_HEIGHT = 0.84, 0.62  # of a grid cell: the rest is room for arrows
_PALE = 0.78  # how far a box's colour is mixed with white, so that black text stays easy to read


@dataclass(frozen=True)
class Block:
    """One box of a diagram.

    Attributes:
        column: of the grid, from the left; may be a fraction.
        row: of the grid, from the top; may be a fraction.
        title: the first line, bold.
        detail: further lines, smaller.
        group: boxes of one group share a colour; None is white with a grey rim.
        width: in columns.
    """

    column: float
    row: float
    title: str
    detail: str = ""
    group: int | None = None
    width: float = 1.0


def draw_diagram(
    blocks: Mapping[str, Block],
    arrows: Sequence[tuple[str, str] | tuple[str, str, str]] = (),
    width: float = 6.4,
    row_height: float = 1.0,
    ax: Axes | None = None,
) -> Figure:
    """Draw blocks on a grid, joined by arrows.

    Args:
        blocks: each with a name that arrows go by.
        arrows: (from, to), or (from, to, text), by the blocks' names.
        width: of the figure in inches.
        row_height: height of a grid row in inches.
        ax: where to draw; by default on a new figure.

    Raises:
        ValueError: if there is no block, or an arrow names one that is not there.

    Built in chapter 0.
    """
    if not blocks:
        raise ValueError("blocks is empty: a diagram needs at least one")
    for arrow in arrows:
        missing = [name for name in arrow[:2] if name not in blocks]
        if missing:
            raise ValueError(f"the arrow {arrow[:2]} names {missing}, expected some of {sorted(blocks)}")
    left = min(block.column - block.width / 2 for block in blocks.values())
    right = max(block.column + block.width / 2 for block in blocks.values())
    top = min(block.row for block in blocks.values()) - 0.5
    bottom = max(block.row for block in blocks.values()) + 0.5
    with use_book_style():
        if ax is None:
            ax = panels(width=width, height=(bottom - top) * row_height)[1][0]
        ax.set(xlim=(left, right), ylim=(bottom, top))
        ax.set_axis_off()
        for arrow in arrows:
            _draw_arrow(ax, blocks[arrow[0]], blocks[arrow[1]], arrow[2] if len(arrow) == 3 else "")
        for block in blocks.values():
            _draw_block(ax, block)
        return cast("Figure", ax.get_figure())


def _half_width(block: Block) -> float:
    return (block.width - 1 + _BOX_WIDTH) / 2


def _draw_block(ax: Axes, block: Block) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    colour = "#767676" if block.group is None else OKABE_ITO[block.group % len(OKABE_ITO)]
    pale = tuple(_PALE + (1 - _PALE) * channel for channel in to_rgb(colour)) if block.group is not None else "white"
    half = _half_width(block)
    ax.add_patch(
        FancyBboxPatch(
            (block.column - half, block.row - _BOX_HEIGHT / 2),
            2 * half,
            _BOX_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=pale,
            edgecolor=colour,
            linewidth=1.4,
        )
    )
    lines = block.detail.count("\n") + 1 if block.detail else 0
    # Text hangs from the title, which moves up by half a line for every line below it.
    ax.annotate(
        block.title,
        (block.column, block.row),
        xytext=(0, 5.5 * lines),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=9,
        fontweight="bold",
        color="black",
    )
    if lines:
        ax.annotate(
            block.detail,
            (block.column, block.row),
            xytext=(0, -6.5),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            linespacing=1.15,
            color="black",
        )


def _draw_arrow(ax: Axes, start: Block, end: Block, text: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    (x0, y0), (x1, y1) = _rim(start, end), _rim(end, start)
    ax.add_patch(
        FancyArrowPatch((x0, y0), (x1, y1), arrowstyle="-|>", mutation_scale=11, color="#555555", linewidth=1.3)
    )
    if text:
        # Beside a vertical arrow, above a horizontal one.
        upright = abs(y1 - y0) > abs(x1 - x0)
        ax.annotate(
            text,
            ((x0 + x1) / 2, (y0 + y1) / 2),
            xytext=(5, 0) if upright else (0, 3),
            textcoords="offset points",
            ha="left" if upright else "center",
            va="center" if upright else "bottom",
            fontsize=8,
            color="#333333",
        )


def _rim(block: Block, towards: Block) -> tuple[float, float]:
    """Return where an arrow leaves a block: the middle of the side that faces the other block."""
    dx, dy = towards.column - block.column, towards.row - block.row
    if abs(dy) < 1e-9 or (abs(dx) > _half_width(block) + _half_width(towards) and abs(dx) > abs(dy)):
        return block.column + (_half_width(block) if dx > 0 else -_half_width(block)), block.row
    # A wide block hands an arrow down where the other one stands.
    reach = _half_width(block) - _BOX_WIDTH / 2
    return block.column + max(-reach, min(reach, dx)), block.row + (_BOX_HEIGHT / 2 if dy > 0 else -_BOX_HEIGHT / 2)
