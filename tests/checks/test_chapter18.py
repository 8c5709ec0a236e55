"""Chapter 18: the solution of each exercise passes; typical wrong answers fail, each with the intended hint.

The lab's own solution, which trains, is run with the notebook. Here answers copy the annotation instead.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddetr_lab.boxes import xywh_to_xyxy
from ddetr_lab.checks import CheckError, chapter18
from ddetr_lab.data.trees import TreeCrowns
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
State = dict[str, Tensor]


def carried(old: State, new: State) -> State:
    return {name: old[name] if name in old and old[name].shape == new[name].shape else new[name] for name in new}


def first_rows(old: State, new: State) -> State:
    return {
        name: old[name][tuple(slice(n) for n in new[name].shape)]
        if name in old and all(a >= b for a, b in zip(old[name].shape, new[name].shape, strict=True))
        else torch.cat((old[name][: new[name].shape[0], : new[name].shape[1]], new[name][old[name].shape[0] :]))
        if name == "turned.weight"
        else new[name]
        for name in new
    }


def cut(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
    return (boxes - torch.tensor([left, top, left, top])).clamp(0, side)


def share(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
    inside = cut(boxes, left, top, side)
    visible = (inside[:, 2:] - inside[:, :2]).prod(1)
    return visible / (boxes[:, 2:] - boxes[:, :2]).prod(1)


def drain(next_batch: Answer, most: int = 1000) -> None:
    """Take batches and learn nothing."""
    for _ in range(most):
        if next_batch() is None:
            return


def crowns(
    batches: int = 1000, change: Answer = lambda boxes: boxes, label: int = 0, most: int = 100, key: str = "boxes"
) -> Answer:
    """Make an answer to the lab that copies the annotation, with something wrong about it."""

    def answer(next_batch: Answer, pictures: list[Image.Image]) -> list[State]:
        drain(next_batch, batches)
        held_out, found = TreeCrowns("val", tile=chapter18.LAB_TILE), []
        for index in range(len(pictures)):
            entries = held_out.annotation(index)["annotations"]
            xywh = torch.tensor([entry["bbox"] for entry in entries]).reshape(-1, 4)[:most]
            count = len(xywh)
            scores = torch.linspace(0.9, 0.5, count)
            found.append({"scores": scores, "labels": torch.full((count,), label), key: change(xywh_to_xyxy(xywh))})
        return found

    return answer


def elsewhere(next_batch: Answer, pictures: list[Image.Image]) -> list[State]:
    """Return many boxes where no crowns are."""
    drain(next_batch)
    boxes = torch.tensor([[0.0, 0.0, 3.0, 3.0]]).repeat(40, 1)
    return [{"scores": torch.rand(40), "labels": torch.zeros(40).long(), "boxes": boxes} for _ in pictures]


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter18.carry_over, carried),
    (chapter18.tile_boxes, lambda b, x, y, s: cut(b, x, y, s)[share(b, x, y, s) >= 0.3]),
    (chapter18.split_by_place, lambda c, s, line, gap: (c[:, 1] + s + gap <= line, c[:, 1] >= line)),
    (chapter18.find_crowns, crowns()),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter18.carry_over, lambda old, new: {n: old[n] if n in old else new[n] for n in new}, "Compare the shapes"),
    (chapter18.carry_over, lambda old, new: {**old, **carried(old, new)}, "the model decides"),
    (
        chapter18.carry_over,
        lambda old, new: {n: t for n, t in carried(old, new).items() if n in old},
        "lacks is missing",
    ),
    (chapter18.carry_over, first_rows, "starts fresh as a whole"),
    (chapter18.carry_over, lambda old, new: dict(new), "nothing was carried over"),
    (
        chapter18.carry_over,
        lambda old, new: {
            n: old[n].reshape(new[n].shape) if n in old and old[n].numel() == new[n].numel() else new[n] for n in new
        },
        "in another shape",
    ),
    (
        chapter18.tile_boxes,
        lambda b, x, y, s: (cut(b, x, y, s) + torch.tensor([x, y, x, y]))[share(b, x, y, s) >= 0.3],
        "left upper corner",
    ),
    (
        chapter18.tile_boxes,
        lambda b, x, y, s: (b - torch.tensor([x, y, x, y]))[share(b, x, y, s) >= 0.3],
        "but not cut",
    ),
    (chapter18.tile_boxes, lambda b, x, y, s: cut(b, x, y, s)[share(b, x, y, s) > 0], "slivers"),
    (chapter18.tile_boxes, lambda b, x, y, s: cut(b, x, y, s)[share(b, x, y, s) > 0.99], "cut boxes were dropped"),
    (chapter18.tile_boxes, cut, "lie elsewhere"),
    (
        chapter18.tile_boxes,
        lambda b, x, y, s: cut(b, x, y, s)[
            ((b[:, :2] + b[:, 2:]) / 2 - torch.tensor([x, y]))
            .clamp(0, s)
            .eq((b[:, :2] + b[:, 2:]) / 2 - torch.tensor([x, y]))
            .all(1)
        ],
        "chosen by the centre",
    ),
    (chapter18.split_by_place, lambda c, s, line, gap: (c[:, 1] < line, c[:, 1] >= line), "Add the side"),
    (
        chapter18.split_by_place,
        lambda c, s, line, gap: (c[:, 1] + s <= line - gap, c[:, 1] + s > line - gap),
        "belong to neither",
    ),
    (chapter18.split_by_place, lambda c, s, line, gap: (c[:, 1] + s <= line, c[:, 1] >= line), "gap is missing"),
    (chapter18.split_by_place, lambda c, s, line, gap: (c[:, 0] + s <= line - gap, c[:, 0] >= line), "x and y"),
    (
        chapter18.split_by_place,
        lambda c, s, line, gap: (c[:, 1] + s / 2 < line, c[:, 1] + s / 2 >= line),
        "chosen by the centre",
    ),
    (chapter18.split_by_place, lambda c, s, line, gap: (c[:, 1] <= line - gap, c[:, 1] >= line), "upper corner"),
    (chapter18.find_crowns, lambda next_batch, pictures: [], "one result for each picture"),
    (chapter18.find_crowns, crowns(key="bbox"), "post_process_object_detection"),
    (chapter18.find_crowns, crowns(change=lambda boxes: boxes[:, :2]), "n detections have"),
    (chapter18.find_crowns, crowns(change=lambda boxes: boxes / torch.nan), "diverged"),
    (chapter18.find_crowns, crowns(label=3), "replace it"),
    (chapter18.find_crowns, crowns(change=lambda boxes: boxes / chapter18.LAB_TILE), "fractions"),
    (
        chapter18.find_crowns,
        crowns(change=lambda boxes: torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)),
        "corners, x0 y0 x1 y1",
    ),
    (chapter18.find_crowns, crowns(batches=0), "never seen a crown"),
    (chapter18.find_crowns, crowns(batches=3, change=lambda boxes: boxes + 60), "only 3 of"),
    (chapter18.find_crowns, crowns(change=lambda boxes: boxes + 60), "threshold cut the list"),
    (chapter18.find_crowns, elsewhere, "learnt too little"),
]


def test_the_budget_is_the_same_batches_every_time_and_then_none() -> None:
    first, second = chapter18.Batches(), chapter18.Batches()
    batch = first()
    assert batch is not None and len(batch) == chapter18.LAB_BATCH_SIZE
    assert [annotation for _, annotation in batch] == [annotation for _, annotation in second() or ()]
    first.taken = chapter18.LAB_BATCHES
    assert first() is None and first.taken == chapter18.LAB_BATCHES


def test_what_the_lab_trains_on_is_not_what_it_is_scored_on() -> None:
    train = {tuple(place) for place in map(TreeCrowns("train", tile=128).place, range(100))}
    val = {tuple(place) for place in map(TreeCrowns("val", tile=128).place, range(72))}
    assert not train & val


def test_a_message_says_what_was_reached() -> None:
    with pytest.raises(CheckError, match=r"AP50 0\.\d{3} on 72 held-out tiles"):
        chapter18.find_crowns(elsewhere)
