"""Memory: what a call holds at its highest point, also when it lets go of it again, and whether it is used again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ddetr_lab.benchmark import memory

MEBIBYTE = 2**20


def spend(mebibytes: int) -> float:
    """Fill memory, and free it before returning."""
    return float(torch.ones(mebibytes * MEBIBYTE // 4).sum())


def test_memory_that_is_freed_again_is_seen() -> None:
    peak = memory.peak_memory(lambda: spend(64))
    if peak is None:
        pytest.skip("this system does not tell how much memory a process had")
    assert 60 * MEBIBYTE < peak < 100 * MEBIBYTE


def test_an_earlier_peak_does_not_count() -> None:
    spend(128)
    peak = memory.peak_memory(lambda: spend(16))
    if peak is None:
        pytest.skip("this system does not tell how much memory a process had")
    assert 12 * MEBIBYTE < peak < 64 * MEBIBYTE


def test_a_system_that_does_not_tell_gives_none_and_runs_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(memory, "CLEAR", Path("/nowhere/clear_refs"))
    assert memory.peak_memory(lambda: ran.append(1)) is None
    assert ran == [1]


def test_a_status_without_the_field_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    (tmp_path / "clear_refs").touch()
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "clear_refs")
    assert memory.peak_memory(int) is None
    assert (tmp_path / "clear_refs").read_text() == "5"


def fewest_page_faults(mebibytes: int) -> int:
    """Pages that the system provides for a tensor; the fewest of some, since the first may just not fit a gap."""
    import resource  # Unix only, as the test that calls this

    faults = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        spend(mebibytes)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults)


@pytest.mark.skipif(sys.platform != "linux" or memory._c_library("mallopt") is None, reason="needs glibc")
def test_freed_memory_that_is_kept_is_used_again() -> None:
    pages = 64 * MEBIBYTE // 4096
    without = fewest_page_faults(64)
    with memory.freed_memory_kept():
        kept = fewest_page_faults(64)
    if without < pages / 2:
        pytest.skip("this allocator, or its huge pages, needs few pages anyway")
    assert kept < pages / 100


def test_the_usual_settings_come_back_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int = 0) -> int:
        asked.append((parameter, value))
        return 1

    monkeypatch.setattr(memory, "_c_library", lambda name: mallopt if name == "mallopt" else None)
    with pytest.raises(KeyError), memory.freed_memory_kept():
        assert asked == list(memory.KEEPING)
        raise KeyError
    assert asked == [*memory.KEEPING, *memory.USUAL]


def test_a_c_library_that_cannot_be_told_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_c_library", lambda name: None)
    with pytest.raises(OSError, match="only glibc.*without --keep-memory"), memory.freed_memory_kept():
        pass
