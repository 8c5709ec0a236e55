"""Parameter groups: which parameter trains at which rate, and by which optimiser.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ddetr_lab.recipe import OptimizationSettings

__all__ = ["MATRICES", "group_table", "parameter_groups"]

MATRICES = "matrices of the layers"  # the group that Muon trains


def parameter_groups(model: nn.Module, settings: OptimizationSettings) -> list[dict[str, Any]]:
    """Sort every trained parameter into exactly one group with its learning rate (paper, section 5).

    Sampling offsets and reference points train at a fraction: a small change of theirs moves what a query sees. So does
    the backbone, which starts from ImageNet. With ``optimizer = "muon"`` the matrices that map states to states inside
    encoder and decoder layers are a group of their own.

    Returns:
        Groups for the optimiser, each with ``name``, ``params``, ``lr`` and ``weight_decay``; empty ones left out.

    Raises:
        ValueError: if every parameter is frozen.
    """
    factors = {
        "backbone": settings.backbone_multiplier,
        "offsets and reference points": settings.offsets_multiplier,
        MATRICES: settings.matrices_multiplier,
        "other": 1.0,
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
    for name, parameter in model.named_parameters():  # a parameter with several names comes once, under its first
        if not parameter.requires_grad:
            continue
        if ".conv_encoder." in name:
            group = "backbone"
        elif "sampling_offsets" in name or "reference_points" in name:
            group = "offsets and reference points"
        elif settings.optimizer == "muon" and _maps_vectors(name, parameter):
            group = MATRICES
        else:
            group = "other"
        members[group].append(parameter)
    if not any(members.values()):
        raise ValueError("every parameter is frozen: there is nothing to train; see [model] frozen in the recipe")
    return [
        {
            "name": name,
            "params": parameters,
            "lr": settings.learning_rate * factors[name],
            "weight_decay": settings.weight_decay,
        }
        for name, parameters in members.items()
        if parameters
    ]


def _maps_vectors(name: str, parameter: nn.Parameter) -> bool:
    """Whether this is the matrix of a linear layer from states to states: the logits of attention are no states."""
    inside = ".encoder.layers." in name or ".decoder.layers." in name
    return inside and parameter.ndim == 2 and "attention_weights" not in name


def group_table(groups: Sequence[dict[str, Any]], model: nn.Module | None = None) -> str:
    """Return the groups as a table of text, a line each; with a model also its frozen parameters, and the sum.

    Args:
        groups: from :func:`parameter_groups`.
        model: whose parameters they are.
    """
    lines = [f"{'group':30} {'tensors':>8} {'parameters':>12} {'rate':>9} {'weight decay':>13}"]

    def line(name: str, parameters: Sequence[nn.Parameter], rate: str, decay: str) -> str:
        return f"{name:30} {len(parameters):8,} {sum(map(nn.Parameter.numel, parameters)):12,} {rate:>9} {decay:>13}"

    for group in groups:
        lines.append(line(group["name"], group["params"], f"{group['lr']:.3g}", f"{group['weight_decay']:.3g}"))
    if model is not None:
        everything = list(model.parameters())
        lines.append(line("frozen", [parameter for parameter in everything if not parameter.requires_grad], "0", "-"))
        lines.append(line("all", everything, "", ""))
    return "\n".join(lines)
