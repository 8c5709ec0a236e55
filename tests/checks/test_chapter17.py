"""Chapter 17: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter17
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def costs(pairs: int = 2, numbers: int = 3, corners: int = 5, projections: int = 2, by_head: int = 0) -> Answer:
    """Make a count with another number of passes over pairs, predictions a point, reads a sample, or projections."""

    def answer(cells: int, channels: int, heads: int, points: int) -> Tensor:
        dense = 4 * cells * channels**2 + pairs * cells**2 * channels * (heads if by_head == 1 else 1)
        sampling = corners * cells * points * channels * (heads if by_head == 2 else 1)
        predictions = numbers * cells * channels * heads * points
        return torch.tensor([dense, projections * cells * channels**2 + predictions + sampling])

    return answer


def slopes(change: Answer) -> Answer:
    """Make slopes from the weights, the values' and the output's products with the loss's slope."""

    def answer(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        p = torch.exp(logits - logits.logsumexp(0))
        result: Tensor = change(p, values @ slope, (p[:, None] * values).sum(0) @ slope)
        return result

    return answer


def crossing(never: Answer, between: bool = True, last: bool = False) -> Answer:
    """Make a reader of curves with another answer where there is none, another place, or another time."""

    def answer(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        s, y = steps.tolist(), scores.tolist()
        ups = [i for i in range(len(y)) if y[i] >= level and (i == 0 or y[i - 1] < level)]
        if not ups:
            return torch.tensor(float(never(s)), dtype=torch.float64)
        i = ups[-1] if last else ups[0]
        if i == 0 or not between:
            return torch.tensor(s[i], dtype=torch.float64)
        return torch.tensor(s[i - 1] + (level - y[i - 1]) / (y[i] - y[i - 1]) * (s[i] - s[i - 1]), dtype=torch.float64)

    return answer


def never(steps: list[float]) -> float:
    return math.inf


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter17.attention_cost, costs()),
    (chapter17.logit_slopes, slopes(lambda p, each, output: p * (each - output))),
    (chapter17.steps_to_reach, crossing(never)),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter17.attention_cost, costs(pairs=0), "every cell does with every other"),
    (chapter17.attention_cost, costs(pairs=1), "all pairs of cells twice"),
    (chapter17.attention_cost, costs(by_head=1), "a head has only"),
    (chapter17.attention_cost, costs(numbers=2), "the weight is a third"),
    (chapter17.attention_cost, costs(corners=1), "four corners"),
    (chapter17.attention_cost, costs(projections=4), "neither queries nor keys"),
    (chapter17.attention_cost, costs(by_head=2), "samples its own channels"),
    (chapter17.attention_cost, lambda s, c, m, k: costs()(s, c, m, k).flip(0), "exchanged"),
    (chapter17.logit_slopes, slopes(lambda p, each, output: p * each), "the output is missing"),
    (chapter17.logit_slopes, slopes(lambda p, each, output: each - output), "weight p is missing"),
    (chapter17.logit_slopes, slopes(lambda p, each, output: p * (each - each.mean())), "weighted by p"),
    (chapter17.logit_slopes, slopes(lambda p, each, output: p * (1 - p) * each), "own weight"),
    (chapter17.logit_slopes, slopes(lambda p, each, output: (each - output) / len(p)), "divided by N"),
    (chapter17.logit_slopes, slopes(lambda p, each, output: p * (output - each)), "sign is turned"),
    (chapter17.steps_to_reach, crossing(lambda s: s[0], between=False), "between two of them"),
    (chapter17.steps_to_reach, crossing(lambda s: s[0]), "argmax of all False"),
    (chapter17.steps_to_reach, crossing(never, between=False), "between two of them"),
    (chapter17.steps_to_reach, crossing(never, last=True), "the last crossing"),
    (chapter17.steps_to_reach, crossing(lambda s: s[-1]), "its last step"),
]
