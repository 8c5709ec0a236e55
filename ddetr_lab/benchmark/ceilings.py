"""How far a case is from the machine's limits: bytes and operations counted, both ceilings measured.

Used in chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ddetr_lab.benchmark.machine import last_level_cache
from ddetr_lab.benchmark.report import Work
from ddetr_lab.benchmark.timing import Contender, measure

__all__ = ["CEILINGS", "count_network_work", "count_work", "measure_ceilings", "shares"]

# Key in a report: (what it is, unit, factor from the unit to the stored number)
CEILINGS = {
    "memory_bytes_per_second": ("memory bandwidth", "GB/s", 1e9),
    "cache_bytes_per_second": ("cache bandwidth", "GB/s", 1e9),
    "flops_per_second": ("multiply-add rate", "GFLOP/s", 1e9),
}

FLOAT32 = 4
CORNERS = 4
UNKNOWN_CACHE = 32 * 2**20
MOST_BYTES = 2**28  # of one array, so that a server's caches do not ask for all of a laptop's memory
GEMM_SIDE = 1024


def measure_ceilings(rounds: int, device: str = "cpu", scale: float = 1.0) -> dict[str, float]:
    """Measure what the machine can do at best, with PyTorch's own copy, triad and matrix product in float32.

    Bandwidth is the better of a copy (2 arrays) and a triad ``a = b + s * c`` (3 arrays): over arrays of four times
    the last-level cache each, and over three arrays that fill half of it together. What a store reads before it
    writes is not counted, as is the custom. The multiply-add rate is that of a product of two square matrices.

    Args:
        rounds: samples of each; the best counts, since a ceiling is what can be reached.
        device: a CPU or a GPU.
        scale: of all sizes, for a quick look.

    Returns:
        Numbers by the keys of ``CEILINGS``.
    """
    cache = (last_level_cache() or UNKNOWN_CACHE) if torch.device(device).type == "cpu" else _gpu_cache(device)
    outside = min(MOST_BYTES, int(4 * cache * scale))
    inside = int(cache / 6 * scale)
    side = max(16, int(GEMM_SIDE * scale))
    left, right = (torch.rand(side, side, device=device) for _ in range(2))
    product = Contender("product", lambda: torch.mm(left, right))
    (samples,) = measure([product], rounds, device).values()
    return {
        "memory_bytes_per_second": _bandwidth(outside, rounds, device),
        "cache_bytes_per_second": _bandwidth(inside, rounds, device),
        "flops_per_second": 2 * side**3 / min(samples.seconds),
    }


def _bandwidth(size: int, rounds: int, device: str) -> float:
    """Return bytes a second of the better of a copy and a triad over arrays of ``size`` bytes each."""
    target, one, two = (torch.ones(max(1, size // FLOAT32), device=device) for _ in range(3))
    moved = target.nbytes
    runs = [
        Contender("copy", lambda: target.copy_(one)),
        Contender("triad", lambda: torch.add(one, two, alpha=3.0, out=target)),
    ]
    samples = measure(runs, rounds, device)
    return max(2 * moved / min(samples["copy"].seconds), 3 * moved / min(samples["triad"].seconds))


def _gpu_cache(device: str) -> int:
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", UNKNOWN_CACHE))


def count_work(
    batch: int,
    tokens: int,
    queries: int,
    heads: int,
    channels: int,
    samples: int,
    element: int = FLOAT32,
    backward: bool = False,
) -> Work:
    """Count what deformable attention has to move and to compute.

    Forward, each sample of each head reads 4 corners of D channels and adds them up with 4 weights: 8 D operations, if
    bilinear and attention weights are multiplied once for all channels. Backward it reads the corners again, multiplies
    them with the upstream gradient (8 D operations), and adds to the gradient of the 4 corners (8 D operations, and
    the corners read and written).

    Args:
        batch: B.
        tokens: S.
        queries: Q.
        heads: M.
        channels: D.
        samples: L * P, samples of a head.
        element: bytes of an entry of ``value``.
        backward: count forward and backward together.
    """
    value, output = (batch * rows * heads * channels * element for rows in (tokens, queries))
    points = batch * queries * heads * samples
    chosen = points * (2 * FLOAT32 + element)  # locations and weights
    corners = points * CORNERS * channels
    memory = value + chosen + output
    if not backward:
        return Work(memory, corners * element, 2 * corners)
    # The upstream gradient is read, value, locations and weights once more, and their gradients are written.
    memory += output + 2 * (value + chosen)
    return Work(memory, corners * element * (1 + 1 + 2), 2 * corners * 3)


def count_network_work(call: Callable[[], Any]) -> Work:
    """Count the operations of a network's matrix products and convolutions, with PyTorch's own counter.

    All else that a detector does, deformable attention included, comes to some percent of them. Bytes are not counted:
    how often a map must go through memory is a matter of how layers are fused.

    Args:
        call: one forward pass, or one training step; it runs once.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return Work(flops=counter.get_total_flops())


def shares(work: Work, seconds: float, ceilings: dict[str, float]) -> dict[str, float]:
    """Return which share of each ceiling a time reaches: 1 would be the ceiling itself.

    Returns:
        Shares by the keys of ``CEILINGS``, of what was counted. That of the cache can exceed 1: neighbouring queries
        share corners, which then come from a cache closer than the one that was measured.
    """
    amounts = {
        "memory_bytes_per_second": work.memory_bytes,
        "cache_bytes_per_second": work.gathered_bytes,
        "flops_per_second": work.flops,
    }
    return {key: amounts[key] / seconds / ceilings[key] for key in CEILINGS if amounts[key] and ceilings.get(key)}
