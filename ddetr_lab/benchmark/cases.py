"""The operator's cases: what a real layer hands to deformable attention, and one that nobody could call kind.

Used in chapter 9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddetr_lab.attention import sampling_locations, star_offsets
from ddetr_lab.encoder import encoder_reference_points

__all__ = ["FULL", "QUICK", "OpCase", "Sizes", "make_cases"]

SPREAD_CELLS = 2.0  # of the noise on the star's offsets
KINK_CELLS = 1e-3  # no sample lies closer to a line between cells' centres
MARGIN = 0.05  # how far scattered samples lie beyond the map, as a share of it
SEED = 20201004


@dataclass(frozen=True)
class Sizes:
    """How large a case is: levels (H, W), heads M of D channels, P points, and the decoder's queries."""

    levels: tuple[tuple[int, int], ...] = ((100, 134), (50, 67), (25, 34), (13, 17))
    heads: int = 8
    channels: int = 32
    points: int = 4
    decoder_queries: int = 300

    @property
    def tokens(self) -> int:
        """S, the cells of all levels."""
        return sum(height * width for height, width in self.levels)


FULL = Sizes()  # an 800 x 1066 picture at strides 8 to 64
QUICK = Sizes(levels=((25, 34), (13, 17), (7, 9), (4, 5)), decoder_queries=50)


@dataclass(frozen=True)
class OpCase:
    """Inputs of one call, batch 1.

    Attributes:
        value: (B, S, M, D) in the dtype under test.
        spatial_shapes: L pairs (H, W); ``shapes`` and ``starts`` are the same as int64 tensors on the device.
        reference_points: (B, Q, L, 2), ``sampling_offsets`` (B, Q, M, L, P, 2) in cells, ``attention_logits``
            (B, Q, M, L, P): what the fused operator takes.
        locations: (B, Q, M, L, P, 2), ``weights`` (B, Q, M, L, P): what the operator takes, made of the three above.
        upstream: (B, Q, M * D), a gradient of the result, not constant.
    """

    name: str
    spatial_shapes: tuple[tuple[int, int], ...]
    shapes: Tensor
    starts: Tensor
    value: Tensor
    reference_points: Tensor
    sampling_offsets: Tensor
    attention_logits: Tensor
    locations: Tensor
    weights: Tensor
    upstream: Tensor


def make_cases(sizes: Sizes, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[OpCase]:
    """Make the three cases.

    - encoder: every cell is a query, and looks from its own centre;
    - decoder: 300 queries look from random places;
    - scattered: as many queries as in the encoder, every sample at a random place of its own, some outside the map.

    In the first two, offsets are the star that a fresh layer starts from plus Gaussian noise of two cells. A sample
    within a thousandth of a cell of a line between cells' centres is moved off it: the gradient jumps there, and
    contenders that round differently could not be compared.
    """
    generator = torch.Generator().manual_seed(SEED)
    levels = len(sizes.levels)
    cells = encoder_reference_points(sizes.levels, torch.ones(1, levels, 2))
    places = torch.rand(1, sizes.decoder_queries, 1, 2, generator=generator).expand(-1, -1, levels, -1)
    cases = [
        _case("encoder", sizes, cells, _star(sizes, sizes.tokens, generator), generator),
        _case("decoder", sizes, places, _star(sizes, sizes.decoder_queries, generator), generator),
        _case("scattered", sizes, torch.full_like(cells, 0.5), _scattered(sizes, generator), generator),
    ]
    return [_placed(case, dtype, device) for case in cases]


def _star(sizes: Sizes, queries: int, generator: torch.Generator) -> Tensor:
    """Return offsets (1, Q, M, L, P, 2) in cells: the star and noise."""
    star = star_offsets(sizes.heads, len(sizes.levels), sizes.points)
    return star + SPREAD_CELLS * torch.randn(1, queries, *star.shape, generator=generator)


def _scattered(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Return offsets (1, S, M, L, P, 2) in cells from the map's centre to anywhere on it, and a little beyond."""
    shape = (1, sizes.tokens, sizes.heads, len(sizes.levels), sizes.points, 2)
    share = (torch.rand(shape, generator=generator) - 0.5) * (1 + 2 * MARGIN)
    return share * _widths_heights(sizes)


def _widths_heights(sizes: Sizes) -> Tensor:
    return torch.tensor([(width, height) for height, width in sizes.levels], dtype=torch.float32)[:, None]  # (L, 1, 2)


def _off_the_kinks(reference: Tensor, offsets: Tensor, sizes: Sizes) -> Tensor:
    """Move offsets by two thousandths of a cell where the sample lies on a line between cells' centres."""
    place = reference[:, :, None, :, None] * _widths_heights(sizes) + offsets - 0.5  # cells, from the first centre
    fraction = place - place.floor()
    near = (fraction < KINK_CELLS) | (fraction > 1 - KINK_CELLS)
    return torch.where(near, offsets + 2 * KINK_CELLS, offsets)


def _case(name: str, sizes: Sizes, reference: Tensor, offsets: Tensor, generator: torch.Generator) -> OpCase:
    offsets = _off_the_kinks(reference, offsets, sizes)
    logits = torch.randn(offsets.shape[:-1], generator=generator)
    areas = torch.tensor(sizes.levels).prod(1)
    return OpCase(
        name=name,
        spatial_shapes=sizes.levels,
        shapes=torch.tensor(sizes.levels),
        starts=areas.cumsum(0) - areas,
        value=torch.randn(1, sizes.tokens, sizes.heads, sizes.channels, generator=generator),
        reference_points=reference.contiguous(),
        sampling_offsets=offsets,
        attention_logits=logits,
        locations=sampling_locations(reference, offsets, sizes.levels),
        weights=logits.flatten(-2).softmax(-1).view_as(logits),
        upstream=torch.randn(1, offsets.shape[1], sizes.heads * sizes.channels, generator=generator),
    )


def _placed(case: OpCase, dtype: torch.dtype, device: str) -> OpCase:
    """Bring a case to its dtype and device: half precision for what a layer computes in it, never for places."""
    place = torch.float64 if dtype == torch.float64 else torch.float32
    dtypes = {name: dtype for name in ("value", "attention_logits", "weights", "upstream")}
    dtypes |= {name: place for name in ("reference_points", "sampling_offsets", "locations")}
    moved = {name: getattr(case, name).to(device, kind) for name, kind in dtypes.items()}
    return replace(case, **moved, shapes=case.shapes.to(device), starts=case.starts.to(device))
