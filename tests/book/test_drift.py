"""What a chapter defines under a name of the package is what the package has there, and what is not is found."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from torch import Tensor

from ddetr_lab.checks import CheckError
from ddetr_lab.image_inputs import ChannelDimension
from tests.book.drift import Namesake, complaints, namesakes, package_definitions
from tests.book.test_chapters import CHAPTERS

PACKAGE = package_definitions()
FOUND = [
    (path.stem, namesake)
    for path in CHAPTERS
    for namesake in namesakes(nbformat.read(path, as_version=nbformat.NO_CONVERT), PACKAGE)
]


def pad_tensors(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The package's pad_batch works on the processor's arrays, the chapter's on tensors."""
    from ddetr_lab.padding import pad_batch

    values, mask = pad_batch([picture.numpy() for picture in pictures], ChannelDimension.FIRST)
    return torch.from_numpy(np.asarray(values)), torch.from_numpy(mask)


# Where the package's object takes other arguments: the same object, called as the chapter calls its own.
ADAPTED: dict[str, Callable[..., Any]] = {"ddetr_lab.padding.pad_batch": pad_tensors}


def objects(namesake: Namesake) -> list[Callable[..., Any]]:
    """The package's objects of a name, callable as the chapter's."""
    return [
        ADAPTED.get(full) or getattr(import_module(full.rpartition(".")[0]), namesake.name) for full in namesake.package
    ]


def agrees(namesake: Namesake) -> bool:
    """Whether the exercise's check holds a package's object right, and refuses one that is off by a thousandth."""
    if namesake.check is None:
        return False
    check = getattr(import_module(f"ddetr_lab.checks.{namesake.check[0]}"), namesake.check[1])
    for made in objects(namesake):

        def off(*given: Any, made: Callable[..., Any] = made) -> Any:
            result = made(*given)
            first, *rest = result if isinstance(result, tuple) else (result,)
            return (first + 1e-3, *rest) if rest else first + 1e-3

        check(made)
        with pytest.raises(CheckError):
            check(off)
    return True


def test_some_chapter_has_a_namesake() -> None:
    assert {namesake.name for _, namesake in FOUND} >= {"xywh_to_xyxy", "pad_batch"}


@pytest.mark.parametrize(("chapter", "namesake"), FOUND, ids=[f"{stem}-{each.name}" for stem, each in FOUND])
def test_a_namesake_equals_the_package(chapter: str, namesake: Namesake) -> None:
    agreed = frozenset({namesake.check}) if namesake.check and agrees(namesake) else frozenset()
    assert complaints(namesake, agreed) == []


LOOPS = "def box_area(boxes_xyxy):\n    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).prod(-1) + 0"
IMPORT = "import torch\nfrom ddetr_lab import boxes"
SHOWN = "assert torch.equal(box_area(some), boxes.box_area(some))"


def wrong(*cells: str) -> list[str]:
    """What the gate says about a chapter of some cells."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    return [each for namesake in namesakes(notebook, PACKAGE) for each in complaints(namesake)]


@pytest.mark.parametrize(
    "cells",
    [
        (LOOPS, IMPORT, SHOWN),
        (LOOPS + "\n" + IMPORT + "\n" + SHOWN,),
        (LOOPS, "from ddetr_lab.boxes import box_area as theirs\nassert torch.equal(box_area(some), theirs(some))"),
        (LOOPS, IMPORT, "ours = box_area(some)\ntorch.testing.assert_close(ours, boxes.box_area(some))"),
        (LOOPS, IMPORT, "assert torch.equal(box_area(some), slow)", "assert torch.equal(slow, boxes.box_area(some))"),
        (LOOPS, IMPORT, "for some in (one, two):\n    " + SHOWN),
        ("def my_area(boxes):\n    return 0",),
    ],
)
def test_what_is_shown_equal_is_let_pass(cells: tuple[str, ...]) -> None:
    assert wrong(*cells) == []


@pytest.mark.parametrize(
    "cells",
    [
        (LOOPS,),
        (LOOPS, IMPORT, "print(box_area(some), boxes.box_area(some))"),
        (LOOPS, IMPORT, "assert box_area(some).shape == boxes.box_area(some).shape"),
        (LOOPS, IMPORT, "assert len(box_area(some)) == len(boxes.box_area(some))"),
        (LOOPS, IMPORT, "assert torch.equal(box_area(some), box_area(some))"),
        (LOOPS, IMPORT, "assert torch.equal(boxes.box_area(some), boxes.box_area(some))"),
        (LOOPS, IMPORT, "assert torch.allclose(box_area(some), boxes.box_area(some), atol=100)"),
        (LOOPS, IMPORT, "assert torch.allclose(box_area(some), boxes.box_area(some), atol=LOOSE)"),
        (LOOPS, IMPORT, "torch.equal(box_area(some), boxes.box_area(some))"),
        (LOOPS, IMPORT, "assert not torch.equal(box_area(some), boxes.box_area(some))"),
        (LOOPS, IMPORT, "if False:\n    " + SHOWN),
        (LOOPS, IMPORT, "try:\n    " + SHOWN + "\nexcept AssertionError:\n    pass"),
        (LOOPS, IMPORT, "def never():\n    " + SHOWN),
        (LOOPS, "from ddetr_lab.boxes import box_area", "assert torch.equal(box_area(some), box_area(some))"),
        (LOOPS, IMPORT, "assert torch.equal(box_area(some), slow)", "assert torch.equal(slow2, boxes.box_area(some))"),
        (LOOPS, IMPORT, "assert torch.equal(box_area(some), boxes.box_iou(some, some))"),
        (LOOPS, IMPORT, "mix = box_area(some) + boxes.box_area(some)\nassert torch.equal(mix, boxes.box_area(some))"),
        (LOOPS.replace("(boxes_xyxy)", "(boxes_xyxy, eps)", 1), IMPORT, SHOWN),
        (LOOPS.replace("boxes_xyxy", "corners"), IMPORT, SHOWN),
    ],
)
def test_what_is_not_shown_is_found(cells: tuple[str, ...]) -> None:
    assert len(wrong(*cells)) == 1


def test_the_very_same_body_needs_no_showing() -> None:
    import ast
    import inspect

    from ddetr_lab import boxes

    source = inspect.getsource(boxes.box_area)
    assert wrong(source) == []
    assert wrong(ast.unparse(ast.parse(source)).replace("Tensor", "torch.Tensor")) == []
    changed = source.replace("- ", "+ ")
    assert changed != source and len(wrong(changed)) == 1


def test_a_check_that_lets_everything_pass_is_no_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddetr_lab.checks import chapter00

    (namesake,) = (each for stem, each in FOUND if (stem, each.name) == ("00_setup", "xyxy_to_cxcywh"))
    assert agrees(namesake)
    monkeypatch.setattr(chapter00, "xyxy_to_cxcywh", lambda answer: None)
    with pytest.raises(pytest.fail.Exception):
        agrees(namesake)
