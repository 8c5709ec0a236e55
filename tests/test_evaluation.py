"""From a model to its score: an oracle, spoilt oracles, modes, limits and labels."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ddetr_lab.boxes import xywh_to_xyxy, xyxy_to_cxcywh
from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.evaluation import detect_dataset, evaluate
from ddetr_lab.post_processing import post_process_object_detection


class PlainProcessor:
    """Pads to 160x160 and hides in the first pixel which picture this is, by its size alone."""

    def __call__(self, images, return_tensors):
        assert return_tensors == "pt"
        values = torch.zeros(len(images), 3, 160, 160)
        mask = torch.zeros(len(images), 160, 160, dtype=torch.int64)
        for row, image in enumerate(images):
            mask[row, : image.height, : image.width] = 1
        return {"pixel_values": values, "pixel_mask": mask}

    post_process_object_detection = staticmethod(post_process_object_detection)


class Oracle(torch.nn.Module):
    """Answers with the truth of scene after scene: ``shift`` in pixels spoils its boxes, ``label`` its class."""

    def __init__(self, scenes, queries=8, shift=0.0, labels=10):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(num_labels=labels)
        self.scenes, self.queries, self.shift, self.seen, self.modes = scenes, queries, shift, 0, []

    def forward(self, pixel_values, pixel_mask):
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        batch = len(pixel_values)
        logits = torch.full((batch, self.queries, self.config.num_labels), -20.0)
        boxes = torch.full((batch, self.queries, 4), 0.5)
        for row in range(batch):
            _, annotation = self.scenes[self.seen]
            height, width = int(pixel_mask[row, :, 0].sum()), int(pixel_mask[row, 0].sum())
            for query, entry in enumerate(annotation["annotations"]):
                logits[row, query, entry["category_id"]] = 3.0
                shifted = torch.tensor(entry["bbox"]) + torch.tensor([self.shift, 0, 0, 0])
                scale = torch.tensor([width, height, width, height])
                boxes[row, query] = xyxy_to_cxcywh(xywh_to_xyxy(shifted)) / scale
            self.seen += 1
        return SimpleNamespace(logits=logits * self.scale, pred_boxes=boxes)


@pytest.fixture
def scenes():
    return DigitScenes("val", num_scenes=11)


@pytest.mark.parametrize("training", [True, False])
def test_an_oracle_scores_one_and_gets_its_mode_back(scenes, training, capsys):
    model = Oracle(scenes).train(training)
    result = evaluate(model, PlainProcessor(), scenes, batch_size=4, progress=False)
    assert result.ap == pytest.approx(1.0) and result.ar100 == pytest.approx(1.0)
    assert model.modes == [(False, True)] * 3
    assert model.training is training
    assert capsys.readouterr() == ("", "")


def test_boxes_off_by_six_pixels_cost_precision(scenes):
    result = evaluate(Oracle(scenes, shift=6.0), PlainProcessor(), scenes, progress=False)
    assert 0.05 < result.ap < 0.7 and result.ap50 > result.ap75


def test_detections_are_in_pixels_and_limited(scenes):
    detections = detect_dataset(
        Oracle(scenes), PlainProcessor(), scenes, batch_size=5, score_threshold=0.5, progress=False
    )
    expected = scenes.coco_ground_truth()["annotations"]
    key = lambda entry: (entry["image_id"], entry["category_id"], entry["bbox"])  # noqa: E731
    for mine, theirs in zip(sorted(detections, key=key), sorted(expected, key=key), strict=True):
        assert mine["category_id"] == theirs["category_id"]
        assert mine["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
    few = detect_dataset(Oracle(scenes), PlainProcessor(), scenes, top_k=1, progress=False)
    assert len(few) == len(scenes)


def test_nan_from_the_model_is_named_and_the_mode_restored(scenes):
    model = Oracle(scenes).train()
    with torch.no_grad():
        model.scale.fill_(math.nan)
    with pytest.raises(ValueError, match="NaN"):
        evaluate(model, PlainProcessor(), scenes, progress=False)
    assert model.training


def test_a_head_that_does_not_fit_the_dataset(scenes):
    with pytest.raises(ValueError, match=r"labels up to 9, but the model's head has 7 labels \(0 to 6\)"):
        evaluate(Oracle(scenes, labels=7), PlainProcessor(), scenes, progress=False)
    wide = evaluate(Oracle(scenes, labels=12), PlainProcessor(), scenes, progress=False)
    assert wide.ap == pytest.approx(1.0)
    assert "label that the dataset does not have: left out" in wide.notes[-1]


def test_progress_goes_to_stderr_and_bad_sizes_are_named(scenes, capsys):
    evaluate(Oracle(scenes), PlainProcessor(), scenes, batch_size=6)
    captured = capsys.readouterr()
    assert captured.out == "" and "evaluating" in captured.err
    with pytest.raises(ValueError, match="batch_size = 0"):
        evaluate(Oracle(scenes), PlainProcessor(), scenes, batch_size=0)
