"""Chapter 10: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter10
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
Shapes = Sequence[tuple[int, int]]


def good_ratios(mask: Tensor) -> Tensor:
    _, height, width = mask.shape
    return torch.tensor([[int(one[0].sum()) / width, int(one[:, 0].sum()) / height] for one in mask])


def counts(mask: Tensor) -> Tensor:
    return torch.tensor([[int(one[0].sum()), int(one[:, 0].sum())] for one in mask])


def good_references(shapes: Shapes, ratios: Tensor, half: float = 0.5, divide: bool = True) -> Tensor:
    pictures = []
    for ratio in ratios.tolist():
        tokens = []
        for level, (height, width) in enumerate(shapes):
            own_w, own_h = ratio[level] if divide else (1.0, 1.0)
            for row in range(height):
                for column in range(width):
                    x, y = (column + half) / width / own_w, (row + half) / height / own_h
                    tokens.append([[x * w, y * h] for w, h in ratio])
        pictures.append(tokens)
    return torch.tensor(pictures)


def columns_first(shapes: Shapes, ratios: Tensor) -> Tensor:
    pieces = []
    for piece, (height, width) in zip(
        good_references(shapes, ratios).split([h * w for h, w in shapes], 1), shapes, strict=True
    ):
        order = [row * width + column for column in range(width) for row in range(height)]
        pieces.append(piece[:, order])
    return torch.cat(pieces, 1)


def own_level_only(shapes: Shapes, ratios: Tensor) -> Tensor:
    # Right on the token's own level, and that place is used on the others too.
    right, start = good_references(shapes, ratios), 0
    for level, (height, width) in enumerate(shapes):
        stop = start + height * width
        right[:, start:stop] = right[:, start:stop, level : level + 1].clone()
        start = stop
    return right


def good_cost(shapes: Shapes, C: int, M: int, P: int, F: int, layers: int) -> int:
    L, total = len(shapes), 0
    for height, width in shapes:
        total += height * width * (C * C + C * C + C * 3 * M * L * P + 5 * C * L * P + C * F + F * C)
    return layers * total


def good_step(
    layer: Any,
    z: Tensor,
    e: Tensor,
    references: Tensor,
    shapes: Shapes,
    mask: Tensor,
    value: bool = False,
    carry: bool = False,
) -> Tensor:
    query = z + e
    a, _ = layer.self_attn(query, query if value else z, references, shapes, attention_mask=mask)
    z = layer.self_attn_layer_norm((query if carry else z) + a)
    return layer.final_layer_norm(z + layer.fc2(layer.fc1(z).clamp(min=0)))


def pre_norm(layer: Any, z: Tensor, e: Tensor, references: Tensor, shapes: Shapes, mask: Tensor) -> Tensor:
    normed = layer.self_attn_layer_norm(z)
    z = z + layer.self_attn(normed + e, normed, references, shapes, attention_mask=mask)[0]
    return z + layer.fc2(layer.fc1(layer.final_layer_norm(z)).relu())


def without_sums(first: bool) -> Answer:
    def answer(layer: Any, z: Tensor, e: Tensor, references: Tensor, shapes: Shapes, mask: Tensor) -> Tensor:
        a, _ = layer.self_attn(z + e, z, references, shapes, attention_mask=mask)
        z = layer.self_attn_layer_norm(a if first else z + a)
        inner = layer.fc2(layer.fc1(z).relu())
        return layer.final_layer_norm(z + inner if first else inner)

    return answer


def linear_network(layer: Any, z: Tensor, e: Tensor, references: Tensor, shapes: Shapes, mask: Tensor) -> Tensor:
    a, _ = layer.self_attn(z + e, z, references, shapes, attention_mask=mask)
    z = layer.self_attn_layer_norm(z + a)
    return layer.final_layer_norm(z + layer.fc2(layer.fc1(z)))


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter10.ratios_of, good_ratios),
    (chapter10.reference_points, good_references),
    (chapter10.encoder_cost, good_cost),
    (chapter10.encoder_step, good_step),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter10.ratios_of, lambda mask: good_ratios(mask).flip(-1), "exchanged: the mask's first row"),
    (chapter10.ratios_of, lambda mask: good_ratios(~mask), "padding was counted"),
    (chapter10.ratios_of, lambda mask: mask.float().mean((1, 2))[:, None].repeat(1, 2), "share of the area"),
    (chapter10.ratios_of, lambda mask: good_ratios(mask.flip(1, 2)), "last row and column"),
    (chapter10.ratios_of, counts, "counts of cells"),
    (chapter10.ratios_of, lambda mask: counts(mask) / torch.tensor(mask.shape[1:]), "divided by the height"),
    (chapter10.ratios_of, lambda mask: good_ratios(mask).mean(0).repeat(len(mask), 1), "over the pictures"),
    (chapter10.ratios_of, lambda mask: good_ratios(mask)[:, 0], "drops, keeps or joins"),
    (chapter10.reference_points, lambda s, r: good_references(s, r, divide=False), "not divided by their own"),
    (
        chapter10.reference_points,
        lambda s, r: (good_references(s, r) / r[:, None])[:, :, :1].repeat(1, 1, len(s), 1),
        "each level read",
    ),
    (chapter10.reference_points, lambda s, r: good_references(s, torch.ones_like(r)), "play no part"),
    (chapter10.reference_points, lambda s, r: own_level_only(s, r), "level that is read|play no part"),
    (chapter10.reference_points, lambda s, r: good_references(s, r.flip(-1)), "they are .width, height."),
    (chapter10.reference_points, lambda s, r: good_references(s, r, half=0.0), "corners of the cells"),
    (chapter10.reference_points, columns_first, "row after row"),
    (chapter10.reference_points, lambda s, r: good_references(s, r).flip(-1), "x runs along the width"),
    (chapter10.reference_points, lambda s, r: good_references(s, r)[:, :, 0], "drops, keeps or joins"),
    (chapter10.encoder_cost, lambda s, c, m, p, f, n: good_cost(s, c, m, p, f, 1), "one layer"),
    (
        chapter10.encoder_cost,
        lambda s, c, m, p, f, n: good_cost(s, c, m, p, f, n) - n * c * f * sum(h * w for h, w in s),
        "two linear maps",
    ),
    (
        chapter10.encoder_cost,
        lambda s, c, m, p, f, n: good_cost(s, c, m, p, f, n) - n * c * m * p * len(s) * sum(h * w for h, w in s),
        "a weight is the third",
    ),
    (
        chapter10.encoder_cost,
        lambda s, c, m, p, f, n: good_cost(s, c, m, p, f, n) - 4 * n * c * p * len(s) * sum(h * w for h, w in s),
        "four corners",
    ),
    (
        chapter10.encoder_cost,
        lambda s, c, m, p, f, n: good_cost(s, c, m, p, f, n) - n * c * p * len(s) * sum(h * w for h, w in s),
        "but not the multiplication",
    ),
    (
        chapter10.encoder_cost,
        lambda s, c, m, p, f, n: good_cost(s, c, m, p, f, n) + 2 * n * c * c * sum(h * w for h, w in s),
        "four projections",
    ),
    (
        chapter10.encoder_cost,
        lambda s, c, m, p, f, n: n * sum(h * w for h, w in s) * c * (4 * c + 2 * sum(h * w for h, w in s) + 2 * f),
        "cost of dense attention",
    ),
    (chapter10.encoder_step, lambda *a: good_step(*a, value=True, carry=True), "query only"),
    (chapter10.encoder_step, lambda *a: good_step(*a, value=True), "in the values"),
    (chapter10.encoder_step, lambda *a: good_step(*a, carry=True), "in the sum"),
    (chapter10.encoder_step, lambda f, z, e, *a: good_step(f, z, e * 0, *a), "plays no part"),
    (chapter10.encoder_step, lambda f, z, e, r, s, mask: good_step(f, z, e, r, s, mask | True), "did not get the mask"),
    (chapter10.encoder_step, lambda f, z, e, r, s, mask: good_step(f, z, e, r, s, ~mask), "inverted"),
    (chapter10.encoder_step, pre_norm, "each follows its sum"),
    (chapter10.encoder_step, without_sums(first=True), "attention replaces"),
    (chapter10.encoder_step, without_sums(first=False), "network replaces"),
    (chapter10.encoder_step, linear_network, "no activation"),
]
