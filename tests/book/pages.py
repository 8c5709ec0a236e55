"""Write the parts of the book that are counted or measured, and nobody types: `make book-pages`.

Two pages (the book in numbers, versions), the line in each chapter that says how long it takes, and the table of the
introduction. A test holds that what is committed is what this writes.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.book import gates, measure
from tests.book.facts import BOOK, Facts, chapters, middle, running, stated_minutes

MADE = "% Made by `make book-pages`; change tests/book/pages.py instead.\n\n"
ROW = re.compile(r"^\| (\d+) \| ([^|]*) \| (finished|planned)(?: \|[^|\n]*\|[^|\n]*)? \|$", re.M)

NUMBERS = """\
# The book in numbers

Counted from the notebooks, and measured by running them; `make book-table` does both and prints this table. *Figures*
count those with an alt text of a full sentence, which is all of them if the two numbers agree. *Cell lines* are the
median and the longest of the code cells. *Checks* are code cells that assert something or call a check. *Exercises* are
those in code, judged by machine, and those in words. *Seconds* are of one processor core, with all that a chapter
starts, such as a compiler.

{table}

Reading time counts {speeds} a minute; the chapters themselves state it rounded to five minutes.

## Beside other books

What we know of each, and no more. They are good books, and each does something better than this one: hence the list.

| | figures | with alt text | notebooks run by tests | what to learn from it |
|---|---|---|---|---|
| this book | one in {cells_a_figure:.0f} cells | {spoken} of {figures} | {tested} of {tested} | |
| LLMs-from-scratch, chapter 3 | one in 4 cells | none | 3 of 66 | tiny cells, one thread |
| UvA deep learning, tutorial 6 | | | | derivations, and "check it by hand" |
| Dive into deep learning, on anchors | | | | one notation |
| GPU-Puzzles | | | | a specification, a stub, a picture of your own code, an instant check |
| "PMPP" lecture 3 | | | | a Python kernel, a Python block kernel and CUDA on one picture |
| the reference library's notebook | | | | 43 lines, inference only |
"""

VERSIONS = """\
# Versions

What the pages show was printed on {dates} under Python {python}, with the versions on the right; `make book-table` ran
every chapter and found the same text below every cell. `make test` repeats the comparison with whatever you have. On
the left is what `pyproject.toml` lets pip choose from, so a row whose two sides disagree cannot be.

{table}

The pages set formulas with MathJax {mathjax}, a copy of which lies in `book/_vendor`. The behaviour that the package
reproduces is that of transformers 4.34, which is not installed: its numbers are stored in `tests/golden/`.

`ddetr-lab doctor` prints the versions that *you* have, and which path of the operator they give you.
"""


def all_facts() -> list[Facts]:
    """Return the facts of every chapter, in order."""
    return [facts for _, facts in chapters()]


def measured() -> dict[str, Any]:
    """Return what `measure.py` wrote last."""
    return measure.read()


def table_rows(facts: list[Facts], times: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the table of chapters without its heading; the last row has sums."""
    for each in facts:
        seconds = times.get(each.stem, {}).get("processor")
        yield (
            f"[{each.number}]({each.stem}.ipynb)",
            f"{each.words:,}",
            f"{each.figures} ({each.spoken})",
            f"{len(each.lengths)}",
            f"{middle(each):g}, {max(each.lengths)}",
            f"{each.checks}",
            f"{each.exercises[0]} + {each.exercises[1]}",
            f"{round(each.minutes)}",
            "not measured" if seconds is None else f"{seconds:.0f}",
        )
    yield (
        "all",
        f"{sum(each.words for each in facts):,}",
        f"{sum(each.figures for each in facts)} ({sum(each.spoken for each in facts)})",
        f"{sum(len(each.lengths) for each in facts)}",
        f"longest {max(max(each.lengths) for each in facts)}",
        f"{sum(each.checks for each in facts)}",
        f"{sum(each.exercises[0] for each in facts)} + {sum(each.exercises[1] for each in facts)}",
        f"{sum(round(each.minutes) for each in facts)}",
        f"{sum(times.get(each.stem, {}).get('processor', 0) for each in facts):.0f}",
    )


HEADINGS = ("chapter", "words", "figures", "cells", "cell lines", "checks", "exercises", "minutes to read", "seconds")


