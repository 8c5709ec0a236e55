"""Gradient checkpointing: keep a part's input only, and compute its inside again in the backward pass.

Memory for time: a forward pass more of these parts buys back what they would have kept for the gradients.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputing"]


@contextmanager
def recomputing(model: Any, parts: Sequence[str]) -> Iterator[list[str]]:
    """Let parts of a detector recompute their activations inside a ``with`` block; the gradients stay the same.

    Args:
        model: a detector.
        parts: some of "backbone" (stage by stage), "encoder" and "decoder" (layer by layer).

    Yields:
        The names of the modules that recompute.

    Raises:
        ValueError: if a part is unknown.
    """
    sources = {
        "backbone": lambda: _stages(model.model.backbone.conv_encoder.model),
        "encoder": lambda: list(model.model.encoder.layers),
        "decoder": lambda: list(model.model.decoder.layers),
    }
    for part in parts:
        if part not in sources:
            raise ValueError(f"recompute names {part!r}, expected some of {', '.join(sources)}")
    chosen = [module for part in parts for module in sources[part]()]
    names = {id(module): name for name, module in model.named_modules()}
    for module in chosen:
        # On the instance, over its class's method: neither names nor weights change.
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    try:
        yield [names[id(module)] for module in chosen]
    finally:
        for module in chosen:
            del module.forward


def _stages(network: nn.Module) -> list[nn.Module]:
    """Return a backbone's large pieces, whatever it calls them: what its outermost lists of modules hold."""
    stages: list[nn.Module] = []
    for child in network.children():
        stages += child.children() if isinstance(child, (nn.Sequential, nn.ModuleList)) else _stages(child)
    return stages
