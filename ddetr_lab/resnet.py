"""A ResNet with the reference library's parameter names, for ``use_timm_backbone=False``.

Published checkpoints that were trained with ``backbone_config`` name their backbone's parameters
``embedder.embedder.convolution.weight``, ``encoder.stages.0.layers.0.layer.1.normalization.bias`` and so on; this
module carries those names. It is the network of He et al., 2015, with the stride in the 3x3 convolution.

Built in chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_lab.activations import activation_function
from ddetr_lab.config_resnet import ResNetConfig

__all__ = ["ResNetBackbone"]

BOTTLENECK_REDUCTION = 4

Activation = Callable[[Tensor], Tensor]


class ConvolutionNorm(nn.Module):
    """Convolution without bias, then batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.normalization = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        return self.normalization(self.convolution(x))


class ResidualLayer(nn.Module):
    """Two or three convolutions beside a shortcut; ``kernels_and_widths`` says which."""

    def __init__(
        self, in_channels: int, kernels_and_widths: list[tuple[int, int]], stride: int, activation: Activation
    ) -> None:
        super().__init__()
        self.activation = activation
        out_channels = kernels_and_widths[-1][1]
        strided = next(i for i, (kernel, _) in enumerate(kernels_and_widths) if kernel == 3)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = ConvolutionNorm(in_channels, out_channels, 1, stride) if changes else nn.Identity()
        convolutions, width = [], in_channels
        for index, (kernel, next_width) in enumerate(kernels_and_widths):
            convolutions.append(ConvolutionNorm(width, next_width, kernel, stride if index == strided else 1))
            width = next_width
        self.layer = nn.Sequential(*convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        shortcut = self.shortcut(x)
        for index, convolution in enumerate(self.layer):
            x = convolution(x)
            if index < len(self.layer) - 1:  # the last one is activated after the sum
                x = F.relu(x)  # not self.activation: in the reference, hidden_act reaches the stem and the sums only
        return self.activation(x + shortcut)


class Stage(nn.Module):
    """Residual layers of one width; the first may halve the map."""

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, stride: int, layer_type: str, activation: Activation
    ) -> None:
        super().__init__()
        narrow = out_channels // BOTTLENECK_REDUCTION
        plans = {
            "basic": [(3, out_channels), (3, out_channels)],
            "bottleneck": [(1, narrow), (3, narrow), (1, out_channels)],
        }
        self.layers = nn.Sequential(
            *(
                ResidualLayer(
                    in_channels if index == 0 else out_channels,
                    plans[layer_type],
                    stride if index == 0 else 1,
                    activation,
                )
                for index in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        return self.layers(x)


class _Stem(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, activation: Activation) -> None:
        super().__init__()
        self.embedder = ConvolutionNorm(in_channels, out_channels, kernel=7, stride=2)
        self.activation = activation
        self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooler(self.activation(self.embedder(x)))


class _Stages(nn.Module):
    def __init__(self, stages: list[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)


class ResNetBackbone(nn.Module):
    """ResNet that returns the maps named by ``out_features`` ("stem", "stage1" ...), finest first.

    Args:
        config: its widths and depths, and which maps come out.

    Attributes:
        channels: the number of channels of each map that is returned.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        activation = activation_function(config.hidden_act)
        self.embedder = _Stem(config.num_channels, config.embedding_size, activation)
        widths = [config.embedding_size, *config.hidden_sizes]
        strides = [2 if config.downsample_in_first_stage else 1] + [2] * (len(config.depths) - 1)
        self.encoder = _Stages(
            [
                Stage(before, after, depth, stride, config.layer_type, activation)
                for before, after, depth, stride in zip(widths[:-1], widths[1:], config.depths, strides, strict=True)
            ]
        )
        # Not config.out_indices: it does not follow an out_features that was set afterwards.
        self.out_indices = sorted(config.stage_names.index(name) for name in config.out_features)
        self.channels = [widths[index] for index in self.out_indices]

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) pictures to the chosen maps, each (B, channels[i], H / stride, W / stride)."""
        maps = [self.embedder(pixel_values)]
        for stage in self.encoder.stages:
            maps.append(stage(maps[-1]))
        return [maps[index] for index in self.out_indices]
