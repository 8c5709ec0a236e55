"""Batch norms that training leaves alone, and their fusion with the convolutions before them.

Built in chapter 3.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["FrozenBatchNorm2d", "Pairs", "find_pairs", "folded", "freeze_batch_norms"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are four buffers that training leaves alone.

    Batches of one or two pictures have no statistics worth learning from. A norm of timm that carries its activation
    (``BatchNormAct2d``) hands it over in ``activation``: dropping it would leave the network without its non-linearity.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.eps = eps
        self.activation = nn.Identity() if activation is None else activation

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
        """Copy a batch norm's numbers, its eps, and the dropout and activation that timm's variant carries."""
        carried = [getattr(norm, name, None) for name in ("drop", "act")]
        modules = [module for module in carried if isinstance(module, nn.Module) and type(module) is not nn.Identity]
        frozen = cls(norm.num_features, norm.eps, nn.Sequential(*modules) if modules else None)
        for name in ("running_mean", "running_var"):
            getattr(frozen, name).copy_(getattr(norm, name))
        if norm.affine:
            frozen.weight.copy_(norm.weight.detach())
            frozen.bias.copy_(norm.bias.detach())
        return frozen

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # a counter of ordinary batch norms, of no use here
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift (B, C', H, W) channel by channel, then apply the carried activation."""
        scale, shift = self.scale_and_shift()
        return self.activation(x * scale[:, None, None] + shift[:, None, None])

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return what each channel is multiplied by and what is added to it, both (C',)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def freeze_batch_norms(module: nn.Module) -> None:
    """Replace every ``BatchNorm2d`` below ``module``, in place, by a :class:`FrozenBatchNorm2d` of the same numbers."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d.from_batch_norm(child))
        else:
            freeze_batch_norms(child)


Pairs = tuple[tuple[nn.Conv2d, FrozenBatchNorm2d], ...]


class _ConvAndNorm(nn.Conv2d):
    """A convolution that also does what the frozen norm after it would do."""

    norm_after: tuple[FrozenBatchNorm2d]  # in a tuple, since it is registered elsewhere

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.norm_after[0].scale_and_shift()
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift)


class _ActivationAlone(FrozenBatchNorm2d):
    """A frozen norm whose convolution has done its work."""

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x)


def folded(module: nn.Module, pairs: Pairs) -> nn.Module:
    """Return the network with each pair's norm folded into its convolution; weights and hooks are shared.

    Convolving and then scaling channel by channel is convolving with scaled weights, and a map as large as a picture is
    read and written once less. It takes a fraction of a millisecond to make, so that it is made for each use and
    nothing can get out of step. Results differ by rounding.

    Args:
        module: the network.
        pairs: from :func:`find_pairs`; those with a part that is no longer in the network are left out.
    """
    present = set(module.modules())
    after = {conv: norm for conv, norm in pairs if conv in present and norm in present}
    before = {norm: conv for conv, norm in after.items()}

    def view(original: nn.Module) -> nn.Module:
        twin = copy.copy(original)  # its dictionaries of parameters, buffers and hooks are the original's
        twin._modules = {name: child and view(child) for name, child in original._modules.items()}
        if original in after:
            twin.__class__ = _ConvAndNorm
            twin.norm_after = (after[original],)  # type: ignore[assignment]
        elif original in before:
            twin.__class__ = _ActivationAlone
        return twin

    return view(module)


def find_pairs(module: nn.Module) -> Pairs:
    """Find the convolutions whose frozen norms can be folded into them.

    These are plain convolutions without a bias whose next sibling is a frozen norm of as many channels and, in a run on
    a small picture, got exactly what the convolution gave.

    Args:
        module: a network from pictures to feature maps, whose first convolution says how many channels they have.
    """
    pairs = tuple(_neighbours(module))
    if not pairs:
        return ()
    results: dict[nn.Module, Tensor] = {}
    followed: set[nn.Module] = set()
    conv_before: dict[nn.Module, nn.Module] = {norm: conv for conv, norm in pairs}

    def keep_result(conv: nn.Module, _: object, result: Tensor) -> None:
        results[conv] = result

    def compare_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if results.get(conv_before[norm]) is inputs[0]:
            followed.add(norm)

    handles = [conv.register_forward_hook(keep_result) for conv, _ in pairs]
    handles += [norm.register_forward_pre_hook(compare_input) for _, norm in pairs]
    first = next(child for child in module.modules() if isinstance(child, nn.Conv2d))
    training = module.training
    with torch.no_grad():
        module.eval()(first.weight.new_zeros(1, first.in_channels, 64, 64))
    module.train(training)
    for handle in handles:
        handle.remove()
    return tuple((conv, norm) for conv, norm in pairs if norm in followed)


def _neighbours(module: nn.Module) -> Iterator[tuple[nn.Conv2d, FrozenBatchNorm2d]]:
    """Yield plain convolutions without bias and the frozen norms registered right after them."""
    children = list(module.children())
    for first, second in zip(children, children[1:], strict=False):
        if type(first) is not nn.Conv2d or first.bias is not None or type(second) is not FrozenBatchNorm2d:
            continue
        if first.out_channels == len(second.weight):
            yield first, second
    for child in children:
        yield from _neighbours(child)
