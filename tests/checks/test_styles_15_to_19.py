"""Chapters 15 to 19: right answers in other styles pass; plausible wrong ones fail, with the hint that fits them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddetr_lab.boxes import cxcywh_to_xyxy
from ddetr_lab.checks import chapter15, chapter16, chapter17, chapter18, chapter19
from tests.checks.contract import test_a_right_answer_passes, test_a_wrong_answer_gets_the_intended_hint  # noqa: F401

Answer = Callable[..., Any]
State = dict[str, Tensor]


def best(logits: Tensor, boxes: Tensor, k: int) -> list[Tensor]:
    scores, index = logits.sigmoid().flatten(1).sort(dim=1, descending=True)
    scores, index = scores[:, :k], index[:, :k]
    queries = torch.div(index, logits.shape[2], rounding_mode="floor")
    return [scores, index % logits.shape[2], torch.take_along_dim(cxcywh_to_xyxy(boxes), queries[..., None], 1)]


def verdicts(ious: Tensor, crowd: Tensor, limit: float, last: bool = False) -> list[int]:
    free, found = ~crowd, []
    for row in ious:
        reached = [(float(row[j]), j if last else -j) for j in range(len(row)) if free[j] and row[j] >= limit]
        if reached:
            free[abs(max(reached)[1])] = False
        found.append(1 if reached else -1 if (row[crowd] >= limit).any() else 0)
    return found


def precision(scores: Tensor, hits: Tensor, objects: int, what: str = "ap") -> Tensor:
    right = hits[scores.argsort(descending=True)].double().cumsum(0)
    recall, best_from_here = right / objects, right / torch.arange(1, len(right) + 1)
    if what == "at hits":
        return (best_from_here * hits[scores.argsort(descending=True)]).sum() / objects
    if len(right):
        turned = best_from_here if what == "so far" else best_from_here.flip(0)
        best_from_here = turned.cummax(0).values if what == "so far" else turned.cummax(0).values.flip(0)
    beyond = best_from_here[-1:] if what == "goes on" else torch.zeros(1)
    levels = torch.arange(101).double() / 100
    index = torch.searchsorted(recall, levels, right=what == "late")
    return torch.cat((best_from_here, beyond.double(), torch.zeros(1)))[index].mean()


def adamw(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float, what: str = "") -> Any:
    one, two = (0.1, 0.001) if what == "betas" else (0.9, 0.999)
    m, v = torch.lerp(g, m, one), two * v + (1 - two) * g * g
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    root = (v_hat + 1e-8).sqrt() if what == "eps" else v_hat.sqrt() + 1e-8
    w = w - rate * (m_hat / root + decay * w)
    return [w, m_hat, v_hat] if what == "corrected" else [w, m, v]


def rate(share: float, warmup: float, what: str = "") -> float:
    if share < warmup and what != "backwards":
        return {"full": 1.0, "undivided": share}.get(what, share / warmup)
    part = (share - warmup) / (1.0 if what == "long" else 1 - warmup)
    return 0.5 * (1 + math.cos(part if what == "no pi" else math.pi * part))


def rates(what: str = "") -> Answer:
    return lambda progress, warmup: torch.tensor([rate(share, warmup, what) for share in progress.tolist()])


def clip(norm: Callable[..., Any] = math.hypot, limit: float | None = None, turned: bool = False) -> Answer:
    def answer(one: Tensor, two: Tensor, given: float) -> list[Tensor]:
        length = norm(*one.flatten().tolist(), *two.flatten().tolist())
        factor = (limit or given) / length
        factor = min(1.0, 1 / factor if turned else factor)
        return [one * factor, two * factor]

    return answer


def cost(S: int, C: int, M: int, K: int, read: int = 5, heads: int = 0) -> Tensor:
    return torch.tensor([2 * S * C * (2 * C + S), S * C * (2 * C + 3 * (heads or M) * K + read * K)]).int()


def reach(steps: Tensor, scores: Tensor, level: float, what: str = "") -> Tensor:
    if what == "interp":
        return torch.tensor(np.interp(level, scores, steps) if scores.max() >= level else np.inf)
    if scores[0] >= level and what != "extended":
        return steps[0]
    for i in range(1, len(steps)):
        if scores[i] > level or (scores[i] == level and what != "above"):
            done = (level - scores[i - 1]) / (scores[i] - scores[i - 1])
            return torch.lerp(steps[i - 1], steps[i], 1 - done if what == "turned" else done)
    return torch.tensor(torch.inf)


def carry_in_place(old: State, new: State) -> State:
    for name in new:
        other = old.pop(name, None)
        if other is not None and other.shape == new[name].shape:
            new[name].copy_(other)
    return new


def updated(old: State, new: State) -> State:
    new.update(old)
    return new


def tile(limit: float = 0.3, what: str = "") -> Answer:
    def answer(boxes: Tensor, left: int, top: int, side: int) -> Tensor:
        left, top = (top, left) if what == "exchanged" else (left, top)
        kept = []
        for x0, y0, x1, y1 in boxes.tolist():
            a, b, c, d = max(x0 - left, 0), max(y0 - top, 0), min(x1 - left, side), min(y1 - top, side)
            w, h, inside = (c - a) / (x1 - x0), (d - b) / (y1 - y0), what == "negatives" or (c > a and d > b)
            area = (c - a) * (d - b) / side**2 if what == "tile" else w * h
            if inside and (min(w, h) if what == "sides" else area) >= limit:
                kept.append([a, b, c, d])
        return torch.tensor(kept).reshape(-1, 4)

    return answer


def split(corners: Tensor, side: int, line: int, gap: int) -> list[Tensor]:
    places = corners.tolist()
    return [torch.tensor([y + side + gap <= line for _, y in places]), torch.tensor([y >= line for _, y in places])]


def misread(boxes: Tensor, width: int, height: int, from_zero: bool = False) -> Tensor:
    x0, y0, x1, y1 = boxes.unbind(1)
    x, y = (0, 0) if from_zero else (x0, y0)
    return (x1 - x0) * (y1 - y0) / (((x0 + x1).clamp(max=width) - x) * ((y0 + y1).clamp(max=height) - y))


def first_loss(queries: int, classes: int, objects: int, p: Tensor, gamma: int = 2, what: str = "") -> Tensor:
    n = max(objects, 1)
    yes, no = -0.25 * (1 - p) ** gamma * p.log(), -0.75 * p**gamma * (1 - p).log()
    if what:
        return yes + (queries * classes - (n if what == "n" else objects)) / n * no
    return (objects * yes + (queries * classes - objects) * no) / n


def shift(counts: Tensor, shifts: Any = None, inner: bool = True, mean: bool = False) -> Tensor:
    names = counts[:-1, :-1] if inner else counts
    sums = {s: float(names.diagonal(s).double().sum()) for s in range(1 - len(names), len(names))}
    means = {s: total / len(names.diagonal(s)) for s, total in sums.items()}
    found = means if mean else sums
    return torch.tensor(max(shifts or found, key=lambda s: found[s]))


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter15.top_detections, best),
    (chapter15.match_with_crowds, lambda *a: torch.tensor(verdicts(*a), dtype=torch.int64)),
    (chapter15.match_with_crowds, lambda *a: torch.tensor(verdicts(*a, last=True), dtype=torch.int32)),
    (chapter15.ap_101, precision),
    (chapter16.clipped, clip()),
    (chapter16.adamw_step, adamw),
    (chapter16.rate_factor, rates()),
    (chapter17.attention_cost, cost),
    (chapter17.steps_to_reach, reach),
    (chapter18.carry_over, carry_in_place),
    (chapter18.tile_boxes, tile()),
    (chapter18.split_by_place, split),
    (chapter19.misread_iou, misread),
    (chapter19.first_class_loss, first_loss),
    (chapter19.names_shift, shift),
    (chapter19.frozen_names, lambda names: torch.tensor([n.split(".")[:2] == ["model", "backbone"] for n in names])),
    (chapter19.blank_padding, lambda values, real: torch.einsum("bsc,bs->bsc", values, real.float())),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter15.top_detections, lambda *a: [*best(*a)[:2], best(*a)[2].clamp(0, 1)], "clipped"),
    (chapter15.match_with_crowds, lambda *a: torch.tensor(verdicts(*a)), "not integers"),
    (chapter15.match_with_crowds, lambda *a: torch.tensor(verdicts(*a)).float(), "not integers"),
    (chapter15.match_with_crowds, lambda i, c, _: torch.tensor(verdicts(i, c, 0.5)), "0.5 was taken"),
    (chapter15.ap_101, lambda *a: precision(*a, what="late"), "recall equals the level"),
    (chapter15.ap_101, lambda *a: precision(*a, what="so far"), "up to each cut"),
    (chapter15.ap_101, lambda *a: precision(*a, what="goes on"), "beyond the last recall"),
    (chapter15.ap_101, lambda *a: precision(*a, what="at hits"), "precisions at the hits"),
    (chapter16.clipped, clip(limit=1.0), "1 was taken for the limit"),
    (chapter16.clipped, clip(norm=lambda *numbers: sum(map(abs, numbers))), "absolute values"),
    (chapter16.clipped, clip(turned=True), "turned round"),
    (chapter16.adamw_step, lambda *a: adamw(*a, what="eps"), "under the root"),
    (chapter16.adamw_step, lambda *a: adamw(*a, what="corrected"), "return m and v"),
    (chapter16.adamw_step, lambda *a: adamw(*a, what="betas"), "betas weigh the new"),
    (chapter16.rate_factor, rates("long"), "too long"),
    (chapter16.rate_factor, rates("no pi"), "pi is missing"),
    (chapter16.rate_factor, rates("backwards"), "run backwards"),
    (chapter16.rate_factor, rates("undivided"), "divide by its share"),
    (chapter16.rate_factor, rates("full"), "full from the start"),
    (chapter16.accumulated_loss, lambda losses, n: losses.sum() / n.sum().clamp(min=1), "multiply by these"),
    (chapter17.attention_cost, lambda *a: cost(*a).double(), "these are counts"),
    (chapter17.attention_cost, lambda *a: cost(*a, read=4), "attention weight"),
    (chapter17.attention_cost, lambda *a: cost(*a, heads=1), "each head predicts"),
    (chapter17.steps_to_reach, lambda *a: reach(*a, what="above"), "exactly on the level"),
    (chapter17.steps_to_reach, lambda *a: reach(*a, what="interp"), "np.interp"),
    (chapter17.steps_to_reach, lambda *a: reach(*a, what="extended"), "to the left"),
    (chapter17.steps_to_reach, lambda *a: reach(*a, what="turned"), "from the later point"),
    (chapter18.carry_over, updated, "everything was carried over"),
    (chapter18.carry_over, lambda old, new: {**new, **old}, "everything was carried over"),
    (
        chapter18.carry_over,
        lambda old, new: {n: t for n, t in old.items() if n in new and t.shape == new[n].shape},
        "only what was carried over",
    ),
    (
        chapter18.carry_over,
        lambda old, new: {n: old[n] if n in old and old[n].numel() == t.numel() else t for n, t in new.items()},
        "as many numbers",
    ),
    (chapter18.tile_boxes, tile(0.5), "the limit is 0.3"),
    (chapter18.tile_boxes, tile(0.7), "the limit is 0.3"),
    (chapter18.tile_boxes, tile(what="sides"), "three tenths of each side"),
    (chapter18.tile_boxes, tile(what="negatives"), "far off both ways"),
    (chapter18.tile_boxes, tile(what="exchanged"), "left and top exchanged"),
    (chapter18.tile_boxes, tile(what="tile"), "compared with the tile"),
    (chapter18.split_by_place, lambda c, s, line, gap: (c[:, 1] + s < line - gap, c[:, 1] >= line), "at least a gap"),
    (
        chapter18.split_by_place,
        lambda c, s, line, gap: (c[:, 1] + s <= line - gap, c[:, 1] > line),
        "begins on the line",
    ),
    (chapter18.split_by_place, lambda c, s, line, gap: (split(c, s, line, gap)[0], c[:, 1] >= line + gap), "twice"),
    (chapter18.split_by_place, lambda *a: split(*a)[::-1], "first train, then val"),
    (chapter18.split_by_place, lambda *a: [mask.int() for mask in split(*a)], "pick the first two rows"),
    (chapter19.misread_iou, lambda *a: misread(*a, from_zero=True), "in the picture's corner"),
    (chapter19.first_class_loss, lambda *a: first_loss(*a, what="objects"), "first term"),
    (chapter19.first_class_loss, lambda *a: first_loss(*a, what="n"), "as if it had one"),
    (chapter19.first_class_loss, lambda *a: first_loss(*a, gamma=1), "gamma is 2"),
    (chapter19.names_shift, lambda counts: shift(counts).double(), "whole number"),
    (chapter19.names_shift, lambda counts: shift(counts, inner=False), "leave the last row and column out"),
    (chapter19.names_shift, lambda counts: shift(counts, mean=True), "sum each diagonal"),
    (chapter19.names_shift, lambda counts: shift(counts, range(len(counts) - 1)), "on both sides"),
    (chapter19.names_shift, lambda counts: shift(counts, (-1, 0, 1)), "on both sides"),
    (chapter19.frozen_names, lambda names: torch.tensor([int(n.startswith("model.backbone.")) for n in names]), "bool"),
    (chapter19.blank_padding, lambda values, real: values * real.all(0)[:, None], "blanked in all"),
]


def test_a_tie_among_objects_may_be_broken_either_way() -> None:
    for ious, crowd, limit in chapter15._matchings():
        assert verdicts(ious, crowd, limit) == verdicts(ious, crowd, limit, last=True)
