"""AdamW and Muon share the parameters, and Muon's step has the direction and the length that it should have."""

from __future__ import annotations

import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.engine import Engine
from ddetr_lab.training.groups import MATRICES
from ddetr_lab.training.optimizers import build_optimizers
from tests.tiny import tiny_config
from tests.training.test_engine import batch


def group(name, *shapes):
    return {"name": name, "params": [torch.nn.Parameter(torch.ones(shape)) for shape in shapes], "lr": 0.1}


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["other"], [torch.optim.AdamW]),
        ([MATRICES], [torch.optim.Muon]),
        (["backbone", MATRICES, "other"], [torch.optim.AdamW, torch.optim.Muon]),
    ],
)
def test_each_group_has_one_optimizer(names, kinds):
    optimizers = build_optimizers([group(name, (4, 4)) for name in names])
    assert [type(optimizer) for optimizer in optimizers] == kinds
    assert sorted(entry["name"] for one in optimizers for entry in one.param_groups) == sorted(names)


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48)])
def test_muon_steps_equally_far_in_all_directions_and_as_far_as_adamw(shape):
    torch.manual_seed(0)
    entry = {**group(MATRICES, shape), "weight_decay": 0.0}
    (weight,) = entry["params"]
    before = weight.detach().clone()
    weight.grad = torch.randn(shape) @ torch.diag(10.0 ** -torch.linspace(0, 1, shape[1]))  # one direction dominates
    spread = torch.linalg.svdvals(weight.grad)
    build_optimizers([entry])[0].step()
    step = before - weight.detach()
    values = torch.linalg.svdvals(step)
    assert spread.max() / spread.min() > 5
    assert values.max() / values.min() < 2.5  # five iterations bring them near 1, not to it
    assert (step * weight.grad).sum() > 0, "downhill"
    assert step.square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.3), "AdamW's steps have about this length"


def test_an_update_moves_matrices_by_muon_and_the_rest_as_without():
    updated = {}
    for name in ("adamw", "muon"):
        torch.manual_seed(0)
        model = DeformableDetrForObjectDetection(tiny_config()).train()
        engine = Engine(model, OptimizationSettings(learning_rate=1e-3, optimizer=name))
        engine.update([batch()])
        updated[name] = {key: value.detach().clone() for key, value in model.named_parameters()}
        matrices = {id(p) for entry in engine.groups if entry["name"] == MATRICES for p in entry["params"]}
    chosen = {key for key, value in model.named_parameters() if id(value) in matrices}
    assert chosen
    for key, value in updated["adamw"].items():
        assert torch.equal(value, updated["muon"][key]) == (key not in chosen), key
