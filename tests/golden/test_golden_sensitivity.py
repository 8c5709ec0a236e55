"""Would the golden files notice? Each test plants one of the usual mistakes and expects the numbers to move.

A comparison that passes with a mistake in the code is worth nothing; generic weights are what makes these visible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ddetr_lab import attention, backbone, decoder, encoder, losses, model, position_encoding
from ddetr_lab.ops import available_backends
from tests.golden.cases import case_named
from tests.golden.comparison import build
from tests.golden.fingerprints import largest_difference
from tests.golden.recording import record
from tests.golden.storage import read_arrays

REFINED = "resnet_refine_mask"
TWO_STAGE = "resnet_bottleneck_twostage_levels3"


def difference(name: str, group: str) -> float:
    """Run a case afresh and return how far a group of its numbers is from the golden file."""
    actual, expected = record(build(case_named(name)), case_named(name)).arrays(), read_arrays(f"model_{name}")
    assert sorted(actual) == sorted(expected)
    return max(largest_difference(actual[key], expected[key]) for key in expected if key.startswith(f"{group}/"))


def swapped_ratios(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda masks: right(masks).flip(-1)


def references_without_ratios(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda shapes, ratios: right(shapes, torch.ones_like(ratios))


def offsets_over_height_and_width(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda points, offsets, shapes: right(points, offsets, [(width, height) for height, width in shapes])


def points_in_reverse(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, shapes, start, places, weights, **kw: right(
        value, shapes, start, places, weights.flip(-1), **kw
    )


def levels_in_reverse(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, shapes, start, places, weights, **kw: right(
        value, shapes, start, places, weights.flip(-2), **kw
    )


def heads_in_reverse(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *rest, **kw: right(value.flip(2), *rest, **kw)


def cosine_first(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda coordinates, channels: right(coordinates, channels).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def padding_is_picture(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda mask, size: torch.ones_like(right(mask, size))


def boxes_stay(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda offsets, reference: right(torch.zeros_like(offsets), reference)


def focus_of_one(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda logits, targets, boxes, alpha: right(logits, targets, boxes, alpha, gamma=1.0)


def proposals_that_train(right: Callable[..., Any]) -> Callable[..., Any]:
    def select(class_logits: torch.Tensor, box_logits: torch.Tensor, count: int) -> torch.Tensor:
        best = class_logits[..., 0].topk(count, dim=1).indices
        return box_logits.gather(1, best[..., None].expand(-1, -1, 4))

    return select


def proposals_of_the_last_class(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda class_logits, box_logits, count: right(class_logits.flip(-1), box_logits, count)


def proposals_on_padding_too(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda masks: right([torch.ones_like(mask) for mask in masks])


MISTAKES: list[tuple[Any, str, Callable[..., Any], str, str]] = [
    (model, "valid_ratios", swapped_ratios, REFINED, "outputs"),
    (encoder, "encoder_reference_points", references_without_ratios, REFINED, "outputs"),
    (attention, "sampling_locations", offsets_over_height_and_width, REFINED, "outputs"),
    (attention, "ms_deform_attn", points_in_reverse, REFINED, "outputs"),
    (attention, "ms_deform_attn", levels_in_reverse, REFINED, "outputs"),
    (attention, "ms_deform_attn", heads_in_reverse, REFINED, "outputs"),
    (position_encoding, "sine_of_coordinates", cosine_first, REFINED, "outputs"),
    (backbone, "downsample_mask", padding_is_picture, REFINED, "outputs"),
    (decoder, "refine_boxes", boxes_stay, REFINED, "outputs"),
    (losses, "sigmoid_focal_loss", focus_of_one, REFINED, "losses"),
    (model, "select_proposals", proposals_that_train, TWO_STAGE, "gradients"),
    (model, "select_proposals", proposals_of_the_last_class, TWO_STAGE, "outputs"),
    (model, "grid_proposals", proposals_on_padding_too, TWO_STAGE, "outputs"),
]


@pytest.mark.parametrize(
    ("module", "function", "mistake", "case", "group"), MISTAKES, ids=[mistake[2].__name__ for mistake in MISTAKES]
)
def test_a_mistake_shows(
    module: Any, function: str, mistake: Callable[..., Any], case: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, function, mistake(getattr(module, function)))
    assert difference(case, group) > 1e-3


def test_another_epsilon_in_the_frozen_norms_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = backbone.FrozenBatchNorm2d.forward

    def forward(self: backbone.FrozenBatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        self.eps = 1e-3
        return right(self, x)

    monkeypatch.setattr(backbone.FrozenBatchNorm2d, "forward", forward)
    assert difference(REFINED, "outputs") > 1e-4


@pytest.mark.parametrize("backend", available_backends())
def test_every_backend_of_the_operator_gives_these_numbers(backend: str) -> None:
    case = case_named("resnet_levels1_gelu")
    detector = build(case)
    changed = [part for part in detector.modules() if isinstance(part, attention.MultiScaleDeformableAttention)]
    for part in changed:
        part.backend = backend
    assert len(changed) == 4
    actual, expected = record(detector, case).arrays(), read_arrays(f"model_{case.name}")
    assert sorted(actual) == sorted(expected)
    for name, wanted in expected.items():
        np.testing.assert_allclose(actual[name], wanted, rtol=2e-5, atol=2e-5, err_msg=name)
