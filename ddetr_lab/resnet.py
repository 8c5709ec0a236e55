"""A ResNet with the reference library's parameter names, for ``use_timm_backbone=False``.

Published checkpoints that were trained with ``backbone_config`` name their backbone's parameters
``embedder.embedder.convolution.weight``, ``encoder.stages.0.layers.0.layer.1.normalization.bias`` and so on; this
module carries those names. It is the network of He et al., 2015, with the stride in the 3x3 convolution.

Built in chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_lab.activations import activation_function

__all__ = ["ResNetBackbone"]

DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
}
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
        if layer_type not in plans:
            raise ValueError(f"backbone_config layer_type = {layer_type!r}, expected one of {', '.join(plans)}")
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
        settings: the fields of a reference ResNet configuration as a dict; missing ones take their defaults, ResNet-50.
            ``out_features`` or ``out_indices`` choose the maps, the last stage where neither is given.

    Attributes:
        channels: the number of channels of each map that is returned.

    Raises:
        ValueError: if ``out_features`` names a stage that does not exist, or lengths disagree.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        chosen = DEFAULTS | {key: settings[key] for key in DEFAULTS if settings.get(key) is not None}
        sizes, depths = list(chosen["hidden_sizes"]), list(chosen["depths"])
        if len(sizes) != len(depths):
            raise ValueError(
                f"backbone_config has {len(sizes)} hidden_sizes and {len(depths)} depths: a stage needs one of each"
            )
        activation = activation_function(chosen["hidden_act"])
        self.embedder = _Stem(chosen["num_channels"], chosen["embedding_size"], activation)
        widths = [chosen["embedding_size"], *sizes]
        strides = [2 if chosen["downsample_in_first_stage"] else 1] + [2] * (len(sizes) - 1)
        self.encoder = _Stages(
            [
                Stage(widths[i], widths[i + 1], depths[i], strides[i], chosen["layer_type"], activation)
                for i in range(len(sizes))
            ]
        )
        self.out_indices = self._chosen_maps(settings, len(sizes))
        self.channels = [widths[index] for index in self.out_indices]

    @staticmethod
    def _chosen_maps(settings: dict[str, Any], stages: int) -> list[int]:
        names = ["stem"] + [f"stage{number}" for number in range(1, stages + 1)]
        features, indices = settings.get("out_features"), settings.get("out_indices")
        if features is not None:
            unknown = [name for name in features if name not in names]
            if unknown:
                raise ValueError(f"backbone_config out_features {unknown} do not exist, expected some of {names}")
            return sorted(names.index(name) for name in features)
        if indices is None:
            return [stages]
        if not all(-len(names) <= index < len(names) for index in indices):
            raise ValueError(f"backbone_config out_indices {list(indices)} do not exist, expected 0 to {stages}")
        return sorted(index % len(names) for index in indices)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) pictures to the chosen maps, each (B, channels[i], H / stride, W / stride)."""
        maps = [self.embedder(pixel_values)]
        for stage in self.encoder.stages:
            maps.append(stage(maps[-1]))
        return [maps[index] for index in self.out_indices]
