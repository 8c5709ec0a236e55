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

__all__ = ["Place", "TransformedDataset", "item_generator"]

Item = tuple[Image.Image, dict[str, Any]]
Place = tuple[int, int]  # (epoch, index)


class TransformedDataset(Dataset[Item]):
    """A dataset seen through a transform: the view of ``(epoch, index)`` is a function of the seed and the two.

    A plain index is taken to mean epoch 0. Everything else (``categories``, ``label_map``, ``coco_ground_truth`` ...)
    is the dataset's own, of its pictures as they are.

    Args:
        dataset: any of ``ddetr_lab.data``.
        transform: see ``training_transform``.
        seed: other seeds see other views.

    Built in chapter 18.
    """

    def __init__(self, dataset: Any, transform: Transform, seed: int = 0) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __repr__(self) -> str:
        return f"TransformedDataset({self.dataset!r}, {self.transform!r}, seed={self.seed})"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "dataset":  # what unpickling asks for before there is a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, place: int | Place) -> Item:
        epoch, index = (0, place) if isinstance(place, int) else place
        index = index + len(self) if -len(self) <= index < 0 else index
        return self.transform(self.dataset[index], item_generator(self.seed, epoch, index))


def item_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """Return the generator of one item in one epoch: unrelated ones for neighbouring items, epochs and seeds."""
    (state,) = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) % 2**63)
