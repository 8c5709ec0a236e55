"""The optimisers of a run: AdamW, and Muon for the matrices of the layers.

AdamW gives every single weight a step of its own length. But a matrix is not a heap of weights: it turns one vector
into another, and a step changes all vectors that pass. Most of a gradient's norm lies in a few directions, which drown
the rest. Muon takes the running average M = U S V^T of the gradients, and steps along U V^T, equally far in each.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from ddetr_lab.training.groups import MATRICES

__all__ = ["build_optimizers"]


def build_optimizers(groups: Sequence[dict[str, Any]], fused: bool = False) -> list[Optimizer]:
    """Build one optimiser for each kind of group.

    Args:
        groups: from :func:`~ddetr_lab.training.groups.parameter_groups`.
        fused: let AdamW use its fused kernel.

    Returns:
        AdamW, Muon, or both, of the groups that there are. Muon's steps are scaled to the length that those of AdamW
        usually have (``adjust_lr_fn="match_rms_adamw"``), so that their rates can be compared.

    Source: torch.optim.Muon; the scaling is that of Liu et al., "Muon is scalable for LLM training" (arXiv:2502.16982).
    """
    by_muon = [group for group in groups if group["name"] == MATRICES]
    by_adamw = [group for group in groups if group["name"] != MATRICES]
    optimizers: list[Optimizer] = []
    if by_adamw:
        optimizers.append(torch.optim.AdamW(by_adamw, fused=fused))
    if by_muon:
        optimizers.append(torch.optim.Muon(by_muon, adjust_lr_fn="match_rms_adamw"))
    return optimizers
