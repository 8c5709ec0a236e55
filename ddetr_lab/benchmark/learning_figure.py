"""The curves of ``benchmark learning``: AP, and AP of small objects, against steps and against minutes.

Built in chapter 17.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddetr_lab.benchmark.learning_report import LearningReport, LearningRun, Point
from ddetr_lab.rendering import OKABE_ITO
from ddetr_lab.visualization import panels, use_book_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_learning", "save_learning_figure"]

# In this order, so that neighbours differ in lightness as well; with the styles, 24 lines that can be told apart.
_COLOURS = (OKABE_ITO[4], OKABE_ITO[5], OKABE_ITO[2], OKABE_ITO[6], OKABE_ITO[0], OKABE_ITO[1])
_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_learning(report: LearningReport, contestants: Sequence[str] | None = None) -> Figure:
    """Draw each contestant's median over seeds, and the range from its lowest to its highest seed as a band.

    Args:
        report: from :func:`~ddetr_lab.benchmark.learning_report.read_learning`.
        contestants: whom to draw, in this order; by default all.

    Returns:
        A figure of four panels: AP and AP of small objects, against steps and against minutes of training.

    Raises:
        ValueError: if a contestant has no run; the message lists those that have.

    Built in chapter 17.
    """
    grouped = report.contestants()
    names = list(grouped) if contestants is None else list(contestants)
    for name in names:
        if name not in grouped:
            raise ValueError(f"{name!r} has no run in this report, which has {', '.join(grouped) or 'none'}")
    with use_book_style():
        figure, axes = panels(2, 2, width=8.0, height=6.0)
        for row, (measure, title) in enumerate((("ap", "AP"), ("ap_small", "AP of small objects"))):
            for column, (across, label) in enumerate((("step", "steps"), ("minutes", "minutes of training"))):
                ax = axes[2 * row + column]
                for place, name in enumerate(names):
                    _curve(ax, grouped[name], measure, across, place, name)
                ax.set(xlabel=label, ylabel=title, ylim=(0, None))
        axes[0].legend()
        return figure


def save_learning_figure(report: LearningReport, path: Path) -> None:
    """Write the figure of all contestants as a PNG."""
    with use_book_style():
        plot_learning(report).savefig(path, metadata={"Software": None})


def _curve(ax: Axes, runs: Sequence[LearningRun], measure: str, across: str, place: int, name: str) -> None:
    """Draw one contestant; seeds are brought together point by point, as many points as all of them have."""
    count = min((len(run.points) for run in runs), default=0)
    if not count:
        return
    x = np.array([[_place(point, across) for point in run.points[:count]] for run in runs])  # (seeds, points)
    y = np.array([[_value(point, measure) for point in run.points[:count]] for run in runs])
    colour = _COLOURS[place % len(_COLOURS)]
    middle = np.median(x, axis=0)
    ax.plot(
        middle,
        np.median(y, axis=0),
        color=colour,
        linestyle=_STYLES[place // len(_COLOURS) % len(_STYLES)],
        marker=_MARKERS[place % len(_MARKERS)],
        markersize=4,
        label=name,
    )
    if len(runs) > 1:
        ax.fill_between(middle, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def _place(point: Point, across: str) -> float:
    return point.seconds / 60 if across == "minutes" else float(point.step)


def _value(point: Point, measure: str) -> float:
    value = getattr(point, measure)
    return float("nan") if value is None else float(value)
