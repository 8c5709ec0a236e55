"""Positions: the sine formula in plain numbers, padding, and the learned table's end."""

import math

import pytest
import torch

from ddetr_lab.position_encoding import (
    LearnedPositionEmbedding,
    SinePositionEmbedding,
    build_position_embedding,
    sine_of_coordinates,
)
from tests.tiny import tiny_config


def test_sine_of_coordinates_is_the_formula() -> None:
    channels, coordinate = 6, 1.7
    expected = []
    for i in range(channels // 2):
        angle = coordinate / 10_000 ** (2 * i / channels)
        expected += [math.sin(angle), math.cos(angle)]
    torch.testing.assert_close(sine_of_coordinates(torch.tensor(coordinate), channels), torch.tensor(expected))


def test_sine_puts_y_before_x_and_spans_the_real_cells() -> None:
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[:, :2, :4] = True  # two rows and four columns are picture
    embedded = SinePositionEmbedding(8)(torch.zeros(1, 1, 4, 5), mask)
    assert embedded.shape == (1, 16, 4, 5)
    y, x = (1 + 0.5) / 2 * 2 * math.pi, (2 + 0.5) / 4 * 2 * math.pi
    expected = torch.cat((sine_of_coordinates(torch.tensor(y), 8), sine_of_coordinates(torch.tensor(x), 8)))
    torch.testing.assert_close(embedded[0, :, 1, 2], expected, rtol=0, atol=1e-5)


def test_padding_does_not_move_the_picture() -> None:
    embedding = SinePositionEmbedding(8)
    alone = embedding(torch.zeros(1, 1, 3, 4), torch.ones(1, 3, 4, dtype=torch.bool))
    mask = torch.zeros(1, 7, 9, dtype=torch.bool)
    mask[:, :3, :4] = True
    padded = embedding(torch.zeros(1, 1, 7, 9), mask)
    torch.testing.assert_close(padded[:, :, :3, :4], alone)


def test_a_picture_without_a_real_cell_stays_finite() -> None:
    embedded = SinePositionEmbedding(4)(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))
    assert torch.isfinite(embedded).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_follow_the_dtype_of_the_map_and_are_computed_in_float32(dtype: torch.dtype) -> None:
    mask = torch.ones(1, 3, 40, dtype=torch.bool)
    exact = SinePositionEmbedding(4)(torch.zeros(1, 1, 3, 40), mask)
    got = SinePositionEmbedding(4)(torch.zeros(1, 1, 3, 40, dtype=dtype), mask)
    assert got.dtype == dtype
    torch.testing.assert_close(got, exact.to(dtype), rtol=0, atol=0)


def test_learned_embedding_has_columns_first_then_rows() -> None:
    embedding = LearnedPositionEmbedding(3)
    result = embedding(torch.zeros(2, 1, 4, 5), torch.ones(2, 4, 5, dtype=torch.bool))
    assert result.shape == (2, 6, 4, 5)
    expected = torch.cat((embedding.column_embeddings.weight[3], embedding.row_embeddings.weight[1]))
    assert torch.equal(result[1, :, 1, 3], expected)


def test_learned_embedding_starts_between_0_and_1_and_learns() -> None:
    embedding = LearnedPositionEmbedding(16)
    weights = torch.cat((embedding.column_embeddings.weight, embedding.row_embeddings.weight))
    assert weights.min() >= 0 and weights.max() <= 1 and weights.std() > 0.2
    embedding(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2)).sum().backward()
    assert embedding.row_embeddings.weight.grad is not None
    assert embedding.row_embeddings.weight.grad[:2].min() > 0


@pytest.mark.parametrize(("height", "width"), [(51, 5), (5, 51)])
def test_learned_embedding_ends_at_50_cells_and_says_so(height: int, width: int) -> None:
    embedding = LearnedPositionEmbedding(2)
    assert embedding(torch.zeros(1, 1, 50, 50), torch.ones(1, 50, 50)).shape == (1, 4, 50, 50)
    with pytest.raises(ValueError, match=rf"{height}x{width} cells.*50 rows and columns.*'sine'"):
        embedding(torch.zeros(1, 1, height, width), torch.ones(1, height, width))


def test_build_follows_the_configuration() -> None:
    config = tiny_config()
    sine = build_position_embedding(config)
    assert isinstance(sine, SinePositionEmbedding) and sine.channels_per_axis == config.d_model // 2
    learned = build_position_embedding(tiny_config(position_embedding_type="learned"))
    assert isinstance(learned, LearnedPositionEmbedding)
    assert learned.row_embeddings.weight.shape == (50, config.d_model // 2)


def test_build_refuses_a_type_that_slipped_past_the_configuration() -> None:
    config = tiny_config()
    object.__setattr__(config, "position_embedding_type", "fourier")
    with pytest.raises(ValueError, match="position_embedding_type = 'fourier', expected one of sine, learned"):
        build_position_embedding(config)
