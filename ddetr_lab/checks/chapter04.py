"""The checks of chapter 4: coordinates from masks, sines, the whole embedding, and the level embedding.

Built in chapter 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer
from ddetr_lab.position_encoding import SinePositionEmbedding, sine_of_coordinates

__all__ = ["add_levels", "coordinates", "embed", "sine"]


def _random_masks(seed: int, cases: int = 5) -> list[Tensor]:
    """Draw masks (B, H, W) bool, True at the top left, never square; one picture of each batch fills the frame."""
    rng = generator(seed)
    masks = []
    for _ in range(cases):
        height = random_integer(rng, 4, 9)
        width = height + random_integer(rng, 1, 5)
        mask = torch.zeros(random_integer(rng, 2, 3), height, width, dtype=torch.bool)
        mask[0] = True
        for one in mask[1:]:
            one[: random_integer(rng, 2, height - 1), : random_integer(rng, 2, width - 1)] = True
        masks.append(mask)
    return masks


def _places(
    mask: Tensor, half: float = 0.5, scale: float = 2 * math.pi, divide_by: str = "last"
) -> tuple[Tensor, Tensor]:
    """Return y and x (B, H, W) as the formula says, or with one of its parts changed."""
    result = []
    for axis in (1, 2):
        count = mask.float().cumsum(axis)
        last = count.narrow(axis, mask.shape[axis] - 1, 1)
        if divide_by == "frame":
            last = torch.full_like(last, mask.shape[axis])
        result.append((count - half) / (last + 1e-6) * scale)
    return result[0], result[1]


def coordinates(answer: Answer) -> Passed:
    """Check a function from a mask (B, H, W) bool to the coordinates y and x, each (B, H, W), in radians."""

    def reference(mask: Tensor) -> tuple[Tensor, Tensor]:
        return _places(mask)

    def set_to_zero(mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.where(mask, place, 0.0) for place in _places(mask))

    def divided(mask: Tensor, last: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, ...]:
        counts = [(mask.float().cumsum(axis), axis) for axis in (1, 2)]
        return tuple((count - 0.5) / last(count, axis) * 2 * math.pi for count, axis in counts)

    def at_least_one(mask: Tensor) -> tuple[Tensor, ...]:
        return divided(mask, lambda count, axis: count.narrow(axis, count.shape[axis] - 1, 1).clamp(min=1))

    def largest_count(mask: Tensor) -> tuple[Tensor, ...]:
        return divided(mask, lambda count, axis: count.amax((1, 2), keepdim=True))

    mistakes = [
        Mistake(
            lambda mask: _places(mask)[::-1],
            "y and x are exchanged: in (B, H, W), rows are counted along axis 1, columns along axis 2, and y comes "
            "first.",
        ),
        Mistake(
            lambda mask: _places(torch.ones_like(mask)),
            "the padding was counted: a cell's number has to come from the mask.",
        ),
        Mistake(
            lambda mask: _places(mask, divide_by="frame"),
            "the counts were divided by the size of the frame: divide by the number of real cells, which is the last "
            "count.",
        ),
        Mistake(
            lambda mask: _places(mask, half=0.0),
            "the half cell is missing: the first cell's centre is half a cell from the rim.",
        ),
        Mistake(
            lambda mask: _places(mask, half=1.0),
            "cells are numbered from 0: their centres lie half a cell further.",
        ),
        Mistake(lambda mask: _places(mask, scale=1.0), "these are fractions: multiply by 2 pi to make them radians."),
        Mistake(lambda mask: _places(~mask), "the padding was counted and the picture was not: True means real."),
        *(
            Mistake(
                other_padding,
                "the real cells are right, the padding is not: let the equation run over it as well, with 1e-6 added "
                "to the last count of its own row or column, which may be 0.",
            )
            for other_padding in (set_to_zero, at_least_one, largest_count)
        ),
    ]
    cases = [(mask,) for mask in _random_masks(41)]
    return check_function(answer, reference, cases, mistakes, name="coordinates", parts=("y", "x"))


def sine(answer: Answer) -> Passed:
    """Check a function from coordinates (...) and an even number of channels to (..., channels)."""

    def waves(coordinates: Tensor, exponents: Tensor, first: Any = torch.sin, second: Any = torch.cos) -> Tensor:
        angle = coordinates[..., None] / 10_000**exponents
        return torch.stack((first(angle), second(angle)), dim=-1).flatten(-2)

    def pairs(channels: int) -> Tensor:
        return torch.arange(0, channels, 2) / channels  # 2i / channels

    def in_halves(coordinates: Tensor, channels: int) -> Tensor:
        angle = coordinates[..., None] / 10_000 ** pairs(channels)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    def no_pairs(coordinates: Tensor, channels: int, factor: int = 1) -> Tensor:
        angle = coordinates[..., None] / 10_000 ** (factor * torch.arange(channels) / channels)
        return torch.where(torch.arange(channels) % 2 == 0, angle.sin(), angle.cos())

    mistakes = [
        Mistake(
            in_halves,
            "all sines stand before all cosines: here they take turns, sine, cosine, sine, cosine.",
        ),
        Mistake(
            lambda coordinates, channels: waves(coordinates, pairs(channels), torch.cos, torch.sin),
            "sine and cosine are exchanged: channel 0 is a sine.",
        ),
        Mistake(
            no_pairs,
            "every channel has a wavelength of its own: a sine and its cosine, channels 2i and 2i + 1, share one.",
        ),
        Mistake(
            lambda coordinates, channels: no_pairs(coordinates, channels, 2),
            "the exponent is 2j / channels with j the channel: use the number of its pair, j // 2.",
        ),
        Mistake(
            lambda coordinates, channels: waves(coordinates, pairs(channels) / 2),
            "the wavelengths grow too slowly: the exponent of pair i is 2i / channels, not i / channels.",
        ),
        Mistake(
            lambda coordinates, channels: waves(coordinates, 2 * pairs(channels)),
            "the wavelengths grow too fast: the exponent of pair i is 2i / channels, and channels / 2 is the number of "
            "pairs.",
        ),
        Mistake(
            lambda coordinates, channels: waves(coordinates, -pairs(channels)),
            "the coordinate was multiplied by the wavelength: later channels have to turn more slowly.",
        ),
    ]
    rng = generator(42)
    shapes = ((5,), (2, 3), (2, 3, 4), (1,))
    cases = [(6.28 * torch.rand(shape, generator=rng), 2 * random_integer(rng, 2, 9)) for shape in shapes]
    return check_function(answer, sine_of_coordinates, cases, mistakes, name="sine")


def embed(answer: Answer) -> Passed:
    """Check a function from a mask (B, H, W) and channels an axis to the embedding (B, 2 * channels, H, W).

    Rows and columns without a real cell are left out: their coordinate is some millions, and its sine is a matter of
    rounding.
    """

    def where_defined(function: Answer) -> Answer:
        def cut(mask: Tensor, channels_per_axis: int) -> Any:
            got = function(mask, channels_per_axis)
            shape = (len(mask), 2 * channels_per_axis, *mask.shape[1:])
            if not isinstance(got, Tensor) or got.shape != shape or not got.is_floating_point():
                return got
            axes = (mask.any(axis, keepdim=True).expand_as(mask) for axis in (1, 2))  # y counts in columns, x in rows
            kept = torch.stack(tuple(axes), dim=1).repeat_interleave(channels_per_axis, dim=1)  # (B, 2c, H, W)
            return torch.where(kept | ~got.isfinite(), got, 0.0)  # a NaN is one anywhere

        return cut

    def reference(mask: Tensor, channels_per_axis: int) -> Tensor:
        return SinePositionEmbedding(channels_per_axis)(torch.zeros(()), mask)

    def of_places(places: tuple[Tensor, Tensor], channels_per_axis: int) -> Tensor:
        both = torch.cat([sine_of_coordinates(place, channels_per_axis) for place in places], dim=-1)
        return both.permute(0, 3, 1, 2)  # (B, H, W, 2c) -> (B, 2c, H, W)

    mistakes = [
        Mistake(
            lambda mask, c: of_places(_places(mask)[::-1], c),
            "the halves are exchanged: the first half of the channels tells y, so it changes from row to row.",
        ),
        Mistake(
            lambda mask, c: of_places(_places(torch.ones_like(mask)), c),
            "the padding was counted: the same picture would move when its batch changes.",
        ),
        Mistake(
            lambda mask, c: of_places(_places(mask, divide_by="frame"), c),
            "the counts were divided by the size of the frame, and not by the number of real cells.",
        ),
        Mistake(
            lambda mask, c: of_places(_places(mask, half=0.0), c), "the half cell is missing from the coordinates."
        ),
        Mistake(
            lambda mask, c: of_places(_places(mask, scale=1.0), c),
            "the coordinates run from 0 to 1: the first sine needs 0 to 2 pi to turn once.",
        ),
    ]
    rng = generator(43)
    cases = [(mask, 2 * random_integer(rng, 2, 6)) for mask in _random_masks(44, 4)]
    seen = [Mistake(where_defined(mistake.answer), mistake.hint) for mistake in mistakes]
    cut_answer = where_defined(answer) if callable(answer) else answer
    return check_function(cut_answer, where_defined(reference), cases, seen, name="embed")


def add_levels(answer: Answer) -> Passed:
    """Check a function from L maps (B, C, H, W) and a level embedding (L, C) to tokens' positions (B, S, C)."""

    def reference(positions: list[Tensor], level_embed: Tensor) -> Tensor:
        parts = [
            one.flatten(2).transpose(1, 2) + vector  # (B, C, H, W) -> (B, C, H * W) -> (B, H * W, C)
            for one, vector in zip(positions, level_embed, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def reshaped(positions: list[Tensor], level_embed: Tensor) -> Tensor:
        parts = [
            one.reshape(one.shape[0], -1, one.shape[1]) + vector  # no transpose: channels and cells are mixed
            for one, vector in zip(positions, level_embed, strict=True)
        ]
        return torch.cat(parts, dim=1)

    mistakes = [
        Mistake(
            lambda positions, level_embed: reference(positions, torch.zeros_like(level_embed)),
            "the level embedding is missing.",
        ),
        Mistake(
            lambda positions, level_embed: reference(positions, level_embed[:1].expand_as(level_embed)),
            "every level got the vector of level 0: each has its own.",
        ),
        Mistake(
            lambda positions, level_embed: reference(positions, level_embed.flip(0)),
            "the maps are in order, but their vectors are reversed: the first one belongs to the finest level.",
        ),
        Mistake(
            lambda positions, level_embed: reference(positions, level_embed.sum(0).expand_as(level_embed)),
            "every level got the sum of all vectors: each has its own.",
        ),
        Mistake(
            lambda positions, level_embed: reference([one.transpose(2, 3) for one in positions], level_embed),
            "the cells are read column by column: flatten (H, W) row by row.",
        ),
        Mistake(
            reshaped,
            "a reshape mixed channels and cells: flatten the cells first, then exchange the two axes.",
        ),
        Mistake(
            lambda positions, level_embed: reference(positions[::-1], level_embed.flip(0)),
            "the levels are in the reverse order: the finest comes first.",
        ),
    ]
    rng = generator(45)
    cases = []
    for levels in (3, 1, 4):
        batch, channels = random_integer(rng, 2, 3), random_integer(rng, 5, 9)
        height, width = random_integer(rng, 5, 8), random_integer(rng, 9, 12)
        sizes = [(max(1, height >> level), max(1, width >> level)) for level in range(levels)]
        positions = [torch.randn(batch, channels, *size, generator=rng) for size in sizes]
        cases.append((positions, torch.randn(levels, channels, generator=rng)))
    return check_function(answer, reference, cases, mistakes, name="add_levels")
