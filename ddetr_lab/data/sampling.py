"""Batches of pictures of like size, in an order that can be taken up again, shared out over ranks.

A batch is padded to its widest and its tallest picture, and the padding costs as much as pixels do. Batches drawn at
random from photographs of mixed shapes are padding to a quarter or more; batches of like shapes hardly at all.
``padding_waste`` measures it.

The order of an epoch is a function of ``(seed, epoch)`` alone, so a run that stopped after so many batches goes on with
the very next one. What counts is the batches that training has *consumed*: the workers of a ``DataLoader`` fetch ahead,
so the sampler cannot know, and the training loop counts for it with ``advance``.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

__all__ = ["SizeBucketSampler", "padding_waste", "picture_sizes"]

# Pictures are sorted within pools of so many batches: large enough for close fits, small enough that an epoch's
# batches hold other neighbours than the last one's.
_POOL_BATCHES = 32


class SizeBucketSampler(Sampler[list[int]]):
    """Give lists of indices: each epoch every picture once, pictures of like width and height together.

    A global batch holds ``batch_size * world_size`` pictures of like size, of which each rank takes its share: the
    ranks have equally many batches, of equal length, and about equal work. The last batch of an epoch may be shorter;
    so that it is equally short on every rank, at most ``world_size - 1`` pictures come twice.

    Args:
        sizes: (N, 2) width and height of each picture, in any unit; see :func:`picture_sizes`.
        batch_size: pictures a rank and batch.
        seed: of the order.
        rank: of this process, 0 to world_size - 1.
        world_size: how many processes train together.
        shuffle: False keeps the same batches in every epoch, smallest pictures first: for evaluation.

    Raises:
        ValueError: if an argument is out of range.

    Built in chapter 16.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]] | NDArray[Any],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        listed = np.asarray(sizes, dtype=np.float64)
        if listed.ndim != 2 or listed.shape[1] != 2 or len(listed) == 0 or not (listed > 0).all():
            raise ValueError(
                f"sizes has shape {listed.shape}: expected (N, 2), N at least 1, the width and height of each picture, "
                "all above 0"
            )
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("world_size", world_size, 1)):
            if value < least:
                raise ValueError(f"{name} = {value}, expected at least {least}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank = {rank}, expected 0 to {world_size - 1}: there are {world_size} ranks")
        # Ratios of sides make padding, so that distances are taken between logarithms.
        self._log_sizes = np.log(listed)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.epoch = 0
        self.consumed = 0  # batches of this epoch that training has had

    def __len__(self) -> int:
        """Count the batches of a whole epoch; the same on every rank."""
        return -(-len(self._log_sizes) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        """Give the batches of this epoch that have not been consumed yet."""
        yield from self.batches()[self.consumed :]

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.epoch = epoch
        self.consumed = 0

    def advance(self) -> None:
        """Count one more batch as consumed; after an epoch's last one the next epoch begins."""
        self.consumed += 1
        if self.consumed >= len(self):
            self.set_epoch(self.epoch + 1)

    def batches(self) -> list[list[int]]:
        """Return all of this rank's batches of this epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        count = len(self._log_sizes)
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        leaf = self.batch_size * self.world_size
        order, rest = order[: count - count % leaf], order[count - count % leaf :]
        pool = leaf * _POOL_BATCHES if self.shuffle else max(len(order), 1)
        found = [
            part for start in range(0, len(order), pool) for part in self._alike(order[start : start + pool], leaf)
        ]
        if self.shuffle:
            found = [found[place] for place in rng.permutation(len(found))]
        if len(rest):
            found.append(np.resize(np.concatenate([rest, order]), -(-len(rest) // self.world_size) * self.world_size))
        shares = [len(batch) // self.world_size for batch in found]
        return [
            batch[self.rank * share : (self.rank + 1) * share].tolist()
            for batch, share in zip(found, shares, strict=True)
        ]

    def _alike(self, indices: NDArray[np.intp], leaf: int) -> list[NDArray[np.intp]]:
        """Halve the pictures by their width or height, whichever varies more, down to parts of ``leaf`` pictures."""
        if len(indices) <= leaf:
            return [indices]
        chosen = self._log_sizes[indices]
        axis = int(np.ptp(chosen, axis=0).argmax())
        ordered = indices[np.argsort(chosen[:, axis], kind="stable")]
        half = len(ordered) // leaf // 2 * leaf or leaf
        return [*self._alike(ordered[:half], leaf), *self._alike(ordered[half:], leaf)]

    def state_dict(self) -> dict[str, int]:
        """Return where training stands: plain numbers, for a checkpoint."""
        return {"epoch": self.epoch, "consumed": self.consumed, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another sampler over the same pictures stood.

        Raises:
            ValueError: if it had other pictures, another batch size, seed or number of ranks: then its batches were
                others, and going on would not be exact.
        """
        missing = sorted({"epoch", "consumed", *self._identity()} - set(state))
        if missing:
            raise ValueError(f"state lacks {', '.join(missing)}: expected what SizeBucketSampler.state_dict returns")
        for name, here in self._identity().items():
            if state[name] != here:
                raise ValueError(
                    f"the state was saved with {name} = {state[name]}, and this sampler has {here}: "
                    "resume with the same pictures, batch size, seed and number of processes, or start afresh"
                )
        self.epoch, self.consumed = state["epoch"], state["consumed"]

    def _identity(self) -> dict[str, int]:
        return {
            "pictures": len(self._log_sizes),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "world_size": self.world_size,
        }


def picture_sizes(dataset: Any) -> NDArray[np.float64]:
    """Return the (N, 2) width and height of a dataset's pictures, without decoding one.

    Args:
        dataset: any of ``ddetr_lab.data``: asked for ``picture_sizes()`` if it has that, else for its ground truth.
    """
    if hasattr(dataset, "picture_sizes"):
        return np.asarray(dataset.picture_sizes(), dtype=np.float64)
    images = dataset.coco_ground_truth()["images"]
    return np.array([(image["width"], image["height"]) for image in images], dtype=np.float64).reshape(-1, 2)


def padding_waste(sizes: Sequence[Sequence[float]] | NDArray[Any], batches: Sequence[Sequence[int]]) -> float:
    """Return which share of the batches' pixels is padding, 0 to 1.

    Args:
        sizes: (N, 2) width and height of each picture, as the network sees it.
        batches: lists of indices into ``sizes``.
    """
    listed = np.asarray(sizes, dtype=np.float64)
    real = sum(float(listed[batch].prod(axis=1).sum()) for batch in map(list, batches))
    padded = sum(len(batch) * float(listed[batch].max(axis=0).prod()) for batch in map(list, batches))
    return 1 - real / padded if padded else 0.0
