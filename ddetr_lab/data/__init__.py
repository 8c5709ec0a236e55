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

Built in chapters 2 and 16 to 18.
"""

from __future__ import annotations

from ddetr_lab.data.coco import CocoDataset, write_coco
from ddetr_lab.data.collate import Collate
from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.data.sampling import SizeBucketSampler
from ddetr_lab.data.transforms import training_transform
from ddetr_lab.data.trees import TreeCrowns
from ddetr_lab.data.views import TransformedDataset

__all__ = [
    "CocoDataset",
    "Collate",
    "DigitScenes",
    "LabelMap",
    "SizeBucketSampler",
    "TransformedDataset",
    "TreeCrowns",
    "training_transform",
    "write_coco",
]
