"""A dataset seen through a random transform, in which every view can be had again.

Exact resume needs that a picture becomes the same again whatever happened before: the random numbers of item ``i`` in
epoch ``e`` are drawn from a generator that depends on ``(seed, e, i)`` and on nothing else. Neither the number of
workers, nor the order of the pictures, nor a restart changes them.

Built in chapter 18.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ddetr_lab.data.transforms import Transform

__all__ = ["TransformedDataset", "item_generator"]

Item = tuple[Image.Image, dict[str, Any]]


class TransformedDataset(Dataset[Item]):
    """A dataset seen through a transform: item ``i`` of epoch ``e`` is a function of ``(seed, e, i)`` alone.

    Everything else (``categories``, ``label_map``, ``coco_ground_truth`` ...) is the dataset's own.

    Args:
        dataset: any of ``ddetr_lab.data``.
        transform: see :func:`training_transform`.
        seed: other seeds see other views.

    Built in chapter 18.
    """

    def __init__(self, dataset: Any, transform: Transform, seed: int = 0) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        # In shared memory: workers that a DataLoader keeps from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __repr__(self) -> str:
        return f"TransformedDataset({self.dataset!r}, {self.transform!r}, seed={self.seed})"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "dataset":  # what unpickling asks for before there is a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def set_epoch(self, epoch: int) -> None:
        """Show the views of another epoch from now on."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Item:
        place = index % len(self) if -len(self) <= index < len(self) else index
        return self.transform(self.dataset[place], item_generator(self.seed, int(self._epoch), place))


def item_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Return the generator of one item in one epoch: unrelated ones for neighbouring items, epochs and seeds."""
    (state,) = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) % 2**63)
