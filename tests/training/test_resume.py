"""Going on is for the same run: what may change, what may not, and how that is said."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ddetr_lab.recipe import Recipe
from ddetr_lab.training.progress import RunProgress
from ddetr_lab.training.resume import changed_settings, resumed_progress
from ddetr_lab.training.state import RunState
from tests.training.conftest import changed

RECIPE = Recipe("mine")


def stored(recipe=RECIPE, **progress):
    content = {"recipe": recipe.to_dict(), "progress": asdict(RunProgress(seed=4, total=100, **progress))}
    return RunState({}, json.loads(json.dumps(content)), Path("state-000001.json"))


def test_the_same_run_goes_on_with_its_own_seed_and_length():
    progress = resumed_progress(stored(step=30, seconds=12.5), RECIPE)
    assert (progress.seed, progress.total, progress.step, progress.seconds) == (4, 100, 30, 12.5)
    assert resumed_progress(stored(), RECIPE, steps=100) == RunProgress(4, 100)


@pytest.mark.parametrize(
    ("section", "settings"),
    [("data", {"workers": 3}), ("evaluation", {"scenes": 7}), ("checkpoint", {"every_minutes": 1.0})],
)
def test_what_changes_nothing_of_what_is_learnt_may_change(section, settings):
    assert resumed_progress(stored(), changed(RECIPE, section, **settings)).total == 100


def test_another_recipe_is_refused_with_what_differs():
    other = changed(changed(RECIPE, "optimization", learning_rate=1e-3), "model", frozen=("model.encoder",))
    with pytest.raises(
        ValueError, match=r"\[model\] frozen: \(\) then.*\[optimization\] learning_rate: 0.0004 then, 0.001 now"
    ):
        resumed_progress(stored(), other)
    assert changed_settings(RECIPE, RECIPE) == []


@pytest.mark.parametrize(("name", "value"), [("steps", 200), ("minutes", 5.0)])
def test_another_length_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value}, but the run was laid out for"):
        resumed_progress(stored(), RECIPE, **{name: value})


def test_another_beginning_is_refused_and_the_same_is_not():
    assert resumed_progress(stored(), RECIPE, seed=4).seed == 4
    with pytest.raises(ValueError, match="seed = 7, but the run began with 4.*resume without --seed"):
        resumed_progress(stored(), RECIPE, seed=7)
    assert resumed_progress(stored(weights="digits"), RECIPE, weights="digits").weights == "digits"
    for begun in ({}, {"weights": "digits"}):
        with pytest.raises(ValueError, match="weights = other, but the run began with .*resume without --weights"):
            resumed_progress(stored(**begun), RECIPE, weights="other")
