"""A report with a contender of each kind, for the tests of tables, JSON and page."""

from __future__ import annotations

from typing import Any

from ddetr_lab.benchmark.report import Case, Report, Row, Work

MACHINE = {
    "system": "Linux x86_64",
    "cpu": "Quick 9000",
    "cores": 2,
    "vectors": "AVX2",
    "threads": 2,
    "caches": {"L2": 2**19, "L3": 2**25},
}


def a_report(**changes: Any) -> Report:
    """Return a report: ours in 2 ms, a peer in 9 ms, one that disagrees, and one that did not run."""
    rows = (
        Row("ours (native)", (0.001, 0.002, 0.003), 10, 1e-7, 1e-4, 3 * 2**20),
        Row("peer", (0.008, 0.009, 0.013), 2, 2e-7, 1e-4, 200 * 2**20, note="runs in float32"),
        Row("wrong", (), 1, 0.5, 1e-4, None, note="not timed: its numbers are off by 5.0e-01, allowed is 1.0e-04"),
        Row("absent", note="not timed: it does not run here: no kernel"),
    )
    fields: dict[str, Any] = {
        "benchmark": "op",
        "command": "ddetr-lab benchmark op",
        "date": "2026-01-02T03:04:05+00:00",
        "machine": MACHINE,
        "versions": {"python": "3.12.0", "torch": "2.14.1"},
        "settings": {"repeats": 3, "quick": False, "device": "cpu"},
        "cases": (Case("encoder, forward", "17821 queries", "the sums in float64", rows, Work(2**20, 2**24, 10**8)),),
        "ceilings": {"memory_bytes_per_second": 1e10, "cache_bytes_per_second": 1e11, "flops_per_second": 1e11},
        "notes": ("deformops is not installed.",),
    }
    return Report(**fields | changes)
