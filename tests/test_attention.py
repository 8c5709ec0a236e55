"""Both attentions: where points fall, what the mask hides, and what positions may touch."""

import math

import pytest
import torch
from torch import Tensor, nn

from ddetr_lab.attention import MultiheadAttention, MultiScaleDeformableAttention, sampling_locations, star_offsets
from ddetr_lab.ops import ms_deform_attn
from tests.tiny import generic, tiny_config

SHAPES = [(3, 4), (2, 2)]
TOKENS = 16


def test_star_points_away_from_the_middle_one_cell_further_each() -> None:
    star = star_offsets(heads=8, levels=2, points=3)
    assert star.shape == (8, 2, 3, 2)
    directions = star[:, 0, 0]
    expected = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]
    torch.testing.assert_close(directions, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)
    for point in range(3):
        torch.testing.assert_close(star[:, 1, point], directions * (point + 1))


def test_offsets_from_a_point_count_cells_of_their_level() -> None:
    reference = torch.tensor([0.5, 0.25]).expand(1, 1, 2, 2)
    offsets = torch.tensor([1.0, -1.0]).expand(1, 1, 1, 2, 1, 2)
    places = sampling_locations(reference, offsets, [(4, 8), (2, 5)])
    expected = [[0.5 + 1 / 8, 0.25 - 1 / 4], [0.5 + 1 / 5, 0.25 - 1 / 2]]
    torch.testing.assert_close(places.flatten(0, -2), torch.tensor(expected))


def test_offsets_from_a_box_reach_its_rim_with_the_last_point() -> None:
    reference = torch.tensor([0.5, 0.4, 0.2, 0.6]).view(1, 1, 1, 4)
    offsets = star_offsets(heads=4, levels=1, points=3).view(1, 1, 4, 1, 3, 2)
    places = sampling_locations(reference, offsets, [(9, 9)])  # the map's size plays no part
    rim = torch.tensor([[0.6, 0.4], [0.5, 0.7], [0.4, 0.4], [0.5, 0.1]])
    torch.testing.assert_close(places[0, 0, :, 0, 2], rim)
    torch.testing.assert_close(places, sampling_locations(reference, offsets, [(2, 30)]))


@pytest.mark.parametrize("size", [2, 4])
def test_locations_are_float32_for_half_precision_input(size: int) -> None:
    reference = torch.rand(1, 2, 1, size).to(torch.bfloat16)
    offsets = torch.zeros(1, 2, 1, 1, 2, 2, dtype=torch.bfloat16)
    places = sampling_locations(reference, offsets, [(3, 3)])
    assert places.dtype == torch.float32
    torch.testing.assert_close(places[0, :, 0, 0, 0], reference[0, :, 0, :2].float(), rtol=0, atol=0)


def test_a_reference_that_is_neither_point_nor_box_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"reference_points has shape \(1, 1, 1, 3\), expected a last axis of 2 .* or 4"
    ):
        sampling_locations(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 1, 1, 2), [(1, 1)])


@pytest.fixture
def deformable() -> MultiScaleDeformableAttention:
    return MultiScaleDeformableAttention(tiny_config(num_feature_levels=3), num_heads=4, num_points=2)


def deformable_inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return {
        "hidden_states": torch.randn(2, 5, 32, generator=draw),
        "encoder_hidden_states": torch.randn(2, 17, 32, generator=draw),
        "reference_points": torch.rand(2, 5, 3, 2, generator=draw),
    }


LEVELS = [(3, 4), (2, 2), (1, 1)]


def test_fresh_deformable_attention_is_a_star_with_equal_weights(deformable: MultiScaleDeformableAttention) -> None:
    assert not deformable.sampling_offsets.weight.any()
    assert torch.equal(deformable.sampling_offsets.bias.view(4, 3, 2, 2), star_offsets(4, 3, 2))
    _, weights = deformable(**deformable_inputs(), spatial_shapes=LEVELS)
    torch.testing.assert_close(weights, torch.full((2, 5, 4, 3, 2), 1 / 6))
    for projection in (deformable.value_proj, deformable.output_proj):
        assert not projection.bias.any() and projection.weight.std() > 0.1


