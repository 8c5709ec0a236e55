"""Evaluation shared among processes: which pictures each takes, and how all come to have all detections.

Built in chapter 15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["ALONE", "Ranks", "gather_detections"]

_Ranks = TypeVar("_Ranks", bound="Ranks")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def present(cls: type[_Ranks]) -> _Ranks:
        """Return this process's place in the process group, or that of a process alone if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, pictures: int) -> range:
        """Return the positions of this process's pictures: every ``size``-th, so that each picture has one process.

        (Samplers that fill up the last round by repeating pictures would count those twice.)
        """
        return range(self.rank, pictures, self.size)


ALONE = Ranks()


def gather_detections(detections: Sequence[Mapping[str, Any]], ranks: Ranks) -> list[dict[str, Any]]:
    """Return the detections of all processes, on each of them and in the same order; every process must call it.

    They travel as two tensors, ids as integers and the rest in float64, so that nothing is rounded: Python objects
    would be pickled, and slower by far for the half million detections of a COCO run.

    Args:
        detections: this process's, in COCO's result form.
        ranks: from :meth:`Ranks.present`.
    """
    own = [dict(detection) for detection in detections]
    if ranks.size == 1:
        return own
    ids = torch.tensor([(entry["image_id"], entry["category_id"]) for entry in own], dtype=torch.int64).view(-1, 2)
    numbers = torch.tensor([(*entry["bbox"], entry["score"]) for entry in own], dtype=torch.float64).view(-1, 5)
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": list(box), "score": score}
        for (image_id, category_id), (*box, score) in zip(
            _gather_rows(ids, ranks).tolist(), _gather_rows(numbers, ranks).tolist(), strict=True
        )
    ]


def _gather_rows(rows: Tensor, ranks: Ranks) -> Tensor:
    """Put the rows (n, columns) of all processes, of which each may have another number n, one below the other."""
    # Gloo takes tensors on the CPU; a group with NCCL alone only those on its GPU.
    on_cpu = "gloo" in str(dist.get_backend_config())
    device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())
    count = torch.tensor([len(rows)], device=device)
    counts = [torch.zeros_like(count) for _ in range(ranks.size)]
    dist.all_gather(counts, count)
    # Collectives want one shape: shorter lists are filled up with zeros, which are cut off again.
    most = max(int(one) for one in counts)
    padded = torch.zeros(most, rows.shape[1], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows.to(device)
    parts = [torch.empty_like(padded) for _ in range(ranks.size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(one)] for part, one in zip(parts, counts, strict=True)]).cpu()
