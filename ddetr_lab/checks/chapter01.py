"""The checks of chapter 1: from network outputs to detections, and a whole pipeline.

Built in chapter 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ddetr_lab.boxes import cxcywh_to_xyxy, xywh_to_xyxy
from ddetr_lab.checks.core import (
    Answer,
    CheckError,
    Mistake,
    Passed,
    call,
    check_function,
    generator,
    random_boxes_cxcywh,
    random_integer,
    random_size,
    same,
)
from ddetr_lab.image_processing import DeformableDetrImageProcessor

__all__ = ["boxes_to_pixels", "detect", "keep_confident"]


def boxes_to_pixels(answer: Answer) -> Passed:
    """Check a function from boxes (Q, 4), cxcywh in _norm, to (Q, 4), xyxy in _px of a picture."""

    def reference(pred_boxes: Tensor, height: int, width: int) -> Tensor:
        return cxcywh_to_xyxy(pred_boxes) * torch.tensor([width, height, width, height])

    def scaled(boxes: Tensor, height: int, width: int) -> Tensor:
        return boxes * torch.tensor([width, height, width, height])

    mistakes = [
        Mistake(
            lambda b, height, width: reference(b, width, height),
            "x was multiplied by the height and y by the width: a size is (height, width), but a box starts with x.",
        ),
        Mistake(
            lambda b, height, width: cxcywh_to_xyxy(b),
            "these are corners, but still fractions of the picture: multiply by its size.",
        ),
        Mistake(scaled, "these are pixels, but still centre and size: convert to corners as well."),
        Mistake(
            lambda b, height, width: xywh_to_xyxy(scaled(b, height, width)),
            "the centre was taken for the top left corner: the left edge is half a width left of the centre.",
        ),
        Mistake(
            lambda b, height, width: torch.cat(
                (reference(b, height, width)[:, :2], scaled(b, height, width)[:, 2:]), 1
            ),
            "the last two numbers are still the size: the far corner is the centre plus half of it.",
        ),
        Mistake(
            lambda b, height, width: reference(b * torch.tensor([1, 1, 2, 2]), height, width),
            "the whole size was taken off the centre: from the centre to the rim it is half of it.",
        ),
        Mistake(
            lambda b, height, width: reference(b, height, width).round(),
            "the pixels were rounded: a box may end between two pixels, and later steps need the exact place.",
        ),
        Mistake(
            lambda b, height, width: cxcywh_to_xyxy(b) * torch.tensor([height, height, height, height]),
            "x and y were multiplied by the same number: the width belongs to x, the height to y.",
        ),
    ]
    rng = generator(11)
    cases = [(random_boxes_cxcywh(rng, random_integer(rng, 2, 9)), *random_size(rng)) for _ in range(6)]
    return check_function(answer, reference, cases, mistakes, name="boxes_to_pixels")


def _ranked(scores: Tensor, keep: Tensor, order: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, labels and queries of the pairs (Q, K) to keep, best first unless told otherwise."""
    queries, labels = keep.nonzero(as_tuple=True)
    kept = scores[queries, labels]
    best = kept.argsort(descending=True) if order else torch.arange(len(kept))
    return kept[best], labels[best], queries[best]


