"""The checks of chapter 11: self-attention, the refinement of a box, all layers of it, and the first stage's boxes.

Built in chapter 11.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.attention import MultiheadAttention
from ddetr_lab.boxes import inverse_sigmoid
from ddetr_lab.checks.core import (
    Answer,
    Mistake,
    Passed,
    check_function,
    generator,
    random_boxes_cxcywh,
    random_integer,
    random_size,
)
from ddetr_lab.heads import refine_boxes
from ddetr_lab.proposals import grid_proposals

__all__ = ["all_layers", "level_proposals", "refine", "self_attention"]


def self_attention(answer: Answer) -> Passed:
    """Check self-attention: contents and positions (Q, C), three weights (C, C) and the number of heads to (Q, C)."""

    def reference(
        contents: Tensor, positions: Tensor, w_query: Tensor, w_key: Tensor, w_value: Tensor, heads: int
    ) -> Tensor:
        layer = MultiheadAttention(contents.shape[1], heads)
        weights = (layer.q_proj, w_query), (layer.k_proj, w_key), (layer.v_proj, w_value)
        with torch.no_grad():
            for projection, weight in (*weights, (layer.out_proj, torch.eye(contents.shape[1]))):
                projection.weight.copy_(weight)
            return layer(contents[None], positions[None])[0][0]

    def mixed(parts: list[Tensor], heads: int, scale: float = 1.0, dim: int = -1) -> Tensor:
        """Attend with given queries, keys and values (Q, C), with a scale and a softmax that may be wrong."""
        q, k, v = (tensor.unflatten(-1, (heads, -1)).transpose(0, 1) for tensor in parts)  # (M, Q, D)
        weights = (q @ k.transpose(-1, -2) * scale / q.shape[-1] ** 0.5).softmax(dim)
        return (weights @ v).transpose(0, 1).flatten(1)

    def placed(
        where: str, scale: Callable[[int, int], float] = lambda *_: 1.0, dim: int = -1, turn: bool = False
    ) -> Answer:
        """Add positions to the letters in ``where``: q, k, v."""

        def wrong(c: Tensor, p: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, heads: int) -> Tensor:
            parts = [
                (c + p if letter in where else c) @ (weight if turn else weight.T)
                for letter, weight in zip("qkv", (w_q, w_k, w_v), strict=True)
            ]
            return mixed(parts, heads, scale(c.shape[1], heads), dim)

        return wrong

    def interleaved(c: Tensor, p: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, heads: int) -> Tensor:
        order = torch.arange(c.shape[1]).view(-1, heads).T.flatten()  # channels m, m + M, m + 2M ... belong to head m
        parts = [((c + p) @ w_q.T)[:, order], ((c + p) @ w_k.T)[:, order], (c @ w_v.T)[:, order]]
        return mixed(parts, heads)[:, order.argsort()]

    def unturned(c: Tensor, p: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, heads: int) -> Tensor:
        parts = [(c + p) @ w_q.T, (c + p) @ w_k.T, c @ w_v.T]
        order = torch.arange(c.numel()).view(heads, -1, c.shape[1] // heads).transpose(0, 1).flatten()
        mixed_up = [part.flatten()[order].view_as(c) for part in parts]  # as view(M, Q, D) cuts them
        return mixed(mixed_up, heads).flatten()[order.argsort()].view_as(c)

    def not_side_by_side(*arguments: Any) -> Tensor:
        right, heads = reference(*arguments), arguments[-1]
        return right.unflatten(1, (heads, -1)).transpose(0, 1).reshape(right.shape)

    def one_head(c: Tensor, p: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, heads: int) -> Tensor:
        return reference(c, p, w_q, w_k, w_v, 1)

    mistakes = [
        Mistake(
            placed("qkv"),
            "the positions went into the values as well: they decide who listens to whom, and are not handed on.",
        ),
        Mistake(placed(""), "the positions are missing: add them before w_query and w_key."),
        Mistake(placed("q"), "the keys have no positions: a query could not tell where the others look."),
        Mistake(placed("k"), "the queries have no positions: a query would not know where it looks itself."),
        Mistake(
            placed("qk", lambda c, m: math.sqrt(c / m)),
            "the products were not divided by the square root of D, the channels of one head.",
        ),
        Mistake(
            placed("qk", lambda c, m: 1 / math.sqrt(m)),
            "the products were divided by the square root of C: a head has D = C / M channels.",
        ),
        Mistake(
            placed("qk", lambda c, m: 1 / math.sqrt(c // m)),
            "the products were divided by D itself: it is the square root of D.",
        ),
        Mistake(
            placed("qk", dim=-2),
            "the softmax ran over the queries: the weights that one query gives to all keys sum to 1.",
        ),
        Mistake(placed("qk", turn=True), "the weights were not transposed: a linear layer computes x @ w.T."),
        Mistake(
            interleaved,
            "the channels were dealt out to the heads by turns: head m owns the D channels from m * D on.",
        ),
        Mistake(unturned, "view(M, Q, D) mixes queries: a row holds its M heads, so view(Q, M, D), then transpose."),
        Mistake(not_side_by_side, "the heads are not side by side: bring (M, Q, D) back to (Q, M, D), then flatten."),
        Mistake(one_head, "there is one softmax over all channels: each head has products and a softmax of its own."),
    ]
    rng = generator(111)
    cases = []
    for _ in range(4):
        heads, channels, queries = (random_integer(rng, 2, 4) for _ in range(3))
        width = heads * (channels + 1 + (channels + 1 == heads))  # heads of M channels would forgive a wrong root
        contents, positions = torch.randn(2, queries + 1, width, generator=rng)
        weights = [torch.randn(width, width, generator=rng) * 0.5 for _ in range(3)]
        cases.append((contents, positions, *weights, heads))
    return check_function(answer, reference, cases, mistakes, name="self_attention")


def refine(answer: Answer) -> Passed:
    """Check a function from offsets (Q, 4) and references (Q, 2) or (Q, 4) in _norm to boxes (Q, 4)."""

    def reference(offsets: Tensor, references: Tensor) -> Tensor:
        return refine_boxes(offsets, references)

    def with_size(references: Tensor, size: float) -> Tensor:
        """Make boxes of points, with this for width and height."""
        if references.shape[-1] == 4:
            return references
        return torch.cat((references, torch.full_like(references, size)), dim=-1)

    def unclamped(offsets: Tensor, references: Tensor) -> Tensor:
        return (offsets + torch.logit(with_size(references, 0.5))).sigmoid()

    def in_place_space(offsets: Tensor, references: Tensor) -> Tensor:
        return offsets + with_size(references, 0.0)

    def sigmoid_first(offsets: Tensor, references: Tensor) -> Tensor:
        return offsets.sigmoid() + with_size(references, 0.0)

    def outer_sigmoid(offsets: Tensor, references: Tensor) -> Tensor:
        return (offsets + with_size(references, 0.0)).sigmoid()

    def logit_only(offsets: Tensor, references: Tensor) -> Tensor:
        return offsets + inverse_sigmoid(with_size(references, 0.5))

    def centre_only(offsets: Tensor, references: Tensor) -> Tensor:
        return refine_boxes(offsets, references[..., :2])

    def without_size(offsets: Tensor, references: Tensor) -> Tensor:
        return refine_boxes(offsets, with_size(references, 0.0))

    def raw_sizes(offsets: Tensor, references: Tensor) -> Tensor:
        return torch.cat((reference(offsets, references)[:, :2], offsets[:, 2:]), dim=-1)

    def scaled_sizes(offsets: Tensor, references: Tensor) -> Tensor:
        if references.shape[-1] == 2:
            return reference(offsets, references)
        centre = refine_boxes(offsets, references)[..., :2]
        return torch.cat((centre, references[..., 2:] * offsets[..., 2:].exp()), dim=-1)

    mistakes = [
        Mistake(
            in_place_space,
            "the offsets were added to the coordinates themselves, and boxes leave the picture: bring the reference to "
            "inverse-sigmoid space, add there, come back by the sigmoid.",
        ),
        Mistake(sigmoid_first, "the sigmoid was taken of the offset alone: take it last, of the sum."),
        Mistake(
            outer_sigmoid,
            "the reference went into the sum as it is: it lives between 0 and 1, so take its inverse sigmoid first.",
        ),
        Mistake(logit_only, "the result is still in inverse-sigmoid space: the last step is the sigmoid."),
        Mistake(
            unclamped,
            "a reference of exactly 0 or 1 has an infinite inverse sigmoid, which no offset can move: clamp x and "
            "1 - x from below at 1e-5.",
        ),
        Mistake(
            centre_only,
            "the sizes of the reference boxes were dropped: with a box, all four numbers are refined.",
        ),
        Mistake(
            without_size, "a point was given the size 0: it has none, and its inverse sigmoid would drown the offset."
        ),
        Mistake(raw_sizes, "a point's width and height are the sigmoid of the last two offsets, not these themselves."),
        Mistake(
            scaled_sizes,
            "width and height were multiplied by an exponential, as other detectors do; here they move in "
            "inverse-sigmoid space like the centre.",
        ),
    ]
    rng = generator(112)
    cases = []
    for case in range(6):
        count = random_integer(rng, 2, 5)
        references = random_boxes_cxcywh(rng, count)[:, : 4 if case % 2 else 2]
        references[0, 0] = case // 2 % 2  # on the rim, exactly
        offsets = torch.randn(count, 4, generator=rng)
        offsets[0, 0] = 5 - 10 * references[0, 0]  # back into the picture
        cases.append((offsets, references))
    return check_function(answer, reference, cases, mistakes, name="refine")


def all_layers(answer: Answer) -> Passed:
    """Check a function from all layers' offsets (NL, Q, 4) and the first references (Q, 2) to boxes (NL, Q, 4).

    Its values are compared, and the gradient of the last layer's boxes by the offsets of all layers.
    """

    def chained(offsets: Tensor, references: Tensor, detach: bool = True) -> Tensor:
        boxes = []
        for of_layer in offsets:
            boxes.append(refine_boxes(of_layer, references))
            references = boxes[-1].detach() if detach else boxes[-1]
        return torch.stack(boxes)

    def only_the_last_learns(offsets: Tensor, references: Tensor) -> Tensor:
        return chained(torch.cat((offsets[:-1].detach(), offsets[-1:])), references)

    def from_the_start(offsets: Tensor, references: Tensor) -> Tensor:
        return torch.stack([refine_boxes(of_layer, references) for of_layer in offsets])

    def twice(offsets: Tensor, references: Tensor) -> Tensor:
        boxes = []
        for of_layer in offsets:
            references = refine_boxes(of_layer, references).detach()
            boxes.append(refine_boxes(of_layer, references))
        return torch.stack(boxes)

    def plain(offsets: Tensor, references: Tensor) -> Tensor:
        boxes = []
        reference = torch.cat((references, torch.full_like(references, 0.0)), dim=-1)
        for of_layer in offsets:
            boxes.append(reference + of_layer)
            reference = boxes[-1].detach()
        return torch.stack(boxes)

    mistakes = [
        Mistake(
            _with_slope(lambda offsets, references: chained(offsets, references, detach=False)),
            "the boxes are right, but a layer's loss reaches the offsets of earlier layers through the "
            "references: what is handed on as the next reference must be detached.",
        ),
        Mistake(
            _with_slope(lambda offsets, references: chained(offsets, references).detach()),
            "the boxes are right, but nothing can learn: detach the reference that is handed on, not the prediction.",
        ),
        Mistake(
            _with_slope(only_the_last_learns),
            "the boxes are right, but the offsets of earlier layers were detached: each learns from its own boxes.",
        ),
        Mistake(
            _with_slope(from_the_start),
            "every layer started from the first reference: each layer moves the box that the layer before has made.",
        ),
        Mistake(
            _with_slope(twice),
            "the offsets of a layer were applied twice: a layer's prediction moves the reference that it looked from, "
            "not the one that it hands on.",
        ),
        Mistake(
            _with_slope(plain), "the offsets were added to the coordinates: they belong into inverse-sigmoid space."
        ),
    ]
    rng = generator(113)
    cases = []
    for layers in (3, 2, 4, 6):
        queries = random_integer(rng, 2, 4)
        offsets = torch.randn(layers, queries, 4, generator=rng) * 0.7
        cases.append((offsets, torch.rand(queries, 2, generator=rng) * 0.8 + 0.1))
    return check_function(
        _with_slope(answer),
        _with_slope(chained),
        cases,
        mistakes,
        name="all_layers",
        parts=("the boxes", "the gradients of each layer's boxes by all offsets"),
    )


def _with_slope(answer: Answer) -> Answer:
    """Have a function return its boxes, and the gradient of each layer's by all offsets (zero where there is none).

    What is no function, or returns no tensor, is handed on for the check to complain about.
    """
    if not callable(answer):
        return answer

    @wraps(answer)
    def sloped(offsets: Tensor, references: Tensor) -> Any:
        offsets = offsets.clone().requires_grad_()
        boxes = answer(offsets, references)
        if not isinstance(boxes, Tensor):
            return boxes if boxes is None else (boxes, torch.zeros(()))
        slopes = torch.zeros(len(boxes), *offsets.shape)
        for own, of_layer in zip(slopes, boxes, strict=True):
            if of_layer.requires_grad:
                (slope,) = torch.autograd.grad(of_layer.sum(), offsets, retain_graph=True, allow_unused=True)
                own.copy_(torch.zeros_like(offsets) if slope is None else slope)
        return boxes.detach(), slopes

    return sloped


def level_proposals(answer: Answer) -> Passed:
    """Check a function from one level's mask (H, W) and its number to the boxes (n, 4) that it proposes."""

    def reference(mask: Tensor, level: int) -> Tensor:
        coarser = [torch.ones(1, 1, 1, dtype=torch.bool)] * level
        logits, proposed = grid_proposals([*coarser, mask[None]])
        return logits[:, level:][proposed[:, level:]].sigmoid()

    def grid(
        mask: Tensor,
        level: int,
        half: float = 0.5,
        whole: bool = False,
        turned: bool = False,
        size: float = 0.05,
        kept: str = "real rim",
    ) -> Tensor:
        """Propose with one thing wrong."""
        height, width = mask.shape
        valid_h, valid_w = (height, width) if whole else (int(mask[:, 0].sum()), int(mask[0].sum()))
        if turned:
            valid_h, valid_w = valid_w, valid_h
        y, x = torch.meshgrid(torch.arange(height) + half, torch.arange(width) + half, indexing="ij")
        side = torch.full_like(x, size * 2.0**level)
        boxes = torch.stack((x / valid_w, y / valid_h, side, side), dim=-1).flatten(0, 1)  # (H*W, 4)
        keep = torch.ones(len(boxes), dtype=torch.bool)
        if "real" in kept:
            keep &= mask.flatten()
        if "rim" in kept:
            keep &= ((boxes > 0.01) & (boxes < 0.99)).all(-1)
        if "centre" in kept:
            keep &= ((boxes[:, :2] > 0.01) & (boxes[:, :2] < 0.99)).all(-1)
        return boxes[keep]

    mistakes = [
        Mistake(
            lambda mask, level: grid(mask, level, half=0.0),
            "the boxes sit on the corners of the cells: a cell's centre is half a cell further.",
        ),
        Mistake(
            lambda mask, level: grid(mask, level, whole=True),
            "the padding was counted: divide by the number of real columns and rows, so that 1 is the picture's edge.",
        ),
        Mistake(
            lambda mask, level: grid(mask, level, turned=True),
            "x was divided by the rows and y by the columns: columns count along the width.",
        ),
        Mistake(
            lambda mask, level: grid(mask, 0, size=0.05),
            "every level has boxes of 0.05: they double from level to level.",
        ),
        Mistake(
            lambda mask, level: grid(mask, 0, size=0.05 * (level + 1)),
            "the sizes grow by steps: they double from level to level, 0.05 * 2 ** level.",
        ),
        Mistake(
            lambda mask, level: grid(mask, level, kept="real centre"),
            "the limits hold for width and height as well: on level 5 a box would be 1.6 pictures wide.",
        ),
        Mistake(
            lambda mask, level: grid(mask, level, kept="real"),
            "a box with a coordinate outside of 0.01 to 0.99 is not proposed: its inverse sigmoid would be too large.",
        ),
        Mistake(lambda *_: torch.zeros(0), "no cell proposes, and an empty list gives one axis: use .reshape(-1, 4)."),
        Mistake(lambda mask, level: torch.logit(reference(mask, level)), "these are inverse sigmoids, not yet boxes."),
        Mistake(
            lambda mask, level: reference(mask.T, level)[:, [1, 0, 2, 3]],
            "the boxes stand column after column: a map is read row after row.",
        ),
        Mistake(
            lambda mask, level: grid(mask, level, kept=""),
            "every cell proposes, also in the padding: keep the boxes whose four numbers lie between 0.01 and 0.99.",
        ),
    ]
    rng = generator(114)
    cases = []
    for level in (1, 0, 2, 5, 3):
        height, width = random_size(rng, 4, 9)
        mask = torch.zeros(height, width, dtype=torch.bool)
        real_height, real_width = random_integer(rng, 2, height - 2), random_integer(rng, 2, width - 1)
        mask[: real_height + (real_height == real_width), :real_width] = True
        cases.append((mask, level))
    # A map so wide that its outer cells lie closer than 0.01 to the rim.
    cases.insert(1, (torch.ones(3, 60, dtype=torch.bool), 1))
    return check_function(answer, reference, cases, mistakes, name="level_proposals")
