"""Training: parameter groups, a schedule, one loop, and a run that survives what happens to it.

* ``sets`` and ``batches``: which pictures, in which order; ``build``: the model and the processor;
* ``groups``, ``optimizers``, ``schedule``, ``engine``: what one update of the weights is; ``ema``, ``recompute``,
  ``shrink``: options;
* ``loop``: the training itself; ``distributed``: the same over many processes;
* ``state``, ``snapshot``, ``folder``, ``resume``, ``interrupts``: never lose a run;
* ``metrics``, ``progress``, ``curves``: what it tells; ``command``: ``ddetr-lab train`` and ``evaluate``.

Nothing but this table is loaded on import: each name below is fetched when it is first used.

Built in chapters 16 to 19.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddetr_lab.training.build import build_model, build_processor
    from ddetr_lab.training.curves import plot_curves
    from ddetr_lab.training.groups import group_table, parameter_groups
    from ddetr_lab.training.loop import TrainingRun, train
    from ddetr_lab.training.optimizers import build_optimizers
    from ddetr_lab.training.schedule import learning_rate_factor
    from ddetr_lab.training.sets import coco_split, training_set, validation_set

_HOME = {
    "TrainingRun": "loop",
    "build_model": "build",
    "build_optimizers": "optimizers",
    "build_processor": "build",
    "coco_split": "sets",
    "group_table": "groups",
    "learning_rate_factor": "schedule",
    "parameter_groups": "groups",
    "plot_curves": "curves",
    "train": "loop",
    "training_set": "sets",
    "validation_set": "sets",
}

__all__ = [
    "TrainingRun",
    "build_model",
    "build_optimizers",
    "build_processor",
    "coco_split",
    "group_table",
    "learning_rate_factor",
    "parameter_groups",
    "plot_curves",
    "train",
    "training_set",
    "validation_set",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ddetr_lab.training' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ddetr_lab.training.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
