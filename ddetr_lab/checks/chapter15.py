"""The checks of chapter 15: decoding a batch, matching with crowds, average precision, and boxes in pixels.

Built in chapter 15.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.boxes import cxcywh_to_xyxy
from ddetr_lab.checks.core import (
    Answer,
    Mistake,
    Passed,
    check_function,
    generator,
    random_boxes_cxcywh,
    random_size,
)
from ddetr_lab.evaluation import evaluate_detections
from ddetr_lab.post_processing import post_process_object_detection

__all__ = ["ap_101", "match_with_crowds", "to_pixels", "top_detections"]

Detections = tuple[Tensor, Tensor, Tensor]


def top_detections(answer: Answer) -> Passed:
    """Check a function from logits (B, Q, K), boxes (B, Q, 4) and k to scores, labels (B, k) and boxes (B, k, 4)."""

    def reference(logits: Tensor, boxes: Tensor, k: int) -> Detections:
        outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
        found = post_process_object_detection(outputs, threshold=-1.0, top_k=k)
        scores, labels, corners = (torch.stack([one[key] for one in found]) for key in ("scores", "labels", "boxes"))
        return scores, labels, corners

    def ranked(
        scores: Tensor, boxes: Tensor, k: int, exchanged: bool = False, by: int = 2, corners: bool = True
    ) -> Detections:
        """Decode scores (B, Q, K), with one thing wrong."""
        flat = scores.flatten(1)
        best, index = flat.topk(min(k, flat.shape[1]), dim=1)
        queries, labels = index // scores.shape[by], index % scores.shape[by]
        if exchanged:
            queries, labels = labels, queries
        pictures = torch.arange(len(boxes))[:, None]
        boxes = cxcywh_to_xyxy(boxes) if corners else boxes
        return best, labels, boxes[pictures, queries.clamp(max=boxes.shape[1] - 1)]

    def one_label(logits: Tensor, boxes: Tensor, k: int) -> Detections:
        best, labels = logits.sigmoid().max(2)  # (B, Q)
        scores, queries = best.topk(min(k, best.shape[1]), dim=1)
        return scores, labels.gather(1, queries), cxcywh_to_xyxy(boxes)[torch.arange(len(boxes))[:, None], queries]

    def unsorted(logits: Tensor, boxes: Tensor, k: int) -> Detections:
        pairs = logits.shape[1] * logits.shape[2]
        index = logits.flatten(1).topk(min(k, pairs), dim=1).indices.sort(dim=1).values
        pictures = torch.arange(len(boxes))[:, None]
        queries = index // logits.shape[2]
        scores = logits.sigmoid().flatten(1).gather(1, index)
        return scores, index % logits.shape[2], cxcywh_to_xyxy(boxes)[pictures, queries]

    def first_picture(logits: Tensor, boxes: Tensor, k: int) -> Detections:
        return ranked(logits.sigmoid(), boxes[:1].expand_as(boxes), k)

    mistakes = [
        Mistake(
            lambda z, b, k: ranked(z.softmax(-1), b, k),
            "these are the probabilities of a softmax: each label of each query has a sigmoid of its own.",
        ),
        Mistake(
            lambda z, b, k: ranked(z.sigmoid(), b, k, exchanged=True),
            "query and label are exchanged: a row has K entries, so index // K is the row, the query.",
        ),
        Mistake(
            lambda z, b, k: ranked(z.sigmoid(), b, k, by=1),
            "the index was divided by the number of queries: a row of the scores has K entries, one a label.",
        ),
        Mistake(
            one_label,
            "each query gave its best label only: the ranking runs over all pairs, and a query may appear twice.",
        ),
        Mistake(
            lambda z, b, k: ranked(z.sigmoid(), b, k, corners=False),
            "the boxes are still centre, width and height: detections have corners.",
        ),
        Mistake(
            lambda z, b, k: ranked(z, b, k),
            "these are logits: the score is their sigmoid.",
        ),
        Mistake(unsorted, "the right pairs, in the order of the queries: the best score comes first."),
        Mistake(
            lambda z, b, k: (*ranked(z.sigmoid(), b, k)[:2], ranked(z.sigmoid(), b, k)[2].clamp(0, 1)),
            "the boxes were clipped to the picture: post-processing leaves them as the network gave them.",
        ),
        Mistake(first_picture, "every picture got its boxes from the first one: index the pictures as well."),
    ]
    rng = generator(151)
    cases = []
    for pictures, queries, labels, k in ((2, 7, 3, 8), (1, 3, 5, 6), (3, 4, 2, 20), (2, 6, 1, 4)):
        # A shift for each query: a query that doubts all labels, and one that believes in several.
        logits = torch.randn(pictures, queries, labels, generator=rng) + torch.randn(
            pictures, queries, 1, generator=rng
        )
        boxes = random_boxes_cxcywh(rng, pictures * queries).view(pictures, queries, 4)
        boxes[:, ::2, :2] = torch.tensor([0.02, 0.97])  # these reach over the rim
        cases.append((logits, boxes, k))
    return check_function(
        answer, reference, cases, mistakes, name="top_detections", parts=("scores", "labels", "boxes")
    )


def _verdicts(
    ious: Tensor,
    crowd: Tensor,
    limit: float,
    takes: bool = True,
    crowd_takes: bool = False,
    crowd_first: bool = False,
    crowd_verdict: int = -1,
    only_best: bool = False,
    first: bool = False,
    strict: bool = False,
) -> Tensor:
    """Match greedily: 1 right, 0 wrong, -1 ignored (D,). The flags are what people get wrong."""
    free, verdicts = torch.ones_like(crowd), []
    for row in ious:
        reached = (row > limit) if strict else (row >= limit)
        if only_best and len(row):
            reached = reached & (row == row.max())
        normal, inside = reached & free & ~crowd, reached & free & crowd
        if crowd_first and inside.any() and row[inside].max() > torch.where(normal, row, -1.0).max():
            normal = torch.zeros_like(normal)
        verdicts.append(1 if normal.any() else crowd_verdict if inside.any() else 0)
        if normal.any() and takes:
            chosen = normal.nonzero()[0] if first else torch.where(normal, row, -1.0).argmax()
            free[chosen] = False
        elif not normal.any() and inside.any() and crowd_takes:
            free[torch.where(inside, row, -1.0).argmax()] = False
    return torch.tensor(verdicts, dtype=torch.int64)


def match_with_crowds(answer: Answer) -> Passed:
    """Check a function from overlaps (D, N), crowd (N,) and a limit to 1, 0 or -1 for each detection (D,)."""

    def reference(ious: Tensor, crowd: Tensor, limit: float) -> Tensor:
        return _verdicts(ious, crowd, limit)

    def wrong(**flags: Any) -> Answer:
        return lambda *arguments: _verdicts(*arguments, **flags)

    def as_object(ious: Tensor, crowd: Tensor, limit: float) -> Tensor:
        return _verdicts(ious, torch.zeros_like(crowd), limit)

    mistakes = [
        Mistake(
            reference, "the verdicts are right, but not integers: dtype=torch.int64, which torch.tensor([]) is not."
        ),
        Mistake(
            lambda ious, crowd, limit: _verdicts(ious, crowd, 0.5),
            "0.5 was taken for the limit: it is an argument, and another one here.",
        ),
        Mistake(
            wrong(takes=False),
            "an object was claimed twice: once taken it is gone, and the next detection on it is a duplicate, wrong.",
        ),
        Mistake(as_object, "the crowd was treated as one more object: it is never right to find it, only ignored."),
        Mistake(
            wrong(crowd_takes=True),
            "the crowd was taken by the first detection inside: any number may fall into it.",
        ),
        Mistake(
            wrong(crowd_verdict=0),
            "detections inside a crowd were counted as wrong: nobody can tell, so they are -1.",
        ),
        Mistake(wrong(crowd_verdict=1), "detections inside a crowd were counted as right: they are -1, ignored."),
        Mistake(
            wrong(crowd_first=True),
            "a crowd was preferred because it overlaps more: a free normal object that reaches the limit comes first.",
        ),
        Mistake(
            wrong(only_best=True),
            "only the best overlap of all was looked at: where that object is taken, or a crowd, the next one may do.",
        ),
        Mistake(
            wrong(first=True),
            "the first object over the limit was claimed: among the free ones, the one of the greatest overlap is.",
        ),
        Mistake(wrong(strict=True), "an overlap equal to the limit counts: at least, not above."),
    ]
    return check_function(answer, reference, _matchings(), mistakes, name="match_with_crowds")


def _matchings() -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield overlaps on which each mistake changes a verdict, then ones drawn at random, empty ones among them."""
    ious = torch.tensor(
        [
            [0.50, 0.00, 0.00, 0.00, 0.00],  # exactly the limit
            [0.00, 0.75, 0.625, 0.00, 0.00],  # takes 1, though 2 would do
            [0.00, 0.75, 0.625, 0.00, 0.00],  # so 2 is left for this one
            [0.00, 0.00, 0.00, 0.625, 0.75],  # 3, though the crowd overlaps more
            [0.00, 0.00, 0.00, 0.625, 0.75],  # 3 is gone: ignored
            [0.00, 0.00, 0.00, 0.00, 1.00],  # ignored as well
            [0.00, 0.75, 0.00, 0.00, 0.25],  # a duplicate
            [0.25, 0.25, 0.25, 0.25, 0.25],
        ]
    )
    crowd = torch.tensor([False, False, False, False, True])
    yield ious, crowd, 0.5
    # 1 overlaps more, and stands second: whoever takes the first one leaves the wrong one for the next detection.
    yield torch.tensor([[0.75, 0.875], [0.75, 0.25]]), torch.tensor([False, False]), 0.625
    rng = generator(152)
    for detections, objects, limit in ((6, 4, 0.75), (0, 3, 0.5), (5, 0, 0.5), (9, 5, 0.375)):
        crowd = torch.rand(objects, generator=rng) < 0.4
        # Multiples of 1/16 hit the limit exactly now and then.
        drawn = torch.randint(0, 17, (detections, objects), generator=rng) / 16
        yield drawn, crowd, limit


