"""The decoder: one layer step by step, refinement, and where gradients stop."""

import pytest
import torch
from torch import Tensor

from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.decoder import Decoder, DecoderLayer
from ddetr_lab.heads import build_heads, refine_boxes
from tests.tiny import generic, tiny_config

SHAPES = [(3, 4), (2, 2), (1, 1)]
TOKENS = 17


def config(**fields: object) -> DeformableDetrConfig:
    return tiny_config(num_feature_levels=3, **fields)  # type: ignore[arg-type]


def decoder_inputs(reference_size: int = 2) -> dict[str, object]:
    draw = torch.Generator().manual_seed(6)
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[1, [2, 3, 13]] = False
    return {
        "inputs_embeds": torch.randn(2, 5, 32, generator=draw),
        "position_embeddings": torch.randn(2, 5, 32, generator=draw),
        "reference_points": torch.rand(2, 5, reference_size, generator=draw),
        "spatial_shapes": SHAPES,
        "level_start_index": None,
        "valid_ratios": torch.rand(2, 3, 2, generator=draw) * 0.5 + 0.5,
        "encoder_hidden_states": torch.randn(2, TOKENS, 32, generator=draw),
        "encoder_attention_mask": mask,
    }


def test_a_layer_is_self_attention_then_maps_then_feed_forward() -> None:
    layer = generic(DecoderLayer(config()))
    given = decoder_inputs()
    x, positions, memory, mask = (
        given[name]
        for name in ("inputs_embeds", "position_embeddings", "encoder_hidden_states", "encoder_attention_mask")
    )
    places = torch.rand(2, 5, 3, 2)
    result, among_queries, over_points = layer(x, positions, places, SHAPES, None, memory, mask, output_attentions=True)
    one = layer.self_attn_layer_norm(x + layer.self_attn(x, positions)[0])
    attended, weights = layer.encoder_attn(one, memory, places, SHAPES, None, mask, positions)
    two = layer.encoder_attn_layer_norm(one + attended)
    expected = layer.final_layer_norm(two + layer.fc2(layer.fc1(two).relu()))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(over_points, weights)
    assert among_queries.shape == (2, 4, 5, 5)
    assert layer(x, positions, places, SHAPES, None, memory, mask)[1] is None


def test_parameters_stand_in_the_references_order() -> None:
    parts = [name.split(".")[0] for name, _ in DecoderLayer(config()).named_parameters()]
    assert list(dict.fromkeys(parts)) == [
        "self_attn",
        "self_attn_layer_norm",
        "encoder_attn",
        "encoder_attn_layer_norm",
        "fc1",
        "fc2",
        "final_layer_norm",
    ]


def test_without_heads_references_stay() -> None:
    given = decoder_inputs()
    output = generic(Decoder(config(decoder_layers=3)))(**given)
    assert output.intermediate_hidden_states.shape == (2, 3, 5, 32)
    reference = given["reference_points"]
    assert isinstance(reference, Tensor)
    assert torch.equal(output.intermediate_reference_points, reference[:, None].expand(2, 3, 5, 2))
    assert torch.equal(output.last_hidden_state, output.intermediate_hidden_states[:, -1])
    assert output.keys() == ["last_hidden_state", "intermediate_hidden_states", "intermediate_reference_points"]


def refining(**fields: object) -> Decoder:
    settings = config(with_box_refine=True, **fields)
    _, boxes = build_heads(settings)
    return generic(Decoder(settings, bbox_embed=boxes))


@pytest.mark.parametrize("reference_size", [2, 4])
def test_with_heads_each_layer_refines_what_the_next_looks_from(reference_size: int) -> None:
    decoder = refining(decoder_layers=2)
    given = decoder_inputs(reference_size)
    output = decoder(**given)
    assert output.intermediate_reference_points.shape == (2, 2, 5, 4)
    assert decoder.bbox_embed is not None
    reference: Tensor = given["reference_points"]  # type: ignore[assignment]
    hidden = given["inputs_embeds"]
    for index, layer in enumerate(decoder.layers):
        ratios: Tensor = given["valid_ratios"]  # type: ignore[assignment]
        scale = torch.cat([ratios] * (reference.shape[-1] // 2), dim=-1)
        places = reference[:, :, None] * scale[:, None]
        hidden, _, _ = layer(
            hidden,
            given["position_embeddings"],
            places,
            SHAPES,
            None,
            given["encoder_hidden_states"],
            given["encoder_attention_mask"],
        )
        reference = refine_boxes(decoder.bbox_embed[index](hidden), reference)
        torch.testing.assert_close(output.intermediate_hidden_states[:, index], hidden)
        torch.testing.assert_close(output.intermediate_reference_points[:, index], reference)


def test_no_gradient_runs_through_the_chain_of_boxes() -> None:
    decoder = refining(decoder_layers=2)
    output = decoder(**decoder_inputs())
    assert not output.intermediate_reference_points.requires_grad
    output.last_hidden_state.sum().backward()
    assert decoder.bbox_embed is not None
    assert all(parameter.grad is None for parameter in decoder.bbox_embed.parameters())
    assert all(parameter.grad is not None for parameter in decoder.layers.parameters())


def test_states_and_attentions_come_on_request() -> None:
    decoder = generic(Decoder(config(decoder_layers=2)))
    given = decoder_inputs()
    output = decoder(**given, output_attentions=True, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[0], given["inputs_embeds"])
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, 4, 5, 5)] * 2
    assert [tuple(weights.shape) for weights in output.cross_attentions] == [(2, 5, 4, 3, 2)] * 2
    torch.testing.assert_close(output.last_hidden_state, decoder(**given).last_hidden_state)


def test_dropout_acts_in_training_only() -> None:
    decoder = generic(Decoder(config(dropout=0.5)))
    given = decoder_inputs()
    evaluated = decoder(**given).last_hidden_state
    assert torch.equal(evaluated, decoder(**given).last_hidden_state)
    assert not torch.equal(evaluated, decoder.train()(**given).last_hidden_state)
