"""Ceilings: counts by hand for one small case, and shares of what was measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddetr_lab.benchmark.ceilings import CEILINGS, count_network_work, count_work, measure_ceilings, shares
from ddetr_lab.benchmark.report import Work

# 5 tokens, 3 queries, 2 heads of 4 channels, 6 samples a head, float32.
SMALL = {"batch": 1, "tokens": 5, "queries": 3, "heads": 2, "channels": 4, "samples": 6}


def test_forward_work_is_what_a_hand_counts() -> None:
    value, output, points = 5 * 2 * 4 * 4, 3 * 2 * 4 * 4, 3 * 2 * 6
    work = count_work(**SMALL)
    assert work.memory_bytes == value + output + points * (8 + 4)
    assert work.gathered_bytes == points * 4 * 4 * 4  # 4 corners of 4 channels of 4 bytes
    assert work.flops == points * 4 * 4 * 2


def test_backward_reads_again_and_writes_gradients() -> None:
    forward, both = count_work(**SMALL), count_work(**SMALL, backward=True)
    output = 3 * 2 * 4 * 4
    inputs = forward.memory_bytes - output
    assert both.memory_bytes == forward.memory_bytes + output + 2 * inputs
    assert both.gathered_bytes == 4 * forward.gathered_bytes
    assert both.flops == 3 * forward.flops


def test_half_precision_halves_values_but_not_locations() -> None:
    points = 3 * 2 * 6
    assert count_work(**SMALL, element=2).memory_bytes == (5 + 3) * 2 * 4 * 2 + points * (8 + 2)


def test_a_network_s_work_is_its_products_and_convolutions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 6, 7))
    picture = torch.rand(2, 3, 5, 6)
    convolution, product = 2 * 2 * (5 * 6 * 4) * (3 * 3 * 3), 2 * 2 * (4 * 5 * 6) * 7
    with torch.no_grad():
        assert count_network_work(lambda: network(picture)) == Work(flops=convolution + product)
    # Backward, weights and inputs have their gradients; the picture needs none.
    step = count_network_work(lambda: network(picture).sum().backward())
    assert step.flops == 2 * convolution + 3 * product


def test_shares_are_amounts_over_time_over_ceiling() -> None:
    ceilings = {"memory_bytes_per_second": 1e9, "cache_bytes_per_second": 1e10, "flops_per_second": 1e10}
    found = shares(Work(memory_bytes=10**6, gathered_bytes=10**8, flops=10**7), 0.01, ceilings)
    assert found == pytest.approx(
        {"memory_bytes_per_second": 0.1, "cache_bytes_per_second": 1.0, "flops_per_second": 0.1}
    )
    assert shares(Work(1, 1, 1), 0.01, {}) == {}
    assert shares(Work(flops=10**7), 0.01, ceilings) == pytest.approx({"flops_per_second": 0.1})  # of what was counted


def test_ceilings_are_measured_in_one_go() -> None:
    found = measure_ceilings(rounds=1, scale=1 / 256)
    assert set(found) == set(CEILINGS)
    assert all(number > 0 for number in found.values())
