"""One update of the weights: forward, loss, backward, clip, step, for a batch in one piece or in several.

Built in chapter 16.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.matcher import CostError
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.distributed import ALONE, Processes
from ddetr_lab.training.ema import MovingAverage
from ddetr_lab.training.groups import parameter_groups
from ddetr_lab.training.optimizers import build_optimizers

__all__ = ["Engine", "NonFiniteError", "Update"]

Batch = Mapping[str, Any]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is infinite or not a number; the weights are those from before the step.

    Attributes:
        what: one sentence on what is not finite.
        pictures: ids of the pictures that this process had in the step.
    """

    def __init__(self, what: str, pictures: Sequence[int]) -> None:
        super().__init__(f"{what}, in the batch of pictures {list(pictures)}")
        self.what, self.pictures = what, list(pictures)


@dataclass(frozen=True)
class Update:
    """What one update found, as tensors, so that nothing waits for a GPU until somebody reads them.

    Attributes:
        loss: the total.
        losses: its parts by name, unweighted.
        grad_norm: of all gradients together, before they were clipped.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    grad_norm: Tensor


class Engine:
    """A model, its optimisers and how they take a step; the same on a CPU, a GPU, and each of many processes.

    Args:
        model: a detector, on its device.
        settings: see :class:`~ddetr_lab.recipe_settings.OptimizationSettings`.
        processes: the processes that train together.

    Raises:
        ValueError: if nothing is left to train.
    """

    def __init__(self, model: nn.Module, settings: OptimizationSettings, processes: Processes = ALONE) -> None:
        self.model, self.settings, self.processes = model, settings, processes
        self.device = next(model.parameters()).device
        self.groups = parameter_groups(model, settings)
        self._rates = {entry["name"]: entry["lr"] for entry in self.groups}
        self._trained = [parameter for entry in self.groups for parameter in entry["params"]]
        self.optimizers = build_optimizers(self.groups, fused=self.device.type in ("cpu", "cuda"))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "float16")
        self.average = MovingAverage(model, settings.ema_decay) if settings.ema_decay else None
        self._checked = False
        self.network: Any = model
        if processes.size > 1:
            # Buffers are constants, so none is sent round; every parameter has a gradient in every step.
            kind = nn.parallel.DistributedDataParallel
            renamed = "forward_sync_buffers" in inspect.signature(kind.__init__).parameters  # since torch 2.14
            sync: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
            self.network = kind(
                model,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                **sync,
                gradient_as_bucket_view=True,
                find_unused_parameters=False,
            )

    @property
    def rate(self) -> float:
        """The highest learning rate of any group, as it is now."""
        return max(entry["lr"] for entry in self._entries())

    def set_rate(self, factor: float) -> None:
        """Multiply every group's own learning rate by a factor."""
        for entry in self._entries():
            entry["lr"] = self._rates[entry["name"]] * factor

    def _entries(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def update(self, pieces: Sequence[Batch]) -> Update:
        """Take one step on a batch.

        Args:
            pieces: the batch of this process, in one piece or more: dicts with ``pixel_values``, ``pixel_mask`` and
                ``labels``. The result does not depend on how it is cut: each piece's losses count by its objects,
                over those of all pieces and processes.

        Raises:
            NonFiniteError: if the loss or a gradient is not finite; the weights have not changed then.
            ValueError: if the labels are wrong, or a parameter gets no gradient; the message says which.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        total: Any = 0.0
        losses: dict[str, Tensor] = {}
        for number, (piece, weight) in enumerate(zip(pieces, self._weights(pieces), strict=True)):
            # Gradients go round between processes once, with the last piece.
            waiting = self.network.no_sync() if self.processes.size > 1 and number < len(pieces) - 1 else nullcontext()
            with waiting:
                loss, parts = self._forward(piece)
                self.scaler.scale(loss * weight).backward()
            total = total + loss.detach() * weight
            for name, part in parts.items():
                losses[name] = losses.get(name, 0.0) + part.detach() * weight
        self._refuse_unused()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([weight.grad for weight in self._trained if weight.grad is not None])
        self._refuse_non_finite(total, losses, norm, pieces)
        if self.settings.clip_norm:
            nn.utils.clip_grads_with_norm_(self._trained, self.settings.clip_norm, norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        return Update(total, losses, norm)

    def _forward(self, piece: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        dtype = _DTYPES.get(self.settings.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            # Labels stay where they are: the losses move what they need.
            try:
                outputs = self.network(
                    piece["pixel_values"].to(self.device, non_blocking=True),
                    piece["pixel_mask"].to(self.device, non_blocking=True),
                    labels=piece["labels"],
                )
            except CostError as error:  # the matcher meets it before there is a loss
                raise NonFiniteError(f"no loss: {error}", _picture_ids([piece])) from error
            except ValueError as error:
                raise ValueError(f"pictures {_picture_ids([piece])}: {error}") from error
        return outputs.loss, outputs.loss_dict

    def _weights(self, pieces: Sequence[Batch]) -> list[Any]:
        """Return what each piece's loss counts.

        A piece's losses are divided by its own objects, averaged over processes, n, and at least 1; the whole batch's
        would be divided by N, the sum of these. So each piece counts max(n, 1) / max(N, 1).
        """
        if len(pieces) == 1:
            return [1.0]
        counts = torch.tensor(
            [float(sum(len(label["class_labels"]) for label in piece["labels"])) for piece in pieces],
            device=self.device,
        )
        counts = self.processes.mean(counts)
        return list(counts.clamp(min=1.0) / counts.sum().clamp(min=1.0))

    def _refuse_unused(self) -> None:
        """Look once whether every trained parameter got a gradient: processes could not agree on one that did not."""
        if self._checked:
            return
        idle = _idle_heads(self.model)
        unused = [
            name
            for name, value in self.model.named_parameters()
            if value.requires_grad and (value.grad is None or id(value) in idle)
        ]
        if unused:
            raise ValueError(
                f"no gradient reaches {len(unused)} trained parameters, first {unused[0]}: freeze what is not used "
                "([model] frozen in the recipe), or switch auxiliary_loss on, which trains every layer's heads"
            )
        self._checked = True

    def _refuse_non_finite(
        self, total: Tensor, losses: Mapping[str, Tensor], norm: Tensor, pieces: Sequence[Batch]
    ) -> None:
        # Under float16 the scaler expects gradients that overflow now and then, and leaves the step out.
        seen = total if self.scaler.is_enabled() else total + norm
        bad = not bool(torch.isfinite(seen))
        if not self.processes.largest([float(bad)], self.device)[0]:
            return
        parts = [name for name, value in losses.items() if not bool(torch.isfinite(value))]
        if not bool(torch.isfinite(total)):
            what = f"the loss is {total.item()} through {', '.join(parts)}"
        elif bad:
            named = [name for name, value in self.model.named_parameters() if value.requires_grad]
            first = [
                name for name, value in zip(named, self._grads(), strict=True) if not bool(torch.isfinite(value).all())
            ]
            what = f"the loss is {total.item():.4g}, but the gradients are not finite, first that of {first[0]}"
        else:
            what = "another process met a loss or a gradient that is not finite"
        raise NonFiniteError(what, _picture_ids(pieces))

    def _grads(self) -> list[Tensor]:
        return [value.grad for value in self.model.parameters() if value.requires_grad and value.grad is not None]


def _picture_ids(pieces: Sequence[Batch]) -> list[int]:
    return [int(label["image_id"]) for piece in pieces for label in piece["labels"] if "image_id" in label]


def _idle_heads(model: Any) -> set[int]:
    """Return the ids of the parameters of heads that no loss reads: their gradients are zero for ever."""
    config = model.config
    if config.auxiliary_loss or not config.with_box_refine:
        return set()
    earlier = slice(config.decoder_layers - 1)
    heads = (*model.class_embed[earlier], *model.bbox_embed[earlier])
    return {id(parameter) for head in heads for parameter in head.parameters()}
