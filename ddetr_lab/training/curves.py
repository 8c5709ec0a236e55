"""The curves of a run, or of several beside each other.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddetr_lab.rendering import OKABE_ITO
from ddetr_lab.training.metrics import read_lines
from ddetr_lab.visualization import panels, use_book_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_curves", "save_curves"]

# In this order, so that neighbours differ in lightness as well.
_COLOURS = (OKABE_ITO[4], OKABE_ITO[5], OKABE_ITO[2], OKABE_ITO[6], OKABE_ITO[0], OKABE_ITO[1])
_PARTS = {"loss_ce": "class", "loss_bbox": "L1", "loss_giou": "GIoU"}


def plot_curves(folders: str | Path | Sequence[str | Path]) -> Figure:
    """Draw what a run wrote while it trained: loss, its parts, learning rate and gradient norm, and AP, against steps.

    Args:
        folders: one run's folder, or several to compare; their names become the legend.

    Returns:
        A figure of four panels.

    Raises:
        FileNotFoundError: if a folder has no ``metrics.jsonl`` with a line in it.

    Built in chapter 16.
    """
    listed = [Path(folders)] if isinstance(folders, (str, Path)) else [Path(folder) for folder in folders]
    runs = [
        (folder, read_lines(folder / "metrics.jsonl"), read_lines(folder / "evaluations.jsonl")) for folder in listed
    ]
    for folder, lines, _ in runs:
        if not lines:
            raise FileNotFoundError(f"{folder} has no metrics.jsonl with a line in it: expected the folder of a run")
    with use_book_style():
        figure, axes = panels(2, 2, width=8.0, height=5.6)
        for number, (folder, lines, scores) in enumerate(runs):
            colour = _COLOURS[number % len(_COLOURS)]
            alone = len(runs) == 1
            _loss(axes[0], lines, colour, folder.name)
            _parts(axes[1], lines, None if alone else colour)
            _rates(axes[2], lines, colour)
            _scores(axes[3], scores, colour)
        for ax, title in zip(axes, ("loss", "its parts, last layer", "norm of the gradients", "AP"), strict=True):
            ax.set(title=title, xlabel="step")
        axes[0].set_yscale("log")
        axes[2].set_yscale("log")
        axes[3].set(xlim=axes[0].get_xlim(), ylim=(0, 1))
        if len(runs) > 1:
            axes[0].legend()
    return figure


def save_curves(folder: str | Path) -> Path:
    """Draw a run's curves into its ``curves.png`` and return that path."""
    path = Path(folder) / "curves.png"
    with use_book_style():
        plot_curves(folder).savefig(path)
    return path


def _column(lines: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _smooth(values: Sequence[float], width: int) -> list[float]:
    """Average each value with those just before it: the curve never knows the future."""
    return [float(np.mean(values[max(0, place - width + 1) : place + 1])) for place in range(len(values))]


def _loss(ax: Axes, lines: list[dict[str, Any]], colour: str, name: str) -> None:
    steps, values = _column(lines, "loss")
    ax.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    ax.plot(steps, _smooth(values, 10), color=colour, label=name)


def _parts(ax: Axes, lines: list[dict[str, Any]], colour: str | None) -> None:
    for number, (key, name) in enumerate(_PARTS.items()):
        steps, values = _column(lines, key)
        ax.plot(
            steps,
            _smooth(values, 10),
            color=colour or _COLOURS[number],
            linestyle=("-", "--", ":")[number],
            label=name,
        )
    if not ax.get_legend():
        ax.legend()


def _rates(ax: Axes, lines: list[dict[str, Any]], colour: str) -> None:
    steps, values = _column(lines, "grad_norm")
    ax.plot(steps, _smooth(values, 10), color=colour)


def _scores(ax: Axes, scores: list[dict[str, Any]], colour: str) -> None:
    for key, style, marker in (("ap", "-", "o"), ("ap50", "--", "^")):
        steps, values = _column(scores, key)
        ax.plot(steps, values, color=colour, linestyle=style, marker=marker, markersize=5, label=key.upper())
    if not ax.get_legend():
        ax.legend()