def keep_confident(answer: Answer) -> Passed:
    """Check a function from logits (Q, K) and a threshold to the scores, labels and queries above it, best first."""

    def reference(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.sigmoid()
        return _ranked(scores, scores > threshold)

    def softmax(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.softmax(-1)
        return _ranked(scores, scores > threshold)

    def raw(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        return _ranked(logits, logits > threshold)

    def inclusive(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.sigmoid()
        return _ranked(scores, scores >= threshold)

    def one_label_a_query(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.sigmoid()
        return _ranked(scores, (scores > threshold) & (scores == scores.amax(-1, keepdim=True)))

    def one_label_unsorted(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.sigmoid()
        return _ranked(scores, (scores > threshold) & (scores == scores.amax(-1, keepdim=True)), order=False)

    def returned_logits(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        _, labels, queries = reference(logits, threshold)
        return logits[queries, labels], labels, queries

    def unsorted(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.sigmoid()
        return _ranked(scores, scores > threshold, order=False)

    def ascending(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores, labels, queries = reference(logits, threshold)
        return scores.flip(0), labels.flip(0), queries.flip(0)

    def exchanged(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores, labels, queries = reference(logits, threshold)
        return scores, queries, labels

    def split_by_queries(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        scores, labels, queries = reference(logits, threshold)
        flat = queries * logits.shape[1] + labels
        return scores, flat % logits.shape[0], flat // logits.shape[0]

    mistakes = [
        Mistake(
            softmax,
            "these are the scores of a softmax, in which labels compete and every query must name one. Here each label "
            "has a sigmoid of its own.",
        ),
        Mistake(
            lambda logits, _: reference(logits, 0.5), "the threshold that was asked for is not used: it may differ."
        ),
        Mistake(raw, "the threshold was compared with the logits: scores are their sigmoid."),
        Mistake(
            inclusive,
            "a score equal to the threshold was kept: only what lies strictly above it counts.",
        ),
        *(
            Mistake(
                one_label,
                "only the best label of each query was kept: a query may be confident of two labels, and both are "
                "detections. Rank all Q * K pairs.",
            )
            for one_label in (one_label_a_query, one_label_unsorted)
        ),
        Mistake(returned_logits, "the right pairs, but these are their logits: a score is the sigmoid of one."),
        Mistake(unsorted, "the right pairs, but in the order of the queries: the best score comes first."),
        Mistake(ascending, "the right pairs, but the worst comes first: sort descending."),
        Mistake(
            exchanged,
            "labels and queries are exchanged: in the flattened scores a query's K labels stand side by side, so the "
            "query is index // K and the label index % K.",
        ),
        Mistake(
            split_by_queries,
            "the flat index was divided by the number of queries: a row has K entries, so divide by K.",
        ),
    ]
    return check_function(
        answer,
        reference,
        _confident_cases(),
        mistakes,
        name="keep_confident",
        parts=("scores", "labels", "queries"),
    )


def _confident_cases() -> Iterator[tuple[Tensor, float]]:
    """Yield logits (Q, K) with what filters get wrong: an exact tie with a threshold, two labels in one row."""
    rng = generator(12)
    for case in range(6):
        labels = random_integer(rng, 3, 6)
        queries = labels + random_integer(rng, 2, 6)
        logits = torch.randn(queries, labels, generator=rng) * 2 - 1.5
        logits[0, 1], logits[0, 2] = 1.25, 2.5  # one query, two labels
        logits[1, 0], logits[2, 0] = 0.0, 0.75  # sigmoid(0) is exactly 0.5; 0.75 is between score and logit
        yield logits, (0.5, 0.3)[case % 2]


class _Recorder(nn.Module):
    """Stands for a detector: answers every picture with boxes made beforehand, and remembers what it was shown."""

    def __init__(self, logits: Tensor, pred_boxes: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.pred_boxes = nn.Parameter(pred_boxes)
        self.shown: Tensor | None = None

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **_: Any) -> SimpleNamespace:
        self.shown = pixel_values
        return SimpleNamespace(logits=self.logits[None] * 1.0, pred_boxes=self.pred_boxes[None] * 1.0)


def detect(answer: Answer) -> Passed:
    """Check a whole pipeline ``detect(picture, processor, model, threshold)``, on pictures that are not square.

    Raises:
        CheckError: if the model is shown something else than what the processor makes, or the detections are wrong.
    """

    def reference(picture: Image.Image, processor: Any, model: nn.Module, threshold: float) -> dict[str, Tensor]:
        return finish(picture, processor, model, threshold, [(picture.height, picture.width)])

    def finish(
        picture: Image.Image, processor: Any, model: nn.Module, threshold: float, sizes: Any
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            outputs = model(**processor(picture, return_tensors="pt"))
        result: dict[str, Tensor] = processor.post_process_object_detection(outputs, threshold, sizes)[0]
        return result

    def resized(picture: Image.Image, processor: Any, model: nn.Module, threshold: float) -> dict[str, Tensor]:
        shape = processor(picture, return_tensors="pt").pixel_values.shape
        return finish(picture, processor, model, threshold, [tuple(shape[-2:])])

    mistakes = [
        Mistake(
            lambda p, processor, model, t: finish(p, processor, model, t, [p.size]),
            "x is scaled by the height and y by the width. What does Pillow's .size hold, and in which order does "
            "target_sizes want it?",
        ),
        Mistake(
            resized,
            "the boxes fit the resized picture that the network saw, not the one you were given: target_sizes is the "
            "size of the picture that the boxes shall fit.",
        ),
        Mistake(
            lambda p, processor, model, t: finish(p, processor, model, t, None),
            "the boxes are fractions: without target_sizes nothing scales them to pixels.",
        ),
        *(
            Mistake(fixed, "the threshold that was asked for is not used.")
            for fixed in (
                lambda p, processor, model, t: finish(p, processor, model, 0.0, [(p.height, p.width)]),
                lambda p, processor, model, t: finish(p, processor, model, 0.5, [(p.height, p.width)]),
            )
        ),
    ]
    cases = list(_pipelines())
    for case in cases:
        call(answer, case, "detect", reference)
        _check_shown(case)
    return check_function(answer, reference, cases, mistakes, name="detect")


def _pipelines() -> Iterator[tuple[Image.Image, DeformableDetrImageProcessor, _Recorder, float]]:
    """Yield pictures with a processor, a stand-in detector and a threshold between its scores."""
    rng = generator(13)
    for _ in range(3):
        height, width = random_size(rng, 30, 90)
        noise = torch.randint(0, 256, (height, width, 3), generator=rng, dtype=torch.uint8)
        queries = random_integer(rng, 4, 8)
        model = _Recorder(torch.randn(queries, 3, generator=rng) * 2, random_boxes_cxcywh(rng, queries))
        with torch.no_grad():
            model.logits[0, 0], model.logits[1, 1] = 3.0, -0.25
        processor = DeformableDetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 64})
        yield Image.fromarray(np.asarray(noise)), processor, model, 0.4


def _check_shown(case: tuple[Image.Image, DeformableDetrImageProcessor, _Recorder, float]) -> None:
    """Compare what the model was shown with what the processor makes of the picture."""
    picture, processor, model, _ = case
    shown, expected = model.shown, processor(picture, return_tensors="pt").pixel_values
    if shown is None:
        raise CheckError("detect never called the model.", "three steps: processor, model, post-processing.")
    if same(shown, expected):
        return
    problem = f"detect showed the model a tensor of shape {tuple(shown.shape)} that is not the processor's."
    if same(shown, expected.flip(1)):
        hint = "red and blue are exchanged: the network learned RGB, while some libraries read BGR."
    elif same(shown, processor(picture, do_normalize=False, return_tensors="pt").pixel_values):
        hint = "the pixels are scaled to 0-1, but not normalised: mean and standard deviation are missing."
    elif shown.shape != expected.shape:
        hint = "the picture has another size than the one the processor gives it: let the processor resize it."
    else:
        hint = "give the processor the picture as it is, and the model what the processor returns."
    raise CheckError(problem, hint)
