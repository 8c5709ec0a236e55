"""Old method names do what the new ones do."""

from types import SimpleNamespace

import numpy as np
import torch

from ddetr_lab.advice import warn_once
from ddetr_lab.image_processing import DeformableDetrImageProcessor
from tests.pictures import detection, panoptic, picture


def same(left: dict, right: dict) -> bool:
    return list(left) == list(right) and all(np.array_equal(left[key], right[key]) for key in left)


def test_annotations(tmp_path):
    processor = DeformableDetrImageProcessor()
    image, target = processor.prepare(picture(), detection(), True)
    assert np.array_equal(image, picture())
    expected = processor.prepare_annotation(picture(), detection(), return_segmentation_masks=True)
    assert "masks" in target and same(target, expected)
    assert same(processor.prepare_coco_detection(picture(), detection(), True), expected)
    assert "masks" not in processor.prepare_coco_detection(picture(), detection())

    annotation = panoptic(tmp_path)
    expected = processor.prepare_annotation(picture(), annotation, "coco_panoptic", masks_path=tmp_path)
    assert same(processor.prepare_coco_panoptic(picture(), annotation, tmp_path), expected)
    panoptic_processor = DeformableDetrImageProcessor(format="coco_panoptic")
    assert same(panoptic_processor.prepare(picture(), annotation, masks_path=tmp_path)[1], expected)
    polygon = [[1, 1, 5, 1, 5, 4, 1, 4]]
    assert processor.convert_coco_poly_to_mask([polygon], 6, 9).sum() == 12


def test_post_process(caplog):
    warn_once.cache_clear()
    processor = DeformableDetrImageProcessor()
    outputs = SimpleNamespace(logits=torch.zeros(1, 2, 3), pred_boxes=torch.full((1, 2, 4), 0.5))
    for _ in range(2):
        (detections,) = processor.post_process(outputs, torch.tensor([[10, 20]]))
    assert detections["boxes"].tolist() == [[5.0, 2.5, 15.0, 7.5]] * 6
    assert [record.getMessage() for record in caplog.records] == [
        "post_process is deprecated: call post_process_object_detection with threshold=0.0"
    ]
