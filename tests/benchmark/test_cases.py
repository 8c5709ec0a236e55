"""The operator's cases: shapes, where samples lie, and that no sample lies where a gradient jumps."""

from __future__ import annotations

import pytest
import torch

from ddetr_lab.attention import sampling_locations, star_offsets
from ddetr_lab.benchmark.cases import FULL, KINK_CELLS, MARGIN, Sizes, make_cases

SMALL = Sizes(levels=((6, 8), (3, 4)), heads=8, channels=4, points=4, decoder_queries=40)


@pytest.fixture(scope="module")
def cases() -> dict:
    """The three cases on small maps, by name."""
    return {case.name: case for case in make_cases(SMALL)}


def sizes_wh(sizes: Sizes) -> torch.Tensor:
    """(L, 1, 2) widths and heights."""
    return torch.tensor([(width, height) for height, width in sizes.levels], dtype=torch.float64)[:, None]


def test_the_full_size_is_the_one_that_the_book_states() -> None:
    assert FULL.levels == ((100, 134), (50, 67), (25, 34), (13, 17))
    assert (FULL.heads, FULL.channels, FULL.points, FULL.decoder_queries) == (8, 32, 4, 300)
    assert FULL.tokens == 17821


def test_shapes(cases: dict) -> None:
    assert sorted(cases) == ["decoder", "encoder", "scattered"]
    for name, queries in (("encoder", 60), ("scattered", 60), ("decoder", 40)):
        case = cases[name]
        assert case.value.shape == (1, 60, 8, 4)
        assert case.locations.shape == (1, queries, 8, 2, 4, 2)
        assert case.weights.shape == (1, queries, 8, 2, 4)
        assert case.upstream.shape == (1, queries, 32)
        assert case.starts.tolist() == [0, 48]


@pytest.mark.parametrize("name", ["encoder", "decoder", "scattered"])
def test_weights_and_locations_are_what_a_layer_makes_of_the_rest(cases: dict, name: str) -> None:
    case = cases[name]
    assert torch.allclose(case.weights.sum((-1, -2)), torch.ones(()))
    made = sampling_locations(case.reference_points, case.sampling_offsets, case.spatial_shapes)
    assert torch.equal(case.locations, made)


def test_encoder_queries_look_from_their_own_cells_through_a_noisy_star(cases: dict) -> None:
    case = cases["encoder"]
    first_level = case.reference_points[0, :48, 0]
    assert torch.allclose(first_level[:2], torch.tensor([[0.5 / 8, 0.5 / 6], [1.5 / 8, 0.5 / 6]]))
    noise = case.sampling_offsets - star_offsets(8, 2, 4)
    assert 1.9 < float(noise.std()) < 2.1
    assert abs(float(noise.mean())) < 0.1


def test_scattered_samples_lie_everywhere_and_a_little_beyond(cases: dict) -> None:
    places = cases["scattered"].locations
    assert -MARGIN <= float(places.min()) < -0.5 * MARGIN
    assert 1 + 0.5 * MARGIN < float(places.max()) <= 1 + 1.01 * MARGIN
    histogram = torch.histc(places, bins=10, min=0, max=1)
    assert float(histogram.min() / histogram.max()) > 0.7


@pytest.mark.parametrize("name", ["encoder", "decoder", "scattered"])
def test_no_sample_lies_where_the_gradient_jumps(cases: dict, name: str) -> None:
    place = cases[name].locations.double() * sizes_wh(SMALL) - 0.5
    assert float((place - place.round()).abs().min()) > 0.9 * KINK_CELLS


def test_cases_are_the_same_every_time(cases: dict) -> None:
    again = {case.name: case for case in make_cases(SMALL)}
    assert all(torch.equal(again[name].value, cases[name].value) for name in cases)


@pytest.mark.parametrize(
    ("dtype", "places"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64), (torch.float32,) * 2]
)
def test_places_never_lose_precision(dtype: torch.dtype, places: torch.dtype) -> None:
    case = make_cases(SMALL, dtype)[0]
    assert case.value.dtype == case.weights.dtype == case.upstream.dtype == dtype
    assert case.locations.dtype == case.sampling_offsets.dtype == places
