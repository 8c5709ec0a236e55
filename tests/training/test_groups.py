"""Groups hold each trained parameter once, at the rate it should have, and the table says so."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.dense_detr import DenseDetrForObjectDetection
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.groups import MATRICES, group_table, parameter_groups
from tests.tiny import tiny_config

SETTINGS = OptimizationSettings(learning_rate=4e-4, backbone_multiplier=0.1, offsets_multiplier=0.2, weight_decay=1e-3)
MODELS = {
    "plain": lambda: DeformableDetrForObjectDetection(tiny_config()),
    "refined": lambda: DeformableDetrForObjectDetection(tiny_config(with_box_refine=True)),
    "two stages": lambda: DeformableDetrForObjectDetection(tiny_config(with_box_refine=True, two_stage=True)),
    "dense": lambda: DenseDetrForObjectDetection(tiny_config()),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_trained_parameter_is_in_exactly_one_group(kind):
    model = MODELS[kind]()
    groups = parameter_groups(model, SETTINGS)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    rates = {"backbone": 4e-5, "offsets and reference points": 8e-5, "other": 4e-4}
    assert {group["name"]: group["lr"] for group in groups} == pytest.approx(
        {name: rate for name, rate in rates.items() if kind != "dense" or "offsets" not in name}
    )
    assert {group["weight_decay"] for group in groups} == {1e-3}


def test_offsets_and_reference_points_are_in_their_own_group():
    model = MODELS["plain"]()
    groups = {group["name"]: {id(p) for p in group["params"]} for group in parameter_groups(model, SETTINGS)}
    slow = groups["offsets and reference points"]
    for layer in (model.model.encoder.layers[0].self_attn, model.model.decoder.layers[1].encoder_attn):
        assert {id(layer.sampling_offsets.weight), id(layer.sampling_offsets.bias)} <= slow
        assert id(layer.attention_weights.weight) in groups["other"]
    assert id(model.model.reference_points.weight) in slow
    assert id(model.model.input_proj[0][1].weight) in groups["other"], "the projections' norms are no backbone"


@pytest.mark.parametrize("kind", MODELS)
def test_muon_gets_the_matrices_between_states_and_nothing_else(kind):
    model = MODELS[kind]()
    settings = replace(SETTINGS, optimizer="muon", matrices_multiplier=2.0)
    groups = {group["name"]: group for group in parameter_groups(model, settings)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    chosen = {names[id(parameter)] for parameter in groups[MATRICES]["params"]}
    layers = model.model.encoder.layers[0], model.model.decoder.layers[1]
    wanted = [layer.fc2.weight for layer in layers] + [layers[1].self_attn.q_proj.weight]
    assert {names[id(weight)] for weight in wanted} <= chosen
    assert not [name for name in chosen if re.search("sampling|attention_weights|embed|norm|bias|backbone", name)]
    assert all(parameter.ndim == 2 for parameter in groups[MATRICES]["params"])
    assert groups[MATRICES]["lr"] == 2 * SETTINGS.learning_rate and list(groups)[-1] == "other"
    grouped = [id(parameter) for group in groups.values() for parameter in group["params"]]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained), "each trained parameter once"


def test_the_table_adds_up():
    model = MODELS["refined"]()
    groups = parameter_groups(model, SETTINGS)
    lines = group_table(groups, model).splitlines()
    assert lines[0].split() == ["group", "tensors", "parameters", "rate", "weight", "decay"]
    counts = {
        re.split(r"\s{2,}", line)[0]: [int(field.replace(",", "")) for field in re.split(r"\s{2,}", line)[1:3]]
        for line in lines[1:]
    }
    total = counts.pop("all")
    assert total == [len(list(model.parameters())), sum(p.numel() for p in model.parameters())]
    assert [sum(column) for column in zip(*counts.values(), strict=True)] == total
    assert "0.0004" in lines[3] and "8e-05" in lines[2]


def test_a_model_without_anything_to_train_is_refused():
    model = MODELS["plain"]().requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        parameter_groups(model, SETTINGS)
