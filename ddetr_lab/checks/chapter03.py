"""The checks of chapter 3: receptive fields, frozen norms, group norm, and a freeze that keeps what a network computes.

Built in chapter 3.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_lab.backbone import FrozenBatchNorm2d
from ddetr_lab.checks.core import (
    Answer,
    CheckError,
    Mistake,
    Passed,
    call,
    check_function,
    generator,
    random_integer,
    random_size,
)

__all__ = ["field_of", "freeze", "grouped", "scale_and_shift"]

Layers = Sequence[tuple[int, int, int]]


def field_of(answer: Answer) -> Passed:
    """Check a function from (kernel, stride, dilation) of each layer to the pair (receptive field, stride)."""

    def as_tensor(layers: Layers) -> Any:
        got = answer(list(layers))  # a list of its own, which may be taken apart
        return torch.tensor(got) if isinstance(got, (tuple, list)) else got

    def walk(layers: Layers, start: int = 1, reach: Callable[[int, int, int], int] | None = None) -> tuple[int, int]:
        size, jump = start, 1
        for kernel, stride, dilation in layers:
            size += reach(kernel, dilation, jump) if reach else (kernel - 1) * dilation * jump
            jump *= stride
        return size, jump

    def reference(layers: Layers) -> Tensor:
        return torch.tensor(walk(layers))

    def stride_first(layers: Layers) -> Tensor:
        size, jump = 1, 1
        for kernel, stride, dilation in layers:
            jump *= stride
            size += (kernel - 1) * dilation * jump
        return torch.tensor((size, jump))

    def last_stride(layers: Layers) -> Tensor:
        size, jump = 1, 1
        for kernel, stride, dilation in layers:
            size, jump = size + (kernel - 1) * dilation * jump, stride
        return torch.tensor((size, jump))

    mistakes = [
        Mistake(reference, "the numbers are right, but they are floats: field and stride are whole numbers of pixels."),
        Mistake(
            last_stride,
            "the stride of the last layer is not that of all: cells move apart by each layer's stride, a product.",
        ),
        Mistake(
            stride_first,
            "the stride was multiplied in before its own kernel was counted: a kernel's entries lie as far apart as "
            "the cells of its input do.",
        ),
        Mistake(
            lambda layers: torch.tensor(walk(layers, reach=lambda k, d, jump: k * d * jump)),
            "each layer added k cells: a kernel of k entries reaches k - 1 further ones, and a kernel of 1 none.",
        ),
        Mistake(
            lambda layers: torch.tensor(walk(layers, reach=lambda k, d, jump: ((k - 1) * d + 1) * jump)),
            "each layer added its whole extent, (k - 1) d + 1 cells: one of these is the cell it had already.",
        ),
        Mistake(
            lambda layers: torch.tensor(walk(layers, reach=lambda k, d, jump: (k * d - 1) * jump)),
            "a kernel of k entries was taken to be k d cells wide: d is the way between two entries, and of such ways "
            "there are k - 1.",
        ),
        Mistake(
            lambda layers: torch.tensor(walk(layers, reach=lambda k, d, jump: (k - 1) * d)),
            "every layer was counted in its own cells: a step on a coarse map is as long as the strides before it.",
        ),
        Mistake(
            lambda layers: torch.tensor(walk(layers, reach=lambda k, d, jump: (k - 1) * jump)),
            "the dilation plays no part: with dilation d neighbouring entries of the kernel lie d cells apart.",
        ),
        Mistake(
            lambda layers: torch.tensor(walk(layers, start=0)), "a cell sees itself: the field starts at 1, not at 0."
        ),
        Mistake(
            lambda layers: torch.tensor(walk(layers[::-1])),
            "the layers were read from the last to the first: they come in order from the picture.",
        ),
        Mistake(lambda layers: reference(layers).flip(0), "the field comes first, the stride second."),
    ]
    rng = generator(31)
    cases: list[tuple[Layers]] = [(((3, 2, 1), (5, 1, 2), (1, 2, 1), (7, 2, 3)),)]
    for _ in range(8):
        drawn = [
            (2 * random_integer(rng, 0, 3) + 1, random_integer(rng, 1, 2), random_integer(rng, 1, 3))
            for _ in range(random_integer(rng, 3, 8))
        ]
        cases.append((tuple(drawn),))
    return check_function(as_tensor if callable(answer) else answer, reference, cases, mistakes, name="field_of")


def scale_and_shift(answer: Answer) -> Passed:
    """Check a function from weight, bias, mean, variance (C,) and eps to the pair (scale, shift), each (C,)."""

    def reference(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        scale = weight / (var + eps).sqrt()
        return scale, bias - scale * mean

    def wrong(divisor: Callable[[Tensor, float], Tensor]) -> Answer:
        def answer(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
            scale = weight / divisor(var, eps)
            return scale, bias - scale * mean

        return answer

    def with_shift(shift: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Answer:
        def answer(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
            scale = reference(weight, bias, mean, var, eps)[0]
            return scale, shift(scale, bias, mean)

        return answer

    mistakes = [
        Mistake(wrong(lambda var, eps: var + eps), "divided by the variance: the deviation is its square root."),
        Mistake(wrong(lambda var, eps: var.sqrt() + eps), "eps was added to the deviation: it belongs under the root."),
        Mistake(
            wrong(lambda var, eps: var.sqrt()), "eps plays no part: channels with a variance near zero would explode."
        ),
        Mistake(
            wrong(lambda var, eps: (var + 1e-5).sqrt()), "PyTorch's eps was taken, 1e-5: use the one that is given."
        ),
        Mistake(
            with_shift(lambda scale, bias, mean: bias - mean),
            "the mean is subtracted before scaling: in the shift it has to carry the scale.",
        ),
        Mistake(with_shift(lambda scale, bias, mean: bias + scale * mean), "the mean is subtracted, not added."),
        Mistake(with_shift(lambda scale, bias, mean: bias), "the mean plays no part in the shift."),
        Mistake(with_shift(lambda scale, bias, mean: -scale * mean), "the bias plays no part in the shift."),
        Mistake(
            lambda w, bias, mean, var, eps: (reference(w, bias, mean, var, eps)[0], bias - mean / (var + eps).sqrt()),
            "in the shift the mean is not multiplied by the weight: it has to carry the whole scale.",
        ),
        Mistake(
            lambda w, bias, mean, var, eps: (reference(w, bias, mean, var, eps)[0], bias - w * mean),
            "in the shift the mean is not divided by the deviation: it has to carry the whole scale.",
        ),
        Mistake(
            lambda weight, bias, mean, var, eps: reference(weight, bias, mean, var, eps)[::-1],
            "scale and shift are exchanged: the scale comes first.",
        ),
    ]
    rng = generator(32)
    cases = []
    for eps in (1e-3, 0.01, 0.1, 0.5):
        channels = random_integer(rng, 3, 9)
        weight, bias, mean = torch.randn(3, channels, generator=rng)
        var = torch.rand(channels, generator=rng) * 4 * torch.tensor([0.002] + [1.0] * (channels - 1))
        cases.append((weight, bias, mean, var, eps))
    return check_function(answer, reference, cases, mistakes, name="scale_and_shift", parts=("scale", "shift"))


def grouped(answer: Answer) -> Passed:
    """Check a function from x (B, C, H, W), the number of groups and eps to the group norm of x, no affine part."""

    def reference(x: Tensor, groups: int, eps: float) -> Tensor:
        return F.group_norm(x, groups, eps=eps)

    def over_batch(x: Tensor, groups: int, eps: float) -> Tensor:
        return F.group_norm(x.transpose(0, 1)[None].flatten(3), groups, eps=eps)[0].transpose(0, 1).view(x.shape)

    def every_nth(x: Tensor, groups: int, eps: float) -> Tensor:
        turned = x.unflatten(1, (-1, groups)).transpose(1, 2).flatten(1, 2)
        return reference(turned, groups, eps).unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)

    def centred_over(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        parts = x.reshape(len(x), groups, -1)
        return parts - parts.mean(-1, keepdim=True), parts.var(-1, keepdim=True, correction=0)

    def unbiased(x: Tensor, groups: int, eps: float) -> Tensor:
        parts = x.reshape(len(x), groups, -1)
        return ((parts - parts.mean(-1, keepdim=True)) / (parts.var(-1, keepdim=True) + eps).sqrt()).view(x.shape)

    def eps_outside(correction: int) -> Answer:
        def answer(x: Tensor, groups: int, eps: float) -> Tensor:
            parts = x.reshape(len(x), groups, -1)
            deviation = parts.std(-1, keepdim=True, correction=correction)
            return ((parts - parts.mean(-1, keepdim=True)) / (deviation + eps)).view(x.shape)

        return answer

    def not_centred(x: Tensor, groups: int, eps: float) -> Tensor:
        return (x.reshape(len(x), groups, -1) / (centred_over(x, groups)[1] + eps).sqrt()).view(x.shape)

    def no_root(x: Tensor, groups: int, eps: float) -> Tensor:
        centred, var = centred_over(x, groups)
        return (centred / (var + eps)).view(x.shape)

    def by_cell(x: Tensor, groups: int, eps: float) -> Tensor:
        parts = x.unflatten(1, (groups, -1))  # (B, groups, C/groups, H, W)
        mean, var = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, correction=0)
        return ((parts - mean) / (var + eps).sqrt()).view(x.shape)

    mistakes = [
        Mistake(
            lambda x, groups, eps: reference(x, x.shape[1], eps),
            "every channel was normalised by itself: the channels of a group share one mean and one variance.",
        ),
        Mistake(
            lambda x, groups, eps: reference(x, 1, eps), "all channels were taken together: each group has its own."
        ),
        Mistake(over_batch, "the pictures share their statistics: a group norm takes one picture at a time."),
        Mistake(every_nth, "every n-th channel went into a group: a group is made of neighbouring channels."),
        Mistake(by_cell, "each cell was normalised by itself: the mean runs over the group's channels and all cells."),
        Mistake(unbiased, "the variance was divided by n - 1: a norm divides by n (correction=0)."),
        Mistake(eps_outside(0), "eps was added to the deviation: it belongs to the variance, under the root."),
        Mistake(
            eps_outside(1),
            "std() divides by n - 1, and eps was added to the deviation: take the variance with correction=0, add eps, "
            "then the root.",
        ),
        Mistake(not_centred, "the mean was not taken out before dividing."),
        Mistake(
            lambda x, groups, eps: reference(x, x.shape[1] // groups, eps),
            "the number of groups was taken for the number of channels in one: there are so many groups.",
        ),
        Mistake(no_root, "divided by the variance: the deviation is its square root."),
        Mistake(
            lambda x, groups, eps: (lambda parts: (parts[0] / parts[1].sqrt()).view(x.shape))(centred_over(x, groups)),
            "eps plays no part: add it to the variance, under the root.",
        ),
        Mistake(
            lambda x, groups, eps: centred_over(x, groups)[0].view(x.shape),
            "the mean was taken out, but nothing is divided by the deviation.",
        ),
    ]
    rng = generator(33)
    cases = []
    for eps in (1e-3, 0.1, 0.3):
        groups, wide = random_integer(rng, 2, 4), random_integer(rng, 2, 4)
        height, width = random_size(rng, 2, 4)
        x = torch.randn(random_integer(rng, 2, 3), groups * wide, height, width, generator=rng)
        cases.append((x + torch.randn(groups * wide, 1, 1, generator=rng), groups, eps))
    return check_function(answer, reference, cases, mistakes, name="grouped")


def _network(rng: torch.Generator) -> nn.Module:
    """Return a network in evaluation whose norms stand at three depths, with and without activation, of many eps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # of a hub client that timm brings along
        from timm.layers import BatchNormAct2d

    def block(width: int, *more: nn.Module) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), BatchNormAct2d(width, eps=0.2), nn.BatchNorm2d(width, 0.05), *more
        )

    width = random_integer(rng, 3, 6)
    network = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width, 0.1), block(width, block(width)))
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=rng) * (0.5 if tensor.ndim > 1 else 1.0) + 0.01)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.sub_(0.6)  # negative numbers reach the activations
    return network.eval().requires_grad_(False)


