"""From a recipe to a model and a processor.

Built in chapters 16 and 18.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ddetr_lab.backbone import load_efficientnet_lite0_weights
from ddetr_lab.config import DeformableDetrConfig, preset
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.data.sampling import picture_sizes
from ddetr_lab.dense_detr import DenseDetrForObjectDetection
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.image_processing import DeformableDetrImageProcessor
from ddetr_lab.image_transforms import output_size
from ddetr_lab.recipe import Recipe

__all__ = ["build_model", "build_processor", "detector_class", "refuse_strips"]


def detector_class(recipe: Recipe) -> type[DeformableDetrForObjectDetection]:
    """Return the class of a recipe's model."""
    return DenseDetrForObjectDetection if recipe.model.kind == "dense" else DeformableDetrForObjectDetection


def build_model(
    recipe: Recipe,
    labels: LabelMap | None = None,
    weights: str | Path | None = None,
    config: DeformableDetrConfig | None = None,
) -> DeformableDetrForObjectDetection:
    """Build a recipe's model: configuration, weights to start from, class head, and what stays frozen.

    Args:
        recipe: what to build.
        labels: what to detect; None leaves what the preset or the weights detect. A head whose labels are others is
            replaced by a fresh one.
        weights: what to start from, instead of the recipe's.
        config: build a fresh model of this configuration instead, whose weights come from a run state.

    Raises:
        ValueError: if the recipe names unknown backbone weights, or freezes modules that do not exist.
        FileNotFoundError: if there are no such weights.
    """
    source = weights or recipe.model.weights
    kind = detector_class(recipe)
    model: DeformableDetrForObjectDetection
    if config is not None:
        model = kind(config)
    elif source:
        model = kind.from_pretrained(source).train()
        if labels is not None and model.config.id2label != labels.names:
            model.replace_head(labels.num_labels, labels.names)
    else:
        model = kind(_with_labels(preset(recipe.model.preset), labels))
        _load_backbone_weights(model, recipe.model.backbone_weights)
    model.config.auxiliary_loss = recipe.model.auxiliary_loss
    _freeze(model.model.backbone.conv_encoder.model, recipe.model.frozen_backbone, "frozen_backbone")
    _freeze(model, recipe.model.frozen, "frozen")
    return model


def _with_labels(config: DeformableDetrConfig, labels: LabelMap | None) -> DeformableDetrConfig:
    if labels is not None:
        config.id2label = dict(labels.names)
        config.label2id = {name: label for label, name in labels.names.items()}
    return config


def _load_backbone_weights(model: DeformableDetrForObjectDetection, name: str) -> None:
    sources: dict[str, Callable[[Any], None]] = {"efficientnet_lite0": load_efficientnet_lite0_weights}
    if not name:
        return
    if name not in sources:
        raise ValueError(f"backbone_weights = {name!r}, expected one of {', '.join(sources)}")
    sources[name](model.model.backbone.conv_encoder)


def _freeze(module: nn.Module, prefixes: tuple[str, ...], setting: str) -> None:
    names = [name for name, _ in module.named_modules()]
    for prefix in prefixes:
        if prefix not in names:
            owner = "the backbone" if setting == "frozen_backbone" else "the detector"
            raise ValueError(f"{setting} names {prefix!r}, which {owner} lacks; it has {names[1:8]} ...")
        module.get_submodule(prefix).requires_grad_(False)


def build_processor(recipe: Recipe, resizes: bool = True) -> DeformableDetrImageProcessor:
    """Build a recipe's processor.

    Without ``data.longest`` it scales pictures to ``data.size`` pixels on their longest side, and pads them square. On
    small pictures a map's last cell hangs far over the picture's edge. With one padded size the network meets the same
    overhang in training and in use, for a picture alone as in a batch. With ``data.longest`` it scales the shorter side
    to ``data.size``, and pads a batch to its largest picture, as the paper does.

    Args:
        recipe: see ``[data]``.
        resizes: False for pictures that a transform has given their size already.
    """
    side, longest = recipe.data.size, recipe.data.longest
    if longest:
        return DeformableDetrImageProcessor(size={"shortest_edge": side, "longest_edge": longest}, do_resize=resizes)
    return DeformableDetrImageProcessor(
        size={"shortest_edge": side, "longest_edge": side},
        pad_size={"height": side, "width": side},
        do_resize=resizes,
    )


def refuse_strips(processor: DeformableDetrImageProcessor, pictures: Any, which: str) -> None:
    """See to it that every picture is left a pixel by the processor: a strip that is too thin would end the run.

    Args:
        processor: of the recipe.
        pictures: a dataset with ids and file names.
        which: "training" or "validation", for the message.

    Raises:
        ValueError: if there is such a picture; the message has its id and its file.
    """
    edges = dict(processor.size)
    sizes = picture_sizes(pictures).astype(int)
    strips = sizes.max(axis=1) > edges["longest_edge"] * sizes.min(axis=1)  # alone these can come to nothing
    for index in np.flatnonzero(strips).tolist():
        width, height = sizes[index].tolist()
        try:
            output_size(height, width, edges)
        except ValueError as error:
            image = pictures.coco_ground_truth()["images"][index]
            raise ValueError(
                f"{which} picture {image['id']} ({image['file_name']}): {error}. It is too thin: leave it out, cut it "
                "into pieces, or train at a larger [data] size"
            ) from error
