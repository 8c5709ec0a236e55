"""The image processor: pictures and annotations in, a padded batch and targets out, and the way back.

This file only puts the steps in order. Each step is explained where it lives: :mod:`ddetr_lab.image_inputs` (what a
picture is), :mod:`ddetr_lab.resampling` and :mod:`ddetr_lab.image_transforms` (resize, rescale, normalise),
:mod:`ddetr_lab.padding` (the batch), :mod:`ddetr_lab.annotations` (targets), :mod:`ddetr_lab.post_processing`
(detections), :mod:`ddetr_lab.processor_options` (what a call asks for), :mod:`ddetr_lab.processor_config` (files),
:mod:`ddetr_lab.processor_legacy` (old method names).

Built in chapters 2 and 15.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from ddetr_lab import image_transforms as transforms
from ddetr_lab.advice import warn_once
from ddetr_lab.annotations import (
    AnnotionFormat,
    normalize_annotation,
    prepare_coco_detection_annotation,
    prepare_coco_panoptic_annotation,
    read_annotations,
    resize_annotation,
)
from ddetr_lab.batch import BatchFeature, TensorType
from ddetr_lab.image_inputs import (
    ChannelDimension,
    Picture,
    array_of,
    image_size,
    layout_of,
    looks_rescaled,
    named_picture,
    number_of_channels,
    read_pictures,
    to_channel_dimension_format,
)
from ddetr_lab.padding import empty_batch, pad_batch, pad_target
from ddetr_lab.post_processing import post_process_object_detection
from ddetr_lab.processor_config import ProcessorConfigMixin
from ddetr_lab.processor_legacy import LegacyMethods
from ddetr_lab.processor_options import CallOptions, call_options

__all__ = ["AnnotionFormat", "ChannelDimension", "DeformableDetrFeatureExtractor", "DeformableDetrImageProcessor"]

_IMAGENET_MEAN = [0.485, 0.456, 0.406]
_IMAGENET_STD = [0.229, 0.224, 0.225]


class DeformableDetrImageProcessor(ProcessorConfigMixin, LegacyMethods):
    """Turn pictures and COCO annotations into what Deformable DETR takes, and its outputs into detections.

    Args:
        format: of the annotations, "coco_detection" or "coco_panoptic".
        do_resize: whether to resize.
        size: {"shortest_edge", "longest_edge"} keeps the proportions, {"height", "width"} does not. An int is the
            shortest edge with ``max_size`` (1333) as the longest; a pair is (height, width). Default 800/1333.
        resample: Pillow's filter, default bilinear.
        do_rescale: whether to multiply pixels by ``rescale_factor``.
        rescale_factor: default 1/255.
        do_normalize: whether to compute (pixel - mean) / std, and to make boxes relative.
        image_mean: one number or one a channel; default ImageNet's.
        image_std: likewise.
        do_pad: whether to pad a batch to its largest height and width, and return a pixel mask.
        **kwargs: ``pad_size`` (of later versions of the reference), ``max_size`` and ``pad_and_return_pixel_mask`` (the
            old name of ``do_pad``) are understood; others are kept as attributes. ``pad_size``, a dict of ``height``
            and ``width``, pads every batch to one size, so that a picture's answer does not depend on its company.

    Raises:
        ValueError, TypeError: if ``format``, ``size`` or a ``do_`` switch is none of the above.

    Source: the reference's class of this name. Built in chapter 2.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_mask"]

    def __init__(
        self,
        format: str | AnnotionFormat = AnnotionFormat.COCO_DETECTION,
        do_resize: bool = True,
        size: int | Sequence[int] | Mapping[str, int] | None = None,
        resample: int = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_pad: bool = True,
        **kwargs: Any,
    ) -> None:
        do_pad = kwargs.pop("pad_and_return_pixel_mask", do_pad)
        max_size = kwargs.pop("max_size", None if size is None else 1333)
        if "pad_size" in kwargs:  # an attribute only where it is given: other files stay as the reference writes them
            pad_target(kwargs["pad_size"])
        super().__init__(**kwargs)
        AnnotionFormat(format)  # raises if unknown; kept in the form it was given, as the reference does
        self.format = format
        self.do_resize = do_resize
        self.size = transforms.size_dict(
            {"shortest_edge": 800, "longest_edge": 1333} if size is None else size, max_size=max_size
        )
        self.resample = resample
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = _IMAGENET_MEAN.copy() if image_mean is None else image_mean
        self.image_std = _IMAGENET_STD.copy() if image_std is None else image_std
        self.do_pad = do_pad

    def __call__(self, images: Any, annotations: Any = None, **kwargs: Any) -> BatchFeature:
        """Call :meth:`preprocess`."""
        return self.preprocess(images, annotations, **kwargs)

    def preprocess(
        self,
        images: Any,
        annotations: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | os.PathLike[str] | None = None,
        do_resize: bool | None = None,
        size: Any = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_pad: bool | None = None,
        format: str | AnnotionFormat | None = None,
        return_tensors: str | TensorType | None = None,
        data_format: str | ChannelDimension | None = ChannelDimension.FIRST,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch. Every argument that the constructor has too replaces its value for this call.

        Args:
            images: one picture, a list, or a 4-D batch; see :func:`ddetr_lab.image_inputs.read_pictures`.
            annotations: one dict a picture; see :mod:`ddetr_lab.annotations`. Boxes refer to the pixels as stored:
                no EXIF orientation is applied here.
            return_segmentation_masks: whether targets hold masks. None: for panoptic annotations only.
            masks_path: folder of the panoptic PNG files.
            size: as a dict. An int is refused if pictures are resized: it would leave the longest edge open.
            return_tensors: "pt", "np", or None for lists of arrays.
            data_format: layout of ``pixel_values``; None keeps the pictures' own.
            input_data_format: layout of arrays in ``images``; None infers it.
            **kwargs: ``pad_size``, see the class; ``pad_and_return_pixel_mask``, the old ``do_pad``; ``max_size``,
                which replaces ``size`` and, being an int, is refused.

        Returns:
            pixel_values (B, C, H, W) float32; pixel_mask (B, H, W) int64, 1 on real pixels, if padded; labels, one
            dict a picture, if annotated: boxes are cxcywh _norm if normalising, else xyxy in _px after the resize.

        Raises:
            ValueError, TypeError: for a picture, annotation, size or choice that is not as described; says which.
            KeyError: for an object that lacks a key.

        Source: the reference's method of this name. Built in chapter 2.
        """
        options = call_options(
            self,
            kwargs,
            do_resize=do_resize,
            size=size,
            resample=resample,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            do_normalize=do_normalize,
            image_mean=image_mean,
            image_std=image_std,
            do_pad=do_pad,
            format=format,
        )
        pictures, layout = read_pictures(images, input_data_format, options.channels)
        targets = read_annotations(annotations, len(pictures), options.format, masks_path)
        if options.factor is not None and looks_rescaled(pictures[0]):
            warn_once(__name__, "pixels between 0 and 1 are being rescaled once more: pass do_rescale=False")
        output_layout = layout if data_format is None else ChannelDimension(data_format)
        before = [image_size(picture, layout) for picture in pictures]
        after = options.sizes_after(before)
        block, places = self._room(pictures, layout, after, output_layout, options)

        arrays: list[np.ndarray] = []
        labels: list[BatchFeature] = []
        for i, picture in enumerate(pictures):
            with named_picture(i):
                if targets is not None:
                    target = self.prepare_annotation(
                        picture, targets[i], options.format, return_segmentation_masks, masks_path, layout
                    )
                    target = target if options.size is None else self.resize_annotation(target, before[i], after[i])
                    target = target if options.mean is None else self.normalize_annotation(target, after[i])
                    labels.append(BatchFeature(target, return_tensors))
                arrays.append(options.pixels(picture, layout, after[i], output_layout, places[i]))
        batch = self._assembled(arrays, block, output_layout, options, return_tensors)
        if targets is not None:
            batch["labels"] = labels
        return batch

    def _room(
        self,
        pictures: Sequence[Picture],
        layout: ChannelDimension,
        sizes: Sequence[tuple[int, int]],
        output_layout: ChannelDimension,
        options: CallOptions,
    ) -> tuple[np.ndarray | None, Sequence[np.ndarray | None]]:
        """Make a padded batch and return it with each picture's place in it, or None and no places.

        Where all is known of a batch but its pixels, each picture is written to its place and never copied. A
        subclass's own pad gets the pictures one by one, as it expects.
        """
        kinds = {number_of_channels(picture, layout) for picture in pictures}
        own_pad = type(self).pad is DeformableDetrImageProcessor.pad
        if options.size is not None and options.coloured and options.do_pad and own_pad and len(kinds) == 1:
            return empty_batch(sizes, kinds.pop(), output_layout, pad_target(options.pad_size))
        return None, [None] * len(pictures)

    def _assembled(
        self,
        arrays: list[np.ndarray],
        block: np.ndarray | None,
        layout: ChannelDimension,
        options: CallOptions,
        return_tensors: str | TensorType | None,
    ) -> BatchFeature:
        """Pad the pictures, if asked for: those that are in their places in ``block``, or one by one."""
        if block is not None:
            return _features(*pad_batch(arrays, layout, block=block), return_tensors)
        if options.do_pad:
            return self.pad(arrays, return_tensors=return_tensors, input_data_format=layout, pad_size=options.pad_size)
        return BatchFeature({"pixel_values": arrays}, return_tensors)

    def prepare_annotation(
        self,
        image: Picture,
        target: Mapping[str, Any],
        format: str | AnnotionFormat | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | os.PathLike[str] | None = None,
        input_data_format: str | ChannelDimension | None = None,
    ) -> dict[str, Any]:
        """Turn one COCO annotation into arrays, in pixels of ``image``; see :mod:`ddetr_lab.annotations`."""
        size = image_size(image, input_data_format)
        if AnnotionFormat(_chosen(format, self.format)) is AnnotionFormat.COCO_DETECTION:
            return prepare_coco_detection_annotation(size, target, bool(return_segmentation_masks))
        masks_too = True if return_segmentation_masks is None else return_segmentation_masks
        return prepare_coco_panoptic_annotation(size, target, masks_path, masks_too)

    def resize_annotation(
        self,
        annotation: Mapping[str, Any],
        orig_size: tuple[int, int],
        size: tuple[int, int],
        resample: int = Image.Resampling.NEAREST,
    ) -> dict[str, Any]:
        """Scale a target from a picture of ``orig_size`` (height, width) to one of ``size``."""
        return resize_annotation(annotation, orig_size, size, resample=resample)

    def normalize_annotation(self, annotation: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
        """Turn a target's boxes from xyxy in pixels of ``image_size`` (height, width) into cxcywh _norm."""
        return normalize_annotation(annotation, image_size)

    def resize(
        self,
        image: Picture,
        size: Any,
        resample: int | None = Image.Resampling.BILINEAR,
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Resize one picture; see :func:`ddetr_lab.image_transforms.resize`.

        Args:
            image: a Pillow picture or an array.
            size: any form of ``size``; an int needs ``max_size``.
            resample: a Pillow filter.
            data_format: layout of the result; None is the picture's own (last for Pillow).
            input_data_format: layout of the array; None infers it.
            **kwargs: ``max_size``, the longest edge that goes with an int; ``reducing_gap``, Pillow's shortcut.
        """
        size = transforms.size_dict(size, kwargs.pop("max_size", None))
        layout = layout_of(image, input_data_format)
        new_size = transforms.output_size(*image_size(image, layout), size)
        resized = array_of(transforms.resize(image, new_size, resample, layout, **kwargs))
        return to_channel_dimension_format(resized, data_format or layout, layout)

    def rescale(
        self,
        image: np.ndarray,
        rescale_factor: float,
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
    ) -> np.ndarray:
        """Multiply an array by ``rescale_factor``; float32."""
        rescaled = transforms.rescale(image, rescale_factor)
        return (
            rescaled if data_format is None else to_channel_dimension_format(rescaled, data_format, input_data_format)
        )

    def normalize(
        self,
        image: np.ndarray,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
    ) -> np.ndarray:
        """Compute (image - mean) / std for each channel; see :func:`ddetr_lab.image_transforms.normalize`."""
        layout = layout_of(image, input_data_format)
        return to_channel_dimension_format(
            transforms.normalize(image, mean, std, layout), data_format or layout, layout
        )

    def pad(
        self,
        images: Sequence[np.ndarray],
        constant_values: Any = 0,
        return_pixel_mask: bool = True,
        return_tensors: str | TensorType | None = None,
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
        pad_size: Mapping[str, int] | None = None,
    ) -> BatchFeature:
        """Pad arrays at the bottom and the right to ``pad_size``, else to the largest height and width among them.

        Args:
            images: arrays of one layout.
            constant_values: what the padding holds; zero after normalisation is the mean colour.
            return_pixel_mask: whether to return ``pixel_mask`` (B, H, W) int64, 1 on real pixels.
            return_tensors: "pt", "np", or None for lists of arrays.
            data_format: layout of the result; None is that of the input.
            input_data_format: layout of the input; None infers it from the first array.
            pad_size: ``height`` and ``width`` to pad to; None takes the constructor's, if there is one.

        Raises:
            ValueError: if ``images`` is empty, ``constant_values`` has an unknown form, or an array is larger than
                ``pad_size``.

        Source: the reference's method of this name. Built in chapter 2.
        """
        if len(images) == 0:
            raise ValueError("images is empty: there is nothing to pad")
        arrays = [array_of(image) for image in images]
        layout = layout_of(arrays[0], input_data_format)
        output_layout = ChannelDimension(data_format or layout)
        arrays = [to_channel_dimension_format(array, output_layout, layout) for array in arrays]
        target = pad_target(_chosen(pad_size, getattr(self, "pad_size", None)))
        padded, mask = pad_batch(arrays, output_layout, constant_values, target)
        return _features(padded, mask if return_pixel_mask else None, return_tensors)

    def post_process_object_detection(
        self, outputs: Any, threshold: float = 0.5, target_sizes: Any = None, top_k: int = 100
    ) -> list[dict[str, torch.Tensor]]:
        """Turn outputs into detections; see :func:`ddetr_lab.post_processing.post_process_object_detection`."""
        return post_process_object_detection(outputs, threshold, target_sizes, top_k)


class DeformableDetrFeatureExtractor(DeformableDetrImageProcessor):
    """The image processor under its old name; making one gives a FutureWarning."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            "DeformableDetrFeatureExtractor is deprecated: use DeformableDetrImageProcessor, which is the same",
            FutureWarning,
            stacklevel=2,
        )
        super().__init__(*args, **kwargs)


def _chosen(given: Any, default: Any) -> Any:
    return default if given is None else given


def _features(padded: Any, mask: np.ndarray | None, return_tensors: str | TensorType | None) -> BatchFeature:
    """Return freshly made blocks as lists of their pictures, as themselves, or as tensors that share their memory."""
    batch = BatchFeature({"pixel_values": padded} | ({} if mask is None else {"pixel_mask": mask}))
    if return_tensors is None:
        return BatchFeature({key: list(block) for key, block in batch.items()})
    if TensorType(return_tensors) is TensorType.PYTORCH:
        batch.update({key: torch.from_numpy(block) for key, block in batch.items() if isinstance(block, np.ndarray)})
    return batch.convert_to_tensors(return_tensors)
