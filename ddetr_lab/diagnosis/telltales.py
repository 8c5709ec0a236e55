"""Tell-tales: what a batch, a model, a log and its scores give away about the usual faults.

Each function returns sentences, none where it sees nothing. A rule names a suspect, not a verdict: it was written from
reports, and a healthy run may look odd for a good reason. What no rule sees is as instructive; chapter 19 counts both.

Built in chapter 19.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.boxes import cxcywh_to_xyxy

__all__ = [
    "Suspicion",
    "look_at_batch",
    "look_at_log",
    "look_at_model",
    "look_at_scores",
    "look_inside",
    "reacts_to_padding",
]

LARGEST_PIXEL = 6.0  # normalised pixels go from about -2.2 to 2.7
LARGEST_PRIOR = 0.1  # score of a fresh class head; the prior is 0.01
LEARNED = 3.0  # a total loss below it means, for three decoder layers, that most targets are met
HIGH_CLASS_LOSS = 5.0  # of a fresh model it is about 1
FEWEST_BOXES = 8  # of which a share means something
ALREADY = 0.1  # share of the loss that a tenth of the run should have taken off


@dataclass(frozen=True)
class Suspicion:
    """What may be wrong.

    Attributes:
        fault: its name, one of ``planted_faults.FAULTS`` or of the loader's troubles.
        because: the evidence, and what to look at.
    """

    fault: str
    because: str

    def __str__(self) -> str:
        return f"{self.fault.replace('_', ' ')}? {self.because}"


def look_at_batch(batch: Mapping[str, Any], num_labels: int | None = None) -> list[Suspicion]:
    """Look at what the network is fed.

    Args:
        batch: ``pixel_values`` (B, 3, H, W), ``pixel_mask`` (B, H, W), and ``labels`` if they are known.
        num_labels: width of the class head, to hold the labels against.
    """
    found = []
    pixels, mask = batch["pixel_values"], batch["pixel_mask"].bool()
    largest = float(pixels.abs().max())
    if largest > LARGEST_PIXEL:
        found.append(
            Suspicion(
                "wrong_normalisation",
                f"the largest pixel is {largest:.0f}, expected about 2.6: were pictures divided by 255 and normalised?",
            )
        )
    if not bool(mask[:, 0, 0].all()):
        found.append(Suspicion("padding_mask_inverted", "pixel_mask is 0 at a top left corner: real pixels are 1"))
    for place, target in enumerate(batch.get("labels") or ()):
        found += _look_at_target(place, target, num_labels)
    return found + _look_at_edges(batch.get("labels") or ())


def _look_at_target(place: int, target: Mapping[str, Tensor], num_labels: int | None) -> list[Suspicion]:
    found = []
    boxes, labels = target["boxes"], target["class_labels"]
    if num_labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
        found.append(
            Suspicion(
                "class_ids_off_by_one",
                f"picture {place} has labels up to {int(labels.max())}, the head has 0 to {num_labels - 1}",
            )
        )
    if len(boxes):
        low, high = cxcywh_to_xyxy(boxes).split(2, dim=1)  # twice (N, 2)
        beyond = max(float(-low.min()), float(high.max()) - 1)
        if beyond > 0.02 or float(boxes[:, 2:].min()) <= 0:
            found.append(
                Suspicion(
                    "boxes_in_the_wrong_format",
                    f"picture {place} has a box that is empty or reaches beyond the picture: cx, cy, w, h in 0-1?",
                )
            )
    return found


def _look_at_edges(targets: Sequence[Mapping[str, Tensor]]) -> list[Suspicion]:
    """Corners that were read as sizes reach beyond the picture, are clipped there, and so end at two of its edges."""
    boxes = torch.cat([target["boxes"] for target in targets]) if targets else torch.empty(0, 4)
    if len(boxes) < FEWEST_BOXES:
        return []
    low, high = cxcywh_to_xyxy(boxes).split(2, dim=1)  # twice (N, 2)
    start = float((low < 0.001).any(dim=1).float().mean())
    end = float((high > 0.999).any(dim=1).float().mean())
    if end < 0.5 or end < 3 * start:
        return []
    return [
        Suspicion(
            "boxes_in_the_wrong_format",
            f"{end:.0%} of the boxes end at the picture's right or bottom edge, but {start:.0%} begin at its left or "
            "top one: were corners read as width and height?",
        )
    ]


def look_at_model(model: Any) -> list[Suspicion]:
    """Look at a detector before it is trained: priors, heads, and what is left to train."""
    found = []
    biases = torch.cat([head.bias.detach().float() for head in model.class_embed])
    score = float(biases.sigmoid().mean())
    if score > LARGEST_PRIOR:
        found.append(
            Suspicion(
                "prior_wiped", f"a fresh class head answers yes with {score:.2f}, expected 0.01: was it reset to zeros?"
            )
        )
    if model.config.with_box_refine:
        for name, heads in (("class", model.class_embed), ("box", model.bbox_embed)):
            if len({head.weight.data_ptr() for head in _last_linears(heads)}) < len(heads):
                found.append(Suspicion("head_tied", f"{name} heads of layers are one, though boxes are refined"))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        found.append(Suspicion("everything_frozen", "no parameter has requires_grad"))
    return found


def _last_linears(heads: Any) -> list[nn.Linear]:
    return [[layer for layer in head.modules() if isinstance(layer, nn.Linear)][-1] for head in heads]


def look_at_log(lines: Sequence[Mapping[str, float]]) -> list[Suspicion]:
    """Look at the lines of a training log: ``loss``, ``grad_norm`` and ``loss_ce`` of each.

    Raises:
        ValueError: if there is no line.
    """
    if not lines:
        raise ValueError("lines is empty: a log needs at least one line to be looked at")
    found = []
    losses = [line["loss"] for line in lines]
    if lines[0]["loss_ce"] > HIGH_CLASS_LOSS:
        found.append(
            Suspicion(
                "prior_wiped",
                f"the class loss begins at {lines[0]['loss_ce']:.0f}, expected about 1: look at the class biases",
            )
        )
    if all(line["grad_norm"] == 0 for line in lines):
        found.append(Suspicion("everything_frozen", "the gradient's norm is 0 in every line"))
    tail = losses[-max(1, len(losses) // 10) :]
    end = sum(tail) / len(tail)
    if not all(map(math.isfinite, losses)) or max(losses) > 2 * losses[0]:
        worst = max((loss for loss in losses if math.isfinite(loss)), default=math.nan)
        found.append(
            Suspicion("rate_too_high", f"the loss rose from {losses[0]:.1f} to {worst:.1f}: divide the rate by ten")
        )
    elif len(losses) > 1 and end > (1 - ALREADY) * losses[0] and any(line["grad_norm"] > 0 for line in lines):
        found.append(
            Suspicion("rate_too_high", f"the loss ends at {end:.1f} of {losses[0]:.1f}: a rate far off, up or down")
        )
    return found


def look_at_scores(ap50: float, class_blind_ap50: float, last_loss: float) -> list[Suspicion]:
    """Hold the scores against each other and against the loss.

    Args:
        ap50: on the pictures that were trained on.
        class_blind_ap50: the same, with every class counted as right.
        last_loss: of training.
    """
    if class_blind_ap50 > 0.5 and ap50 < 0.3 * class_blind_ap50:
        return [
            Suspicion(
                "class_ids_off_by_one",
                f"AP50 is {ap50:.2f}, but {class_blind_ap50:.2f} if every class counts as right: boxes are found, "
                "names are not",
            )
        ]
    if last_loss < LEARNED and class_blind_ap50 < 0.3:
        return [
            Suspicion(
                "boxes_in_the_wrong_format",
                f"the loss fell to {last_loss:.1f}, yet the boxes are not where they should be: AP50 {ap50:.2f}; "
                "draw what training reads over its pictures",
            )
        ]
    return []


@torch.no_grad()
def reacts_to_padding(model: Any, batch: Mapping[str, Any], shift: float = 1.0) -> float:
    """Return by how much a model's logits move when the encoder's padded cells change: it should be exactly 0.

    Pixels are no good for this test: convolutions carry a little of the padding into the picture. Behind the encoder
    nothing does, if the mask is right.

    Args:
        model: a detector; it comes back in the mode it had.
        batch: with padding; see :func:`look_at_batch`.
        shift: what to add to padded cells.

    Raises:
        ValueError: if no cell of the batch is padded.
    """
    pixels, mask, real = batch["pixel_values"], batch["pixel_mask"], _real_cells(model, batch)
    if bool(real.all()):
        raise ValueError("no picture of the batch is padded: take pictures of different sizes")
    training = model.training
    model.eval()
    try:
        memory = model.model(pixels, mask).encoder_last_hidden_state
        other = memory + shift * ~real[..., None]
        logits = [model(pixels, mask, encoder_outputs=(cells,)).logits for cells in (memory, other)]
    finally:
        model.train(training)
    return float((logits[0] - logits[1]).abs().max())


@torch.no_grad()
def _real_cells(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Return (B, S), False where a cell of the encoder is padding."""
    masks = model.model.feature_levels(batch["pixel_values"], batch["pixel_mask"])[1]
    return torch.cat([level.flatten(1) for level in masks], dim=1)


def look_inside(model: Any, batch: Mapping[str, Any]) -> list[Suspicion]:
    """Try whether padding speaks, if there is any; see :func:`reacts_to_padding`."""
    if bool(_real_cells(model, batch).all()):
        return []
    moved = reacts_to_padding(model, batch)
    if moved == 0:
        return []
    return [
        Suspicion(
            "padding_mask_inverted", f"logits move by {moved:.2g} when padded cells change, expected 0: is True real?"
        )
    ]
