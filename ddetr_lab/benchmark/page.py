"""The book's page of benchmarks, made from the JSON files of real runs and from nothing else.

Used in chapter 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ddetr_lab.benchmark.report import Case, Report
from ddetr_lab.benchmark.tables import (
    HEADINGS,
    case_rows,
    ceiling_rows,
    format_seconds,
    markdown_table,
    share_line,
)
from ddetr_lab.benchmark.timing import HOW

__all__ = ["render_page"]

TITLES = {
    "op": "The operator",
    "model": "The whole model",
    "train-step": "A training step",
    "processor": "The image processor",
    "evaluate": "Average precision",
}

INTRODUCTION = """\
# How fast it is, and beside what

Every number on this page was measured by the command above its tables, on the machine and the day that stand there; the
files that the command wrote lie in `book/_data/benchmarks/`, with every single sample. Your machine gives other times.
Ratios travel better than times, and still depend on caches and cores: run the command.

```sh
.venv/bin/ddetr-lab benchmark op --json op.json      # likewise model, train-step, processor, evaluate
.venv/bin/ddetr-lab benchmark page op.json           # print a page like this one
```
"""

COLUMNS = """\
*times ours*: how many times as long a contender takes as the first row of its table. *peak memory*: by how much one
call raises the memory in use at its highest point, results included; on a CPU that is the process's resident memory.
*memory kept*: the C library was told to use freed memory again (`--keep-memory`). By itself it hands large blocks back
to the system, which zeroes every page of the next one; a contender that makes many large tensors waits for that most,
and looks better with memory kept. A process runs without it unless somebody asks, so most tables are of such runs.
*difference*: the largest one from the numbers that stand under the table, as a share of each result's largest entry for
the operator and for training steps, absolute elsewhere.

Below some tables stands how far ours is from the machine's limits. *To move* is each input read and each output
written once, *to gather* each cell that a sample reads. What fits into the last cache need not come from memory in each
call, so that a small case can exceed the memory's bandwidth; its ceiling is that of the cache. Of whole networks only
the operations of matrix products and convolutions are counted."""


SHORT = "how many times as long the others take (with memory kept)"


def render_page(reports: Sequence[Report]) -> str:
    """Return the page in Markdown: how times are taken, then each report's tables.

    Args:
        reports: in any order; the page has that of the subcommands, CPUs before GPUs, and memory kept last.
    """
    order = list(TITLES)
    placed = sorted(reports, key=lambda report: (order.index(report.benchmark), _where(report)))
    sections = [section for report in placed for section in _section(report)]
    short = markdown_table(("case", "ours", SHORT), list(_in_short(placed)))
    parts = [INTRODUCTION.rstrip(), "## In short", short, "## How times are taken", HOW, COLUMNS, *sections]
    return "\n\n".join(parts) + "\n"


def _in_short(reports: Sequence[Report]) -> Iterator[tuple[str, str, str]]:
    """One row a case: our median, and the others' ratios to it; those with memory kept stand behind, in brackets."""

    def by_case(keep: bool) -> dict[tuple[str, str, str], tuple[Report, Case]]:
        return {
            (report.benchmark, report.machine.get("gpu", ""), case.name): (report, case)
            for report in reports
            if report.settings.get("keep_memory", False) is keep
            for case in report.cases
        }

    usual, kept = by_case(False), by_case(True)
    alone = {key: found for key, found in kept.items() if key not in usual}
    for key, (report, case) in (usual | alone).items():
        first, *others = case.rows
        again = _ratios(kept[key][1]) if key in kept and key not in alone else {}
        told = ", ".join(
            f"{row.contender} {_ratios(case)[row.contender]}"
            + (f" ({again[row.contender]})" if row.contender in again else "")
            for row in others
        )
        quick = " (quick run)" if report.settings.get("quick") else ""
        name = f"{TITLES[report.benchmark]}{_where(report)}: {case.name}{quick}"
        yield name, f"{first.contender} {format_seconds(first.median)}", told


def _ratios(case: Case) -> dict[str, str]:
    """By how many times as long each contender takes as ours."""
    ratios = {row.contender: case.ratio(row) for row in case.rows}
    return {contender: "not timed" if ratio is None else f"{ratio:.1f}" for contender, ratio in ratios.items()}


def _where(report: Report) -> str:
    """What tells two runs of the same benchmark apart: the GPU, and whether freed memory was kept."""
    gpu = f" on {report.machine['gpu']}" if "gpu" in report.machine else ""
    return f"{gpu}, memory kept" if report.settings.get("keep_memory") else gpu


def _section(report: Report) -> Iterator[str]:
    yield f"## {TITLES[report.benchmark]}{_where(report)}"
    yield f"```sh\n{report.command}\n```"
    yield markdown_table(("", "of this run"), list(_circumstances(report)))
    if report.settings.get("quick"):
        yield "This was a quick run on small sizes: it shows that everything runs, and says nothing about speed."
    for case in report.cases:
        yield from _case(report, case)
    if report.ceilings:
        yield f"### What {report.machine.get('gpu', 'the processor')} can do at best"
        yield markdown_table(("ceiling, measured in the same run", "rate"), ceiling_rows(report))
    yield from report.notes


def _circumstances(report: Report) -> Iterator[tuple[str, str]]:
    machine = report.machine
    caches = ", ".join(f"{name} {size // 2**10} KiB" for name, size in machine["caches"].items())
    yield "date", report.date
    if "gpu" in machine:
        yield "GPU", machine["gpu"]
    yield "processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['vectors']}, {caches or 'caches unknown'}"
    yield "threads", str(machine["threads"])
    yield "samples of each contender", str(report.settings["repeats"])
    yield "versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())


def _case(report: Report, case: Case) -> Iterator[str]:
    yield f"### {TITLES[report.benchmark]}{_where(report)}: {case.name}"
    yield f"{case.what[0].upper()}{case.what[1:]}."
    yield markdown_table(HEADINGS, case_rows(case))
    yield f"Differences are from {case.expected}."
    for row in case.rows:
        if row.note:
            yield f"{row.contender}: {row.note}."
    line = share_line(report, case)
    if line:
        yield f"{line[0].upper()}{line[1:]}."
