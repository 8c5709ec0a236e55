"""The schedule: how large the learning rate is at each point of a run.

Built in chapter 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["learning_rate_factor"]

DROP = 0.1  # what a step of the step schedule multiplies by, as in the paper
FIRST = 1 / 25  # where a one-cycle schedule begins (Smith and Topin, arXiv:1708.07120)


def learning_rate_factor(
    progress: float, warmup_fraction: float, schedule: str = "cosine", drops: Sequence[float] = ()
) -> float:
    """Return what to multiply learning rates by at ``progress`` in 0-1 of the run.

    Args:
        progress: which share of the run is done.
        warmup_fraction: share of the run in which rates rise: the first gradients are large and point anywhere, and
            AdamW's averages know nothing yet.
        schedule: "cosine": up in a line, then half a cosine down to 0. "step": up in a line, then constant, a tenth
            after each of ``drops``: the paper's. "one_cycle": up in half a cosine from 1/25, then half a cosine down
            to 0; it stands a warm-up of a third of the run.
        drops: shares of the run at which the step schedule drops.

    Raises:
        ValueError: if the schedule is unknown.
    """
    if schedule not in ("cosine", "step", "one_cycle"):
        raise ValueError(f"schedule = {schedule!r}, expected cosine, step or one_cycle")
    if progress < warmup_fraction:
        risen = progress / warmup_fraction
        return FIRST + (1 - FIRST) * (1 - _falling(risen)) if schedule == "one_cycle" else risen
    if schedule == "step":
        return DROP ** sum(progress >= drop for drop in drops)
    return _falling((progress - warmup_fraction) / (1 - warmup_fraction)) if warmup_fraction < 1 else 1.0


def _falling(share: float) -> float:
    """Half a cosine: from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
