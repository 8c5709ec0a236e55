"""The machine as a report describes it, read from files that the test writes."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch

from ddetr_lab.benchmark import machine


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of caches as Linux lays it out."""
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "32K"), ("2", "Unified", "512K"), ("3", "Unified", "32M")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    return tmp_path


def test_caches_are_bytes_by_name(caches: Path) -> None:
    assert machine.describe_machine()["caches"] == {"L1d": 2**15, "L2": 2**19, "L3": 2**25}
    assert machine.last_level_cache() == 2**25


def test_what_the_system_does_not_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CACHES", tmp_path / "nothing")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "nothing")
    described = machine.describe_machine()
    assert described["caches"] == {} and machine.last_level_cache() is None
    assert described["cpu"]
    assert "gpu" not in described


def test_the_processor_has_the_name_that_linux_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Quick 9000 @ 3 GHz\n")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    described = machine.describe_machine()
    assert described["cpu"] == "Quick 9000 @ 3 GHz"
    assert described["threads"] == torch.get_num_threads()
    assert described["cores"] >= 1


def test_versions_are_of_what_is_installed() -> None:
    versions = machine.describe_versions(["pillow", "no-such-distribution"])
    assert versions["torch"] == torch.__version__
    assert "pillow" in versions and "no-such-distribution" not in versions


def test_today_is_a_date_in_utc() -> None:
    assert datetime.datetime.fromisoformat(machine.today()).utcoffset() == datetime.timedelta(0)
