"""Chapter 3: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.backbone import FrozenBatchNorm2d
from ddetr_lab.checks import chapter03
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
Layers = Sequence[tuple[int, int, int]]


def good_field(layers: Layers) -> tuple[int, int]:
    # From the last layer back: n cells of a map need (n - 1) * stride + (kernel - 1) * dilation + 1 of its input.
    size, total = 1, 1
    for kernel, stride, dilation in reversed(layers):
        size = (size - 1) * stride + (kernel - 1) * dilation + 1
        total *= stride
    return size, total


def walk(layers: Layers, reach: Callable[[int, int, int], int], start: int = 1) -> tuple[int, int]:
    size, jump = start, 1
    for kernel, stride, dilation in layers:
        size += reach(kernel, dilation, jump)
        jump *= stride
    return size, jump


def stride_too_early(layers: Layers) -> tuple[int, int]:
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        jump *= stride
        size += (kernel - 1) * dilation * jump
    return size, jump


def good_scale(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = weight * (var + eps).rsqrt()
    return scale, bias - mean * scale


def good_groups(x: Tensor, groups: int, eps: float) -> Tensor:
    result = torch.empty_like(x)
    for picture, of_picture in zip(result, x, strict=True):
        for target, part in zip(picture.chunk(groups), of_picture.chunk(groups), strict=True):
            target.copy_((part - part.mean()) / (part.var(correction=0) + eps) ** 0.5)
    return result


def shared_by_pictures(x: Tensor, groups: int, eps: float) -> Tensor:
    parts = x.unflatten(1, (groups, -1))
    mean = parts.mean((0, 2, 3, 4), keepdim=True)
    var = parts.var((0, 2, 3, 4), keepdim=True, correction=0)
    return ((parts - mean) / (var + eps).sqrt()).flatten(1, 2)


def interleaved(x: Tensor, groups: int, eps: float) -> Tensor:
    result = torch.empty_like(x)
    for first in range(groups):
        result[:, first::groups] = good_groups(x[:, first::groups], 1, eps)
    return result


def freezer(
    eps: bool = True, act: bool = True, deep: bool = True, numbers: bool = True
) -> Callable[[nn.Module], nn.Module]:
    def freeze(module: nn.Module) -> nn.Module:
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(child.num_features, child.eps if eps else 1e-5)
                if numbers:
                    frozen.load_state_dict(child.state_dict())
                if act:
                    frozen.activation = getattr(child, "act", nn.Identity())
                setattr(module, name, frozen)
            elif deep:
                freeze(child)
        return module

    return freeze


def deaf_to_train(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, norm=module: norm  # type: ignore[method-assign, assignment, misc]


def only_evaluation(module: nn.Module) -> None:
    module.eval()


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter03.field_of, good_field),
    (chapter03.scale_and_shift, good_scale),
    (chapter03.grouped, good_groups),
    (chapter03.freeze, freezer()),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter03.field_of, stride_too_early, "before its own kernel"),
    (chapter03.field_of, lambda layers: walk(layers, lambda k, d, j: k * d * j), "reaches k - 1"),
    (chapter03.field_of, lambda layers: walk(layers, lambda k, d, j: (k - 1) * d), "a step on a coarse map"),
    (chapter03.field_of, lambda layers: walk(layers, lambda k, d, j: (k - 1) * j), "dilation plays no part"),
    (chapter03.field_of, lambda layers: walk(layers, lambda k, d, j: (k - 1) * d * j, 0), "sees itself"),
    (chapter03.field_of, lambda layers: good_field(layers[::-1]), "from the last to the first"),
    (chapter03.field_of, lambda layers: good_field(layers)[::-1], "field comes first"),
    (chapter03.field_of, lambda layers: good_field(layers)[0], "expected a tensor|stay in PyTorch"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: (w / (v + e), b - m * w / (v + e)), "square root"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: good_scale(w, b, m, v, 0.0), "eps plays no part"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: good_scale(w, b, m, v, 1e-5), "PyTorch's eps"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: good_scale(w, b, m, (v.sqrt() + e) ** 2, 0.0), "under the root"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: (good_scale(w, b, m, v, e)[0], b - m), "carry the scale"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: good_scale(w, b, -m, v, e), "not added"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: good_scale(w, b, m * 0, v, e), "no part in the shift"),
    (chapter03.grouped, lambda x, g, e: good_groups(x, x.shape[1], e), "by itself: the channels"),
    (chapter03.grouped, lambda x, g, e: good_groups(x, 1, e), "all channels"),
    (chapter03.grouped, shared_by_pictures, "one picture at a time"),
    (chapter03.grouped, interleaved, "neighbouring channels"),
    (chapter03.grouped, lambda x, g, e: good_groups(x, g, 0.0), "eps plays no part"),
    (chapter03.freeze, only_evaluation, "lasts until the next train"),
    (chapter03.freeze, deaf_to_train, "lasts until the next train"),
    (chapter03.freeze, freezer(deep=False), "go down into its children"),
    (chapter03.freeze, freezer(deep=False, eps=False), "right below the network were replaced, and those"),
    (chapter03.freeze, freezer(act=False), "hand child.act over"),
    (chapter03.freeze, freezer(eps=False), "hand child.eps over"),
    (chapter03.freeze, freezer(eps=False, act=False), "child.act and child.eps"),
    (chapter03.freeze, freezer(numbers=False), "fresh ones"),
]


class OwnNorm(nn.Module):
    """A frozen norm as a reader may write it, with its two numbers as buffers or, wrongly, as parameters."""

    def __init__(self, norm: nn.BatchNorm2d, trainable: bool = False) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        scale, shift = good_scale(norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var, norm.eps)
        for name, value in (("scale", scale), ("shift", shift)):
            if trainable:
                self.register_parameter(name, nn.Parameter(value[:, None, None].clone()))
            else:
                self.register_buffer(name, value[:, None, None].clone())
        self.activation = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Any:
        return self.activation(x * self.scale + self.shift)


def replaced(make: Callable[[nn.BatchNorm2d], nn.Module], kind: type = nn.BatchNorm2d, exact: bool = False) -> Answer:
    def freeze(module: nn.Module) -> None:
        for name, child in list(module.named_children()):
            if type(child) is kind if exact else isinstance(child, kind):
                setattr(module, name, make(child))  # type: ignore[arg-type]
            else:
                freeze(child)

    return freeze


def frozen_copy(module: nn.Module) -> nn.Module:
    return freezer()(copy.deepcopy(module))


def backwards_field(layers: list[tuple[int, int, int]]) -> list[int]:
    size, jump = 1, 1
    while layers:  # the list is the reader's own
        kernel, stride, dilation = layers.pop()
        size, jump = (size - 1) * stride + (kernel - 1) * dilation + 1, jump * stride
    return [size, jump]


def last_stride_only(layers: Layers) -> tuple[int, int]:
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        size, jump = size + (kernel - 1) * dilation * jump, stride
    return size, jump


def by_deviation(correction: int) -> Answer:
    def grouped(x: Tensor, groups: int, eps: float) -> Tensor:
        parts = x.reshape(len(x), groups, -1)
        deviation = parts.std(-1, keepdim=True, correction=correction)
        return ((parts - parts.mean(-1, keepdim=True)) / (deviation + eps)).view(x.shape)

    return grouped


RIGHT += [
    (chapter03.field_of, backwards_field),
    (
        chapter03.scale_and_shift,
        lambda w, b, m, v, e: [w * torch.rsqrt(v + e), torch.addcmul(b, w * torch.rsqrt(v + e), -m)],
    ),
    (chapter03.grouped, lambda x, g, e: nn.GroupNorm(g, x.shape[1], e, affine=False)(x)),
    (chapter03.freeze, replaced(OwnNorm)),
    (chapter03.freeze, replaced(FrozenBatchNorm2d.from_batch_norm)),
]

WRONG += [
    (chapter03.field_of, lambda layers: tuple(map(float, good_field(layers))), "they are floats"),
    (chapter03.field_of, lambda layers: walk(layers, lambda k, d, j: ((k - 1) * d + 1) * j), "whole extent"),
    (chapter03.field_of, lambda layers: walk(layers, lambda k, d, j: (k * d - 1) * j), "k d cells wide"),
    (chapter03.field_of, last_stride_only, "a product"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: (good_scale(w, b, m, v, e)[0], b - w * m), "by the deviation"),
    (
        chapter03.scale_and_shift,
        lambda w, b, m, v, e: (good_scale(w, b, m, v, e)[0], b - m / (v + e).sqrt()),
        "by the weight",
    ),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: good_scale(w, b, m, v, e)[::-1], "the scale comes first"),
    (chapter03.scale_and_shift, lambda w, b, m, v, e: good_scale(w, b * 0, m, v, e), "bias plays no part"),
    (chapter03.grouped, by_deviation(0), "belongs to the variance"),
    (chapter03.grouped, by_deviation(1), "correction=0"),
    (chapter03.grouped, lambda x, g, e: good_groups(x, x.shape[1] // g, e), "number of groups was taken"),
    (chapter03.freeze, replaced(lambda norm: OwnNorm(norm, trainable=True)), "in buffers"),
    (chapter03.freeze, replaced(FrozenBatchNorm2d.from_batch_norm, exact=True), "isinstance"),
    (chapter03.freeze, replaced(lambda norm: FrozenBatchNorm2d(norm.num_features)), "fresh ones"),
    (chapter03.freeze, frozen_copy, "in place, in the module that comes in"),
    (chapter03.freeze, lambda module, x: None, r"called as freeze\(module\)"),
    (chapter03.freeze, replaced(lambda norm: nn.Linear(999, 1)), "called with a map"),
]
