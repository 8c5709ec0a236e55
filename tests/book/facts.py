"""What each chapter has: words, figures, cells, checks, exercises, and how long it takes to read.

Counted from the notebook itself. How long it takes to run is measured: see `measure.py`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import nbformat
from nbformat import NotebookNode

from ddetr_lab.classroom.exercises import read_book
from tests.book import gates

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"


@dataclass(frozen=True)
class Facts:
    """One chapter in numbers.

    Attributes:
        stem: the notebook's name.
        number: of the chapter.
        title: as its first line has it.
        words: of prose, without formulas and code.
        minutes: to read it, counted.
        figures: drawn or placed.
        lengths: lines of each code cell.
        checks: code cells that assert something or call a check.
        exercises: in code and in words, as a pair.
        spoken: how many of the figures have an alt text of a sentence.
    """

    stem: str
    number: int
    title: str
    words: int
    minutes: float
    figures: int
    lengths: tuple[int, ...]
    checks: int
    exercises: tuple[int, int]
    spoken: int


def stated_minutes(text: str, minutes: float) -> int:
    """Return the minutes to read that a chapter should state: those that it does state, unless they are off."""
    found = gates.TIME.search(text)
    if found and int(found[1]) % gates.STEP == 0 and abs(int(found[1]) - minutes) <= gates.TOLERANCE:
        return int(found[1])
    return gates.STEP * round(minutes / gates.STEP)


def running(seconds: float) -> str:
    """Return a measured time as a chapter states it, rounded up: '25 seconds', '1 minute', '2.5 minutes'."""
    if seconds <= 55:
        return f"{max(1, math.ceil(seconds / 5)) * 5} seconds"
    minutes = math.ceil(seconds / 30) / 2
    return "1 minute" if minutes == 1 else f"{minutes:g} minutes"


def count(notebook: NotebookNode, stem: str, exercises: tuple[int, int]) -> Facts:
    """Count one notebook."""
    text = gates.markdown(notebook)
    cells = list(gates.code_cells(notebook))
    figures = gates.count_figures(notebook)
    return Facts(
        stem=stem,
        number=int(stem[:2]),
        title=text.splitlines()[0].removeprefix("# "),
        words=gates.count_words(text),
        minutes=gates.reading_minutes(notebook),
        figures=figures,
        lengths=tuple(len(cell.source.strip().splitlines()) for _, cell in cells),
        checks=sum(
            bool(re.search(r"^\s*assert ", cell.source, re.M)) or gates.calls_a_check(cell.source) for _, cell in cells
        ),
        exercises=exercises,
        spoken=figures - len(gates.figures_speak(notebook)),
    )


def chapters(book: Path = BOOK) -> Iterator[tuple[Path, Facts]]:
    """Yield the path and the facts of each chapter that exists."""
    for chapter in read_book(book):
        notebook = nbformat.read(chapter.path, as_version=4)
        yield chapter.path, count(notebook, chapter.path.stem, (len(chapter.exercises), len(chapter.prose)))


def middle(facts: Facts) -> float:
    """Return the median length of a chapter's code cells."""
    return median(facts.lengths)