def _of_pycocotools(scores: Tensor, hits: Tensor, objects: int) -> Tensor:
    """Ask pycocotools: each object is a box, each hit lies on one of its own, each error lies on none."""
    place = iter(range(objects))
    boxes = [[100 * next(place), 0, 50, 50] if hit else [0, 500, 50, 50] for hit in hits.tolist()]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [100 * number, 0, 50, 50]} for number in range(objects)
        ],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
        for box, score in zip(boxes, scores.tolist(), strict=True)
    ]
    return torch.tensor(evaluate_detections(truth, found).ap50, dtype=torch.float64)


def ap_101(answer: Answer) -> Passed:
    """Check a function from scores (D,), hits (D,) and the number of objects to the interpolated AP ()."""

    def reference(scores: Tensor, hits: Tensor, objects: int) -> Tensor:
        return _of_pycocotools(scores, hits, objects)

    def average(
        scores: Tensor,
        hits: Tensor,
        objects: int,
        order: str = "falling",
        envelope: bool = True,
        points: int = 101,
        how: str = "mean",
        late: bool = False,
    ) -> Tensor:
        """Compute AP with one thing wrong."""
        if order != "as it is":
            hits = hits[scores.argsort(descending=order == "falling", stable=True)]
        right = hits.double().cumsum(0)
        recall, precision = right / objects, right / torch.arange(1, len(hits) + 1)
        if envelope and len(hits):
            precision = precision.flip(0).cummax(0).values.flip(0)
        if how == "best so far" and len(hits):
            precision = precision.cummax(0).values
        if how == "at hits":
            return (precision * hits).sum() / objects
        if how == "area":
            return (recall.diff(prepend=recall.new_zeros(1)) * precision).sum()
        levels = torch.linspace(0, 1, points, dtype=torch.float64)
        reached = levels <= (recall.max() if len(recall) else 0.0)
        index = torch.searchsorted(recall, levels if how == "last again" else levels[reached], right=late)
        values = torch.cat((precision, precision[-1:] if how == "last again" else precision.new_zeros(1)))[index]
        return values.mean() if how == "reached" else values.sum() / points

    def measured(**wrong: Any) -> Answer:
        return lambda *arguments: average(*arguments, **wrong)

    def of_found(scores: Tensor, hits: Tensor, objects: int) -> Tensor:
        return average(scores, hits, max(int(hits.sum()), 1))

    mistakes = [
        Mistake(
            measured(order="as it is"),
            "the detections were taken in the order in which they came: sort them by score, best first.",
        ),
        Mistake(
            measured(order="rising"),
            "the worst detection came first: sort the scores in falling order.",
        ),
        Mistake(
            measured(late=True),
            "a cut whose recall equals the level reaches it: searchsorted with right=False finds the first such cut.",
        ),
        Mistake(
            measured(envelope=False, how="best so far"),
            "this is the best precision up to each cut: the best from it on needs the list flipped before and after.",
        ),
        Mistake(
            measured(how="last again"),
            "beyond the last recall the last precision went on: no cut reaches those levels, so they count 0.",
        ),
        Mistake(
            measured(envelope=False, how="at hits"),
            "this is the mean of the precisions at the hits: COCO reads the best ones at 101 levels of recall.",
        ),
        Mistake(
            measured(envelope=False),
            "each level took the precision of the first cut that reaches it: take the best of that cut and all later.",
        ),
        Mistake(
            of_found,
            "recall was divided by the number of hits: objects that nobody found count as well.",
        ),
        Mistake(
            measured(how="reached"),
            "the mean runs over the levels that are reached: all 101 count, with 0 beyond the last recall.",
        ),
        Mistake(
            measured(how="area"),
            "this is the area under the curve: COCO's number is the mean of 101 readings, a little different.",
        ),
        Mistake(
            measured(points=11),
            "these are 11 levels, as in the early years of PASCAL VOC: COCO reads at 0, 0.01, ... 1.",
        ),
        Mistake(
            measured(points=100),
            "there are 100 levels: from 0 to 1 in steps of 0.01, both ends included, are 101.",
        ),
    ]
    rng = generator(153)
    cases = []
    # No recall but 1/4, 1/2, 3/4 falls on a level: otherwise the last bit of the levels would decide.
    for count, objects in ((9, 7), (5, 4), (20, 31), (4, 3), (0, 2), (1, 1)):
        scores = torch.randperm(1000, generator=rng)[:count].double() / 1000  # no ties
        hits = torch.rand(count, generator=rng) < 0.5
        hits &= hits.cumsum(0) <= objects - 1  # somebody stays unfound
        cases.append((scores, hits, objects))
    return check_function(answer, reference, cases, mistakes, name="ap_101")


