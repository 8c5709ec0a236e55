"""``benchmark learning`` from the command line, with runs that take no time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ddetr_lab.benchmark import learning, peers
from ddetr_lab.benchmark.learning_report import read_learning
from ddetr_lab.cli import main
from tests.benchmark.test_learning_report import a_run


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Runs without training; returns those that were made. The peer is absent."""
    runs: list[tuple[str, int]] = []

    def run(contestant: str, seed: int, plan: Any, report: Any) -> Any:
        runs.append((contestant, seed))
        return dataclasses.replace(a_run(contestant, seed), command=plan.command, note="by hand" if seed else "")

    monkeypatch.setattr(learning, "run_contestant", run)
    absent = tuple(peers.Peer(peer.distribution, "no_such_module", peer.benchmarks, peer.hint) for peer in peers.PEERS)
    monkeypatch.setattr(peers, "PEERS", absent)
    return runs


def test_runs_are_kept_and_not_made_twice(
    made: list[tuple[str, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "learning.json"
    command = ["benchmark", "learning", "--contestants", "deformable", "dense", "--json", str(path)]
    assert main([*command, "--seeds", "0"]) == 0
    assert main([*command, "--seeds", "0", "1"]) == 0
    assert made == [("deformable", 0), ("dense", 0), ("deformable", 1), ("dense", 1)]
    report = read_learning(path)
    assert [(run.contestant, run.seed) for run in report.runs] == made
    assert report.runs[0].command.startswith("ddetr-lab benchmark learning --contestants deformable dense")
    printed = capsys.readouterr().out
    assert "deformable seed 0: in" in printed and "ms a step" in printed and "dense, seed 1: by hand" in printed
    assert main([*command, "--again"]) == 0
    assert made[4:] == [("deformable", 0), ("dense", 0)]


def test_without_the_peer_ours_run_and_a_sentence_says_so(
    made: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "learning"]) == 0
    assert made == [("deformable", 0), ("dense", 0)]
    assert "transformers is not installed: python -m pip install" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--contestants", "transformers"],
            "transformers: transformers is not installed: python -m pip install",
        ),
        (["--contestants", "sparse"], "--contestants sparse: unknown"),
        (["--recipe", "no_such"], "no_such"),
    ],
)
def test_what_is_not_there_is_named(
    arguments: list[str], message: str, made: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "learning", *arguments]) == 1
    assert message in capsys.readouterr().err and made == []


def test_other_settings_do_not_go_into_the_same_file(
    made: list[tuple[str, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "learning", "--contestants", "dense", "--json", str(tmp_path / "learning.json")]
    assert main(command) == 0
    assert main([*command, "--steps", "7"]) == 1
    assert "steps 1000 instead of 7" in capsys.readouterr().err
    assert made == [("dense", 0)], "nothing is trained that could not be kept"


def test_the_figure_is_drawn(made: list[tuple[str, int]], tmp_path: Path) -> None:
    assert main(["benchmark", "learning", "--contestants", "dense", "--figure", str(tmp_path / "f.png")]) == 0
    assert (tmp_path / "f.png").stat().st_size > 10_000


@pytest.mark.parametrize("arguments", [["--seeds", "-1"], ["--steps", "0"], ["--minutes", "0"], ["--points", "x"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "learning", *arguments])
    assert stopped.value.code == 2
