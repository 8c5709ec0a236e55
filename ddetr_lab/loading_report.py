"""Fit a checkpoint's tensors to a model by name and shape, and say what fitted.

Built in chapter 12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LoadingReport", "Misfit", "Resized", "fit_state", "tied_names"]

# A bare model's file has no heads and a bare model takes none, so these may be over or wanting between the two.
_HEADS = re.compile(r"(^|\.)(class_embed|bbox_embed)\.")

# Of the reference's loading info.
_KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


class Misfit(ValueError, RuntimeError):
    """The file does not fit the model; a RuntimeError too, as code that was written for the reference expects."""


@dataclass(frozen=True)
class Resized:
    """A tensor whose shape in the file is not the model's; the model keeps its fresh one."""

    name: str
    found: tuple[int, ...]
    expected: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} (file {self.found}, model {self.expected})"


@dataclass
class LoadingReport(Mapping[str, Any]):
    """What became of every tensor when a checkpoint was loaded. A tied tensor stands here once, under its first name.

    It can be read as the dict that the reference returns too: its keys are ``missing_keys``, ``unexpected_keys``,
    ``mismatched_keys`` (name, shape in the file, shape in the model) and ``error_msgs``.

    Attributes:
        source: where the weights came from.
        loaded: names that took the file's values.
        resized: tensors of another shape in the file, which start fresh.
        new: names that the file lacks, which start fresh.
        unused: names in the file that the model lacks.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: list[Resized] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the model came from the file and none of the file's was left over."""
        return not (self.resized or self.new or self.unused)

    def summary(self) -> str:
        """Return a text of one line, and one more for each kind of tensor that was not simply loaded."""
        counts = f"{len(self.resized)} resized, {len(self.new)} new, {len(self.unused)} unused"
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded, {counts}"]
        if self.resized:
            lines.append(f"  resized, so they start fresh: {_some(self.resized)}")
        if self.new:
            lines.append(f"  new, not in the file, so they start fresh: {_some(self.new)}")
        if self.unused:
            lines.append(f"  unused, not in the model: {_some(self.unused)}")
        return "\n".join(lines)

    def __getitem__(self, key: str) -> list[Any]:
        if key == "mismatched_keys":
            return [(entry.name, entry.found, entry.expected) for entry in self.resized]
        return {"missing_keys": self.new, "unexpected_keys": self.unused, "error_msgs": []}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)


def tied_names(module: nn.Module) -> list[list[str]]:
    """Group the names of ``module.state_dict()`` that belong to one tensor, in their order there.

    Without refinement all decoder layers share one head, and with it the decoder holds the detector's box heads: one
    tensor then has several names.
    """
    groups: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():  # keep_vars: the very objects, not detached copies
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def fit_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    strict: bool = True,
    ignore_mismatched_sizes: bool = False,
    base_prefix: str = "model",
) -> LoadingReport:
    """Copy a checkpoint's tensors into a model, or raise before the first one is copied.

    A detector takes a bare model's file and the other way round: the prefix is added or removed, and heads that are
    wanting or over are reported, not refused. Of a tensor's several names any one is enough.

    Args:
        module: the model; its dtype stays, values are cast to it.
        state: name -> tensor of the checkpoint.
        source: what to call the checkpoint in messages.
        strict: refuse a file that lacks a tensor, has one too many, or holds NaN or infinity.
        ignore_mismatched_sizes: let tensors of another shape start fresh.
        base_prefix: the name of the bare model inside the detector.

    Raises:
        Misfit: if the file does not fit; the message lists what and why, and the remedy. It is a ValueError.
    """
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    state, heads_may_differ = _match_prefix(module, state, base_prefix)
    report = LoadingReport(source)
    own = module.state_dict(keep_vars=True)
    copies: list[tuple[Tensor, Tensor]] = []
    for names in tied_names(module):
        present = [name for name in names if name in state]
        target = own[names[0]]
        if not present:
            if not names[0].endswith("num_batches_tracked"):
                report.new.append(names[0])
            continue
        found = _agreed(state, present, source)
        if found.shape != target.shape:
            report.resized.append(Resized(names[0], tuple(found.shape), tuple(target.shape)))
        elif found.is_floating_point() != target.is_floating_point():
            raise Misfit(f"{source}: {present[0]} is {found.dtype}, expected {target.dtype}: the file is damaged")
        else:
            report.loaded.append(names[0])
            copies.append((target, found))
    report.unused = [name for name in state if name not in own]
    _refuse(module, report, state, strict, ignore_mismatched_sizes, heads_may_differ)
    with torch.no_grad():
        for target, found in copies:
            target.copy_(found)
    return report


def _match_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], bool]:
    """Rename between a detector's names and a bare model's; say whether heads may be over or wanting."""
    dotted = f"{prefix}."
    file_has = any(name.startswith(dotted) for name in state)
    model_has = hasattr(module, prefix)
    if model_has and not file_has and state:
        return {dotted + name: tensor for name, tensor in state.items()}, True
    if file_has and not model_has:
        renamed = {name.removeprefix(dotted): tensor for name, tensor in state.items()}
        own = module.state_dict()
        for name, tensor in state.items():
            # A two-stage model holds the heads itself, under the decoder's name for them.
            if f"decoder.{name}" in own and f"decoder.{name}" not in renamed:
                renamed[f"decoder.{name}"] = tensor
        return renamed, True
    return state, not model_has  # a bare model that was cut out of a detector may have kept its heads in the file


def _agreed(state: Mapping[str, Tensor], names: list[str], source: str) -> Tensor:
    first = state[names[0]]
    for name in names[1:]:
        if first.shape != state[name].shape or not torch.equal(first, state[name]):
            raise Misfit(
                f"{source}: {names[0]} and {name} are one tensor in this model, but they differ in the file; "
                "the file probably has a head for each layer: set with_box_refine=True"
            )
    return first


def _refuse(
    module: nn.Module,
    report: LoadingReport,
    state: Mapping[str, Tensor],
    strict: bool,
    ignore_mismatched_sizes: bool,
    heads_may_differ: bool,
) -> None:
    missing = [name for name in report.new if not (heads_may_differ and _HEADS.search(name))]
    unused = [name for name in report.unused if not (heads_may_differ and _HEADS.search(name))]
    reasons, remedies = [], []
    if report.resized and not ignore_mismatched_sizes:
        reasons.append(f"{len(report.resized)} tensors have another shape: {_some(report.resized)}")
        remedies.append("ignore_mismatched_sizes=True starts those of another shape fresh, as for other labels")
    if strict and missing:
        reasons.append(f"{len(missing)} tensors are missing in the file: {_some(missing)}")
    if strict and unused:
        reasons.append(f"{len(unused)} tensors of the file are not in the model: {_some(unused)}")
    if strict and (missing or unused):
        remedies.append(
            "check that the configuration is the file's own (backbone, with_box_refine, two_stage, num_feature_levels, "
            "layers); strict=False loads what fits and reports the rest"
        )
    if strict:
        broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if broken:
            reasons.append(f"{len(broken)} tensors hold NaN or infinity: {_some(broken)}")
            remedies.append(
                "the training that wrote the file diverged: take an earlier file; strict=False loads it as it is"
            )
    if reasons:
        text = "\n  ".join([*reasons, *(f"remedy: {remedy}" for remedy in remedies)])
        raise Misfit(f"{report.source} does not fit {type(module).__name__}:\n  {text}")


def _some(entries: Iterable[object], limit: int = 8) -> str:
    texts = [str(entry) for entry in entries]
    more = f" … and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
