"""What a run writes while it trains: whole lines, without those that a resumed run writes again."""

from __future__ import annotations

import io
import time

import pytest
import torch

from ddetr_lab.training.metrics import LineFile, RunLog, Stopwatch, memory_in_use, read_lines
from ddetr_lab.training.progress import RunProgress


def test_lines_after_the_step_that_a_run_goes_on_from_are_dropped(tmp_path):
    path = tmp_path / "lines.jsonl"
    file = LineFile(path)
    for step in (10, 20, 30):
        file.write({"step": step, "loss": step / 10})
        assert read_lines(path)[-1]["step"] == step, "others can read it while the run goes on"
    file.close()
    with path.open("a") as stream:
        stream.write('{"step": 40, "lo')  # what a killed run leaves
    again = LineFile(path, step=20)
    again.write({"step": 30, "loss": 7.0})
    again.close()
    assert [(line["step"], line["loss"]) for line in read_lines(path)] == [(10, 1.0), (20, 2.0), (30, 7.0)]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_pauses_do_not_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch(before=5.0)
    now[0] += 2
    with watch:
        now[0] += 50
    now[0] += 1
    assert watch.seconds == 8.0


def test_memory_is_this_process_s():
    if memory_in_use(torch.device("cpu")) is None:
        pytest.skip("this system does not tell")
    before = memory_in_use(torch.device("cpu"))
    held = torch.ones(30_000_000)
    assert 100e6 < memory_in_use(torch.device("cpu")) - before < 160e6
    del held


def test_the_bar_shows_loss_rate_memory_and_time_left(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    progress = RunProgress(0, total=4, step=2, seconds=60.0)
    line = {"loss": 1.25, "learning_rate": 3e-4, "memory_mb": 512.0}
    with RunLog(tmp_path, progress, shows=True, writes=True) as log:
        log.add_step(line)
        log._bar.refresh()
        log.advance()
        log.add_evaluation({"ap": 0.5})
    for part in ("2/4", "01:00 left", "loss 1.250", "rate 3.0e-04", "512 MB"):
        assert part in screen.getvalue()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 2, "seconds": 60.0, **line}]
    assert read_lines(tmp_path / "evaluations.jsonl") == [{"step": 2, "seconds": 60.0, "ap": 0.5}]


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    with RunLog(tmp_path, RunProgress(0, total=4), shows=False, writes=False) as log:
        log.add_step({"loss": 1.0, "learning_rate": 0.0, "memory_mb": None})
        log.add_evaluation({})
    assert list(tmp_path.iterdir()) == []