def to_pixels(answer: Answer) -> Passed:
    """Check a function from boxes (B, n, 4) cxcywh _norm and sizes (B, 2) as (h, w) to xyxy in _px."""

    def reference(boxes: Tensor, target_sizes: Tensor) -> Tensor:
        # Scores that fall from box to box keep the boxes in their order.
        logits = torch.linspace(1.0, 0.0, boxes.shape[1]).expand(len(boxes), -1)[..., None]
        outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
        found = post_process_object_detection(outputs, threshold=-1.0, target_sizes=target_sizes)
        return torch.stack([one["boxes"] for one in found])

    def scaled(boxes: Tensor, target_sizes: Tensor, order: str = "whwh") -> Tensor:
        columns = [target_sizes[:, "hw".index(letter)] for letter in order]
        return boxes * torch.stack(columns, dim=1)[:, None]

    mistakes = [
        Mistake(
            lambda boxes, sizes: scaled(cxcywh_to_xyxy(boxes), sizes[:1].expand_as(sizes), "hwhw"),
            "both faults are still there: x was scaled by the height, and every picture by the size of the first.",
        ),
        Mistake(
            lambda boxes, sizes: scaled(cxcywh_to_xyxy(boxes), sizes, "hwhw"),
            "x was scaled by the height and y by the width: sizes are (h, w), boxes begin with x.",
        ),
        Mistake(
            lambda boxes, sizes: scaled(cxcywh_to_xyxy(boxes), sizes[:1].expand_as(sizes)),
            "every picture was scaled by the size of the first: each has its own.",
        ),
        Mistake(
            lambda boxes, sizes: scaled(cxcywh_to_xyxy(boxes), sizes.amax(0, keepdim=True).expand_as(sizes)),
            "the pictures were scaled by the frame of the batch: boxes are fractions of the picture without padding.",
        ),
        Mistake(
            lambda boxes, sizes: scaled(boxes, sizes),
            "the boxes are still centre, width and height: turn them into corners.",
        ),
        Mistake(
            lambda boxes, sizes: cxcywh_to_xyxy(boxes), "the boxes are still fractions: multiply them by the size."
        ),
        Mistake(
            lambda boxes, sizes: scaled(cxcywh_to_xyxy(boxes).clamp(0, 1), sizes),
            "the boxes were clipped to the picture: post-processing leaves them as the network gave them.",
        ),
    ]
    rng = generator(154)
    cases = []
    for pictures, count in ((2, 5), (1, 3), (3, 1)):
        boxes = random_boxes_cxcywh(rng, pictures * count).view(pictures, count, 4)
        boxes[0, 0, :2] = torch.tensor([0.02, 0.97])  # reaches over the rim
        sizes = torch.tensor([random_size(rng) for _ in range(pictures)])
        cases.append((boxes, sizes))
    return check_function(answer, reference, cases, mistakes, name="to_pixels")
