"""Chapter 15: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from ddetr_lab.boxes import box_iou, cxcywh_to_xyxy, xywh_to_xyxy
from ddetr_lab.checks import CheckError, chapter15
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
Detections = tuple[Tensor, Tensor, Tensor]


def decode(
    logits: Tensor,
    boxes: Tensor,
    k: int,
    score: Callable[[Tensor], Tensor] = torch.sigmoid,
    divisor: int = 2,
    exchanged: bool = False,
    corners: bool = True,
    by_score: bool = True,
    own: bool = True,
) -> Detections:
    """Decode pictures one by one, pair by pair."""
    results = []
    for number, (rows, centres) in enumerate(zip(score(logits), boxes, strict=True)):
        values = rows.flatten()
        order = values.argsort(descending=True)[:k]
        order = order if by_score else order.sort().values
        length = logits.shape[divisor]
        query, label = order // length, order % length
        query, label = (label, query) if exchanged else (query, label)
        found = centres if own else boxes[0]
        found = found[query.clamp(max=len(found) - 1)]
        results.append((values[order], label, cxcywh_to_xyxy(found) if corners else found, number))
    scores, labels, found_boxes = (torch.stack([one[part] for one in results]) for part in range(3))
    return scores, labels, found_boxes


def decoded(**wrong: Any) -> Answer:
    return lambda *arguments: decode(*arguments, **wrong)


def best_label_only(logits: Tensor, boxes: Tensor, k: int) -> Detections:
    scores, labels = logits.sigmoid().max(-1)
    order = scores.argsort(dim=1, descending=True)[:, :k]
    corners = cxcywh_to_xyxy(boxes)
    return (
        scores.gather(1, order),
        labels.gather(1, order),
        torch.stack([own[chosen] for own, chosen in zip(corners, order, strict=True)]),
    )


def match(
    ious: Tensor,
    crowd: Tensor,
    limit: float,
    gone: bool = True,
    crowd_gone: bool = False,
    of_crowd: int = -1,
    favourite: bool = False,
    leftmost: bool = False,
    above: bool = False,
    crowd_wins: bool = False,
) -> Tensor:
    """Match with lists and sets."""
    taken: set[int] = set()
    verdicts = []
    for row in ious.tolist():
        reach = [n for n, iou in enumerate(row) if (iou > limit if above else iou >= limit)]
        if favourite:
            reach = [n for n in reach if row[n] == max(row)]
        normal = [n for n in reach if not crowd[n] and n not in taken]
        groups = [n for n in reach if crowd[n] and n not in taken]
        if crowd_wins and groups and max(row[n] for n in groups) > max([row[n] for n in normal], default=0.0):
            normal = []
        if normal:
            verdicts.append(1)
            if gone:
                taken.add(normal[0] if leftmost else max(normal, key=row.__getitem__))
        elif groups:
            verdicts.append(of_crowd)
            if crowd_gone:
                taken.add(groups[0])
        else:
            verdicts.append(0)
    return torch.tensor(verdicts, dtype=torch.int64)


def matched(**wrong: Any) -> Answer:
    return lambda *arguments: match(*arguments, **wrong)


def precision(
    scores: Tensor,
    hits: Tensor,
    objects: int,
    sign: int = -1,
    later: bool = True,
    points: int = 101,
    missed: bool = True,
    all_levels: bool = True,
) -> Tensor:
    """Average precision by definition, in loops."""
    order = range(len(hits)) if sign == 0 else np.argsort(sign * scores.numpy(), kind="stable")
    ranked = [bool(hits[int(place)]) for place in order]
    total = objects if missed else max(sum(ranked), 1)
    right = np.cumsum(ranked)
    cuts = [(right[n] / (n + 1), right[n] / total) for n in range(len(ranked))]
    answers = []
    for level in np.linspace(0, 1, points):
        reached = [p for p, r in cuts if r >= level]
        if reached or all_levels:
            answers.append((max(reached) if later else reached[0]) if reached else 0.0)
    return torch.tensor(float(np.mean(answers)) if answers else 0.0, dtype=torch.float64)


def measured(**wrong: Any) -> Answer:
    return lambda *arguments: precision(*arguments, **wrong)


def area(scores: Tensor, hits: Tensor, objects: int) -> Tensor:
    ranked = hits[scores.argsort(descending=True)].double()
    values = ranked.cumsum(0) / torch.arange(1, len(hits) + 1)
    best = [values[place:].max() for place in range(len(values)) if ranked[place]]
    return torch.tensor(float(sum(best)) / objects, dtype=torch.float64)


def pixels(
    boxes: Tensor, sizes: Tensor, turned: bool = False, first: bool = False, corners: bool = True, clip: bool = False
) -> Tensor:
    corner_boxes = cxcywh_to_xyxy(boxes) if corners else boxes
    corner_boxes = corner_boxes.clip(0, 1) if clip else corner_boxes
    scaled = []
    for number, own in enumerate(corner_boxes):
        height, width = sizes[0 if first else number].tolist()
        width, height = (height, width) if turned else (width, height)
        scaled.append(own * torch.tensor([width, height, width, height]))
    return torch.stack(scaled)


def in_frame(boxes: Tensor, sizes: Tensor) -> Tensor:
    return pixels(boxes, sizes.max(0).values[None].repeat(len(sizes), 1))


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter15.top_detections, decode),
    (chapter15.match_with_crowds, match),
    (chapter15.ap_101, precision),
    (chapter15.to_pixels, pixels),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter15.top_detections, decoded(score=lambda z: z.softmax(-1)), "sigmoid of its own"),
    (chapter15.top_detections, decoded(score=lambda z: z), "these are logits"),
    (chapter15.top_detections, decoded(exchanged=True), "query and label are exchanged"),
    (chapter15.top_detections, decoded(divisor=1), "divided by the number of queries"),
    (chapter15.top_detections, best_label_only, "may appear twice"),
    (chapter15.top_detections, decoded(corners=False), "detections have corners"),
    (chapter15.top_detections, decoded(by_score=False), "best score comes first"),
    (chapter15.top_detections, decoded(own=False), "index the pictures as well"),
    (chapter15.top_detections, lambda z, b, k: decode(z, b, k)[0], "look at what it returns"),
    (chapter15.match_with_crowds, matched(gone=False), "claimed twice"),
    (chapter15.match_with_crowds, lambda i, c, t: match(i, torch.zeros_like(c), t), "one more object"),
    (chapter15.match_with_crowds, matched(crowd_gone=True), "any number may fall into it"),
    (chapter15.match_with_crowds, matched(of_crowd=0), "nobody can tell"),
    (chapter15.match_with_crowds, matched(of_crowd=1), "counted as right"),
    (chapter15.match_with_crowds, matched(crowd_wins=True), "comes first"),
    (chapter15.match_with_crowds, matched(favourite=True), "the next one may do"),
    (chapter15.match_with_crowds, matched(leftmost=True), "greatest overlap"),
    (chapter15.match_with_crowds, matched(above=True), "at least, not above"),
    (chapter15.ap_101, measured(sign=0), "sort them by score"),
    (chapter15.ap_101, measured(sign=1), "falling order"),
    (chapter15.ap_101, measured(later=False), "that cut and all later"),
    (chapter15.ap_101, measured(missed=False), "nobody found"),
    (chapter15.ap_101, measured(all_levels=False), "all 101 count"),
    (chapter15.ap_101, area, "area under the curve"),
    (chapter15.ap_101, measured(points=11), "PASCAL VOC"),
    (chapter15.ap_101, measured(points=100), "are 101"),
    (chapter15.ap_101, lambda s, h, n: float(precision(s, h, n)), "stay in PyTorch"),
    (chapter15.to_pixels, lambda b, s: pixels(b, s, turned=True, first=True), "both faults"),
    (chapter15.to_pixels, lambda b, s: pixels(b, s, turned=True), "boxes begin with x"),
    (chapter15.to_pixels, lambda b, s: pixels(b, s, first=True), "each has its own"),
    (chapter15.to_pixels, in_frame, "without padding"),
    (chapter15.to_pixels, lambda b, s: pixels(b, s, corners=False), "turn them into corners"),
    (chapter15.to_pixels, lambda b, s: cxcywh_to_xyxy(b), "still fractions"),
    (chapter15.to_pixels, lambda b, s: pixels(b, s, clip=True), "clipped"),
]


@pytest.mark.parametrize("seed", range(8))
def test_matching_with_crowds_is_pycocotools(seed: int) -> None:
    """The reference of the check is the package's own code here, so it is held against pycocotools' matching."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(12, 2, generator=rng) * 60
    xywh = torch.cat((corner, torch.rand(12, 2, generator=rng) * 30 + 20), dim=1).double()
    found, objects, crowd = xywh[:8], xywh[8:], torch.rand(4, generator=rng) < 0.5
    common = {"image_id": 1, "category_id": 1}
    sides = []
    for boxes in (objects, found):
        side = COCO()
        entries = [
            {**common, "id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": 1 - number / 100}
            for number, box in enumerate(boxes.tolist(), start=1)
        ]
        side.dataset = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "thing"}], "annotations": entries}
        sides.append(side)
    for entry, group in zip(sides[0].dataset["annotations"], crowd.tolist(), strict=True):
        entry["iscrowd"] = int(group)
    for side in sides:
        side.createIndex()
    scorer = COCOeval(*sides, iouType="bbox")
    scorer.evaluate()
    record = scorer.evalImgs[0]  # the first class, all sizes, the first picture
    matches, ignored = record["dtMatches"][0], record["dtIgnore"][0]  # at 0.5
    expected = [-1 if skip else int(claimed > 0) for claimed, skip in zip(matches, ignored, strict=True)]

    ious = box_iou(xywh_to_xyxy(found), xywh_to_xyxy(objects))[0]
    low = torch.maximum(found[:, None, :2], objects[None, :, :2])
    high = torch.minimum((found[:, :2] + found[:, 2:])[:, None], (objects[:, :2] + objects[:, 2:])[None])
    share = (high - low).clamp(min=0).prod(-1) / found[:, 2:].prod(-1)[:, None]
    got = chapter15._verdicts(torch.where(crowd, share, ious), crowd, 0.5)
    assert got.tolist() == expected


def test_a_result_instead_of_a_function_is_named() -> None:
    with pytest.raises(CheckError, match="expected a function"):
        chapter15.ap_101(torch.zeros(()))  # type: ignore[arg-type]
