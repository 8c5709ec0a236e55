"""From a recipe to a model: weights to start from, a head for the labels, what is frozen, and the processor."""

from __future__ import annotations

import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection, preset
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.dense_detr import DenseDetrForObjectDetection
from ddetr_lab.recipe import ModelSettings, Recipe, load_recipe
from ddetr_lab.training.build import build_model, build_processor
from tests.training.conftest import changed


@pytest.fixture(scope="module")
def digits():
    return build_model(load_recipe("digits"))


def test_frozen_stages_stay_frozen_and_the_rest_of_the_backbone_trains(digits):
    backbone = digits.model.backbone.conv_encoder.model
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks")} == {"2", "3", "4", "5", "6"}
    assert all(name.startswith("blocks") for name in trained)


def test_backbone_weights_are_the_package_s_own(digits):
    # The stem of a trained network has filters with structure; a fresh one is noise of a known spread.
    trained = digits.model.backbone.conv_encoder.model.conv_stem.weight
    fresh = DeformableDetrForObjectDetection(preset("digits")).model.backbone.conv_encoder.model.conv_stem.weight
    assert trained.shape == fresh.shape
    assert trained.abs().max() > 3 * fresh.abs().max() or trained.std() > 2 * fresh.std()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings(backbone_weights="resnet"), "backbone_weights = 'resnet'"),
        (ModelSettings(frozen_backbone=("layer9",)), "'layer9', which the backbone lacks"),
        (ModelSettings(frozen=("model.middle",)), "'model.middle', which the detector lacks"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(Recipe("mine", model=settings))


def test_weights_bring_their_configuration_and_keep_their_head_for_the_same_labels(tiny_recipe, tiny_weights):
    same = build_model(tiny_recipe, LabelMap.from_names([str(digit) for digit in range(10)]))
    saved = DeformableDetrForObjectDetection.from_pretrained(tiny_weights)
    assert same.training and same.config.d_model == saved.config.d_model == 32
    assert same.config.auxiliary_loss and not saved.config.auxiliary_loss
    for name, value in saved.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name


def test_other_labels_get_a_fresh_head_with_their_names(tiny_recipe, tiny_weights):
    model = build_model(tiny_recipe, LabelMap.from_names(["Tree", "Shrub"]))
    assert model.config.id2label == {0: "Tree", 1: "Shrub"} and model.class_embed[0].out_features == 2
    saved = DeformableDetrForObjectDetection.from_pretrained(tiny_weights).state_dict()
    for name, value in model.state_dict().items():
        assert "class_embed" in name or torch.equal(value, saved[name]), name


def test_a_fresh_model_is_built_for_the_labels():
    model = build_model(Recipe("mine", model=ModelSettings(preset="digits")), LabelMap.from_names(["Tree"]))
    assert model.config.id2label == {0: "Tree"} and model.class_embed[0].out_features == 1


def test_whole_parts_can_be_frozen(tiny_recipe):
    model = build_model(changed(tiny_recipe, "model", frozen=("model.encoder", "model.backbone")))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained and not any(name.startswith(("model.encoder.", "model.backbone.")) for name in trained)


def test_the_dense_baseline_is_a_kind_of_model():
    model = build_model(Recipe("mine", model=ModelSettings(kind="dense")))
    assert isinstance(model, DenseDetrForObjectDetection)


def test_processors_pad_squares_or_scale_the_shorter_side(tiny_recipe):
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(np.zeros((40, 80, 3), dtype=np.uint8))
    square = build_processor(tiny_recipe)(picture, return_tensors="pt")
    assert square["pixel_values"].shape == (1, 3, 96, 96) and square["pixel_mask"].sum() == 96 * 48
    paper = changed(tiny_recipe, "data", size=60, longest=100)
    assert build_processor(paper)(picture, return_tensors="pt")["pixel_values"].shape == (1, 3, 50, 100)
    as_they_are = build_processor(paper, resizes=False)(picture, return_tensors="pt")
    assert as_they_are["pixel_values"].shape == (1, 3, 40, 80)
