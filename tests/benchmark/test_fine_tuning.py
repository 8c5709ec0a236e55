"""``benchmark fine-tuning``: each trial differs from the recipe as it says, and runs are kept and come back."""

import dataclasses
from pathlib import Path

import pytest

from ddetr_lab.benchmark import fine_tuning
from ddetr_lab.benchmark.fine_tuning import (
    SITES,
    TRIALS,
    Score,
    Tuning,
    add_tuning,
    read_tunings,
    trial_recipe,
    tuning_rows,
)
from ddetr_lab.recipe import Recipe, load_recipe

SETTINGS = {"minutes": None, "steps": 4, "points": 2, "device": "cpu"}


def made(trial: str = "digits", seed: int = 0, ap50: float | None = 0.25) -> Tuning:
    """Make a record without training."""
    scores = (Score(2, 1.5, 0.1, 0.05), Score(4, 3.0, ap50, 0.1))
    sites = {"OSBS": 0.125, "SOAP": None}
    return Tuning(trial, TRIALS[trial][0], seed, 310, 5000, 1000, scores, sites, "2026-11-24", {}, {}, "ddetr-lab ...")


@pytest.mark.parametrize("trial", TRIALS)
def test_a_trial_differs_from_the_recipe_in_what_it_says_and_nothing_else(trial: str) -> None:
    recipe, changed = load_recipe("trees"), trial_recipe(trial)
    settings = TRIALS[trial][1]
    for section in ("model", "data", "optimization"):
        assert getattr(changed, section) == dataclasses.replace(getattr(recipe, section), **settings.get(section, {}))
    assert (changed == dataclasses.replace(recipe, evaluation=changed.evaluation)) == (trial == "digits")


def test_an_unknown_trial_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'magic', expected one of digits, imagenet"):
        trial_recipe("magic")


def test_scores_are_spread_over_steps_or_over_minutes() -> None:
    assert trial_recipe("digits", 5, steps=100).evaluation.every_steps == 20
    by_clock = trial_recipe("digits", 5, minutes=10.0).evaluation
    assert (by_clock.every_steps, by_clock.every_minutes) == (0, 2.0)


def test_runs_come_back_from_the_file_in_the_order_of_the_trials(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    for run in (made("8-tiles"), made("digits", 1), made("digits", 0)):
        add_tuning(path, run, SETTINGS)
    assert read_tunings(path) == [made("digits", 0), made("digits", 1), made("8-tiles")]


def test_a_run_made_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    add_tuning(path, made(ap50=0.1), SETTINGS)
    assert add_tuning(path, made(ap50=0.3), SETTINGS) == [made(ap50=0.3)]


def test_runs_under_other_settings_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    add_tuning(path, made(), SETTINGS)
    with pytest.raises(ValueError, match="write to another file"):
        add_tuning(path, made(seed=1), {**SETTINGS, "steps": 5})


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"schema": 1, "benchmark": "fine-tuning", "runs": [{}]}'])
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        read_tunings(path)


def test_the_table_has_medians_over_seeds_and_says_what_is_undefined() -> None:
    runs = [made(seed=0, ap50=0.1), made(seed=1, ap50=0.3), made(seed=2, ap50=0.2), made("imagenet", ap50=None)]
    first, second = tuning_rows(runs)
    assert first[:5] == ("digits", "0.200", "0.100", "0.125", "undefined")
    assert first[-1] == "0, 1, 2"
    assert second[:2] == ("imagenet", "undefined")


def test_a_trial_trains_and_is_scored_on_the_strip_and_on_both_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str) -> Recipe:
        recipe = load_recipe(name)
        return dataclasses.replace(
            recipe,
            data=dataclasses.replace(recipe.data, tile=400, size=64, transform="none"),
            optimization=dataclasses.replace(recipe.optimization, batch_size=1),
        )

    monkeypatch.setattr(fine_tuning, "load_recipe", small)
    told: list[str] = []
    run = fine_tuning.run_trial("8-tiles", 3, command="as typed", report=told.append, steps=2, points=2)
    assert [score.step for score in run.scores] == [1, 2]
    assert set(run.sites) == set(SITES)
    assert (run.tiles, run.seed, run.command) == (8, 3, "as typed")
    assert run.crowns > 8 and run.trained > 4e6
    assert any("AP50" in line for line in told)
