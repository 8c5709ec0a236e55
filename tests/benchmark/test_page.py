"""The book's page: made from the committed files and from nothing else."""

from __future__ import annotations

import dataclasses
import json

from ddetr_lab.benchmark.command import BENCHMARKS
from ddetr_lab.benchmark.page import TITLES, render_page
from ddetr_lab.benchmark.report import read_report
from tests.benchmark.samples import MACHINE, a_report
from tests.book.gates import MACHINE_PATH
from tests.conftest import ROOT

FILES = sorted((ROOT / "book" / "_data" / "benchmarks").glob("*.json"))
# Runs that train (benchmark learning, benchmark fine-tuning) stand in their own chapters.
DATA = [path for path in FILES if json.loads(path.read_text(encoding="utf-8"))["benchmark"] in TITLES]
PAGE = ROOT / "book" / "benchmarks.md"


def test_the_page_is_what_the_committed_files_render_to() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page([read_report(path) for path in DATA])


def test_every_benchmark_has_a_committed_run() -> None:
    assert {read_report(path).benchmark for path in DATA} == set(BENCHMARKS) == set(TITLES)


def test_committed_files_name_no_path_of_a_machine() -> None:
    for path in FILES:
        assert MACHINE_PATH.search(path.read_text(encoding="utf-8")) is None


def test_a_page_shows_circumstances_numbers_and_reasons() -> None:
    page = render_page([a_report()])
    for text in (
        "```sh\nddetr-lab benchmark op\n```",
        "| date | 2026-01-02T03:04:05+00:00 |",
        "Quick 9000, 2 cores, AVX2, L2 512 KiB, L3 32768 KiB",
        "| peer | 9.00 ms | 8.50 ms to 11.0 ms | 4.50 | 200 MiB | 2.0e-07 |",
        "Differences are from the sums in float64.",
        "| ours (native) 2.00 ms | peer 4.5, wrong not timed, absent not timed |",
        "wrong: not timed: its numbers are off by 5.0e-01",
        "deformops is not installed.",
        "50.0% of the multiply-add rate",
    ):
        assert text in page
    assert "quick run" not in page


def test_a_quick_run_says_so() -> None:
    assert "says nothing about speed" in render_page([a_report(settings={"repeats": 3, "quick": True})])


def test_sections_stand_in_the_order_of_the_subcommands_and_cpus_first() -> None:
    gpu = a_report(machine={**MACHINE, "gpu": "Fast Card, 80 GiB"})
    model = dataclasses.replace(a_report(), benchmark="model")
    kept = a_report(settings={"repeats": 3, "keep_memory": True})
    page = render_page([kept, gpu, model, a_report()])
    titles = ("The operator", "The operator on Fast Card, 80 GiB", "The operator, memory kept", "The whole model")
    places = [page.index(f"\n## {title}\n") for title in titles]
    assert places == sorted(places)


def test_in_short_a_run_with_memory_kept_stands_behind_the_usual_one() -> None:
    usual, kept = a_report(), a_report(settings={"repeats": 3, "keep_memory": True})
    pair = render_page([kept, usual])
    assert "| The operator: encoder, forward | ours (native) 2.00 ms | peer 4.5 (4.5), wrong not timed" in pair
    assert "| The operator, memory kept: encoder" not in pair
    alone = render_page([kept])
    assert "| The operator, memory kept: encoder, forward | ours (native) 2.00 ms | peer 4.5, wrong" in alone
