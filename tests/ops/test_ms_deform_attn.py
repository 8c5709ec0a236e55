"""The public operator: which backend runs, and what it refuses."""

import pytest
import torch
from torch import Tensor

from ddetr_lab.ops import available_backends, default_backend, ms_deform_attn
from ddetr_lab.ops.reference import ms_deform_attn_loops

SHAPES = [(2, 3), (1, 2)]


def arguments() -> dict[str, Tensor]:
    """Draw B = 2, S = 8, M = 2, D = 4, Q = 3, L = 2, P = 2."""
    return {
        "value": torch.randn(2, 8, 2, 4),
        "sampling_locations": torch.rand(2, 3, 2, 2, 2, 2),
        "attention_weights": torch.rand(2, 3, 2, 2, 2),
    }


def call(**changes) -> Tensor:
    return ms_deform_attn(**({"spatial_shapes": SHAPES, "level_start_index": None} | arguments() | changes))


def test_the_default_is_the_first_backend_and_all_agree_with_the_definition() -> None:
    given = arguments()
    expected = ms_deform_attn_loops(given["value"], SHAPES, given["sampling_locations"], given["attention_weights"])
    assert default_backend() == available_backends()[0]
    assert {"grid_sample", "loops"} <= set(available_backends())
    for backend in (None, *available_backends()):
        torch.testing.assert_close(call(**given, backend=backend), expected)


def test_shapes_may_be_a_tensor_and_starts_may_be_given() -> None:
    given = arguments()
    expected = call(**given)
    starts = torch.tensor([0, 6])
    torch.testing.assert_close(
        call(**given, spatial_shapes=torch.tensor(SHAPES), level_start_index=starts), expected, rtol=0, atol=0
    )
    assert expected.shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": torch.zeros(2, 8, 8)}, r"value has shape \(2, 8, 8\), expected \(B, S, M, D\)"),
        ({"value": torch.zeros(2, 9, 2, 4)}, r"value has S = 9 tokens, but spatial_shapes .* add up to 8"),
        ({"value": torch.zeros(1, 8, 2, 4)}, r"value has B = 1 and M = 2, but sampling_locations has B = 2"),
        ({"value": torch.zeros(2, 8, 1, 4)}, r"value has B = 2 and M = 1, but .* M = 2: both need the same"),
        ({"spatial_shapes": [(2, 4)]}, r"spatial_shapes has 1 levels, but sampling_locations has L = 2"),
        ({"spatial_shapes": [(2, 3), (2, 2)]}, r"S = 8 tokens, but spatial_shapes .* add up to 10"),
        ({"sampling_locations": torch.rand(2, 3, 2, 2, 2)}, r"expected \(B, Q, M, L, P, 2\)"),
        ({"sampling_locations": torch.rand(2, 3, 2, 2, 2, 3)}, r"expected \(B, Q, M, L, P, 2\)"),
        (
            {"attention_weights": torch.rand(2, 3, 2, 2, 3)},
            r"attention_weights has shape .*, expected \(2, 3, 2, 2, 2\)",
        ),
        ({"level_start_index": torch.tensor([0])}, r"level_start_index has shape \(1,\), expected \(2,\)"),
        ({"backend": "cuda-fast"}, r"backend = 'cuda-fast' is not available on cpu, expected one of .*grid_sample"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_locations_are_refused_as_they_miss_their_pixel(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"sampling_locations has dtype .*expected float32.*call \.float\(\)"):
        call(sampling_locations=arguments()["sampling_locations"].to(dtype))


def test_the_reason_bfloat16_moves_a_sample_by_a_third_of_a_pixel() -> None:
    cells = 167
    centres = (torch.arange(cells) + 0.5) / cells
    moved = (centres.bfloat16().float() - centres).abs().max() * cells
    assert 0.3 < moved < 0.35
