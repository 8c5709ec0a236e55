"""The first of two stages: every cell of the encoder proposes a box, and the best become the queries.

Deformable DETR, section 4.2 ("Two-Stage Deformable DETR") and appendix A.4. Built in chapter 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ddetr_lab.position_encoding import sine_of_coordinates

__all__ = ["grid_proposals", "proposal_position_embedding", "select_proposals"]

BASE_SIZE = 0.05
RIM = 0.01


def grid_proposals(masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Place one square box on every cell, twice as large on each coarser level.

    Args:
        masks: L tensors (B, H, W) bool, True on real cells.

    Returns:
        Inverse sigmoids (B, S, 4) of cxcywh boxes in _norm, infinite where nothing is proposed, and (B, S) bool: True
        where a box is proposed, which is on real cells whose coordinates all lie between 0.01 and 0.99.
    """
    boxes = []
    for level, mask in enumerate(masks):
        _, height, width = mask.shape
        valid_wh = torch.stack((mask[:, 0, :].sum(1), mask[:, :, 0].sum(1)), dim=-1)  # (B, 2)
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float32, device=mask.device),
            torch.arange(width, dtype=torch.float32, device=mask.device),
            indexing="ij",
        )
        cells_xy = torch.stack((x, y), dim=-1).flatten(0, 1)  # (H, W, 2) -> (H*W, 2)
        centres = (cells_xy + 0.5) / valid_wh[:, None]  # (B, H*W, 2)
        sizes = torch.full_like(centres, BASE_SIZE * 2.0**level)
        boxes.append(torch.cat((centres, sizes), dim=-1))
    proposals = torch.cat(boxes, dim=1)  # (B, S, 4)
    real = torch.cat([mask.flatten(1) for mask in masks], dim=1)  # (B, S)
    proposed = real & ((proposals > RIM) & (proposals < 1 - RIM)).all(-1)
    logits = torch.log(proposals / (1 - proposals)).masked_fill(~proposed[..., None], math.inf)
    return logits, proposed


def select_proposals(class_logits: Tensor, box_logits: Tensor, count: int) -> Tensor:
    """Pick the boxes of the ``count`` cells that score highest for class 0, which means "object" in the first stage.

    Args:
        class_logits: (B, S, K).
        box_logits: (B, S, 4).
        count: how many to keep.

    Returns:
        (B, count, 4) box logits, detached: the second stage does not train the first one's boxes.

    Raises:
        ValueError: if there are fewer cells than proposals to pick.
    """
    cells = class_logits.shape[1]
    if count > cells:
        raise ValueError(
            f"two_stage_num_proposals = {count}, but the picture has {cells} cells on all levels: "
            "use a larger picture or fewer proposals"
        )
    best = class_logits[..., 0].topk(count, dim=1).indices  # (B, count)
    return box_logits.gather(1, best[..., None].expand(-1, -1, 4)).detach()


def proposal_position_embedding(box_logits: Tensor, d_model: int) -> Tensor:
    """Embed the four coordinates of each proposal by sines, d_model / 2 channels each.

    Args:
        box_logits: (B, Q, 4) before the sigmoid.
        d_model: the model's width C.

    Returns:
        (B, Q, 2 C): enough for a position and a content of C channels each.
    """
    radians = box_logits.sigmoid() * (2 * math.pi)
    return sine_of_coordinates(radians, d_model // 2).flatten(2)  # (B, Q, 4, C/2) -> (B, Q, 2C)
