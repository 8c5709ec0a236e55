"""The plain DETR: dense attention by hand, boxes without references, and everything else as in the deformable one."""

import math

import pytest
import torch
from torch import Tensor

from ddetr_lab.boxes import inverse_sigmoid
from ddetr_lab.config import preset
from ddetr_lab.dense_detr import DenseAttention, DenseDetrForObjectDetection, DenseDetrModel
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.heads import PRIOR_PROBABILITY
from tests.tiny import generic, labels, pictures, tiny_config


def by_hand(layer: DenseAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """DETR's attention (its appendix A.1) in loops over pictures and heads."""
    parts = zip(layer.attention.in_proj_weight.chunk(3), layer.attention.in_proj_bias.chunk(3), strict=True)
    q, k, v = (x @ w.T + b for x, (w, b) in zip((query, key, value), parts, strict=True))
    heads, width = layer.attention.num_heads, query.shape[-1] // layer.attention.num_heads
    weights = torch.zeros(len(query), heads, query.shape[1], key.shape[1])
    mixed = torch.zeros_like(query)
    for picture in range(len(query)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[picture, :, part] @ k[picture, :, part].T / math.sqrt(width)
            scores[:, ~mask[picture]] = -math.inf
            weights[picture, head] = scores.softmax(-1)
            mixed[picture, :, part] = weights[picture, head] @ v[picture, :, part]
    return layer.attention.out_proj(mixed), weights


def attention_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(4)
    queries, places = (torch.randn(2, 5, 32, generator=draw) for _ in range(2))
    cells, cell_places = (torch.randn(2, 9, 32, generator=draw) for _ in range(2))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    return queries, places, cells, cell_places, mask


def test_queries_weigh_every_real_cell_whose_position_is_in_its_key_alone() -> None:
    layer = generic(DenseAttention(tiny_config(), 4))
    queries, places, cells, cell_places, mask = attention_inputs()
    both = torch.cat((cells, cell_places), dim=-1)
    result, weights = layer(queries, both, attention_mask=mask, position_embeddings=places)
    expected, expected_weights = by_hand(layer, queries + places, cells + cell_places, cells, mask)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(weights, expected_weights)
    assert weights[1, ..., 6:].abs().max() == 0
    without, none = layer(queries, both, attention_mask=mask, position_embeddings=places, output_attentions=False)
    torch.testing.assert_close(without, expected)
    assert none is None


def test_cells_among_themselves_have_positions_in_queries_and_keys() -> None:
    layer = generic(DenseAttention(tiny_config(), 4))
    _, _, cells, places, mask = attention_inputs()
    result, weights = layer(cells, cells, attention_mask=mask, position_embeddings=places)
    expected, expected_weights = by_hand(layer, cells + places, cells + places, cells, mask)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_the_decoder_keys_have_the_encoders_kind_of_positions() -> None:
    model = DenseDetrModel(tiny_config())
    sources, masks = model.feature_levels(*pictures())
    shapes = [(source.shape[2], source.shape[3]) for source in sources]
    mask = torch.cat([level.flatten(1) for level in masks], dim=1)
    memory = torch.cat([source.flatten(2).transpose(1, 2) for source in sources], dim=1)
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    model(*pictures())
    with torch.no_grad():
        model.decoder.level_embed.copy_(model.level_embed)
    torch.testing.assert_close(model.decoder.cell_positions(memory, shapes, mask), seen[0])
    whole = model.decoder.cell_positions(memory, shapes, None)
    torch.testing.assert_close(whole[0], seen[0][0])  # nothing is padded in the first picture
    assert not torch.allclose(whole[1], seen[0][1])


@pytest.mark.parametrize("levels", [1, 4])
def test_outputs_are_the_deformable_detectors_and_every_parameter_learns(levels: int) -> None:
    dense = DenseDetrForObjectDetection(tiny_config(levels, auxiliary_loss=True)).train()
    with torch.no_grad():  # a box head whose last layer is 0 hands no gradient on at the first step
        dense.bbox_embed[0].layers[-1].weight.normal_(std=0.1)
    ours = DeformableDetrForObjectDetection(tiny_config(levels, auxiliary_loss=True))
    outputs, expected = (model(*pictures(), labels=labels()) for model in (dense, ours))
    assert outputs.keys() == expected.keys()
    assert list(outputs.loss_dict) == list(expected.loss_dict)
    assert outputs.logits.shape == expected.logits.shape and outputs.pred_boxes.shape == expected.pred_boxes.shape
    assert outputs.encoder_last_hidden_state.shape == expected.encoder_last_hidden_state.shape
    outputs.loss.backward()
    idle = [
        name
        for name, parameter in dense.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert idle == []


def test_boxes_are_what_the_head_says_and_start_at_the_centre() -> None:
    fresh = DenseDetrForObjectDetection(tiny_config(with_box_refine=True)).eval()
    outputs = fresh(*pictures())
    start = torch.tensor([0.5, 0.5, 1 / (1 + math.e**2), 1 / (1 + math.e**2)])
    torch.testing.assert_close(outputs.pred_boxes, start.expand(2, 7, 4))
    scores = outputs.logits.sigmoid()
    assert scores.min() > 0.2 * PRIOR_PROBABILITY and scores.max() < 5 * PRIOR_PROBABILITY
    model = generic(fresh)
    outputs = model(*pictures())
    said = model.bbox_embed[0](outputs.last_hidden_state)
    torch.testing.assert_close(inverse_sigmoid(outputs.pred_boxes), said, atol=1e-4, rtol=1e-4)
    assert model.bbox_embed[0] is model.bbox_embed[1] and model.class_embed[0] is model.class_embed[1]


def test_padding_changes_nothing_but_the_group_norm() -> None:
    model = generic(DenseDetrModel(tiny_config()))
    values, mask = pictures()
    encoded = model(values, mask, output_attentions=True, output_hidden_states=True)
    sources, masks = model.feature_levels(values, mask)
    real = torch.cat([level.flatten(1) for level in masks], dim=1)
    for weights in (*encoded.encoder_attentions, *encoded.cross_attentions):
        assert weights.shape[-1] == real.shape[1] and weights[1, ..., ~real[1]].abs().max() == 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    spoilt = [torch.where(level[:, None], source, 1e3) for source, level in zip(sources, masks, strict=True)]
    model.feature_levels = lambda *_: (spoilt, masks)  # type: ignore[method-assign]
    again = model(values, mask)
    torch.testing.assert_close(again.last_hidden_state, encoded.last_hidden_state)


def test_files_heads_and_the_refusal_of_two_stages(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = tiny_config(with_box_refine=True)
    model = generic(DenseDetrForObjectDetection(config))
    assert config.with_box_refine and not model.config.with_box_refine
    model.replace_head(5)
    model.save_pretrained(tmp_path)
    loaded = DenseDetrForObjectDetection.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(*pictures()).logits, model(*pictures()).logits)
    assert loaded.config.num_labels == 5
    with pytest.raises(ValueError, match="two_stage = True"):
        DenseDetrForObjectDetection(tiny_config(with_box_refine=True, two_stage=True))
    with pytest.raises(TypeError, match="expected a DeformableDetrConfig"):
        DenseDetrForObjectDetection("digits")  # type: ignore[arg-type]


def test_sizes_of_the_digits_preset_are_within_a_tenth() -> None:
    dense, ours = (
        sum(parameter.numel() for parameter in kind(preset("digits")).parameters())
        for kind in (DenseDetrForObjectDetection, DeformableDetrForObjectDetection)
    )
    assert 0.9 < dense / ours < 1.0
