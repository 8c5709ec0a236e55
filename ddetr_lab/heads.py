"""The prediction heads, and every prior that they start from.

A fresh detector should say "probably nothing" about every query, and "a smallish box right where you look":

* class bias -log 99: a score of 0.01, so that the focal loss of hundreds of empty queries does not drown the few
  full ones (focal loss paper, section 4.1; the reason is derived in chapter 14);
* box MLP: last layer 0, so that a box starts at its reference point; the bias of width and height -2, a box of
  sigmoid(-2) = 0.12 of the picture. With refinement only the first head has this bias, since later ones correct an
  existing box; with two stages none, since boxes come from the proposals.

Built in chapter 11.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_lab.boxes import at_least_float32, inverse_sigmoid
from ddetr_lab.config import DeformableDetrConfig

__all__ = ["BoxHead", "build_heads", "class_head", "refine_boxes"]

PRIOR_PROBABILITY = 0.01
INITIAL_SIZE_LOGIT = -2.0


def class_head(d_model: int, num_labels: int) -> nn.Linear:
    """Build a linear layer to ``num_labels`` logits whose scores start near 0.01."""
    head = nn.Linear(d_model, num_labels)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return head


class BoxHead(nn.Module):
    """Three linear layers with ReLU between, from a query to four box offsets in inverse-sigmoid space."""

    def __init__(self, d_model: int, size_logit: float) -> None:
        super().__init__()
        last = nn.Linear(d_model, 4)
        self.layers = nn.ModuleList([nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), last])
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, size_logit, size_logit]))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (..., C) to (..., 4) offsets of cx, cy, w, h."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(hidden_states)))))


def build_heads(config: DeformableDetrConfig) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Build one class head and one box head a decoder layer, and one more of each for the proposals of two stages.

    Without refinement all layers share one head (the same module under several names, as in the reference's files);
    with refinement each layer has its own.

    Returns:
        The class heads and the box heads.
    """
    count = config.decoder_layers + (1 if config.two_stage else 0)
    size_logit = 0.0 if config.two_stage else INITIAL_SIZE_LOGIT
    if not config.with_box_refine:
        classes, boxes = class_head(config.d_model, config.num_labels), BoxHead(config.d_model, size_logit)
        return nn.ModuleList([classes] * count), nn.ModuleList([boxes] * count)
    return (
        nn.ModuleList(class_head(config.d_model, config.num_labels) for _ in range(count)),
        nn.ModuleList(BoxHead(config.d_model, size_logit if index == 0 else 0.0) for index in range(count)),
    )


def refine_boxes(offsets: Tensor, reference_points: Tensor) -> Tensor:
    """Move a reference by predicted offsets in inverse-sigmoid space (paper, appendix A.3).

    Args:
        offsets: (..., 4), a box head's output.
        reference_points: (..., 2) points, whose size comes from the offsets alone, or (..., 4) cxcywh boxes; _norm.

    Returns:
        (..., 4) cxcywh boxes in _norm, at least float32.

    Raises:
        ValueError: if the reference is neither a point nor a box.
    """
    offsets, reference = at_least_float32(offsets), inverse_sigmoid(at_least_float32(reference_points))
    if reference.shape[-1] == 2:
        return torch.cat((offsets[..., :2] + reference, offsets[..., 2:]), dim=-1).sigmoid()
    if reference.shape[-1] == 4:
        return (offsets + reference).sigmoid()
    raise ValueError(
        f"reference_points has shape {tuple(reference_points.shape)}, "
        "expected a last axis of 2 (x, y) or 4 (cx, cy, w, h)"
    )
