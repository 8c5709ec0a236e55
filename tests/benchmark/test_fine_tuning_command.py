"""``ddetr-lab benchmark fine-tuning``: what it asks for, and that nothing is made twice."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from ddetr_lab.benchmark import fine_tuning, fine_tuning_command
from ddetr_lab.benchmark.fine_tuning import Tuning
from tests.benchmark.test_fine_tuning import made


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    fine_tuning_command.add_fine_tuning_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Any, Any]]:
    """Replace training by records, and note what was asked for: trial, seed, minutes, steps."""
    calls: list[tuple[str, int, Any, Any]] = []

    def run_trial(trial: str, seed: int, **options: Any) -> Tuning:
        calls.append((trial, seed, options["minutes"], options["steps"]))
        return made(trial, seed)

    monkeypatch.setattr(fine_tuning, "run_trial", run_trial)
    return calls


def test_the_command_knows_the_trials_without_loading_them() -> None:
    assert tuple(fine_tuning.TRIALS) == fine_tuning_command.TRIALS


def test_without_arguments_every_trial_trains_five_minutes(asked: list[tuple[str, int, Any, Any]]) -> None:
    lines: list[str] = []
    assert fine_tuning_command.run_fine_tuning(parsed(), ["benchmark", "fine-tuning"], "cpu", lines.append) == 0
    assert asked == [(trial, 0, 5.0, None) for trial in fine_tuning_command.TRIALS]
    assert all(any(line.startswith(trial) for line in lines[-1].splitlines()) for trial in fine_tuning_command.TRIALS)


def test_steps_replace_the_minutes(asked: list[tuple[str, int, Any, Any]]) -> None:
    arguments = parsed("--trials", "digits", "--steps", "7", "--seeds", "1", "2")
    fine_tuning_command.run_fine_tuning(arguments, [], "cpu", lambda line: None)
    assert asked == [("digits", 1, None, 7), ("digits", 2, None, 7)]


def test_what_is_in_the_file_is_not_made_again(asked: list[tuple[str, int, Any, Any]], tmp_path: Path) -> None:
    arguments, lines = parsed("--trials", "digits", "--json", str(tmp_path / "runs.json")), []
    for _ in range(2):
        fine_tuning_command.run_fine_tuning(arguments, [], "cpu", lines.append)
    assert len(asked) == 1
    assert any("already" in line for line in lines)


def test_a_file_of_other_settings_is_refused_before_anything_trains(
    asked: list[tuple[str, int, Any, Any]], tmp_path: Path
) -> None:
    words = ("--trials", "digits", "--json", str(tmp_path / "runs.json"))
    fine_tuning_command.run_fine_tuning(parsed(*words), [], "cpu", lambda line: None)
    with pytest.raises(ValueError, match="write to another file"):
        fine_tuning_command.run_fine_tuning(
            parsed(*words, "--seeds", "1", "--steps", "7"), [], "cpu", lambda line: None
        )
    assert len(asked) == 1
