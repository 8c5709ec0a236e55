"""Eight faults from real reports, each a function that spoils a test on eight pictures before it runs.

None of them stops with an error in a loop that asks nothing, which is what makes them expensive. Where this package
would refuse the fault, it is planted past the refusal; ``telltales`` says what the refusals and the checks see.

Built in chapter 19.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.diagnosis.overfit import OverfitTest

__all__ = ["FAULTS", "Fault"]

TOO_HIGH = 100.0  # times the right rate


@dataclass(frozen=True)
class Fault:
    """A fault and how to plant it.

    Attributes:
        title: what is wrong.
        report: how it comes about, and how people describe it.
        plant: changes a test.
    """

    title: str
    report: str
    plant: Callable[[OverfitTest], None]


def class_ids_off_by_one(test: OverfitTest) -> None:
    """Train on ids that start at 1, with a head that is one wider, and score against labels that start at 0."""
    for _, annotation in test.items:
        for entry in annotation["annotations"]:
            entry["category_id"] += 1
    test.model.replace_head(len(test.pictures.categories) + 1)
    _train_new_heads(test)


def _train_new_heads(test: OverfitTest) -> None:
    """Let the optimiser have heads that were replaced."""
    known = {id(parameter) for group in test.optimizer.param_groups for parameter in group["params"]}
    fresh = [value for value in test.model.class_embed.parameters() if id(value) not in known]
    test.optimizer.param_groups[-1]["params"] += fresh


def boxes_in_the_wrong_format(test: OverfitTest) -> None:
    """Give corners (x0, y0, x1, y1) to what reads x, y, width, height."""
    for _, annotation in test.items:
        for entry in annotation["annotations"]:
            x, y, width, height = entry["bbox"]
            entry["bbox"] = [x, y, x + width, y + height]


def rate_too_high(test: OverfitTest) -> None:
    """Multiply every learning rate by a hundred."""
    for group in test.optimizer.param_groups:
        group["lr"] *= TOO_HIGH


def everything_frozen(test: OverfitTest) -> None:
    """Freeze all parameters, as a loop over names does whose condition is always true."""
    test.model.requires_grad_(False)


def prior_wiped(test: OverfitTest) -> None:
    """Set the class biases to 0, as an initialisation does that runs over all linear layers once more."""
    for head in test.model.class_embed:
        nn.init.zeros_(head.bias)


def wrong_normalisation(test: OverfitTest) -> None:
    """Score pictures whose pixels go from 0 to 255, with a model that was trained on normalised ones."""
    test.scoring_processor = type(test.processor)(
        **{**test.processor.to_dict(), "do_rescale": False, "do_normalize": False}
    )


def padding_mask_inverted(test: OverfitTest) -> None:
    """Blank the real cells in every layer's values, and let padding speak."""

    def inverted(place: int, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
            if isinstance(named.get(name), Tensor):
                return arguments, {**named, name: ~named[name]}
            if len(arguments) > place and isinstance(arguments[place], Tensor):
                return (*arguments[:place], ~arguments[place], *arguments[place + 1 :]), named
            return arguments, named

        return hook

    model = test.model.model
    model.encoder.register_forward_pre_hook(inverted(1, "attention_mask"), with_kwargs=True)
    model.decoder.register_forward_pre_hook(inverted(7, "encoder_attention_mask"), with_kwargs=True)


def head_tied(test: OverfitTest) -> None:
    """Let all decoder layers share one class head and one box head, although boxes are refined layer by layer."""
    with torch.no_grad():
        for heads in (test.model.class_embed, test.model.bbox_embed):
            for layer in range(1, len(heads)):
                heads[layer] = heads[0]


FAULTS = {
    fault.plant.__name__: fault
    for fault in (
        Fault(
            "class ids off by one",
            "A file counts its categories from 1, a head counts from 0, and a wider head swallows the difference.",
            class_ids_off_by_one,
        ),
        Fault(
            "boxes in the wrong format",
            "An export wrote corners, and the trainer reads x, y, width, height.",
            boxes_in_the_wrong_format,
        ),
        Fault(
            "rate too high",
            "A rate that was right for another batch, another model or another optimiser.",
            rate_too_high,
        ),
        Fault(
            "everything frozen",
            "The backbone was to be frozen; the condition that chose it was true for every name.",
            everything_frozen,
        ),
        Fault(
            "prior wiped",
            "Weights are initialised twice, the second time without knowing what the biases were for.",
            prior_wiped,
        ),
        Fault(
            "wrong normalisation",
            "Training goes through a processor; a script for use hands arrays to the model by itself.",
            wrong_normalisation,
        ),
        Fault(
            "padding mask inverted",
            "One library marks padding with True, another real pixels.",
            padding_mask_inverted,
        ),
        Fault(
            "head tied",
            "Loading or copying makes of several heads one, and saving then writes it several times.",
            head_tied,
        ),
    )
}
