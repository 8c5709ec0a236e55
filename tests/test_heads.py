"""Heads, what they start from, and how a box is moved."""

import math

import pytest
import torch

from ddetr_lab.heads import BoxHead, build_heads, class_head, refine_boxes
from tests.tiny import generic, tiny_config


def test_a_fresh_class_head_says_one_percent() -> None:
    head = class_head(32, 5)
    assert head.out_features == 5
    torch.testing.assert_close(head.bias.sigmoid(), torch.full((5,), 0.01))
    assert head.weight.std() > 0.05  # the queries can still be told apart


def test_a_fresh_box_head_answers_its_bias_whatever_the_query() -> None:
    offsets = BoxHead(32, -2.0)(torch.randn(3, 32))
    assert torch.equal(offsets, torch.tensor([0.0, 0.0, -2.0, -2.0]).expand(3, 4))


def test_box_head_is_three_layers_with_relu_between() -> None:
    head = generic(BoxHead(8, 0.0))
    hidden = torch.randn(5, 8)
    x = hidden
    for index, layer in enumerate(head.layers):
        x = x @ layer.weight.T + layer.bias
        x = x.clamp(min=0) if index < 2 else x
    torch.testing.assert_close(head(hidden), x)


def size_logits(heads) -> list[float]:
    assert all(not head.layers[-1].weight.any() and not head.layers[-1].bias[:2].any() for head in heads)
    assert all(head.layers[-1].bias[2] == head.layers[-1].bias[3] for head in heads)
    return [head.layers[-1].bias[2].item() for head in heads]


@pytest.mark.parametrize("decoder_layers", [1, 3])
def test_without_refinement_all_layers_share_one_pair_of_heads(decoder_layers: int) -> None:
    classes, boxes = build_heads(tiny_config(decoder_layers=decoder_layers))
    assert len(classes) == len(boxes) == decoder_layers
    assert all(head is classes[0] for head in classes) and all(head is boxes[0] for head in boxes)
    assert size_logits(boxes) == [-2.0] * decoder_layers


def test_with_refinement_each_layer_has_its_own_and_only_the_first_sets_a_size() -> None:
    classes, boxes = build_heads(tiny_config(decoder_layers=3, with_box_refine=True))
    assert len({id(head) for head in classes}) == len({id(head) for head in boxes}) == 3
    assert len({head.weight.data_ptr() for head in classes}) == 3
    assert size_logits(boxes) == [-2.0, 0.0, 0.0]


def test_two_stages_have_one_more_pair_and_no_size_of_their_own() -> None:
    classes, boxes = build_heads(tiny_config(decoder_layers=3, with_box_refine=True, two_stage=True))
    assert len(classes) == len(boxes) == 4
    assert size_logits(boxes) == [0.0] * 4
    assert all(torch.allclose(head.bias, torch.tensor(-math.log(99.0))) for head in classes)


def test_refine_a_point_takes_the_size_from_the_offsets() -> None:
    box = refine_boxes(torch.tensor([0.0, 0.0, -2.0, 1.0]), torch.tensor([0.3, 0.8]))
    torch.testing.assert_close(box, torch.tensor([0.3, 0.8, 1 / (1 + math.e**2), 1 / (1 + math.e**-1)]))


def test_refine_a_box_adds_in_inverse_sigmoid_space() -> None:
    reference = torch.tensor([0.3, 0.8, 0.1, 0.2])
    torch.testing.assert_close(refine_boxes(torch.zeros(4), reference), reference)
    moved = refine_boxes(torch.full((4,), 100.0), reference)
    assert ((moved > 0.999) & (moved <= 1)).all()
    torch.testing.assert_close(refine_boxes(torch.full((4,), 0.5), reference), (torch.logit(reference) + 0.5).sigmoid())


def test_refine_does_not_write_to_its_arguments() -> None:
    offsets, reference = torch.zeros(2, 4), torch.rand(2, 2)
    before = reference.clone()
    refine_boxes(offsets, reference)
    assert not offsets.any() and torch.equal(reference, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_refined_boxes_are_float32(dtype: torch.dtype) -> None:
    box = refine_boxes(torch.zeros(4, dtype=dtype), torch.tensor([0.3, 0.7], dtype=dtype))
    assert box.dtype == torch.float32
    torch.testing.assert_close(box[:2], torch.tensor([0.3, 0.7], dtype=dtype).float())


def test_a_reference_that_is_neither_point_nor_box_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference_points has shape \(2, 3\), expected a last axis of 2 .* or 4"):
        refine_boxes(torch.zeros(2, 4), torch.zeros(2, 3))
