"""A list of items becomes a batch."""

from __future__ import annotations

import numpy as np
import pytest

from ddetr_lab.data.collate import Collate
from ddetr_lab.data.digits import DigitScenes


class RecordingProcessor:
    def __call__(self, images, annotations, return_tensors):
        assert return_tensors == "pt"
        return {"pixel_values": images, "pixel_mask": len(images), "labels": annotations, "extra": None}


def test_collate_hands_pictures_and_annotations_to_the_processor():
    scenes = DigitScenes("val", num_scenes=3)
    batch = Collate(RecordingProcessor())([scenes[i] for i in range(3)])
    assert list(batch) == ["pixel_values", "pixel_mask", "labels"]
    assert [label["image_id"] for label in batch["labels"]] == [0, 1, 2]
    turned = Collate(RecordingProcessor(), transform=lambda item: (item[0].rotate(180), item[1]))
    (picture,) = turned([scenes[1]])["pixel_values"]
    assert np.array_equal(np.asarray(picture), np.asarray(scenes[1][0])[::-1, ::-1])
    with pytest.raises(ValueError, match="items is empty"):
        Collate(RecordingProcessor())([])
