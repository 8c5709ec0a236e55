"""A moving average of the weights: smoother than the last ones, and often a little better.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """Keep ``average = decay * average + (1 - decay) * weight`` of every trained parameter.

    Early on the average would be mostly the first weights, so the decay rises with the number of updates n, as
    min(decay, (1 + n) / (10 + n)).

    Args:
        model: whose parameters to follow.
        decay: 0 to below 1; at 0.999 an average looks back over about a thousand steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._followed = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._followed.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.values.values()), [*self._followed.values()], 1 - decay)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averaged weights inside a ``with`` block, and its own ones again afterwards."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchange the model's weights for the average, and the other way round."""
        for name, parameter in self._followed.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
