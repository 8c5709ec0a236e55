"""The order of the data, as a function of seed and step, and a loader that prepares batches in the background.

Which pictures step t sees, and in which random view, depends on the seed and on t alone: not on the number of workers
or processes, nor on how often the run was interrupted. A run that goes on at step t therefore sees what it would have
seen. The batch of all processes is drawn together and then cut, so that two processes with four pictures each train
as one with eight does.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ddetr_lab.data.collate import Collate
from ddetr_lab.data.sampling import SizeBucketSampler, picture_sizes
from ddetr_lab.data.transforms import Transform
from ddetr_lab.data.views import Place, TransformedDataset
from ddetr_lab.training.distributed import ALONE, Processes

__all__ = ["BatchOrder", "training_batches"]


class BatchOrder:
    """Which pictures every step sees.

    Args:
        dataset: any of ``ddetr_lab.data``.
        batch_size: pictures a step, over all processes; the last batch of an epoch may be smaller.
        seed: of the order.
        bucket: put pictures of like size together.
        accumulation: pieces that a process computes its share in.
        processes: the processes that share a batch.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int,
        bucket: bool = False,
        accumulation: int = 1,
        processes: Processes = ALONE,
    ) -> None:
        sizes = picture_sizes(dataset) if bucket else np.ones((len(dataset), 2))
        self._sampler = SizeBucketSampler(sizes, batch_size, seed)
        self._accumulation, self._processes = accumulation, processes
        self._epochs: dict[int, list[list[int]]] = {}  # the loader is an epoch ahead of the loop now and then

    @property
    def steps_of_epoch(self) -> int:
        """How many steps see every picture once."""
        return len(self._sampler)

    def batch(self, step: int) -> list[Place]:
        """Return the places of all pictures of a step, over all processes."""
        epoch, position = divmod(step, self.steps_of_epoch)
        if epoch not in self._epochs:
            self._sampler.set_epoch(epoch)
            for known in list(self._epochs)[:-1]:  # the one before is still asked for; earlier ones are over
                del self._epochs[known]
            self._epochs[epoch] = self._sampler.batches()
        return [(epoch, index) for index in self._epochs[epoch][position]]

    def pieces(self, step: int) -> list[list[Place]]:
        """Return this process's share of a step's batch, in equally many pieces on every process, none empty."""
        places = self.batch(step)
        size = self._processes.size
        if len(places) < size:  # the small rest of an epoch: some pictures come twice, so that no process is left out
            places = [places[number % len(places)] for number in range(size)]
        count = min(self._accumulation, len(places) // size)
        cuts = np.linspace(0, len(places), size * count + 1).astype(int)
        mine = range(self._processes.rank * count, (self._processes.rank + 1) * count)
        return [places[cuts[number] : cuts[number + 1]] for number in mine]

    def state_dict(self, step: int) -> dict[str, int]:
        """Return where the data stand before a step, and what of."""
        epoch, position = divmod(step, self.steps_of_epoch)
        self._sampler.set_epoch(epoch)
        self._sampler.consumed = position
        return self._sampler.state_dict()

    def check(self, state: dict[str, int]) -> None:
        """Hold a state of :meth:`state_dict` against these data.

        Raises:
            ValueError: if it was of other pictures, another batch size or seed.
        """
        self._sampler.load_state_dict(state)


class _Pieces:
    """The pieces of the steps from ``first`` to ``last``, one after the other."""

    def __init__(self, order: BatchOrder, first: int, last: int) -> None:
        self.order, self.first, self.last = order, first, last

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.first, self.last):
            yield from self.order.pieces(step)


def training_batches(
    dataset: Any,
    order: BatchOrder,
    processor: Any,
    transform: Transform,
    seed: int,
    steps: range,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[list[dict[str, Any]]]:
    """Yield each step's batch: this process's share, as a list of pieces.

    Args:
        dataset: any of ``ddetr_lab.data``.
        order: which pictures when.
        processor: from pictures to tensors.
        transform: the random view.
        seed: of the views.
        steps: from the next step to the end of the run.
        workers: processes that work ahead; 0 prepares each batch when it is asked for.
        pin_memory: lay batches where a GPU can fetch them while it computes.
    """
    loader: DataLoader[Any] = DataLoader(
        TransformedDataset(dataset, transform, seed),
        batch_sampler=_Pieces(order, steps.start, steps.stop),
        collate_fn=Collate(processor),
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # or it would draw from the numbers that training draws from
    )
    pieces = iter(loader)
    for step in steps:
        yield [next(pieces) for _ in order.pieces(step)]
