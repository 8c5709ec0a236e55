"""How far a run has come, and whether something is due.

Built in chapter 16.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RunProgress", "is_due"]


@dataclass
class RunProgress:
    """What a run state keeps besides tensors and random numbers.

    Attributes:
        seed: of the run.
        total: its steps.
        minutes: its limit in minutes of training, if it has one.
        step: updates of the weights so far.
        seconds: of training so far, over all parts of the run, without evaluation.
        evaluated_step, evaluated_seconds: when it was evaluated last; 0 at first.
        best: the best AP so far.
        weights: what it began from instead of the recipe's; "" is the recipe's.
    """

    seed: int
    total: int
    minutes: float | None = None
    step: int = 0
    seconds: float = 0.0
    evaluated_step: int = 0
    evaluated_seconds: float = 0.0
    best: float | None = None
    weights: str = ""

    @property
    def share(self) -> float:
        """Which share of the run is done: of its steps or of its minutes, whichever is further."""
        by_time = 0.0 if self.minutes is None else self.seconds / (60 * self.minutes)
        return max(self.step / self.total, by_time)

    @property
    def seconds_left(self) -> float:
        """How long the rest will take at the pace so far."""
        return self.seconds / self.share * max(0.0, 1 - self.share) if self.share else 0.0


def is_due(progress: RunProgress, every_steps: int, every_minutes: float, last_step: int, last_seconds: float) -> bool:
    """Tell whether a multiple of ``every_steps`` was passed, or so many minutes, since the last time; 0 is never."""
    by_steps = every_steps > 0 and progress.step // every_steps > last_step // every_steps
    by_time = every_minutes > 0 and progress.seconds - last_seconds >= 60 * every_minutes
    return by_steps or by_time
