"""The configuration of the reference's own ResNet, the backbone without timm.

Built in chapter 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ddetr_lab.config_base import ConfigBase
from ddetr_lab.config_fields import CHOICES, as_integer, check_choice

__all__ = ["ResNetConfig"]


class ResNetConfig(ConfigBase):
    """The backbone of ``backbone_config``: a ResNet in the reference's layout (transformers 4.34, ``ResNetConfig``).

    Args:
        num_channels: channels of the picture.
        embedding_size: channels after the stem.
        hidden_sizes: channels after each stage, one entry a stage.
        depths: blocks in each stage.
        layer_type: ``"basic"`` (two 3x3 convolutions a block) or ``"bottleneck"`` (1x1, 3x3, 1x1).
        hidden_act: activation, one of ``ddetr_lab.activations.ACTIVATIONS``.
        downsample_in_first_stage: halve the picture in the first stage too.
        out_features: which maps come out, of ``"stem"``, ``"stage1"`` …; the last stage by default.
        out_indices: the same by number, 0 for the stem.
        **kwargs: the shared fields of ``ConfigBase``.

    Raises:
        ValueError: if lists differ in length or a stage does not exist.

    Built in chapter 12.
    """

    model_type = "resnet"

    def __init__(
        self,
        num_channels: int = 3,
        embedding_size: int = 64,
        hidden_sizes: Sequence[int] = (256, 512, 1024, 2048),
        depths: Sequence[int] = (3, 4, 6, 3),
        layer_type: str = "bottleneck",
        hidden_act: str = "relu",
        downsample_in_first_stage: bool = False,
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("stage_names", None)  # written to files, but it follows from depths
        super().__init__(**kwargs)
        if len(hidden_sizes) != len(depths) or not depths:
            raise ValueError(
                f"backbone_config: hidden_sizes has {len(hidden_sizes)} entries and depths has {len(depths)}, "
                "expected one of each a stage"
            )
        check_choice("backbone_config.layer_type", layer_type, ("basic", "bottleneck"))
        check_choice("backbone_config.hidden_act", hidden_act, CHOICES["activation_function"])
        self.num_channels = as_integer("backbone_config.num_channels", num_channels, 1, None)
        self.embedding_size = as_integer("backbone_config.embedding_size", embedding_size, 1, None)
        self.hidden_sizes = [as_integer("backbone_config.hidden_sizes", size, 1, None) for size in hidden_sizes]
        self.depths = [as_integer("backbone_config.depths", depth, 1, None) for depth in depths]
        self.layer_type = layer_type
        self.hidden_act = hidden_act
        self.downsample_in_first_stage = downsample_in_first_stage
        self.stage_names = ["stem", *(f"stage{number + 1}" for number in range(len(depths)))]
        self.out_features, self.out_indices = self._align(out_features, out_indices)

    def _align(self, features: Sequence[str] | None, indices: Sequence[int] | None) -> tuple[list[str], list[int]]:
        names = self.stage_names
        if indices is not None:
            if not all(-len(names) <= index < len(names) for index in indices):
                raise ValueError(
                    f"backbone_config.out_indices = {indices}, expected numbers from 0 to {len(names) - 1}"
                )
            indices = [int(index) % len(names) for index in indices]
        if features is None:
            features = [names[index] for index in indices] if indices is not None else [names[-1]]
        # Maps come out finest first whatever the order of their names, and input projections are made in that order.
        if not features or list(features) != [name for name in names if name in features]:
            raise ValueError(
                f"backbone_config.out_features = {list(features)}, expected some of {', '.join(names)} in this order"
            )
        implied = [names.index(feature) for feature in features]
        if indices is not None and indices != implied:
            raise ValueError(
                f"backbone_config.out_indices = {indices} and out_features = {list(features)} do not name the same "
                "maps: leave out_indices out"
            )
        return list(features), implied

    @property
    def channels(self) -> list[int]:
        """Channels of each map that comes out, in the order of ``out_features``."""
        sizes = [self.embedding_size, *self.hidden_sizes]
        return [sizes[index] for index in self.out_indices]
