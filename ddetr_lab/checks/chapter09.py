"""The checks of chapter 9: a thread's place, a warp's memory traffic, a fixed order of sums, and a barrier.

Built in chapter 9.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.checks.core import (
    Answer,
    CheckError,
    Mistake,
    Passed,
    call,
    check_function,
    compare,
    describe,
    generator,
    random_integer,
    same,
)

__all__ = ["block_sums", "place", "sectors", "segments"]

_WARP, _SECTOR, _LINE = 32, 32, 128  # lanes of a warp; bytes of a sector and of a line


def place(answer: Answer) -> Passed:
    """Check a function from numbers of blocks and threads (n,) to queries, heads and first channels, each (n,).

    A thread has four neighbouring channels; channels run fastest, then heads, then queries.
    """

    def split(number: Tensor, threads: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        pair = number // threads
        return pair // heads, pair % heads, number % threads

    def reference(
        block: Tensor, thread: Tensor, block_size: int, heads: int, channels: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, head, lane = split(block * block_size + thread, channels // 4, heads)
        return query, head, 4 * lane

    def exchanged(*arguments: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        query, head, channel = reference(*arguments)  # type: ignore[arg-type]
        return head, query, channel

    def heads_fastest(block: Tensor, thread: Tensor, size: int, heads: int, channels: int) -> tuple[Tensor, ...]:
        number = block * size + thread
        return number // heads // (channels // 4), number % heads, 4 * (number // heads % (channels // 4))

    mistakes = [
        Mistake(heads_fastest, "heads run fastest here: channels do, then heads, then queries."),
        Mistake(
            lambda b, t, size, m, d: reference(b, t, _WARP, m, d),
            "a block was taken to have 32 threads, those of a warp: its size is an argument.",
        ),
        Mistake(
            lambda b, t, size, m, d: (*split(b * size + t, d, m)[:2], (b * size + t) % d // 4 * 4),
            "neighbouring threads have the same four channels here: each has four of its own, so only channels // 4 "
            "threads share a query and head.",
        ),
        Mistake(
            lambda b, t, size, m, d: reference(torch.zeros_like(b), t, size, m, d),
            "the block plays no part: thread 0 of block 1 does the work of thread 0 of block 0. A thread's own number "
            "is block * block_size + thread.",
        ),
        Mistake(
            lambda b, t, size, m, d: reference(t, b, size, m, d),
            "block and thread are exchanged: the threads of one block are numbered one after the other.",
        ),
        Mistake(
            lambda b, t, size, m, d: split(b * size + t, d // 4, m),
            "the channel counts threads, not channels: a thread has four of them, so its first is 4 * lane.",
        ),
        Mistake(
            lambda b, t, size, m, d: split(b * size + t, d, m),
            "a thread has one channel here. It shall have four, so only channels // 4 threads share a query and head.",
        ),
        Mistake(
            exchanged,
            "query and head are exchanged: the pair's number is query * heads + head, so the head is the remainder.",
        ),
    ]
    rng = generator(91)
    cases = []
    for _ in range(6):
        heads, channels = random_integer(rng, 2, 9), 4 * random_integer(rng, 2, 9)
        block_size = _WARP * random_integer(rng, 2, 4)
        block = torch.randint(0, 50, (40,), generator=rng)
        thread = torch.randint(0, block_size, (40,), generator=rng)
        cases.append((block, thread, block_size, heads, channels))
    return check_function(answer, reference, cases, mistakes, name="place", parts=("query", "head", "channel"))


def sectors(answer: Answer) -> Passed:
    """Check a function from the first elements (n, 32) that n warps' lanes read to the sectors (n,) they touch.

    Every lane reads one element of ``size`` bytes (4, 8 or 16), aligned to its size.
    """

    def distinct(units: Tensor) -> Tensor:
        units = units.sort(dim=1).values
        return 1 + (units.diff(dim=1) != 0).sum(1)

    def reference(index: Tensor, size: int) -> Tensor:
        return distinct(index * size // _SECTOR)

    mistakes = [
        Mistake(lambda i, size: distinct(i * size // _LINE), "these are lines of 128 bytes; a sector has 32."),
        Mistake(
            lambda i, size: distinct(i // _SECTOR),
            "the index counts elements, a sector bytes: multiply by the size first.",
        ),
        Mistake(
            lambda i, size: torch.full((len(i),), _WARP * size // _SECTOR),
            "the bytes asked for, divided by 32: right only if the lanes read side by side, starting on a sector.",
        ),
        Mistake(
            lambda i, size: (i.amax(1) * size // _SECTOR) - (i.amin(1) * size // _SECTOR) + 1,
            "everything from the first to the last sector is counted, also the sectors between that no lane reads.",
        ),
        Mistake(
            lambda i, size: distinct(i),
            "these are distinct elements. Several of them may share one sector, which is fetched once.",
        ),
        Mistake(
            lambda i, size: distinct(i * 4 // _SECTOR),
            "elements were taken to have 4 bytes: the size is an argument.",
        ),
        Mistake(
            lambda i, size: 1 + ((i * size // _SECTOR).diff(dim=1) != 0).sum(1),
            "each change from one lane to the next was counted: a sector that comes again later counts once. Sort "
            "first, or collect them in a set.",
        ),
        Mistake(
            lambda i, size: (distinct(i) * size + _SECTOR - 1) // _SECTOR,
            "the bytes of the distinct elements, divided by 32: right only if they lie side by side, starting on a "
            "sector.",
        ),
    ]
    rng = generator(92)
    lanes = torch.arange(_WARP)
    cases = []
    for size in (8, 4, 16, 8, 4, 16):  # 8 first: with 4, lines and elements look alike
        start = random_integer(rng, 1, 7)
        patterns = (
            start + lanes,  # side by side, not starting on a sector
            start + random_integer(rng, 2, 9) * lanes,  # a stride
            torch.randint(0, 4000, (_WARP,), generator=rng),  # scattered
            torch.full((_WARP,), start),  # all the same
            torch.randint(0, 4000, (4,), generator=rng).repeat_interleave(8) + lanes % 8,  # four pieces
        )
        cases.append((torch.stack(patterns), size))
    return check_function(answer, reference, cases, mistakes, name="sectors")


def segments(answer: Answer) -> Passed:
    """Check a function from the rows (n,) that shares belong to, to an order (n,) and the rows' starts (count + 1,).

    The order sorts shares by row and leaves those of one row as they came; row r has order[starts[r]:starts[r + 1]].
    """

    def reference(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return rows.argsort(stable=True), counted(rows, count)

    def counted(rows: Tensor, count: int) -> Tensor:
        return torch.cat((torch.zeros(1, dtype=torch.long), torch.bincount(rows, minlength=count).cumsum(0)))

    def with_starts(starts: Answer) -> Answer:
        return lambda rows, count: (rows.argsort(stable=True), starts(rows, count))

    def occupied(rows: Tensor, count: int) -> Tensor:
        lengths = rows.sort().values.unique_consecutive(return_counts=True)[1]
        return torch.cat((torch.zeros(1, dtype=torch.long), lengths.cumsum(0)))

    def backwards(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return len(rows) - 1 - rows.flip(0).argsort(stable=True), counted(rows, count)

    def ranks(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return rows.argsort(stable=True).argsort(), counted(rows, count)

    mistakes = [
        Mistake(
            backwards,
            "shares of one row have changed places. Sums depend on their order, so it must be kept: sort with "
            "stable=True.",
        ),
        Mistake(
            ranks,
            "order[j] shall be the share that comes j-th; this is the place at which share j comes, the inverse.",
        ),
        Mistake(
            with_starts(lambda rows, count: torch.bincount(rows, minlength=count)),
            "these are the lengths of the segments. A start is the sum of all lengths before it.",
        ),
        Mistake(
            with_starts(lambda rows, count: counted(rows, count)[1:]),
            "these are the ends: row 0 starts at 0, and count rows need count + 1 numbers.",
        ),
        Mistake(
            with_starts(lambda rows, count: counted(rows, count)[:-1]),
            "the last number is missing: the last row needs an end, too.",
        ),
        Mistake(
            lambda rows, count: (rows.sort().values, counted(rows, count)),
            "these are the sorted rows: order holds the numbers of the shares, so that rows[order] is sorted.",
        ),
        Mistake(
            with_starts(lambda rows, count: F.pad(torch.bincount(rows, minlength=count), (1, 0))),
            "these are the lengths, after a 0. A start is the sum of all lengths before it.",
        ),
        Mistake(
            with_starts(
                lambda rows, count: torch.searchsorted(rows.sort().values, torch.arange(count + 1), right=True)
            ),
            "these are the ends of the rows: row r starts where the first share of row r or later stands.",
        ),
        Mistake(
            with_starts(lambda rows, count: F.pad(torch.bincount(rows).cumsum(0), (1, 0))),
            "the rows behind the last one that has shares are missing: count says how many there are.",
        ),
        Mistake(
            with_starts(occupied),
            "rows that nobody shares in have dropped out, and all later rows have moved up. An empty row has an empty "
            "segment.",
        ),
    ]
    rng = generator(93)
    cases = []
    for _ in range(6):
        count = random_integer(rng, 6, 12)
        rows = torch.randint(0, count - 1, (random_integer(rng, 20, 40),), generator=rng)
        rows[rows == 2] = 3  # row 2 stays empty, and so does the last one
        cases.append((rows, count))
    return check_function(answer, reference, cases, mistakes, name="segments", parts=("order", "starts"))


def block_sums(answer: Answer) -> Passed:
    """Check a function that sums values (n * block,) block by block (n,), whichever warp comes first.

    The seed decides in which order the warps take turns, so the result must be right for each of them.
    """

    def reference(values: Tensor, block: int, seed: int) -> Tensor:
        return values.view(-1, block).sum(1)

    rng = generator(94)
    for seed in range(12):
        block = _WARP * random_integer(rng, 2, 5)
        values = torch.rand(4 * block, generator=rng) + 0.5
        arguments = (values, block, seed)
        got = call(answer, arguments, "block_sums", reference)
        expected = reference(*arguments)
        try:
            compare(got, expected, f"block_sums is wrong for {describe(reference, arguments)}")
        except CheckError as error:
            hint = _barrier_hint(got, values.view(-1, block // _WARP, _WARP))
            raise CheckError(error.problem, hint or error.hint) from None
    return Passed("block_sums: correct on 12 random inputs.")


def _barrier_hint(got: Tensor, lanes: Tensor) -> str | None:
    """Explain wrong sums (n,) of values (n, warps, 32) by what must have been left out."""
    partial = lanes.sum(-1)  # (n, warps)
    if same(got, partial[:, 0]):
        return (
            "only the first warp's sum has arrived. Does thread 0 read the others', and only after all warps have "
            "passed a barrier?"
        )
    for warps in range(2, partial.shape[1]):
        if same(got, partial[:, :warps].sum(1)):
            return (
                f"only the first {warps} of {partial.shape[1]} warps were added up, in every block: a block has as "
                "many warps as t.size // 32 says."
            )
    if same(got, lanes[:, :, 0].sum(1)):
        return "the lanes of a warp are not added up: each warp gave the value of its first lane."
    if same(got, lanes[:, :, ::2].sum((1, 2))):
        return "every other value is missing: the reduction's last step, with the neighbour, did not happen."
    if isinstance(got, Tensor) and got.shape == partial.shape[:1] and _some_warps_only(got, partial):
        return (
            "in some blocks a warp's sum is missing: thread 0 has read shared memory before that warp has written to "
            "it. Between writing and reading belongs a barrier, which all threads of the block reach."
        )
    return None


def _some_warps_only(got: Tensor, partial: Tensor) -> bool:
    """Whether every entry of got (n,) is the sum of some of its row's entries (n, warps), the rest still zero."""
    warps = range(partial.shape[1])
    chosen = [list(some) for count in range(len(warps) + 1) for some in combinations(warps, count)]
    possible = torch.stack([partial[:, some].sum(1) for some in chosen], dim=1)  # (n, 2 ** warps)
    return bool(torch.isclose(got[:, None].to(possible.dtype), possible, rtol=1e-5).any(1).all())
