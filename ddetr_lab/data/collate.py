"""From a list of dataset items to a batch that the model takes.

Pictures differ in size, a tensor does not. The image processor resizes, normalises and pads them to one size, with a
mask of the real pixels; ``Collate`` is the thin piece between it and PyTorch's ``DataLoader``.

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

__all__ = ["Collate"]

Item = tuple[Image.Image, dict[str, Any]]


class Collate:
    """Turn items ``(picture, annotation)`` into ``pixel_values, pixel_mask, labels``: a ``collate_fn``.

    A class rather than a closure, so that a ``DataLoader`` can send it to worker processes.

    Args:
        processor: a ``DeformableDetrImageProcessor``, or what behaves like one.
        transform: called on each item first; takes and returns ``(picture, annotation)``.

    Built in chapter 16.
    """

    def __init__(self, processor: Any, transform: Callable[[Item], Item] | None = None) -> None:
        self.processor = processor
        self.transform = transform

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Collate a batch.

        Args:
            items: at least one ``(picture, annotation)``.

        Returns:
            ``pixel_values`` (B, 3, H, W) float32, ``pixel_mask`` (B, H, W) int64 with 1 on real pixels, and ``labels``,
            a list of B dictionaries with ``class_labels`` (N,) and ``boxes`` (N, 4) cxcywh in _norm.

        Raises:
            ValueError: if the batch is empty.
        """
        if len(items) == 0:
            raise ValueError("items is empty: a batch needs at least one (picture, annotation)")
        if self.transform is not None:
            items = [self.transform(item) for item in items]
        pictures = [picture for picture, _ in items]
        annotations = [annotation for _, annotation in items]
        features = self.processor(images=pictures, annotations=annotations, return_tensors="pt")
        return {key: features[key] for key in ("pixel_values", "pixel_mask", "labels")}
