"""Chapter 9: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddetr_lab.checks import CheckError, chapter09
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
Three = tuple[Tensor, Tensor, Tensor]


def good_place(block: Tensor, thread: Tensor, block_size: int, heads: int, channels: int) -> Three:
    number = block * block_size + thread
    return number // (channels // 4) // heads, number // (channels // 4) % heads, number % (channels // 4) * 4


def without_the_block(block: Tensor, thread: Tensor, block_size: int, heads: int, channels: int) -> Three:
    return thread // (channels // 4) // heads, thread // (channels // 4) % heads, thread % (channels // 4) * 4


def blocks_side_by_side(block: Tensor, thread: Tensor, block_size: int, heads: int, channels: int) -> Three:
    return good_place(torch.zeros_like(block), thread * block_size + block, 0, heads, channels)


def lanes_for_channels(*arguments: Any) -> Three:
    query, head, channel = good_place(*arguments)
    return query, head, channel // 4


def one_channel(block: Tensor, thread: Tensor, block_size: int, heads: int, channels: int) -> Three:
    number = block * block_size + thread
    return number // channels // heads, number // channels % heads, number % channels


def heads_first(*arguments: Any) -> Three:
    query, head, channel = good_place(*arguments)
    return head, query, channel


def good_sectors(index: Tensor, size: int) -> Tensor:
    return torch.tensor([len(set((row * size // 32).tolist())) for row in index])


def good_segments(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order = torch.tensor(sorted(range(len(rows)), key=lambda share: int(rows[share])))
    return order, torch.searchsorted(rows[order], torch.arange(count + 1))


def latest_first(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order = sorted(range(len(rows)), key=lambda share: (int(rows[share]), -share))
    return torch.tensor(order), good_segments(rows, count)[1]


def inverse(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order, starts = good_segments(rows, count)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places, starts


def without_empty_rows(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order, starts = good_segments(rows, count)
    return order, starts.unique()


def sums(broken: Answer) -> Answer:
    """Make an answer to ``block_sums`` from what it leaves of one block's values (warps, 32), given a dice."""

    def answer(values: Tensor, block: int, seed: int) -> Tensor:
        dice = random.Random(seed)
        return torch.stack([broken(one, dice).sum() for one in values.view(-1, block // 32, 32)])

    return answer


def whoever_was_in_time(warps: Tensor, dice: random.Random) -> Tensor:
    others = [warp for warp in warps[1:] if dice.random() < 0.5]
    return torch.stack([warps[0], *others])


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter09.place, good_place),
    (chapter09.sectors, good_sectors),
    (chapter09.segments, good_segments),
    (chapter09.block_sums, sums(lambda warps, dice: warps)),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter09.place, without_the_block, "block plays no part"),
    (chapter09.place, blocks_side_by_side, "block and thread are exchanged"),
    (chapter09.place, lanes_for_channels, "counts threads"),
    (chapter09.place, one_channel, "shall have four"),
    (chapter09.place, heads_first, "query and head are exchanged"),
    (chapter09.sectors, lambda i, size: torch.tensor([len(set((r * size // 128).tolist())) for r in i]), "128 bytes"),
    (chapter09.sectors, lambda i, size: torch.tensor([len(set((r // 32).tolist())) for r in i]), "counts elements"),
    (chapter09.sectors, lambda i, size: torch.tensor([size] * len(i)), "side by side"),
    (chapter09.sectors, lambda i, size: torch.tensor([len(r.unique()) for r in i]), "distinct elements"),
    (
        chapter09.sectors,
        lambda i, size: torch.tensor([len(range(min(r * size) // 32, max(r * size) // 32 + 1)) for r in i]),
        "no lane reads",
    ),
    (chapter09.segments, latest_first, "changed places"),
    (chapter09.segments, inverse, "the inverse"),
    (chapter09.segments, without_empty_rows, "moved up"),
    (chapter09.segments, lambda r, n: (good_segments(r, n)[0], good_segments(r, n)[1].diff()), "lengths"),
    (chapter09.segments, lambda r, n: (good_segments(r, n)[0], good_segments(r, n)[1][1:]), "the ends"),
    (chapter09.segments, lambda r, n: (good_segments(r, n)[0], good_segments(r, n)[1][:-1]), "needs an end"),
    (chapter09.block_sums, sums(whoever_was_in_time), "belongs a barrier"),
    (chapter09.block_sums, sums(lambda warps, dice: warps[:1]), "only the first warp"),
    (chapter09.block_sums, sums(lambda warps, dice: warps[:, :1]), "first lane"),
    (chapter09.block_sums, sums(lambda warps, dice: warps[:, ::2]), "last step"),
    (chapter09.block_sums, sums(lambda warps, dice: 32 * warps), "32 times"),
]


def test_a_sum_that_is_right_for_one_order_of_warps_is_not_enough() -> None:
    lucky_once = sums(lambda warps, dice: warps)

    def answer(values: Tensor, block: int, seed: int) -> Tensor:
        return lucky_once(values, block, seed) if seed < 11 else sums(whoever_was_in_time)(values, block, seed)

    with pytest.raises(CheckError, match="seed = 11"):
        chapter09.block_sums(answer)


def counting_segments(rows: Tensor, count: int) -> list[Tensor]:
    order = torch.cat([(rows == row).nonzero()[:, 0] for row in range(count)])
    return [order.int(), torch.tensor([int((rows < row).sum()) for row in range(count + 1)], dtype=torch.int32)]


def heads_run_fastest(block: Tensor, thread: Tensor, block_size: int, heads: int, channels: int) -> Three:
    number = block * block_size + thread
    return number // heads // (channels // 4), number % heads, number // heads % (channels // 4) * 4


RIGHT += [
    (chapter09.segments, counting_segments),
    (
        chapter09.block_sums,
        lambda values, block, seed: torch.stack([part.double().sum() for part in values.split(block)]),
    ),
]

WRONG += [
    (chapter09.place, heads_run_fastest, "heads run fastest here"),
    (chapter09.place, lambda b, t, size, m, d: good_place(b, t, 32, m, d), "its size is an argument"),
    (chapter09.sectors, lambda i, size: good_sectors(i, 4), "the size is an argument"),
    (chapter09.sectors, lambda i, size: 1 + ((i * size // 32).diff(dim=1) != 0).sum(1), "Sort first"),
    (chapter09.segments, lambda rows, n: (rows.sort().values, good_segments(rows, n)[1]), "these are the sorted rows"),
    (chapter09.block_sums, lambda v, block, seed: v.view(-1, block // 32, 32)[:, :4].sum((1, 2)), "t.size // 32"),
]
