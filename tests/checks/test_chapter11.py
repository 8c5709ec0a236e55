"""Chapter 11: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.checks import chapter11
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def attend(
    contents: Tensor,
    positions: Tensor,
    w_query: Tensor,
    w_key: Tensor,
    w_value: Tensor,
    heads: int,
    where: str = "qk",
    scale: str = "head",
    dim: int = -1,
) -> Tensor:
    placed = {letter: contents + positions if letter in where else contents for letter in "qkv"}
    channels = contents.shape[1] // heads
    divisor = {"head": channels, "all": contents.shape[1], "none": 1}[scale] ** 0.5
    outputs = []
    for head in range(heads):
        own = slice(head * channels, (head + 1) * channels)
        query, key, value = placed["q"] @ w_query[own].T, placed["k"] @ w_key[own].T, placed["v"] @ w_value[own].T
        outputs.append((query @ key.T / divisor).softmax(dim) @ value)
    return torch.cat(outputs, dim=-1)


def variant(**wrong: Any) -> Answer:
    return lambda *arguments: attend(*arguments, **wrong)


def by_turns(c: Tensor, p: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, heads: int) -> Tensor:
    query, key, value = ((x @ w.T).view(len(c), -1, heads) for x, w in ((c + p, w_q), (c + p, w_k), (c, w_v)))
    weights = (torch.einsum("idm,jdm->mij", query, key) / query.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("mij,jdm->idm", weights, value).flatten(1)


def logit(x: Tensor, eps: float = 1e-5) -> Tensor:
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def good_refine(offsets: Tensor, references: Tensor, eps: float = 1e-5) -> Tensor:
    known = references.shape[-1]
    moved = offsets.clone()
    moved[:, :known] += logit(references, eps)
    return moved.sigmoid()


def padded(references: Tensor) -> Tensor:
    return F.pad(references, (0, 4 - references.shape[-1]))


def exponential(offsets: Tensor, references: Tensor) -> Tensor:
    boxes = good_refine(offsets, references)
    if references.shape[-1] == 4:
        boxes[:, 2:] = references[:, 2:] * offsets[:, 2:].exp()
    return boxes


def layers(
    offsets: Tensor, references: Tensor, hand_on: Callable[[Tensor], Tensor] = Tensor.detach, twice: bool = False
) -> Tensor:
    boxes = []
    for of_layer in offsets:
        moved = good_refine(of_layer, references)
        boxes.append(good_refine(of_layer, moved.detach()) if twice else moved)
        references = hand_on(moved)
    return torch.stack(boxes)


def without_memory(offsets: Tensor, references: Tensor) -> Tensor:
    return torch.stack([good_refine(of_layer, references) for of_layer in offsets])


def summed(offsets: Tensor, references: Tensor) -> Tensor:
    boxes = []
    for of_layer in offsets:
        boxes.append(padded(references) + of_layer)
        references = boxes[-1].detach()
    return torch.stack(boxes)


def propose(
    mask: Tensor,
    level: int,
    half: float = 0.5,
    whole: bool = False,
    turned: bool = False,
    rim: str = "xywh",
    **size: Any,
) -> Tensor:
    height, width = mask.shape
    columns, rows = (width, height) if whole else (int(mask.any(0).sum()), int(mask.any(1).sum()))
    columns, rows = (rows, columns) if turned else (columns, rows)
    boxes = []
    for row in range(height):
        for column in range(width):
            side = size.get("side", 0.05 * 2**level)
            box = torch.tensor([(column + half) / columns, (row + half) / rows, side, side])
            inside = [bool(0.01 < number < 0.99) for number in box]
            asked = inside[: {"xywh": 4, "xy": 2, "": 0}[rim]]
            if all(asked) and mask[row, column]:
                boxes.append(box)
    return torch.stack(boxes) if boxes else torch.zeros(0, 4)


def everywhere(mask: Tensor, level: int) -> Tensor:
    rows, columns = int(mask[:, 0].sum()), int(mask[0].sum())
    y, x = torch.meshgrid(torch.arange(mask.shape[0]) + 0.5, torch.arange(mask.shape[1]) + 0.5, indexing="ij")
    side = torch.full_like(x, 0.05 * 2**level)
    return torch.stack((x / columns, y / rows, side, side), dim=-1).flatten(0, 1)


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter11.self_attention, attend),
    (chapter11.refine, good_refine),
    (chapter11.all_layers, layers),
    (chapter11.level_proposals, propose),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter11.self_attention, variant(where="qkv"), "into the values as well"),
    (chapter11.self_attention, variant(where=""), "positions are missing"),
    (chapter11.self_attention, variant(where="q"), "keys have no positions"),
    (chapter11.self_attention, variant(where="k"), "queries have no positions"),
    (chapter11.self_attention, variant(scale="none"), "were not divided by the square root of D"),
    (chapter11.self_attention, variant(scale="all"), "the square root of C"),
    (chapter11.self_attention, variant(dim=0), "ran over the queries"),
    (
        chapter11.self_attention,
        lambda c, p, q, k, v, m: attend(c, p, q.T, k.T, v.T, m),
        "weights were not transposed",
    ),
    (chapter11.self_attention, by_turns, "by turns"),
    (chapter11.self_attention, lambda *a: attend(*a[:-1], 1), "softmax of its own"),
    (chapter11.refine, lambda o, r: padded(r) + o, "boxes leave the picture"),
    (chapter11.refine, lambda o, r: padded(r) + o.sigmoid(), "of the offset alone"),
    (chapter11.refine, lambda o, r: (padded(r) + o).sigmoid(), "inverse sigmoid first"),
    (
        chapter11.refine,
        lambda o, r: good_refine(o, r).clamp(1e-7, 1 - 1e-7).logit(),
        "still in inverse-sigmoid space|0 or",
    ),
    (chapter11.refine, lambda o, r: good_refine(o, r, eps=0.0), "infinite inverse sigmoid"),
    (chapter11.refine, lambda o, r: good_refine(o, r[:, :2]), "sizes of the reference boxes were dropped"),
    (chapter11.refine, exponential, "multiplied by an exponential"),
    (chapter11.all_layers, lambda o, r: layers(o, r, hand_on=lambda x: x), "must be detached"),
    (chapter11.all_layers, lambda o, r: layers(o, r).detach(), "nothing can learn"),
    (
        chapter11.all_layers,
        lambda o, r: layers(torch.cat([o[:-1].detach(), o[-1:]]), r),
        "of earlier layers were detached",
    ),
    (chapter11.all_layers, without_memory, "started from the first reference"),
    (chapter11.all_layers, lambda o, r: layers(o, r, twice=True), "applied twice"),
    (chapter11.all_layers, summed, "inverse-sigmoid space"),
    (chapter11.all_layers, lambda o, r: layers(o, r)[-1], "print the shape|another arrangement|axes"),
    (chapter11.all_layers, lambda o, r: list(layers(o, r)), "torch.stack joins"),
    (chapter11.level_proposals, lambda m, n: propose(m, n, half=0.0), "corners of the cells"),
    (chapter11.level_proposals, lambda m, n: propose(m, n, whole=True), "padding was counted"),
    (chapter11.level_proposals, lambda m, n: propose(m, n, turned=True), "columns count along the width"),
    (chapter11.level_proposals, lambda m, n: propose(m, n, side=0.05), "double from level to level"),
    (chapter11.level_proposals, lambda m, n: propose(m, n, side=0.05 * (n + 1)), "grow by steps"),
    (chapter11.level_proposals, lambda m, n: propose(m, n, rim=""), "is not proposed"),
    (chapter11.level_proposals, lambda m, n: propose(m, n, rim="xy"), "width and height as well"),
    (chapter11.level_proposals, everywhere, "also in the padding"),
]
