"""Many processes, one training: what they agree on, over PyTorch's process groups.

``torchrun`` starts the same program several times and tells each which it is. Alone, everything here is trivial, so
that there is one loop for a laptop and for many machines.

Built in chapter 16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ddetr_lab.evaluation_ranks import Ranks

__all__ = ["ALONE", "Processes", "process_group"]

_Result = TypeVar("_Result")


class Processes(Ranks):
    """The processes that train together, and which of them this is."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def on_first(self, call: Callable[[], _Result]) -> _Result:
        """Run a function on the first process alone and return its result on all; an error of it is raised on all.

        So that one process does not wait for ever for another that has failed.
        """
        if self.size == 1:
            return call()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = call()
            except (ValueError, TypeError, KeyError, OSError, ImportError, FloatingPointError) as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def gather(self, value: _Result) -> list[_Result]:
        """Return every process's value, in the order of ranks, on all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def largest(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return each number's largest value over the processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average a tensor over the processes; the result is a new one."""
        tensor = tensor.clone()
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor


ALONE = Processes()


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that ``torchrun`` started, or a group that is there already; without either, train alone.

    Args:
        device: "cuda" becomes the GPU of this process's local rank.

    Yields:
        The processes, and this one's device.
    """
    joins = "TORCHELASTIC_RUN_ID" in os.environ and dist.is_available() and not dist.is_initialized()
    if joins:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
    try:
        yield Processes.present(), device
    finally:
        if joins:
            dist.destroy_process_group()
