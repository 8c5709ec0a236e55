"""Chapter 1: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter01
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def good_pixels(b: Tensor, height: int, width: int) -> Tensor:
    cx, cy, w, h = b.unbind(-1)
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)
    return corners * torch.tensor([width, height, width, height])


def good_keep(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    scores, order = logits.sigmoid().flatten().sort(descending=True)
    order, scores = order[scores > threshold], scores[scores > threshold]
    return scores, order % logits.shape[1], order // logits.shape[1]


def keep(score: Answer, strictly: bool = True, divisor: int = 1) -> Answer:
    """Make a filter with another score, another comparison, or another axis to divide by."""

    def answer(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores, order = score(logits).flatten().sort(descending=True)
        kept = scores > threshold if strictly else scores >= threshold
        order, scores = order[kept], scores[kept]
        return scores, order % logits.shape[divisor], order // logits.shape[divisor]

    return answer


def best_label_only(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    scores, labels = logits.sigmoid().max(-1)
    queries = scores.argsort(descending=True)
    queries = queries[scores[queries] > threshold]
    return scores[queries], labels[queries], queries


def in_query_order(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    queries, labels = torch.where(logits.sigmoid() > threshold)
    return logits.sigmoid()[queries, labels], labels, queries


def worst_first(logits: Tensor, threshold: float) -> tuple[Tensor, ...]:
    return tuple(part.flip(0) for part in good_keep(logits, threshold))


def exchanged(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    scores, labels, queries = good_keep(logits, threshold)
    return scores, queries, labels


def pipeline(prepare: Answer | None = None, sizes: Answer | None = None, threshold: float | None = None) -> Answer:
    """Make a detector whose input, target sizes or threshold can be spoilt."""

    def detect(picture: Any, processor: Any, model: Any, asked: float) -> dict[str, Tensor]:
        inputs = processor(picture, return_tensors="pt")
        if prepare is not None:
            inputs["pixel_values"] = prepare(inputs.pixel_values, picture, processor)
        with torch.no_grad():
            outputs = model(**inputs)
        target = [(picture.height, picture.width)] if sizes is None else sizes(picture, inputs)
        kept = asked if threshold is None else threshold
        result: dict[str, Tensor] = processor.post_process_object_detection(outputs, kept, target)[0]
        return result

    return detect


def with_gradients(picture: Any, processor: Any, model: Any, threshold: float) -> Any:
    outputs = model(**processor(picture, return_tensors="pt"))
    return processor.post_process_object_detection(outputs, threshold, [(picture.height, picture.width)])[0]


def whole_batch(picture: Any, processor: Any, model: Any, threshold: float) -> Any:
    with torch.no_grad():
        outputs = model(**processor(picture, return_tensors="pt"))
    return processor.post_process_object_detection(outputs, threshold, [(picture.height, picture.width)])


def without_model(picture: Any, processor: Any, model: Any, threshold: float) -> dict[str, Tensor]:
    return {"scores": torch.ones(1), "labels": torch.ones(1).long(), "boxes": torch.ones(1, 4)}


def unnormalised(pixels: Tensor, picture: Any, processor: Any) -> Tensor:
    values: Tensor = processor(picture, do_normalize=False, return_tensors="pt").pixel_values
    return values


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter01.boxes_to_pixels, good_pixels),
    (chapter01.keep_confident, good_keep),
    (chapter01.detect, pipeline()),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter01.boxes_to_pixels, lambda b, h, w: good_pixels(b, w, h), "but a box starts with x"),
    (chapter01.boxes_to_pixels, lambda b, h, w: good_pixels(b, 1, 1), "still fractions"),
    (chapter01.boxes_to_pixels, lambda b, h, w: b * torch.tensor([w, h, w, h]), "still centre and size"),
    (
        chapter01.boxes_to_pixels,
        lambda b, h, w: torch.cat((b[:, :2], b[:, :2] + b[:, 2:]), 1) * torch.tensor([w, h, w, h]),
        "taken for the top left corner",
    ),
    (chapter01.boxes_to_pixels, lambda b, h, w: good_pixels(b, h, w).round(), "were rounded"),
    (chapter01.boxes_to_pixels, lambda b, h, w: good_pixels(b, h, h), "by the same number"),
    (chapter01.boxes_to_pixels, lambda b, h, w: good_pixels(b, h, w)[None], "another arrangement"),
    (chapter01.keep_confident, keep(lambda x: x.softmax(-1)), "a softmax"),
    (chapter01.keep_confident, keep(lambda x: x), "compared with the logits"),
    (chapter01.keep_confident, lambda z, threshold: good_keep(z, 0.5), "not used"),
    (chapter01.keep_confident, keep(torch.sigmoid, strictly=False), "strictly above"),
    (chapter01.keep_confident, keep(torch.sigmoid, divisor=0), "divide by K"),
    (chapter01.keep_confident, best_label_only, "Rank all"),
    (chapter01.keep_confident, in_query_order, "the best score comes first"),
    (chapter01.keep_confident, worst_first, "sort descending"),
    (chapter01.keep_confident, exchanged, "labels and queries are exchanged"),
    (chapter01.detect, pipeline(sizes=lambda p, i: [p.size]), "Pillow's .size"),
    (chapter01.detect, pipeline(sizes=lambda p, i: [i.pixel_values.shape[-2:]]), "the resized picture"),
    (chapter01.detect, pipeline(sizes=lambda p, i: None), "the boxes are fractions"),
    (chapter01.detect, pipeline(threshold=0.0), "threshold that was asked for"),
    (chapter01.detect, pipeline(lambda x, p, proc: x.flip(1)), "red and blue"),
    (chapter01.detect, pipeline(unnormalised), "not normalised"),
    (chapter01.detect, pipeline(lambda x, p, proc: x[..., ::2]), "let the processor resize"),
    (chapter01.detect, pipeline(lambda x, p, proc: x.flip(3)), "the picture as it is"),
    (chapter01.detect, with_gradients, "no_grad"),
    (chapter01.detect, whole_batch, "look at what it returns"),
    (chapter01.detect, without_model, "three steps"),
]


def in_lists(logits: Tensor, threshold: float) -> list[Tensor]:
    rows = enumerate(logits.sigmoid().tolist())
    kept = sorted(((s, k, q) for q, row in rows for k, s in enumerate(row) if s > threshold), reverse=True)
    return [torch.tensor(part) for part in zip(*kept, strict=True)]


def best_label_in_query_order(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    scores, labels = logits.sigmoid().max(-1)
    (queries,) = (scores > threshold).nonzero(as_tuple=True)
    return scores[queries], labels[queries], queries


def scores_as_logits(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    _, labels, queries = good_keep(logits, threshold)
    return logits[queries, labels], labels, queries


RIGHT += [
    (chapter01.keep_confident, in_lists),
    (chapter01.detect, pipeline(sizes=lambda p, i: torch.tensor([p.size[::-1]]))),
]

WRONG += [
    (
        chapter01.boxes_to_pixels,
        lambda b, h, w: torch.cat((good_pixels(b, h, w)[:, :2], b[:, 2:] * torch.tensor([w, h])), 1),
        "still the size",
    ),
    (chapter01.boxes_to_pixels, lambda b, h, w: good_pixels(b * torch.tensor([1, 1, 2, 2]), h, w), "the whole size"),
    (chapter01.keep_confident, best_label_in_query_order, "Rank all"),
    (chapter01.keep_confident, scores_as_logits, "the sigmoid of one"),
    (chapter01.detect, pipeline(threshold=0.5), "threshold that was asked for"),
]
