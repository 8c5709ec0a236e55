"""Chapter 4: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter04
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
TURN = 2 * math.pi


def good_places(mask: Tensor, half: float = 0.5, scale: float = TURN) -> tuple[Tensor, Tensor]:
    y, x = mask.float().cumsum(1), mask.float().cumsum(2)
    return (y - half) / (y[:, -1:] + 1e-6) * scale, (x - half) / (x[:, :, -1:] + 1e-6) * scale


def by_the_frame(mask: Tensor) -> tuple[Tensor, Tensor]:
    y, x = mask.float().cumsum(1), mask.float().cumsum(2)
    return (y - 0.5) / mask.shape[1] * TURN, (x - 0.5) / mask.shape[2] * TURN


def without_eps(mask: Tensor) -> tuple[Tensor, Tensor]:
    y, x = mask.float().cumsum(1), mask.float().cumsum(2)
    return (y - 0.5) / y[:, -1:] * TURN, (x - 0.5) / x[:, :, -1:] * TURN


def waves(exponent: Answer, order: Answer | None = None) -> Answer:
    """Make a sine embedding from the exponent of channel j, and an order of sine and cosine to spoil."""

    def answer(coordinates: Tensor, channels: int) -> Tensor:
        j = torch.arange(channels)
        angle = coordinates[..., None] / 10_000 ** exponent(j, channels)
        is_sine = j % 2 == 0 if order is None else order(j, channels)
        return torch.where(is_sine, angle.sin(), angle.cos())

    return answer


def pair(j: Tensor, channels: int) -> Tensor:
    return 2 * (j // 2) / channels


good_sine = waves(pair)
good_sine.__name__ = "good_sine"


def in_halves(coordinates: Tensor, channels: int) -> Tensor:
    both = good_sine(coordinates, channels)
    return torch.cat((both[..., 0::2], both[..., 1::2]), dim=-1)


def of_places(y: Tensor, x: Tensor, channels: int) -> Tensor:
    return torch.cat((good_sine(y, channels), good_sine(x, channels)), dim=-1).permute(0, 3, 1, 2)


def good_embed(mask: Tensor, channels: int) -> Tensor:
    return of_places(*good_places(mask), channels)


def good_levels(positions: list[Tensor], level_embed: Tensor) -> Tensor:
    raised = [one + vector[:, None, None] for one, vector in zip(positions, level_embed, strict=True)]
    return torch.cat([one.flatten(2) for one in raised], dim=2).mT


def no_transpose(positions: list[Tensor], level_embed: Tensor) -> Tensor:
    parts = [p.reshape(p.shape[0], -1, p.shape[1]) + v for p, v in zip(positions, level_embed, strict=True)]
    return torch.cat(parts, dim=1)


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter04.coordinates, good_places),
    (chapter04.sine, good_sine),
    (chapter04.embed, good_embed),
    (chapter04.add_levels, good_levels),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter04.coordinates, lambda mask: good_places(mask)[::-1], "y and x are exchanged"),
    (chapter04.coordinates, lambda mask: good_places(torch.ones_like(mask)), "the padding was counted: a cell"),
    (chapter04.coordinates, by_the_frame, "size of the frame"),
    (chapter04.coordinates, lambda mask: good_places(mask, half=0), "half cell is missing"),
    (chapter04.coordinates, lambda mask: good_places(mask, half=1), "numbered from 0"),
    (chapter04.coordinates, lambda mask: good_places(mask, scale=1), "these are fractions"),
    (chapter04.coordinates, lambda mask: good_places(~mask), "the picture was not"),
    (chapter04.coordinates, without_eps, "division by zero"),
    (chapter04.coordinates, lambda mask: good_places(mask)[0], "look at what it returns"),
    (chapter04.sine, in_halves, "take turns"),
    (chapter04.sine, waves(pair, lambda j, channels: j % 2 == 1), "channel 0 is a sine"),
    (chapter04.sine, waves(lambda j, channels: j / channels), "share one"),
    (chapter04.sine, waves(lambda j, channels: 2 * j / channels), "number of its pair"),
    (chapter04.sine, waves(lambda j, channels: (j // 2) / channels), "too slowly"),
    (chapter04.sine, waves(lambda j, channels: -pair(j, channels)), "was multiplied"),
    (chapter04.embed, lambda mask, c: of_places(*good_places(mask)[::-1], c), "halves are exchanged"),
    (chapter04.embed, lambda mask, c: good_embed(torch.ones_like(mask), c), "the same picture would move"),
    (chapter04.embed, lambda mask, c: of_places(*by_the_frame(mask), c), "size of the frame"),
    (chapter04.embed, lambda mask, c: of_places(*good_places(mask, half=0), c), "half cell"),
    (chapter04.embed, lambda mask, c: of_places(*good_places(mask, scale=1), c), "turn once"),
    (chapter04.embed, lambda mask, c: good_embed(mask, c).permute(0, 2, 3, 1), "another order"),
    (chapter04.add_levels, lambda p, e: good_levels(p, 0 * e), "is missing"),
    (chapter04.add_levels, lambda p, e: good_levels(p, e[[0] * len(e)]), "vector of level 0"),
    (chapter04.add_levels, lambda p, e: good_levels(p, e.sum(0).expand_as(e)), "the sum of all"),
    (chapter04.add_levels, lambda p, e: good_levels([one.mT for one in p], e), "column by column"),
    (chapter04.add_levels, no_transpose, "mixed channels and cells"),
    (chapter04.add_levels, lambda p, e: good_levels(p[::-1], e.flip(0)), "reverse order"),
    (chapter04.add_levels, lambda p, e: good_levels(p, e).mT, "another order"),
]


def in_doubles(mask: Tensor, channels: int) -> Tensor:
    """Use float64 and the factor 2 pi first: sines of the padding's millions come out otherwise."""
    places = []
    for axis in (1, 2):
        count = mask.double().cumsum(axis)
        places.append(2 * math.pi * (count - 0.5) / (mask.double().sum(axis, keepdim=True) + 1e-6))
    return of_places(places[0], places[1], channels)


def in_place_levels(positions: list[Tensor], level_embed: Tensor) -> Tensor:
    for one, vector in zip(positions, level_embed, strict=True):
        one += vector[:, None, None]
    return torch.cat([one.flatten(2).transpose(1, 2) for one in positions], dim=1)


def entries_replaced(positions: list[Tensor], level_embed: Tensor) -> Tensor:
    for i, vector in enumerate(level_embed):
        positions[i] = positions[i].flatten(2).transpose(1, 2) + vector
    return torch.cat(positions, dim=1)


def padding_is_zero(mask: Tensor) -> list[Tensor]:
    return [place * mask for place in good_places(mask)]


RIGHT += [
    (chapter04.embed, in_doubles),
    (chapter04.coordinates, lambda mask: list(good_places(mask.double()))),
    (
        chapter04.sine,
        lambda c, n: (c[..., None] / 10_000 ** (2 * (torch.arange(n) // 2) / n) + torch.arange(n) % 2 * TURN / 4).sin(),
    ),
]

WRONG += [
    (chapter04.add_levels, in_place_levels, "into the caller's tensors"),
    (chapter04.add_levels, entries_replaced, "writes into the caller's list"),
    (
        chapter04.add_levels,
        lambda maps, level_embed: good_levels(maps, level_embed.flip(0)),
        "their vectors are reversed",
    ),
    (chapter04.coordinates, padding_is_zero, "real cells are right"),
    (chapter04.sine, waves(lambda j, n: 4 * (j // 2) / n), "too fast"),
]
