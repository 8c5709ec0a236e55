"""Runs whose curves one should know by sight: one that is well, and what three wrong settings make of it.

The fourth bad curve needs no run of its own: a run on eight pictures is well by its training loss, and learns nothing
for other pictures.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ddetr_lab.diagnosis.overfit import OverfitTest, overfit_recipe, prepare
from ddetr_lab.recipe import OptimizationSettings

__all__ = ["CURVES", "Curve"]


@dataclass(frozen=True)
class Curve:
    """A run of eight pictures with other settings.

    Attributes:
        title: what was set.
        change: from the right settings to these.
    """

    title: str
    change: Callable[[OptimizationSettings], OptimizationSettings]

    def prepare(self) -> OverfitTest:
        """Make the run; it follows the loss of other pictures too."""
        recipe = overfit_recipe()
        test = prepare(replace(recipe, optimization=self.change(recipe.optimization)))
        test.watch_others()
        return test


CURVES = {
    "well": Curve("as it should be", lambda settings: settings),
    "low": Curve(
        "rate a hundred times lower",
        lambda settings: replace(settings, learning_rate=settings.learning_rate / 100),
    ),
    "high": Curve(
        "rate thirty times higher",
        lambda settings: replace(settings, learning_rate=settings.learning_rate * 30),
    ),
    "early": Curve(
        "rate cut to a tenth after an eighth of the run",
        lambda settings: replace(settings, schedule="step", drops=(0.125,)),
    ),
}
