"""transformers' detector as a contestant of ``benchmark learning``: as shipped, and with what sets it back mended.

Each mend is one difference to this package, found by comparing the two models tensor by tensor before the first step;
with all of them the two give the same loss, which the benchmark checks. Nothing else is changed, and what the peer
does not do by itself but a careful user would is done for it: ImageNet weights in the backbone, the same frozen
stages, the same groups of learning rates, channels last. As shipped it keeps its own default weights of the losses.

Built in chapter 17.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.benchmark import peers
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.frozen_norm import FrozenBatchNorm2d
from ddetr_lab.losses import DetectionLoss

__all__ = ["ALL", "MENDS", "PEER", "PeerDetector", "build_peer", "peer_name", "read_mends"]

PEER = "transformers"
PEER_EPS = 1e-5  # of its frozen norms, whatever the network was trained with
# What its configuration has unless a user says otherwise, and the only kind of number it takes: whole ones.
PEER_WEIGHTS = {"class_cost": 1, "bbox_cost": 5, "giou_cost": 2, "bbox_loss_coefficient": 5, "giou_loss_coefficient": 2}

# Mend: what it does.
MENDS = {
    "activations": "the activations that freezing drops with timm's norms are back",
    "eps": "frozen norms have the eps that the network was trained with",
    "heads": "each layer has its own class head (as built, they share one)",
    "priors": "class bias -log 99, box heads that start at their reference, the first with width and height bias -2",
    "queries": "queries spread as N(0, 1) instead of N(0, 0.02)",
    "rest": "all other initial weights as here: projections of the maps, class heads, inner layers of the box heads",
    "weights": "costs of the matching and weights of the losses as here, instead of its defaults",
}
ALL = frozenset(MENDS)


def read_mends(contestant: str) -> frozenset[str] | None:
    """Return the mends that a contestant's name asks for; None if it is not this peer's.

    ``transformers`` is the peer as shipped, ``transformers+heads+eps`` has two mends, ``transformers+all`` all of them,
    which bring it to this package, ``transformers+all-heads`` all but one.

    Raises:
        ValueError: for an unknown mend.
    """
    if contestant.partition("+")[0].partition("-")[0] != PEER:
        return None
    chosen: set[str] = set()
    for part in contestant.split("+")[1:]:
        first, *without = part.split("-")
        for name in (first, *without):
            if name not in MENDS and name != "all":
                raise ValueError(f"{contestant}: no mend is called {name!r}, expected all or {', '.join(MENDS)}")
        chosen |= set(ALL) if first == "all" else {first}
        chosen -= set(without)
    return frozenset(chosen)


def peer_name(mends: frozenset[str]) -> str:
    """Return a contestant's one name, in the order of ``MENDS``, so that no run is made twice under two names."""
    missing = [name for name in MENDS if name not in mends]
    if len(missing) <= 1:
        return f"{PEER}+all" + "".join(f"-{name}" for name in missing)
    return PEER + "".join(f"+{name}" for name in MENDS if name in mends)


class PeerDetector(nn.Module):
    """The peer behind the arguments that the training engine and the evaluation use.

    Args:
        detector: transformers' ``DeformableDetrForObjectDetection``.
        weights: of the parts of the loss, by name, instead of its own.
    """

    def __init__(self, detector: Any, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.detector, self.weights = detector, weights
        self.config = detector.config

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor, labels: list[dict[str, Tensor]] | None = None) -> Any:
        """Run the peer; its outputs have the names of ours."""
        outputs = self.detector(pixel_values=pixel_values, pixel_mask=pixel_mask, labels=labels)
        if labels is not None and self.weights is not None:
            # Of every layer, whose number is part of the name: loss_ce, loss_ce_0, loss_ce_1 ...
            outputs.loss = torch.stack(
                [
                    weight * loss
                    for kind, weight in self.weights.items()
                    for name, loss in outputs.loss_dict.items()
                    if name.startswith(kind)
                ]
            ).sum()
        return outputs

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the backbone's parameters as this package does: learning rates are sorted by these names."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.replace(".backbone.model.", ".backbone.conv_encoder.model."), parameter


def build_peer(ours: DeformableDetrForObjectDetection, mends: frozenset[str], seed: int) -> PeerDetector:
    """Build the peer by its own constructor from an equal configuration, give it our backbone, and mend it.

    Args:
        ours: a fresh detector of this package with the backbone's weights; mended weights are copied from it.
        mends: keys of ``MENDS``.
        seed: of the peer's own initial weights.
    """
    told = copy.deepcopy(ours)
    for field, value in PEER_WEIGHTS.items():
        setattr(told.config, field, value)
    source = peers.transformers_detector(told)  # our initial weights, under the peer's names
    torch.manual_seed(seed)
    theirs: Any = peers.fresh_transformers_detector(told)
    theirs.model.backbone.load_state_dict(source.model.backbone.state_dict())  # type: ignore[union-attr]
    if "heads" in mends:
        theirs.class_embed = nn.ModuleList(copy.deepcopy(head) for head in theirs.class_embed)
    given = dict(source.named_parameters(remove_duplicate=False))  # it ties what it finds equal, too
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.requires_grad_(given[name].requires_grad)
            if ".backbone." not in name and _kind_of(name) in mends:
                parameter.copy_(given[name])
    _mend_norms(theirs.model.backbone.model, ours.model.backbone.conv_encoder.model, mends)
    theirs.model.backbone.to(memory_format=torch.channels_last)
    weights = None
    if "weights" in mends:
        weights = DetectionLoss(ours.config).weights
        for cost in ("class_cost", "bbox_cost", "giou_cost"):
            value = getattr(ours.config, cost)
            setattr(theirs.config, cost, int(value) if value == int(value) else value)
    return PeerDetector(theirs.train(), weights)


def _kind_of(name: str) -> str:
    """Return which mend an initial weight belongs to."""
    if "query_position_embeddings" in name:
        return "queries"
    is_class_bias = "class_embed." in name and name.endswith(".bias")
    return "priors" if is_class_bias or ("bbox_embed." in name and ".layers.2." in name) else "rest"


def _mend_norms(theirs: nn.Module, ours: nn.Module, mends: frozenset[str]) -> None:
    for name, norm in ours.named_modules():
        if not isinstance(norm, FrozenBatchNorm2d):
            continue
        frozen: Any = theirs.get_submodule(name)
        if "eps" in mends:  # theirs adds its own to the variance: add the rest beforehand
            frozen.running_var += norm.eps - PEER_EPS
        if "activations" in mends:
            theirs.set_submodule(name, nn.Sequential(frozen, copy.deepcopy(norm.activation)))
