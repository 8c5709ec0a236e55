"""Runs in a file: there and back, one after the other, never mixed, and as a table."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest

from ddetr_lab.benchmark.learning_report import (
    HEADINGS,
    LearningReport,
    LearningRun,
    Point,
    add_run,
    learning_rows,
    read_learning,
    report_for,
)

SETTINGS = {"recipe": "digits_adamw", "steps": 1000, "minutes": None}


def a_run(contestant: str = "deformable", seed: int = 0, ap: float | None = 0.5, seconds: float = 300.0) -> LearningRun:
    first = Point(500, seconds / 2, 8.0, 0.1, 0.2, 0.1, 0.05, 0.2, None)
    last = Point(1000, seconds, 5.0, ap, 0.7, 0.5, 0.25, 0.6, None)
    return LearningRun(
        contestant, seed, "by hand", 4_740_876, 4_000_000, (first, last), "2026-01-02", {"cpu": "x"}, {}, "cmd"
    )


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "learning.json"
    add_run(path, SETTINGS, a_run())
    report = add_run(path, SETTINGS, dataclasses.replace(a_run("dense"), note="stopped"))
    assert read_learning(path) == report
    assert [run.contestant for run in report.runs] == ["deformable", "dense"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["learning.json"]
    assert report_for(path, SETTINGS) == report and report_for(None, SETTINGS) == LearningReport(SETTINGS)


def test_a_run_made_again_takes_the_old_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "learning.json"
    for ap in (0.1, 0.2):
        report = add_run(path, SETTINGS, a_run(ap=ap))
    assert len(report.runs) == 1
    found = report.find("deformable", 0)
    assert found is not None and found.points[-1].ap == 0.2
    assert report.find("deformable", 1) is None


def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "learning.json"
    threads = [threading.Thread(target=add_run, args=(path, SETTINGS, a_run(seed=seed))) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.seed for run in read_learning(path).runs) == list(range(12))


def test_runs_under_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "learning.json"
    add_run(path, SETTINGS, a_run())
    with pytest.raises(ValueError, match="holds runs with steps 1000 instead of 10: they cannot be compared"):
        add_run(path, SETTINGS | {"steps": 10}, a_run())
    assert len(read_learning(path).runs) == 1


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"schema": 1, "benchmark": "learning", "runs": []}'])
def test_other_files_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json"):
        read_learning(path)


def test_a_damaged_run_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "learning.json"
    add_run(path, SETTINGS, a_run())
    content = json.loads(path.read_text())
    del content["runs"][0]["seed"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        read_learning(path)


def test_the_table_has_medians_ranges_and_shares_of_ours() -> None:
    runs = [a_run(seed=seed, ap=ap) for seed, ap in ((2, 0.6), (0, 0.5), (1, 0.4))]
    report = LearningReport(SETTINGS, (*runs, a_run("dense", ap=0.25, seconds=150.0), a_run("blind", ap=None)))
    ours, dense, blind = (dict(zip(HEADINGS, row, strict=True)) for row in learning_rows(report))
    assert ours["AP"] == "0.500 (0.400 to 0.600)" and ours["of ours"] == "1.00" and ours["seeds"] == "0, 1, 2"
    assert dense["AP"] == "0.250" and dense["of ours"] == "0.50"
    assert (dense["ms a step"], dense["minutes"], dense["parameters"]) == ("150", "2.5", "4.74 M")
    assert blind["AP"] == "undefined" and blind["of ours"] == ""


def test_a_run_that_stopped_before_its_first_point_has_a_row() -> None:
    (row,) = learning_rows(LearningReport(SETTINGS, (dataclasses.replace(a_run(), points=()),)))
    assert row[:2] == ("deformable", "no evaluation") and len(row) == len(HEADINGS)