def test_deformable_attention_is_equation_three(deformable: MultiScaleDeformableAttention) -> None:
    generic(deformable)
    given = deformable_inputs()
    positions = torch.randn(2, 5, 32)
    result, weights = deformable(**given, spatial_shapes=LEVELS, position_embeddings=positions)
    query = given["hidden_states"] + positions
    logits = query @ deformable.attention_weights.weight.T + deformable.attention_weights.bias
    expected_weights = logits.view(2, 5, 4, 6).softmax(-1).view(2, 5, 4, 3, 2)
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(2, 5, 4))
    offsets = query @ deformable.sampling_offsets.weight.T + deformable.sampling_offsets.bias
    value = deformable.value_proj(given["encoder_hidden_states"]).view(2, 17, 4, 8)
    places = sampling_locations(given["reference_points"], offsets.view(2, 5, 4, 3, 2, 2), LEVELS)
    sampled = ms_deform_attn(value, LEVELS, None, places, expected_weights, backend="loops")
    torch.testing.assert_close(result, deformable.output_proj(sampled), rtol=1e-4, atol=1e-5)


def test_masked_cells_read_zero_not_their_value(deformable: MultiScaleDeformableAttention) -> None:
    generic(deformable)
    given = deformable_inputs()
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[0, [0, 5, 13]] = False
    result, _ = deformable(**given, spatial_shapes=LEVELS, attention_mask=mask)
    given["encoder_hidden_states"][0, [0, 5, 13]] = 1e4
    again, _ = deformable(**given, spatial_shapes=LEVELS, attention_mask=mask)
    torch.testing.assert_close(again, result, rtol=0, atol=0)
    unmasked, _ = deformable(**given, spatial_shapes=LEVELS)
    assert (unmasked - result)[0].abs().max() > 1


def test_every_parameter_of_deformable_attention_gets_a_gradient(deformable: MultiScaleDeformableAttention) -> None:
    generic(deformable)
    deformable(**deformable_inputs(), spatial_shapes=LEVELS)[0].square().sum().backward()
    for name, parameter in deformable.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_tokens_and_shapes_must_agree(deformable: MultiScaleDeformableAttention) -> None:
    with pytest.raises(ValueError, match="S = 17 tokens, but spatial_shapes"):
        deformable(**deformable_inputs(), spatial_shapes=[(3, 4), (2, 2), (1, 2)])


def test_disable_custom_kernels_chooses_the_vectorised_path() -> None:
    config = tiny_config(disable_custom_kernels=True)
    assert MultiScaleDeformableAttention(config, 4, 2).backend == "grid_sample"
    assert MultiScaleDeformableAttention(tiny_config(), 4, 2).backend is None


def test_heads_must_split_the_width() -> None:
    with pytest.raises(ValueError, match="d_model = 32 does not split into 5 heads"):
        MultiScaleDeformableAttention(tiny_config(), num_heads=5, num_points=1)
    with pytest.raises(ValueError, match="embed_dim = 32 does not split into 5 heads"):
        MultiheadAttention(32, 5)


@pytest.fixture
def ordinary() -> MultiheadAttention:
    return generic(MultiheadAttention(16, 4))


def test_ordinary_attention_is_torchs_with_positions_on_queries_and_keys_only(ordinary: MultiheadAttention) -> None:
    states, positions = torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    torchs = nn.MultiheadAttention(16, 4, batch_first=True)
    parts = [ordinary.q_proj, ordinary.k_proj, ordinary.v_proj]
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        torchs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        torchs.out_proj.load_state_dict(ordinary.out_proj.state_dict())
    placed = states + positions
    expected, expected_weights = torchs(placed, placed, states, average_attn_weights=False)
    result, weights = ordinary(states, positions, output_attentions=True)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_asking_for_weights_does_not_change_the_result(ordinary: MultiheadAttention) -> None:
    states, positions = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    without, nothing = ordinary(states, positions)
    with_weights, weights = ordinary(states, positions, output_attentions=True)
    assert nothing is None
    torch.testing.assert_close(without, with_weights)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 6))


def test_positions_are_optional(ordinary: MultiheadAttention) -> None:
    states = torch.randn(1, 6, 16)
    torch.testing.assert_close(ordinary(states)[0], ordinary(states, torch.zeros_like(states))[0])


@pytest.mark.parametrize("output_attentions", [False, True])
def test_dropout_acts_in_training_only_and_on_the_weights(output_attentions: bool) -> None:
    attention = generic(MultiheadAttention(16, 4, dropout=0.9))
    states = torch.randn(1, 6, 16)
    first, second = (attention(states, None, output_attentions)[0] for _ in range(2))
    assert torch.equal(first, second)
    attention.train()
    result, weights = attention(states, None, output_attentions)
    assert (result - first).abs().max() > 0.1
    if output_attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 6))  # as they were before dropout


def test_fresh_projections_have_the_configured_spread() -> None:
    attention = MultiheadAttention(128, 4, init_std=0.05)
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        assert projection.weight.std().item() == pytest.approx(0.05, rel=0.05)
        assert not projection.bias.any()
    assert math.isclose(attention.q_proj.weight.mean().item(), 0, abs_tol=0.003)
