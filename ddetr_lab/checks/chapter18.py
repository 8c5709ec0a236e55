"""The checks of chapter 18: weights carried over, boxes of a tile, a split without leaks, and the graded lab.

Built in chapter 18.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ddetr_lab.checks.chapter12 import check_states, require_mask
from ddetr_lab.checks.core import (
    Answer,
    CheckError,
    Mistake,
    Passed,
    call,
    check_function,
    generator,
    random_integer,
)
from ddetr_lab.data.trees import TreeCrowns
from ddetr_lab.evaluation_scores import evaluate_detections

__all__ = ["carry_over", "find_crowns", "split_by_place", "tile_boxes"]

State = dict[str, Tensor]

_MIN_VISIBLE = 0.3  # of a crown's box, to belong to a tile: the default of TreeCrowns

# The graded lab. It is small, so that one core grades it in half a minute.
LAB_TILE = 128  # px, the side of its pictures
LAB_BATCHES, LAB_BATCH_SIZE = 60, 4  # what an answer may train on
# A quarter of the median AP50 that the chapter's own solution reaches over five orders of the batches, so that chance
# and another processor's rounding fail nobody; `python -m tests.checks.lab_scores` prints them. A head that nobody has
# trained scores 0.000, and so does training nothing but the heads.
LAB_THRESHOLD = 0.012


def carry_over(answer: Answer) -> Passed:
    """Check a function from the tensors of a checkpoint and of a fresh model to those that the model starts from."""

    def reference(old: State, new: State) -> State:
        fits = {name for name in new if name in old and old[name].shape == new[name].shape}
        return {name: old[name] if name in fits else new[name] for name in new}

    def by_name(old: State, new: State) -> State:
        return {name: old.get(name, tensor) for name, tensor in new.items()}

    def cropped(old: State, new: State) -> State:
        started = {name: tensor.clone() for name, tensor in new.items()}
        for name in started.keys() & old.keys():
            if old[name].ndim == new[name].ndim:
                part = tuple(slice(0, min(sizes)) for sizes in zip(old[name].shape, new[name].shape, strict=True))
                started[name][part] = old[name][part]
        return started

    def by_count(old: State, new: State, reshape: bool = True) -> State:
        fits = {name: old[name] for name in new if name in old and old[name].numel() == new[name].numel()}
        return new | {name: old.reshape(new[name].shape) if reshape else old for name, old in fits.items()}

    other_places = "a tensor was carried over that is in another shape, though of as many numbers: these change places."
    mistakes = [
        Mistake(
            by_name,
            "a tensor of another shape was carried over: it does not fit into the model. Compare the shapes too.",
        ),
        Mistake(
            lambda old, new: {**new, **reference(old, new), **{k: v for k, v in old.items() if k not in new}},
            "names that the model lacks were carried over: the model decides which tensors there are.",
        ),
        Mistake(
            lambda old, new: {name: tensor for name, tensor in reference(old, new).items() if name in old},
            "a tensor that the checkpoint lacks is missing: it starts from the model's own fresh one.",
        ),
        Mistake(lambda old, new: new | old, "everything was carried over, also what the model lacks or has otherwise."),
        Mistake(
            lambda old, new: {
                name: old[name] for name, tensor in reference(old, new).items() if tensor is old.get(name)
            },
            "only what was carried over is in the result: where nothing fits, the model's own fresh tensor belongs.",
        ),
        Mistake(
            cropped,
            "of a tensor that does not fit, a part was carried over: the first rows of a class head belong to the old "
            "labels, and would make tree a kind of zero. Such a tensor starts fresh as a whole.",
        ),
        *(Mistake(partial(by_count, reshape=reshape), other_places) for reshape in (True, False)),
        Mistake(lambda old, new: dict(new), "nothing was carried over: this is the fresh model."),
    ]
    return check_states(answer, reference, _states(), mistakes, name="carry_over")


def _states() -> Iterator[tuple[State, State]]:
    """Yield pairs of tensors by name: a wider head, a missing and a superfluous name, and one of turned shape."""
    rng = generator(181)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    for labels in (1, 3, 7):
        width = random_integer(rng, 4, 6)
        old = {"head.weight": drawn(10, width), "head.bias": drawn(10), "layer.weight": drawn(width, width)}
        new = {"head.weight": drawn(labels, width), "head.bias": drawn(labels), "layer.weight": drawn(width, width)}
        old |= {"turned.weight": drawn(2, 3), "gone.weight": drawn(2)}
        new |= {"turned.weight": drawn(3, 2), "level.weight": drawn(4, 2)}
        yield old, new


def tile_boxes(answer: Answer) -> Passed:
    """Check a function from boxes (N, 4) of a picture, and a tile's left, top and side, to the tile's boxes (n, 4)."""

    def inside(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        return (boxes - boxes.new_tensor([left, top, left, top])).clamp(0, side)

    def area(boxes: Tensor) -> Tensor:
        return (boxes[:, 2:] - boxes[:, :2]).prod(1)

    def reference(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        cut = inside(boxes, left, top, side)
        return cut[area(cut) >= _MIN_VISIBLE * area(boxes)]

    def unshifted(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        far = boxes.new_tensor([left, top, left, top])
        cut = torch.minimum(torch.maximum(boxes, far), far + side)
        return cut[area(cut) >= _MIN_VISIBLE * area(boxes)]

    def uncut(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        keep = area(inside(boxes, left, top, side)) >= _MIN_VISIBLE * area(boxes)
        return boxes[keep] - boxes.new_tensor([left, top, left, top])

    def slivers(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        cut = inside(boxes, left, top, side)
        return cut[area(cut) > 0]

    def at_least(share: float) -> Answer:
        def wrong(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
            cut = inside(boxes, left, top, side)
            return cut[area(cut) >= share * area(boxes)]

        return wrong

    def each_side(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        cut = inside(boxes, left, top, side)
        return cut[(cut[:, 2:] - cut[:, :2] >= _MIN_VISIBLE * (boxes[:, 2:] - boxes[:, :2])).all(1)]

    def two_negatives(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        far = boxes.new_tensor([left, top])
        cut = torch.cat((torch.maximum(boxes[:, :2], far), torch.minimum(boxes[:, 2:], far + side)), 1)
        return (cut - far.repeat(2))[area(cut) >= _MIN_VISIBLE * area(boxes)]

    def exchanged(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        return reference(boxes, top, left, side)

    def by_centre(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - boxes.new_tensor([left, top])
        return inside(boxes, left, top, side)[((centre >= 0) & (centre < side)).all(1)]

    def everything(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        return inside(boxes, left, top, side)

    mistakes = [
        Mistake(unshifted, "the boxes are still in the picture's pixels: a tile's own begin at its left upper corner."),
        Mistake(uncut, "the right boxes, but not cut: a box that reaches over the tile promises pixels it lacks."),
        Mistake(everything, "boxes that lie elsewhere were kept: cut to the tile they have no area."),
        Mistake(slivers, "slivers were kept: three tenths of a box's area must be visible, or nobody can see a tree."),
        Mistake(
            exchanged,
            "no box is left. Are left and top exchanged? Left is taken off x, top off y. Or was the area compared with "
            "the tile's, instead of with the box's own?",
        ),
        Mistake(two_negatives, "a box far off both ways was kept: width and height inside are negative, the area not."),
        Mistake(each_side, "three tenths of each side are less than three tenths of the area: multiply the sides."),
        *(
            Mistake(
                at_least(share), f"boxes with less than {share} of their area inside were dropped: the limit is 0.3."
            )
            for share in (0.5, 0.7)
        ),
        Mistake(
            at_least(0.999), "cut boxes were dropped: a crown of which three tenths are visible belongs to the tile."
        ),
        Mistake(by_centre, "chosen by the centre: it is the visible share of the area that decides."),
    ]
    return check_function(answer, reference, _tiles(), mistakes, name="tile_boxes")


def _tiles() -> Iterator[tuple[Tensor, int, int, int]]:
    """Yield boxes around a tile: inside, cut by much and by little, cut at a corner, and away one way and both."""
    rng = generator(182)
    for side in (100, 128, 256):
        left, top = random_integer(rng, 300, 500), random_integer(rng, 600, 900)
        width, height = float(random_integer(rng, 20, 30)), float(random_integer(rng, 32, 44))
        corners = torch.tensor(
            [
                [10, 20],  # inside
                [-0.2 * width, 30],  # four fifths visible
                [side - 0.4 * width, 50],  # two fifths, the centre outside
                [40, side - 0.2 * height],  # a sliver
                [side - 0.45 * width, side - 0.45 * height],  # a fifth, at a corner
                [side - 0.6 * width, side - 0.6 * height],  # a third and a little, at a corner, the centre inside
                [side + 60, 10],  # elsewhere
                [-3 * width, side + 2 * height],  # and far off both ways
            ]
        )
        corners = corners + torch.tensor([left, top])
        yield torch.cat((corners, corners + torch.tensor([width, height])), 1), left, top, side
    yield torch.zeros(0, 4), 0, 0, 64


def split_by_place(answer: Answer) -> Passed:
    """Check a function from tiles' corners (N, 2), their side, a line and a gap to two masks (N,): train and val."""

    def reference(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        top = corners[:, 1]
        return top + side <= line - gap, top >= line

    def above(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        return corners[:, 1] < line, corners[:, 1] >= line

    def rest(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        train, _ = reference(corners, side, line, gap)
        return train, ~train

    def no_gap(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        return corners[:, 1] + side <= line, corners[:, 1] >= line

    def across(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        return reference(corners.flip(1), side, line, gap)

    def centres(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        middle = corners[:, 1] + side / 2
        return middle < line, middle >= line

    def below(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        return reference(corners, side, line, gap)[0], corners[:, 1] > line

    def corner_only(corners: Tensor, side: int, line: int, gap: int) -> tuple[Tensor, Tensor]:
        return corners[:, 1] <= line - gap, corners[:, 1] >= line

    mistakes = [
        Mistake(above, "tiles that reach over the line are in train: their lower part is held out. Add the side."),
        Mistake(rest, "what is not in train is no val yet: tiles across the line or the gap belong to neither."),
        Mistake(no_gap, "the gap is missing: a crown that the line cuts would be half in train and half in val."),
        Mistake(across, "x and y are exchanged: the line lies across the picture, at one height y."),
        Mistake(centres, "chosen by the centre: a tile of either side then reaches over the line."),
        Mistake(
            lambda *case: (reference(*case)[0] & (case[0][:, 1] + case[1] < case[2] - case[3]), reference(*case)[1]),
            "a tile that ends exactly the gap above the line may be trained on: at least a gap, so <=.",
        ),
        Mistake(below, "a tile that begins on the line lies wholly at or below it: >=."),
        Mistake(
            lambda *case: (reference(*case)[0], case[0][:, 1] >= case[2] + case[3]),
            "the gap was taken twice: held-out tiles begin at the line itself, and only training keeps a gap from it.",
        ),
        Mistake(lambda *case: reference(*case)[::-1], "the two are exchanged: first train, then val."),
        Mistake(corner_only, "only the upper corner was looked at: a tile ends one side further down."),
    ]
    rng = generator(183)
    cases = []
    for side in (64, 128, 256):
        line, gap = 8 * side + random_integer(rng, 1, side // 4), side // 2 + random_integer(rng, 1, side // 4)
        rows = torch.arange(0, 24) * (side // 2) + random_integer(rng, 0, 9)
        columns = torch.randint(0, 12 * side, (24,), generator=rng)
        last = line - gap - side  # where the last training tile may begin
        edges = torch.tensor([[3, line], [5, last], [7, last + 1], [9, line - 1], [11, line - gap]])
        corners = torch.cat((torch.stack((columns, rows), 1), edges))
        cases.append((corners[torch.randperm(len(corners), generator=rng)], side, line, gap))
    parts = ("train", "val")
    passed = check_function(answer, reference, cases, mistakes, name="split_by_place", parts=parts)
    for part, mask in zip(parts, answer(*cases[0]), strict=True):
        require_mask(mask, f"split_by_place: {part}")
    return passed


class Batches:
    """Batches of training tiles for the lab: each call gives the next one, and None when the budget is spent.

    It stays with the grader, which counts what was taken.
    """

    def __init__(self, seed: int = 0) -> None:
        self.tiles, self.rng, self.taken = _tiles_of("train"), generator(seed), 0

    def __call__(self) -> list[tuple[Image.Image, dict[str, Any]]] | None:
        """Return a list of items ``(picture, annotation)``, or None."""
        if self.taken == LAB_BATCHES:
            return None
        self.taken += 1
        chosen = torch.randint(len(self.tiles), (LAB_BATCH_SIZE,), generator=self.rng)
        return [self.tiles[index] for index in chosen.tolist()]


@cache
def _tiles_of(split: str) -> TreeCrowns:
    return TreeCrowns(split, tile=LAB_TILE)


def find_crowns(answer: Answer) -> Passed:
    """Grade the lab: a function from ``next_batch`` and held-out pictures to detections, scored by AP50.

    ``next_batch()`` returns a list of items ``(picture, annotation)`` to train on, and None once the budget is spent.
    The function returns a list with, for each picture, what ``post_process_object_detection`` gives: ``scores`` (n,),
    ``labels`` (n,) of zeros, and ``boxes`` (n, 4) xyxy in the picture's pixels.

    Raises:
        CheckError: if the answer is of another form, or AP50 is below ``LAB_THRESHOLD``.
        FetchError: if the pictures are not there and cannot be fetched.
    """

    def reference(next_batch: Answer, pictures: list[Image.Image]) -> list[State]:
        raise NotImplementedError  # only its arguments' names are used

    held_out, batches = _tiles_of("val"), Batches()
    pictures = [held_out[index][0] for index in range(len(held_out))]
    found = call(answer, (batches, pictures), "find_crowns", reference)
    _check_form(found, len(pictures))
    if batches.taken == 0:
        raise CheckError(
            "find_crowns took no batch.", "the new class head has never seen a crown: train it with next_batch()."
        )
    results = [
        {"image_id": index, "category_id": 0, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for index, one in enumerate(found)
        for score, (x0, y0, x1, y1) in zip(one["scores"].tolist(), one["boxes"].tolist(), strict=True)
    ]
    ap50 = evaluate_detections(held_out.coco_ground_truth(), results).ap50
    if ap50 < LAB_THRESHOLD:
        raise CheckError(
            f"find_crowns reached AP50 {ap50:.3f} on {len(pictures)} held-out tiles, expected {LAB_THRESHOLD}.",
            _why_so_little(batches.taken, len(results) / len(pictures)),
        )
    return Passed(
        f"find_crowns: AP50 above {LAB_THRESHOLD} on {len(pictures)} held-out tiles, after {batches.taken} batches of "
        f"{LAB_BATCH_SIZE}."
    )


def _check_form(found: Any, count: int) -> None:
    """Raise unless an answer is a list of ``count`` dictionaries of detections, with corners in pixels."""
    where = "find_crowns"
    if not isinstance(found, (list, tuple)) or len(found) != count:
        what = f"{len(found)} entries" if isinstance(found, (list, tuple)) else f"a {type(found).__name__}"
        raise CheckError(
            f"{where} returned {what}, expected a list of {count}.", "one result for each picture, in their order."
        )
    for one in found:
        keys = ("scores", "labels", "boxes")
        if not isinstance(one, dict) or not all(isinstance(one.get(key), Tensor) for key in keys):
            raise CheckError(
                f"{where}: an entry is no dictionary with the tensors scores, labels and boxes.",
                "return what post_process_object_detection returns.",
            )
        n = len(one["scores"])
        if one["scores"].shape != (n,) or one["labels"].shape != (n,) or one["boxes"].shape != (n, 4):
            raise CheckError(
                f"{where}: shapes {[tuple(one[key].shape) for key in keys]} for {', '.join(keys)}.",
                "n detections have scores (n,), labels (n,) and boxes (n, 4).",
            )
    boxes, labels = torch.cat([one["boxes"] for one in found]), torch.cat([one["labels"] for one in found])
    if not boxes.isfinite().all():
        raise CheckError(f"{where}: a box is not finite.", "the training diverged: is the learning rate too high?")
    if (labels != 0).any():
        raise CheckError(
            f"{where}: labels {sorted(set(labels.tolist()))[:5]}, expected only 0.",
            "a tree is label 0. Other labels come from a head that still has the ten digits: replace it.",
        )
    if len(boxes) and boxes.abs().max() <= 2:
        raise CheckError(
            f"{where}: no box reaches beyond {boxes.abs().max():.2f}.",
            "these are fractions of the picture: post-processing makes pixels of them if it is given target_sizes.",
        )
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if turned.float().mean() > 0.1:
        raise CheckError(
            f"{where}: {int(turned.sum())} of {len(boxes)} boxes end before they begin.",
            "boxes are corners, x0 y0 x1 y1: these look like a corner or a centre with a width and a height.",
        )


def _why_so_little(taken: int, per_picture: float) -> str:
    if taken < LAB_BATCHES // 2:
        return f"only {taken} of {LAB_BATCHES} batches were taken: train until next_batch() returns None."
    if per_picture < 20:
        return (
            f"{per_picture:.1f} detections a picture: a score threshold cut the list. AP ranks what is there, so keep "
            "everything, threshold=0."
        )
    return (
        "it was trained and learnt too little. Do the weights come from the digits? Does the loss fall? Is the model "
        "in evaluation mode when it detects? Do the batches that it learns from go through the same processor?"
    )
