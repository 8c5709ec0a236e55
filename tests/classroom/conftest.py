"""A small chapter, and submissions made from it: whole chapters take too long to be graded in a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddetr_lab.classroom.exercises import Chapter, read_book

Cell = dict[str, Any]

RIGHT = """def xyxy_to_cxcywh(boxes_xyxy):
    ### BEGIN SOLUTION
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    return torch.cat(((low + high) / 2, high - low), dim=1)
    ### END SOLUTION"""
CLIP = """def clip_boxes(boxes_xyxy, height, width):
    ### BEGIN SOLUTION
    return torch.minimum(boxes_xyxy.clamp(min=0), torch.tensor([width, height, width, height]))
    ### END SOLUTION"""
PROSE = """```{exercise} Explain it
:label: ex-00-why

Why?
```

```{solution} ex-00-why
:class: dropdown

Because a square forgives every exchange.
```"""


def code(name: str, source: str) -> Cell:
    return {"cell_type": "code", "id": name, "metadata": {}, "source": source, "outputs": [], "execution_count": None}


def prose(name: str, source: str) -> Cell:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def notebook(cells: list[Cell]) -> dict[str, Any]:
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def chapter_cells() -> list[Cell]:
    """A chapter of two exercises, whose solutions leave outputs and metadata behind."""
    solved = code("centre", RIGHT)
    solved["metadata"] = {"tags": ["hide-input"], "note": "high - low"}
    solved["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "(low + high) / 2"}]
    solved["execution_count"] = 2
    return [
        code("setup", "import torch\nfrom ddetr_lab.checks import chapter00 as checks"),
        prose("ask-centre", "```{exercise} Write it: centre\n:label: ex-00-centre\n\nDo it.\n```"),
        solved,
        code("centre-check", "checks.xyxy_to_cxcywh(xyxy_to_cxcywh)"),
        prose("ask-clip", "```{exercise} Find it: clip\n:label: ex-00-clip\n\nDo it.\n```"),
        code("clip", CLIP),
        code("clip-check", "checks.clip_boxes(clip_boxes)"),
        prose("why", PROSE),
    ]


@pytest.fixture
def chapter(tmp_path: Path) -> Chapter:
    """The small chapter, as the teacher has it."""
    book = tmp_path / "teacher" / "book"
    book.mkdir(parents=True)
    (book / "00_small.ipynb").write_text(json.dumps(notebook(chapter_cells())), encoding="utf-8")
    return read_book(book)[0]


@pytest.fixture
def hand_in(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write what a student hands in: cells, or the text of a file."""

    def written(student: str, content: Any) -> Path:
        folder = tmp_path / "handed_in" / student
        folder.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(notebook(content))
        (folder / "00_small.ipynb").write_text(text, encoding="utf-8")
        return tmp_path / "handed_in"

    return written
