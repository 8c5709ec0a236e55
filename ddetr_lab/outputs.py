"""What the models return: typed records that can be read by attribute, by key and by position.

Built in chapter 12.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

__all__ = [
    "DecoderOutput",
    "DeformableDetrModelOutput",
    "DeformableDetrObjectDetectionOutput",
    "EncoderOutput",
    "ModelOutput",
]


@dataclass
class ModelOutput:
    """A record whose unset fields are skipped: ``out.logits``, ``out["logits"]``, ``out[0]``, ``out[:2]``.

    Iteration, ``keys()``, ``values()``, ``items()``, ``len`` and ``in`` see only the fields that are set, in the
    order of declaration, and ``to_tuple()`` is what the model returns under ``return_dict=False``.
    """

    def keys(self) -> list[str]:
        """Return the names of the fields that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def values(self) -> list[Any]:
        """Return the fields that are set."""
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Return (name, field) pairs of the fields that are set."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field by name, or ``default`` where it is not set."""
        value = getattr(self, name, None)
        return default if value is None else value

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are set as a tuple."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(f"{key!r} is not set; this {type(self).__name__} has {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class EncoderOutput(ModelOutput):
    """What the encoder returns.

    Attributes:
        last_hidden_state: (B, S, C).
        hidden_states: encoder_layers + 1 tensors (B, S, C), the input first; set on request.
        attentions: encoder_layers tensors (B, S, M, L, P); set on request.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class DecoderOutput(ModelOutput):
    """What the decoder returns; ``NL`` is the number of its layers.

    Attributes:
        last_hidden_state: (B, Q, C).
        intermediate_hidden_states: (B, NL, Q, C), the output of every layer.
        intermediate_reference_points: (B, NL, Q, 2 or 4), in _norm: after each layer's refinement, if there is any.
        hidden_states: NL + 1 tensors (B, Q, C), the input first; set on request.
        attentions: NL tensors (B, M, Q, Q), among queries; set on request.
        cross_attentions: NL tensors (B, Q, M, L, P), over sampling points; set on request.
    """

    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class DeformableDetrModelOutput(ModelOutput):
    """What :class:`~ddetr_lab.model.DeformableDetrModel` returns.

    Attributes:
        init_reference_points: (B, Q, 2), or (B, Q, 4) with two stages; _norm.
        last_hidden_state: (B, Q, C), the decoder's.
        intermediate_hidden_states: (B, NL, Q, C).
        intermediate_reference_points: (B, NL, Q, 2 or 4).
        decoder_hidden_states: NL + 1 tensors (B, Q, C); set on request.
        decoder_attentions: NL tensors (B, M, Q, Q); set on request.
        cross_attentions: NL tensors (B, Q, M, L, P); set on request.
        encoder_last_hidden_state: (B, S, C).
        encoder_hidden_states: encoder_layers + 1 tensors (B, S, C); set on request.
        encoder_attentions: encoder_layers tensors (B, S, M, L, P); set on request.
        enc_outputs_class: (B, S, K) logits of the first stage; set with two stages.
        enc_outputs_coord_logits: (B, S, 4) boxes of the first stage before the sigmoid; set with two stages. Infinite
            on padding and at the picture's rim, where nothing is proposed.
    """

    init_reference_points: Tensor | None = None
    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    enc_outputs_class: Tensor | None = None
    enc_outputs_coord_logits: Tensor | None = None


@dataclass
class DeformableDetrObjectDetectionOutput(ModelOutput):
    """What :class:`~ddetr_lab.detector.DeformableDetrForObjectDetection` returns.

    Attributes:
        loss: scalar, the weighted sum that training minimises; set with ``labels``.
        loss_dict: the single losses, unweighted, of the last layer (``loss_ce`` ...), of earlier layers (``loss_ce_0``
            ...) and of the first stage (``loss_ce_enc`` ...); set with ``labels``.
        logits: (B, Q, K) class logits, one sigmoid a class; there is no "no object" class.
        pred_boxes: (B, Q, 4) cxcywh in _norm.
        auxiliary_outputs: a dict of ``logits`` and ``pred_boxes`` for each decoder layer but the last; set with
            ``labels`` and ``config.auxiliary_loss``.

    The other fields are those of :class:`DeformableDetrModelOutput`.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    init_reference_points: Tensor | None = None
    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    enc_outputs_class: Tensor | None = None
    enc_outputs_coord_logits: Tensor | None = None
