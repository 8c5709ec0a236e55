"""Deformable DETR (arXiv:2010.04159), piece by piece: the package that the book builds.

The public classes are those of transformers 4.34::

    from ddetr_lab import DeformableDetrForObjectDetection, DeformableDetrImageProcessor

Shapes are written with one legend everywhere:

====== ==========================================================
``B``  pictures in the batch
``Q``  queries (detections that a picture can have)
``S``  tokens: the cells of all feature levels, sum of H * W
``M``  attention heads
``D``  channels of a head
``C``  channels of the model, M * D
``L``  feature levels
``P``  sampling points of a head on a level
``K``  class labels
``N``  objects (targets) in a picture
====== ==========================================================

Coordinates say their frame: ``_px`` pixels, ``_norm`` 0-1 of the unpadded picture, ``_padnorm`` 0-1 of the padded
batch.

Nothing but this table is loaded on import: each name below is fetched when it is first used.
"""

# No "from __future__ import annotations" here: it would hide the module ddetr_lab.annotations behind its flag.
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ddetr_lab.config import DeformableDetrConfig, preset
    from ddetr_lab.detector import DeformableDetrForObjectDetection
    from ddetr_lab.image_processing import DeformableDetrFeatureExtractor, DeformableDetrImageProcessor
    from ddetr_lab.model import DeformableDetrModel
    from ddetr_lab.ops import ms_deform_attn

_HOME = {
    "DeformableDetrConfig": "ddetr_lab.config",
    "DeformableDetrFeatureExtractor": "ddetr_lab.image_processing",
    "DeformableDetrForObjectDetection": "ddetr_lab.detector",
    "DeformableDetrImageProcessor": "ddetr_lab.image_processing",
    "DeformableDetrModel": "ddetr_lab.model",
    "ms_deform_attn": "ddetr_lab.ops",
    "preset": "ddetr_lab.config",
}

__all__ = [
    "DeformableDetrConfig",
    "DeformableDetrFeatureExtractor",
    "DeformableDetrForObjectDetection",
    "DeformableDetrImageProcessor",
    "DeformableDetrModel",
    "__version__",
    "ms_deform_attn",
    "preset",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ddetr_lab' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