def freeze(answer: Answer) -> Passed:
    """Check a function that freezes a network's batch norms in place: the output in training mode tells."""

    def with_freezer(freezer: Callable[[nn.Module], object]) -> Answer:
        def output(network: nn.Module, x: Tensor) -> Tensor:
            copied = copy.deepcopy(network)
            freezer(copied)
            for module in copied.train().modules():
                module.training = True  # also where somebody gave a norm a train() that does nothing
            return copied(x)

        return output

    def reference(network: nn.Module, x: Tensor) -> Tensor:
        return network(x)  # in evaluation, as it came

    def replacing(make: Callable[[nn.BatchNorm2d], nn.Module], deep: bool = True) -> Answer:
        def freezer(network: nn.Module) -> None:
            for name, child in network.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(network, name, make(child))
                elif deep:
                    freezer(child)

        return with_freezer(freezer)

    def without_activation(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
        frozen = FrozenBatchNorm2d.from_batch_norm(norm)
        frozen.activation = nn.Identity()
        return frozen

    def default_eps(norm: nn.BatchNorm2d) -> nn.Module:
        frozen = FrozenBatchNorm2d.from_batch_norm(norm)
        frozen.eps = 1e-5
        return frozen

    def both(norm: nn.BatchNorm2d) -> nn.Module:
        frozen = without_activation(norm)
        frozen.eps = 1e-5
        return frozen

    def empty(norm: nn.BatchNorm2d) -> nn.Module:
        return FrozenBatchNorm2d(norm.num_features, norm.eps, FrozenBatchNorm2d.from_batch_norm(norm).activation)

    def plain_only(network: nn.Module) -> None:
        for name, child in network.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(network, name, FrozenBatchNorm2d.from_batch_norm(child))
            else:
                plain_only(child)

    mistakes = [
        Mistake(
            reference,
            "the values are right, but the new norms have parameters, which would go on learning: a frozen norm holds "
            "its numbers in buffers.",
        ),
        Mistake(
            with_freezer(plain_only),
            "the norms with an activation are still there: BatchNormAct2d inherits from BatchNorm2d, so ask with "
            "isinstance and not for the type itself.",
        ),
        Mistake(
            with_freezer(lambda network: network.eval().requires_grad_(False)),
            "the norms still take the statistics of the batch in training mode: eval() lasts until the next train(), "
            "and requires_grad is about parameters only. Replace the norms.",
        ),
        Mistake(
            replacing(FrozenBatchNorm2d.from_batch_norm, deep=False),
            "only the norms right below the network were replaced: go down into its children as well.",
        ),
        Mistake(
            replacing(default_eps, deep=False),
            "only the norms right below the network were replaced, and those got another eps than they had.",
        ),
        Mistake(replacing(without_activation), "the activation inside the norm is gone: hand child.act over."),
        Mistake(replacing(default_eps), "the frozen norms have another eps: hand child.eps over."),
        Mistake(replacing(both), "activation and eps of the norms are gone: hand child.act and child.eps over."),
        *(
            Mistake(replacing(fresh), "the frozen norms are fresh ones: copy weight, bias and running statistics.")
            for fresh in (empty, lambda norm: FrozenBatchNorm2d(norm.num_features))
        ),
        Mistake(replacing(lambda norm: nn.Identity()), "the norms are gone: each is to be replaced by a frozen one."),
    ]
    rng = generator(34)
    cases = [(_network(rng), torch.randn(2, 3, *random_size(rng, 6, 9), generator=rng)) for _ in range(3)]
    for case in cases:
        _check_frozen(answer, *case)
    return check_function(with_freezer(answer), reference, cases, mistakes, name="freeze")


def _check_frozen(answer: Answer, network: nn.Module, x: Tensor) -> None:
    """Freeze a copy of a network, and see that it was done in place and that the copy still runs."""
    copied = copy.deepcopy(network)
    returned: list[object] = []

    def in_place(module: nn.Module) -> bool:
        returned.append(answer(module))
        return True

    def reference(module: nn.Module) -> None:
        """Give the call its name in messages."""

    call(in_place if callable(answer) else answer, (copied,), "freeze", reference)
    untouched = list(map(type, copied.modules())) == list(map(type, network.modules()))
    if untouched and isinstance(returned[0], nn.Module) and returned[0] is not copied:
        raise CheckError(
            "freeze returned another network, and left the one that it was given as it was.",
            "replace the norms in place, in the module that comes in: no deepcopy, and nothing has to be returned.",
        )
    try:
        copied.train()(x)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise CheckError(
            f"after freeze the network raised {type(error).__name__} for x of shape {tuple(x.shape)}: {error}",
            "what stands in a norm's place is called with a map (B, C, H, W) and returns one of that shape.",
        ) from error
