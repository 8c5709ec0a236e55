"""Recomputing activations changes memory and time, and no gradient."""

from __future__ import annotations

import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.training.recompute import recomputing
from tests.tiny import labels, pictures, tiny_config


def gradients(model, parts):
    model.zero_grad()
    values, mask = pictures()
    torch.manual_seed(5)  # of the dropout
    with recomputing(model, parts) as names:
        model(values, mask, labels=labels()).loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}, names


def test_gradients_stay_the_same_with_dropout_too():
    model = DeformableDetrForObjectDetection(tiny_config(dropout=0.2, encoder_layers=2)).train()
    before = list(model.state_dict())
    expected, none = gradients(model, ())
    assert none == []
    found, names = gradients(model, ("backbone", "encoder", "decoder"))
    assert names[-4:] == [f"model.{side}.layers.{number}" for side in ("encoder", "decoder") for number in (0, 1)]
    assert sum("backbone" in name for name in names) >= 4
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    assert list(model.state_dict()) == before
    assert all("forward" not in vars(module) for module in model.modules())


def test_less_is_kept_for_the_backward_pass():
    model = DeformableDetrForObjectDetection(tiny_config(encoder_layers=3)).train()
    values, mask = pictures()

    def kept(parts):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with recomputing(model, parts), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(values, mask, labels=labels())
        return total

    assert kept(("encoder", "decoder")) < 0.7 * kept(())


def test_the_package_s_own_network_has_stages_to_recompute():
    timm = pytest.importorskip("timm")
    from ddetr_lab.training.recompute import _stages

    network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
    assert len(_stages(network)) == 7
    network = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4))
    assert len(_stages(network)) == 8  # two blocks in each of four stages


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="'heads'"), recomputing(None, ("heads",)):
        pass