def table(facts: list[Facts], times: dict[str, Any]) -> str:
    """Return the table of chapters in Markdown."""
    lines = [HEADINGS, ["--:"] * len(HEADINGS), *table_rows(facts, times)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def numbers_page() -> str:
    """Return the page with the table, and what is known of other books."""
    facts = all_facts()
    return MADE + NUMBERS.format(
        table=table(facts, measured()["chapters"]),
        speeds=", ".join(f"{speed} {name}" for name, speed in gates.SPEEDS.items()),
        cells_a_figure=sum(len(each.lengths) for each in facts) / sum(each.figures for each in facts),
        spoken=sum(each.spoken for each in facts),
        figures=sum(each.figures for each in facts),
        tested=len(facts),
    )


def versions_page() -> str:
    """Return the page of versions."""
    kept = measured()
    versions = kept["versions"]
    dates = sorted({each["date"] for each in kept["chapters"].values()})
    rows = ["| package | supported | the pages were made with |", "|---|---|---|"]
    for name, supported in measure.distributions().items():
        # Markdown would take ~= and < as they are; a comma wants room to break.
        rows.append(f"| {name} | {supported.replace(',', ', ') or 'any'} | {versions.get(name, 'not installed')} |")
    script = (BOOK / "_vendor" / "mathjax" / "tex-svg.js").read_text(encoding="utf-8")
    found = re.search(r'VERSION="(3[\d.]+)"', script)
    return MADE + VERSIONS.format(
        dates=" and ".join(dict.fromkeys((dates[0], dates[-1]))),
        python=versions["python"],
        table="\n".join(rows),
        mathjax=found[1] if found else "(unknown)",
    )


def timed(source: str, facts: Facts, times: dict[str, Any]) -> str:
    """Return a notebook's file with its times stated: those of its words, and those that were measured.

    Args:
        source: the file's text; the line is one string of it, so that it is replaced where it stands.
        facts: of the chapter.
        times: what was measured, by chapter; one that was not keeps what it says.
    """
    spent = times.get(facts.stem)

    def line(found: re.Match[str]) -> str:
        said = running(spent["processor"]) if spent else found[2]
        return f"**Time.** {stated_minutes(found[0], facts.minutes)} minutes to read, {said} to run"

    return gates.TIME.sub(line, source, count=1)


def introduction(source: str, facts: list[Facts], times: dict[str, Any]) -> str:
    """Return the introduction with the times of each chapter that exists in its table."""
    by_number = {each.number: each for each in facts}

    def row(found: re.Match[str]) -> str:
        each = by_number.get(int(found[1]))
        if each is None:
            return f"| {found[1]} | {found[2]} | {found[3]} | | |"
        text = (BOOK / f"{each.stem}.ipynb").read_text(encoding="utf-8")
        spent = times.get(each.stem)
        said = (
            running(spent["processor"]).replace("minutes", "min").replace("minute", "min") if spent else "not measured"
        )
        return (
            f"| {found[1]} | {found[2]} | {found[3]} | {stated_minutes(text, each.minutes)} min | "
            f"{said.replace('seconds', 's')} |"
        )

    return ROW.sub(row, source)


def written() -> dict[Path, str]:
    """Return every file that is held, and the text it should have."""
    facts, times = all_facts(), measured()["chapters"]
    intro = BOOK / "intro.md"
    files = {
        BOOK / "numbers.md": numbers_page(),
        BOOK / "versions.md": versions_page(),
        intro: introduction(intro.read_text(encoding="utf-8"), facts, times),
    }
    for each in facts:
        path = BOOK / f"{each.stem}.ipynb"
        files[path] = timed(path.read_text(encoding="utf-8"), each, times)
    return files


def stale() -> dict[Path, str]:
    """Return the files that are not as they should be, with the text they should have."""
    return {path: text for path, text in written().items() if not path.is_file() or path.read_text("utf-8") != text}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something would change")
    arguments = parser.parse_args()
    changed = stale()
    for path in changed:
        print(f"{'stale' if arguments.check else 'written'}: {path.name}")
    if not arguments.check:
        while texts := stale():  # a time that is stated is a word or two, and words are counted
            for path, text in texts.items():
                path.write_text(text, encoding="utf-8")
    print(table(all_facts(), measured()["chapters"]))
    return 1 if arguments.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
