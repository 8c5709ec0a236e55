"""Training: groups hold each parameter once, the schedule ends at 0, a run learns, and what it leaves loads."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection, DeformableDetrImageProcessor, preset
from ddetr_lab.recipe import DataSettings, EvaluationSettings, ModelSettings, OptimizationSettings, Recipe, load_recipe
from ddetr_lab.training import build_model, build_processor, learning_rate_factor, parameter_groups, train


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    shipped = load_recipe("digits")
    return replace(
        shipped,
        data=DataSettings(size=64),
        optimization=replace(shipped.optimization, steps=3, batch_size=2),
        evaluation=EvaluationSettings(scenes=3, batch_size=2),
    )


def test_groups_hold_every_trained_parameter_exactly_once(recipe):
    model = build_model(recipe)
    groups = parameter_groups(model, recipe.optimization)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == pytest.approx({"backbone": 4e-5, "offsets and reference points": 4e-5, "other": 4e-4})


def test_offsets_are_in_their_own_group(recipe):
    model = build_model(recipe)
    groups = {group["name"]: {id(p) for p in group["params"]} for group in parameter_groups(model, recipe.optimization)}
    slow = groups["offsets and reference points"]
    assert id(model.model.encoder.layers[0].self_attn.sampling_offsets.weight) in slow
    assert id(model.model.reference_points.weight) in slow
    assert id(model.model.encoder.layers[0].self_attn.attention_weights.weight) in groups["other"]


def test_frozen_stages_stay_frozen_and_the_rest_of_the_backbone_trains(recipe):
    backbone = build_model(recipe).model.backbone.conv_encoder.model
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith(("blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6")) for name in trained)
    assert {name.split(".")[1] for name in trained} == {"2", "3", "4", "5", "6"}


def test_backbone_weights_are_the_package_s_own(recipe):
    # The stem of a trained network has filters with structure; a fresh one is noise of a known spread.
    trained = build_model(recipe).model.backbone.conv_encoder.model.conv_stem.weight
    fresh = DeformableDetrForObjectDetection(preset("digits")).model.backbone.conv_encoder.model.conv_stem.weight
    assert trained.shape == fresh.shape
    assert trained.abs().max() > 3 * fresh.abs().max() or trained.std() > 2 * fresh.std()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings(preset="digits", backbone_weights="resnet"), "backbone_weights = 'resnet'"),
        (ModelSettings(preset="digits", frozen_backbone=("layer9",)), "'layer9', which the backbone lacks"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(recipe, settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(replace(recipe, model=settings))


def test_the_schedule_climbs_falls_and_ends_at_zero():
    factors = [learning_rate_factor(step / 100, 0.1) for step in range(101)]
    assert factors[0] == 0
    assert factors[10] == pytest.approx(1)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert learning_rate_factor(1.5, 0.1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("argument", "value"), [("steps", 0), ("minutes", 0.0)])
def test_nothing_to_do_is_refused(recipe, tmp_path, argument, value):
    with pytest.raises(ValueError, match=f"{argument} = {value}"):
        train(recipe, tmp_path, **{argument: value})


def test_a_run_leaves_a_detector_a_processor_and_its_record(recipe, tmp_path):
    run = train(recipe, tmp_path / "run", seed=1, progress=False)
    assert run.steps == 3
    loaded = DeformableDetrForObjectDetection.from_pretrained(run.folder)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    processor = DeformableDetrImageProcessor.from_pretrained(run.folder)
    assert processor.to_dict() == build_processor(recipe).to_dict()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3
    assert {"loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm"} <= set(lines[-1])
    record = json.loads((run.folder / "result.json").read_text())
    assert (record["steps"], record["seed"], record["num_images"]) == (3, 1, 3)
    assert load_recipe(run.folder) == recipe
    assert run.result.line().startswith("AP ")


def test_a_run_can_start_from_another_s_weights(recipe, tmp_path):
    first = train(recipe, tmp_path / "first", steps=1, progress=False)
    # A warm-up step at a learning rate of 0 changes nothing, so the second run still holds the first one's weights.
    second = train(recipe, tmp_path / "second", steps=1, seed=9, weights=first.folder, progress=False)
    state = first.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.model.state_dict().items())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(recipe, tmp_path / "third", steps=1, weights=tmp_path / "nowhere", progress=False)
    assert not (tmp_path / "third").exists()


def test_the_same_seed_trains_the_same_weights(recipe, tmp_path):
    short = replace(recipe, evaluation=EvaluationSettings(scenes=1, batch_size=1))
    first, second, other = (
        train(short, tmp_path / str(number), steps=2, seed=seed, progress=False).model.state_dict()
        for number, seed in enumerate((5, 5, 6))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_time_ends_a_run_before_its_steps_are_done(recipe, tmp_path):
    run = train(recipe, tmp_path, steps=10_000, minutes=1e-9, progress=False)
    assert run.steps <= 1


def test_training_lowers_the_loss_on_pictures_it_sees_again_and_again(recipe):
    from ddetr_lab.data import DigitScenes
    from ddetr_lab.data.collate import Collate

    torch.manual_seed(0)
    model = build_model(recipe).train()
    scenes = DigitScenes("train", num_scenes=2, seed=4, size=64)
    batch = Collate(build_processor(recipe))([scenes[0], scenes[1]])
    groups = parameter_groups(model, OptimizationSettings(learning_rate=1e-3, backbone_multiplier=0.1))
    optimizer = torch.optim.AdamW(groups)
    losses = []
    for _ in range(12):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]


def test_a_loss_that_is_not_finite_names_the_loss_the_step_and_the_pictures(recipe, tmp_path, monkeypatch):
    from ddetr_lab import losses

    monkeypatch.setattr(losses, "sigmoid_focal_loss", lambda logits, *rest: logits.sum() * float("inf"))
    with pytest.raises(FloatingPointError, match=r"step 0: .*loss_ce.*pictures \[\d+, \d+\]"):
        train(recipe, tmp_path, progress=False)
