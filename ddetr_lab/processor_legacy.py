"""Methods of the processor that the reference keeps for old code; each says what to call now, once.

Built in chapter 2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ddetr_lab.advice import warn_once
from ddetr_lab.annotations import (
    convert_coco_poly_to_mask,
    prepare_coco_detection_annotation,
    prepare_coco_panoptic_annotation,
)
from ddetr_lab.image_inputs import ChannelDimension, Picture, image_size
from ddetr_lab.post_processing import post_process

__all__ = ["LegacyMethods"]


class LegacyMethods:
    """What code written for transformers before 4.26 calls. Source: the reference's image processor."""

    def prepare(
        self,
        image: Picture,
        target: Mapping[str, Any],
        return_segmentation_masks: bool | None = None,
        masks_path: str | os.PathLike[str] | None = None,
    ) -> tuple[Picture, dict[str, Any]]:
        """Return ``image`` and its prepared annotation; call ``prepare_annotation``."""
        warn_once(__name__, "prepare is deprecated: call prepare_annotation, which does not return the image")
        prepare_annotation = self.prepare_annotation  # type: ignore[attr-defined]
        return image, prepare_annotation(image, target, None, return_segmentation_masks, masks_path)

    def prepare_coco_detection(
        self,
        image: Picture,
        target: Mapping[str, Any],
        return_segmentation_masks: bool = False,
        input_data_format: str | ChannelDimension | None = None,
    ) -> dict[str, np.ndarray]:
        """Prepare a detection annotation; call ``prepare_annotation``."""
        warn_once(__name__, "prepare_coco_detection is deprecated: call prepare_annotation")
        size = image_size(image, input_data_format)
        return prepare_coco_detection_annotation(size, target, return_segmentation_masks)

    def prepare_coco_panoptic(
        self,
        image: Picture,
        target: Mapping[str, Any],
        masks_path: str | os.PathLike[str],
        return_masks: bool = True,
        input_data_format: str | ChannelDimension | None = None,
    ) -> dict[str, np.ndarray]:
        """Prepare a panoptic annotation; call ``prepare_annotation`` with format "coco_panoptic"."""
        warn_once(__name__, "prepare_coco_panoptic is deprecated: call prepare_annotation")
        return prepare_coco_panoptic_annotation(image_size(image, input_data_format), target, masks_path, return_masks)

    def convert_coco_poly_to_mask(self, segmentations: Sequence[Any], height: int, width: int) -> np.ndarray:
        """Draw polygons; call :func:`ddetr_lab.annotations.convert_coco_poly_to_mask`."""
        warn_once(__name__, "this method is deprecated: call ddetr_lab.annotations.convert_coco_poly_to_mask")
        return convert_coco_poly_to_mask(segmentations, height, width)

    def post_process(self, outputs: Any, target_sizes: Any) -> list[dict[str, Tensor]]:
        """Return the 100 best detections of each picture; call ``post_process_object_detection``."""
        warn_once(__name__, "post_process is deprecated: call post_process_object_detection with threshold=0.0")
        return post_process(outputs, target_sizes)
