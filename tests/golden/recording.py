"""Run a case and write down all that can be seen of it; the same code for the reference and for this package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden.cases import ModelCase, make_encoder_state, make_labels, make_pictures
from tests.golden.fingerprints import decompose_all, summary
from tests.golden.generic_weights import canonical_names, fill_with_generic_weights

__all__ = ["Recording", "describe_run", "flatten_outputs", "full_total", "prepare", "record", "tuple_layout"]

# Gradients that are kept number by number; of every other parameter there is the fingerprint.
FULL_GRADIENTS = (
    "level_embed",
    "encoder.layers.0.self_attn.sampling_offsets.bias",
    "encoder.layers.0.self_attn.attention_weights.bias",
    "decoder.layers.1.encoder_attn.sampling_offsets.bias",
    "decoder.layers.1.encoder_attn.attention_weights.bias",
    "decoder.layers.0.self_attn.q_proj.bias",
    "reference_points.weight",
    "enc_output_norm.weight",
    "pos_trans_norm.bias",
    "input_proj.0.1.weight",
    "class_embed.0.bias",
    "class_embed.1.bias",
    "class_embed.2.bias",
    "bbox_embed.0.layers.2.weight",
    "bbox_embed.1.layers.2.weight",
    "bbox_embed.2.layers.2.weight",
)


@dataclass
class Recording:
    """What one run has shown.

    Attributes:
        outputs: flat name -> tensor, such as ``decoder_hidden_states.1``.
        losses: ``loss`` (with the losses of the first stage) and ``loss_dict.<key>``.
        gradients: of ``loss``; some parameters' in full, and ``fingerprints`` (N, 4) of all, in the order of
            ``facts["trained"]``.
        facts: everything that is not a number to compare: names, shapes, orders.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def detached(self) -> Recording:
        """Return the same numbers without the graph that made them."""
        groups = (self.outputs, self.losses, self.gradients)
        return Recording(*({key: value.detach() for key, value in group.items()} for group in groups), self.facts)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything that is stored, under ``outputs/``, ``losses/`` and ``gradients/``."""
        groups = {"outputs": self.outputs, "losses": self.losses, "gradients": self.gradients}
        return decompose_all(
            {f"{group}/{key}": value for group, found in groups.items() for key, value in found.items()}
        )


def flatten_outputs(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flatten tuples, lists and dicts of tensors into one dict with dotted names."""
    flat: dict[str, Tensor] = {}
    for key, value in outputs.items():
        if isinstance(value, Tensor):
            flat[key] = value
        else:
            inner = value.items() if isinstance(value, Mapping) else enumerate(value)
            flat.update(flatten_outputs({f"{key}.{name}": item for name, item in inner}))
    return flat


def full_total(loss_dict: Mapping[str, Tensor], config: Any) -> Tensor:
    """Weigh and add all losses, those of earlier layers and of the first stage included."""
    weights = {
        "loss_ce": 1.0,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
    total = 0.0
    for key, value in loss_dict.items():
        kind = next((kind for kind in weights if key == kind or key.startswith(f"{kind}_")), None)
        if kind is not None:
            total = total + weights[kind] * value
    return total


def prepare(model: nn.Module, case: ModelCase, dtype: torch.dtype) -> dict[str, Any]:
    """Fill the model with generic weights and return the arguments of its forward pass."""
    fill_with_generic_weights(model, case.seed)
    model.to(dtype).train(case.training)
    pixels, mask = make_pictures(case)
    inputs: dict[str, Any] = {"pixel_values": pixels.to(dtype)}
    if mask is not None:
        inputs["pixel_mask"] = mask
    if case.targets is not None:
        inputs["labels"] = make_labels(case, dtype)
    if case.own_encoder_state:
        with torch.no_grad():
            shape = model(**{key: inputs[key] for key in inputs if key != "labels"}).encoder_last_hidden_state.shape
        inputs["encoder_outputs"] = (make_encoder_state(case, shape).to(dtype),)
    return inputs


def record(
    model: nn.Module,
    case: ModelCase,
    dtype: torch.dtype = torch.float32,
    *,
    add_total: bool = False,
    brightness: float = 0.0,
) -> Recording:
    """Run a case with every output switched on, and go backwards from the total loss.

    Args:
        model: either implementation of the case's model, as constructed.
        case: what to run.
        dtype: float32 or float64.
        add_total: compute the total from ``loss_dict`` instead of reading ``outputs.loss``. For the reference, whose
            total leaves the first stage out.
        brightness: added to the pictures, to see how much hangs on the last digits.
    """
    inputs = prepare(model, case, dtype)
    inputs["pixel_values"] = inputs["pixel_values"] + brightness
    model.zero_grad(set_to_none=True)
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    fields = {key: value for key, value in outputs.items() if key not in ("loss", "loss_dict")}
    result = Recording(outputs=flatten_outputs(fields))
    result.facts["output_keys"] = list(outputs.keys())
    result.facts["input_print"] = summary(inputs["pixel_values"].numpy()).tolist()
    state_dict = model.state_dict()
    result.facts["state_dict"] = {name: list(tensor.shape) for name, tensor in state_dict.items()}
    canonical = canonical_names(state_dict)
    by_storage = {tensor.data_ptr(): canonical[name] for name, tensor in state_dict.items()}
    parameters = {by_storage[parameter.data_ptr()]: parameter for parameter in model.parameters()}
    result.facts["trained"] = sorted(name for name, parameter in parameters.items() if parameter.requires_grad)
    if case.targets is None:
        return result.detached()
    total = full_total(outputs["loss_dict"], model.config) if add_total else outputs["loss"]
    result.losses = {"loss": total, **{f"loss_dict.{key}": value for key, value in outputs["loss_dict"].items()}}
    result.facts["loss_keys"] = list(outputs["loss_dict"])
    result.facts["reported_loss"] = outputs["loss"].item()
    total.backward()
    fingerprints = []
    for name in result.facts["trained"]:
        parameter = parameters[name]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if name.removeprefix("model.") in FULL_GRADIENTS:
            result.gradients[name] = gradient
        fingerprints.append(torch.from_numpy(summary(gradient.numpy())))
    result.gradients["fingerprints"] = torch.stack(fingerprints)
    return result.detached()


def describe_run(with_labels: bool, everything: bool) -> str:
    """Name a way of calling the model: ``labels, attentions`` and the like."""
    return f"{'labels' if with_labels else 'no labels'}, {'everything' if everything else 'plain'}"


def tuple_layout(named: Mapping[str, Any], values: tuple[Any, ...]) -> list[str]:
    """Say which field each entry of a ``return_dict=False`` result is, by comparing it with the named fields.

    A field that comes as a tuple is one entry; ``loss_dict`` is recognised by its keys. Fields that hold the same
    numbers go by the order of the record. An entry that is no field at all is called "?".
    """
    left = dict(named)
    layout = []
    for value in values:
        name = next((name for name, candidate in left.items() if _same(candidate, value)), "?")
        left.pop(name, None)
        layout.append(name)
    return layout


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return isinstance(a, float) and isinstance(b, float) and math.isclose(a, b)
