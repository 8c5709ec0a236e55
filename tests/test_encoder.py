"""The encoder: where cells lie when part of the map is padding, and what a layer does."""

import pytest
import torch
from torch import Tensor, nn

from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.encoder import Encoder, EncoderLayer, encoder_reference_points, valid_ratios
from tests.tiny import generic, tiny_config

SHAPES = [(4, 6), (2, 3), (1, 2)]
TOKENS = 32


def masks(height: int = 3, width: int = 4) -> list[Tensor]:
    """Return masks of two pictures: the first fills its maps, the second height x width of the finest one."""
    result = []
    for level, (h, w) in enumerate(SHAPES):
        mask = torch.zeros(2, h, w, dtype=torch.bool)
        mask[0] = True
        mask[1, : max(height >> level, 1), : max(width >> level, 1)] = True
        result.append(mask)
    return result


def test_valid_ratios_are_width_then_height_of_each_level() -> None:
    expected = [[[1, 1], [1, 1], [1, 1]], [[4 / 6, 3 / 4], [2 / 3, 1 / 2], [1 / 2, 1]]]
    ratios = valid_ratios(masks())
    assert ratios.dtype == torch.float32
    torch.testing.assert_close(ratios, torch.tensor(expected))


def test_reference_points_without_padding_are_cell_centres_on_every_level() -> None:
    points = encoder_reference_points(SHAPES, torch.ones(1, 3, 2))
    assert points.shape == (1, TOKENS, 3, 2)
    start = 0
    for height, width in SHAPES:
        for row in range(height):
            for column in range(width):
                centre = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
                torch.testing.assert_close(points[0, start + row * width + column], centre.expand(3, 2))
        start += height * width


def test_a_cell_is_divided_by_its_own_ratio_and_multiplied_by_every_other() -> None:
    ratios = valid_ratios(masks())
    points = encoder_reference_points(SHAPES, ratios)
    # Level 1, row 0, column 1 of the second picture, as level 2 sees it.
    x, y = (1 + 0.5) / 3 / (2 / 3) * (1 / 2), (0 + 0.5) / 2 / (1 / 2) * 1
    torch.testing.assert_close(points[1, 24 + 1, 2], torch.tensor([x, y]))
    own = torch.tensor([(1 + 0.5) / 3, 0.5 / 2])
    torch.testing.assert_close(points[1, 24 + 1, 1], own)


def encoder_inputs() -> dict[str, object]:
    draw = torch.Generator().manual_seed(4)
    mask = torch.cat([m.flatten(1) for m in masks()], dim=1)
    return {
        "inputs_embeds": torch.randn(2, TOKENS, 32, generator=draw),
        "attention_mask": mask,
        "position_embeddings": torch.randn(2, TOKENS, 32, generator=draw),
        "spatial_shapes": SHAPES,
        "level_start_index": None,
        "valid_ratios": valid_ratios(masks()),
    }


def config(**fields: object) -> DeformableDetrConfig:
    return tiny_config(num_feature_levels=3, **fields)  # type: ignore[arg-type]


def test_a_layer_is_attention_and_feed_forward_each_added_and_normalised() -> None:
    layer = generic(EncoderLayer(config(activation_function="tanh")))
    given = encoder_inputs()
    x = given["inputs_embeds"]
    points = encoder_reference_points(SHAPES, given["valid_ratios"])  # type: ignore[arg-type]
    result, weights = layer(x, given["position_embeddings"], points, SHAPES, None, given["attention_mask"])
    attended, expected_weights = layer.self_attn(
        x, x, points, SHAPES, None, given["attention_mask"], given["position_embeddings"]
    )
    middle = layer.self_attn_layer_norm(x + attended)
    expected = layer.final_layer_norm(middle + layer.fc2(torch.tanh(layer.fc1(middle))))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_the_encoder_chains_its_layers_and_returns_what_is_asked_for() -> None:
    encoder = generic(Encoder(config(encoder_layers=2)))
    given = encoder_inputs()
    plain = encoder(**given)
    assert plain.hidden_states is None and plain.attentions is None
    full = encoder(**given, output_attentions=True, output_hidden_states=True)
    # Without weights to return, the fused operator runs, which rounds elsewhere.
    torch.testing.assert_close(full.last_hidden_state, plain.last_hidden_state)
    assert [tuple(a.shape) for a in full.attentions] == [(2, TOKENS, 4, 3, 3)] * 2
    first, second, third = full.hidden_states
    assert first is given["inputs_embeds"] or torch.equal(first, given["inputs_embeds"])
    assert torch.equal(third, full.last_hidden_state)
    points = encoder_reference_points(SHAPES, given["valid_ratios"])  # type: ignore[arg-type]
    again, _ = encoder.layers[0](first, given["position_embeddings"], points, SHAPES, None, given["attention_mask"])
    torch.testing.assert_close(second, again)


def test_no_layers_hand_the_input_on() -> None:
    given = encoder_inputs()
    output = Encoder(config(encoder_layers=0))(**given, output_attentions=True, output_hidden_states=True)
    assert torch.equal(output.last_hidden_state, given["inputs_embeds"])
    assert len(output.hidden_states) == 1 and output.attentions == ()


def test_padding_never_reaches_real_cells() -> None:
    encoder = generic(Encoder(config(encoder_layers=2)))
    given = encoder_inputs()
    before = encoder(**given).last_hidden_state
    padding = ~given["attention_mask"]  # type: ignore[operator]
    given["inputs_embeds"] = torch.where(padding[..., None], 50.0, given["inputs_embeds"])  # type: ignore[arg-type]
    after = encoder(**given).last_hidden_state
    torch.testing.assert_close(after[~padding], before[~padding], rtol=0, atol=0)
    assert (after - before)[padding].abs().max() > 0.1


@pytest.mark.parametrize("field", ["dropout", "activation_dropout"])
def test_dropout_acts_in_training_only(field: str) -> None:
    encoder = generic(Encoder(config(**{field: 0.5})))
    given = encoder_inputs()
    evaluated = encoder(**given).last_hidden_state
    assert torch.equal(evaluated, encoder(**given).last_hidden_state)
    assert not torch.equal(evaluated, encoder.train()(**given).last_hidden_state)


def test_fresh_linear_layers_have_the_configured_spread() -> None:
    layer = EncoderLayer(config(init_std=0.07, encoder_ffn_dim=512))
    for linear in (layer.fc1, layer.fc2):
        assert linear.weight.std().item() == pytest.approx(0.07, rel=0.05)
        assert not linear.bias.any()


def test_an_overflow_in_half_precision_training_is_clamped() -> None:
    layer = EncoderLayer(config()).half()
    with torch.no_grad():
        layer.final_layer_norm.weight.fill_(60_000)
    x = torch.randn(1, 4, 32).half() * 100
    assert torch.isfinite(layer.train().feed_forward(x)).all()
    assert torch.isinf(layer.eval().feed_forward(x)).any()


def test_parameters_stand_in_the_references_order() -> None:
    parts = [name.split(".")[0] for name, _ in EncoderLayer(config()).named_parameters()]
    assert list(dict.fromkeys(parts)) == ["self_attn", "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]


def test_every_parameter_gets_a_gradient() -> None:
    encoder: nn.Module = generic(Encoder(config(encoder_layers=2)))
    encoder(**encoder_inputs()).last_hidden_state.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
