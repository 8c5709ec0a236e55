"""The moving average: its recursion, its slow start, and the exchange with the model's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddetr_lab.training.ema import MovingAverage


def test_it_follows_the_recursion():
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = MovingAverage(model, 0.6)
    assert set(average.values) == {"weight"}
    expected = model.weight.detach().clone()
    for number in range(12):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update()
        decay = min(0.6, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.values["weight"], expected)


def test_the_model_has_the_average_inside_the_block_and_its_own_weights_after_it():
    model = nn.Linear(3, 2)
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
    own, averaged = model.weight.detach().clone(), average.values["weight"].clone()
    with pytest.raises(RuntimeError, match="boom"), average.in_place():
        assert torch.equal(model.weight, averaged)
        raise RuntimeError("boom")
    assert torch.equal(model.weight, own)
    assert torch.equal(average.values["weight"], averaged)
