"""Going on with a run: it must be the same run.

Built in chapter 16.
"""

from __future__ import annotations

from typing import Any

from ddetr_lab.recipe import Recipe, recipe_from_dict
from ddetr_lab.training.progress import RunProgress
from ddetr_lab.training.state import RunState

__all__ = ["changed_settings", "resumed_progress"]

# What may change from one part of a run to the next, as it changes nothing of what is learnt.
_FREE = (("data", "workers"), ("data", "folder"), ("evaluation", None), ("checkpoint", None))


def resumed_progress(
    stored: RunState,
    recipe: Recipe,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    weights: str | None = None,
) -> RunProgress:
    """Return how far a stored run has come.

    Args:
        stored: its state.
        recipe: what it shall go on with.
        steps: asked for on the command line, or None.
        minutes, seed, weights: the same.

    Raises:
        ValueError: if the run was of another recipe, laid out for other steps or minutes, or began otherwise.
    """
    before = recipe_from_dict(
        recipe.name, {key: part for key, part in stored.content["recipe"].items() if key != "name"}
    )
    changed = changed_settings(before, recipe)
    if changed:
        raise ValueError(
            f"the run was of another recipe: {'; '.join(changed)}. Resume with the recipe that stands in its "
            "recipe.json (`ddetr-lab train DIR --resume --out DIR`), or begin a new run with --weights"
        )
    progress = RunProgress(**stored.content["progress"])
    for name, given, own in (("steps", steps, progress.total), ("minutes", minutes, progress.minutes)):
        if given is not None and given != own:
            raise ValueError(
                f"{name} = {given}, but the run was laid out for {own}, and its learning rates with it: resume without "
                "it; to train on, begin a new run with --weights and the folder of this one"
            )
    begun = {"seed": (seed, progress.seed), "weights": (weights, progress.weights or "those of its recipe")}
    for name, (asked, first) in begun.items():
        if asked is not None and asked != first:
            raise ValueError(
                f"{name} = {asked}, but the run began with {first}, and goes on with what it has learnt since: "
                f"resume without --{name}, or begin a new run with another --out"
            )
    return progress


def changed_settings(before: Recipe, now: Recipe) -> list[str]:
    """Name the settings, of those that change what is learnt, in which two recipes differ: "[section] name: a, b"."""
    found = []
    for section, settings in before.to_dict().items():
        if section == "name" or (section, None) in _FREE:
            continue
        present: dict[str, Any] = now.to_dict()[section]
        found += [
            f"[{section}] {name}: {value!r} then, {present[name]!r} now"
            for name, value in settings.items()
            if value != present[name] and (section, name) not in _FREE
        ]
    return found
