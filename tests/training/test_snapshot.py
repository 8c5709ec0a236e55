"""What a state holds: every random number, and models that do not fit are named."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.engine import Engine
from ddetr_lab.training.snapshot import load_random_states, load_snapshot, random_states, snapshot
from tests.tiny import tiny_config
from tests.training.test_engine import batch

CPU = torch.device("cpu")


def engine(**fields):
    torch.manual_seed(fields.pop("seed", 0))
    optimizer = fields.pop("optimizer", "adamw")
    model = DeformableDetrForObjectDetection(tiny_config(auxiliary_loss=True, **fields)).train()
    return Engine(model, OptimizationSettings(learning_rate=1e-3, optimizer=optimizer))


def draw():
    return torch.randn(3).tolist(), np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1)


def test_random_numbers_go_on_after_a_way_through_json():
    random.gauss(0, 1), np.random.randn()  # both keep a second number for the next call
    states = json.loads(json.dumps(random_states(CPU)))
    expected = draw()
    torch.manual_seed(77), np.random.seed(77), random.seed(77)
    load_random_states(states, CPU)
    assert draw() == expected


@pytest.mark.parametrize(
    "fields",
    [{}, {"optimizer": "muon"}, {"with_box_refine": True}, {"with_box_refine": True, "two_stage": True}],
    ids=["plain", "muon", "refined", "two"],
)
def test_training_goes_on_as_it_would_have(fields):
    first, second = engine(**fields), engine(seed=9, **fields)
    for _ in range(2):
        first.update([batch()])
    tensors, content = snapshot(first, [random_states(CPU)])
    tensors = {name: value.clone() for name, value in tensors.items()}
    load_snapshot(second, tensors, json.loads(json.dumps(content)))
    first.update([batch()])
    second.update([batch()])
    (one, _), (other, _) = snapshot(first, []), snapshot(second, [])
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_another_model_is_named():
    tensors, content = snapshot(engine(), [])
    with pytest.raises(ValueError, match="only one of the two has model.model.encoder.layers.1"):
        load_snapshot(engine(encoder_layers=2), tensors, content)
    with pytest.raises(ValueError, match="has shape"):
        load_snapshot(engine(encoder_ffn_dim=40), tensors, content)
    trained = engine()
    trained.update([batch()])
    tensors, content = snapshot(trained, [])
    model = DeformableDetrForObjectDetection(tiny_config())
    model.model.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="trained model.encoder.*, which does not train now"):
        load_snapshot(Engine(model, OptimizationSettings()), tensors, content)


def test_weights_that_are_not_finite_are_kept_out_of_states_to_go_on_from():
    broken = engine()
    with torch.no_grad():
        broken.model.model.level_embed.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="level_embed is not finite"):
        snapshot(broken, [])
    assert snapshot(broken, [], finite=False)[0]
