"""Where this package departs from the reference on purpose: one test a difference of model, losses and backbone.

The book's table tells the reader what and why; these tests hold it. All else must be the reference's to the digit.
"""

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ddetr_lab.attention
from ddetr_lab.backbone import Backbone, FrozenBatchNorm2d
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.model import DeformableDetrModel
from tests.tiny import generic, labels, pictures, tiny_config

REFINED = {"with_box_refine": True, "auxiliary_loss": True}
TWO_STAGES = {"with_box_refine": True, "two_stage": True, "auxiliary_loss": True}
KINDS = pytest.mark.parametrize("fields", [{}, REFINED, TWO_STAGES], ids=["plain", "refined", "two stages"])


def timm_config(backbone: str, **fields: Any) -> DeformableDetrConfig:
    return DeformableDetrConfig(**({"backbone": backbone, "use_pretrained_backbone": False, "d_model": 32} | fields))


@KINDS
def test_head_priors_survive_construction(fields: dict[str, bool]) -> None:
    """The reference's last step of building wipes them: class bias 0 in place of -4.6, random box heads."""
    model = DeformableDetrForObjectDetection(tiny_config(**fields))
    for head in model.class_embed:
        torch.testing.assert_close(head.bias, torch.full((3,), -math.log(99)))
    for index, head in enumerate(model.bbox_embed):
        assert not head.layers[-1].weight.any()
        first = index == 0 or not fields
        size = 0.0 if "two_stage" in fields or not first else -2.0
        assert head.layers[-1].bias.tolist() == [0, 0, size, size]
    pixel_values, pixel_mask = pictures()
    output = model.eval()(pixel_values, pixel_mask)
    assert output.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.01)
    reference = output.init_reference_points[..., :2]
    torch.testing.assert_close(output.pred_boxes[..., :2], reference, rtol=0, atol=1e-4)


def test_a_backbones_own_weights_survive_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference redraws every convolution of a timm backbone, pretrained or not, and then freezes some of them."""
    import timm

    build, drawn = timm.create_model, {}

    def with_known_weights(*arguments: Any, **settings: Any) -> nn.Module:
        network = build(*arguments, **settings)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                drawn[name] = parameter.uniform_(-1, 1).clone()
        return network

    monkeypatch.setattr(timm, "create_model", with_known_weights)
    model = DeformableDetrForObjectDetection(timm_config("resnet18", encoder_layers=1, decoder_layers=1))
    tensors = model.model.backbone.conv_encoder.model.state_dict()
    assert len(drawn) == 60
    for name, weight in drawn.items():
        assert torch.equal(tensors[name], weight), name


def test_queries_start_apart() -> None:
    """The reference draws them with a spread of 0.02: every reference point in the picture's middle."""
    model = DeformableDetrModel(tiny_config(num_queries=300))
    assert model.query_position_embeddings.weight.std().item() == pytest.approx(1, rel=0.05)


def test_the_first_stage_learns() -> None:
    """The reference reports its losses and leaves them out of the total."""
    model = generic(DeformableDetrForObjectDetection(tiny_config(**TWO_STAGES)))
    pixel_values, pixel_mask = pictures()
    output = model(pixel_values, pixel_mask, labels=labels())
    without = sum(
        output.loss_dict["loss_ce" + s] + 5 * output.loss_dict["loss_bbox" + s] + 2 * output.loss_dict["loss_giou" + s]
        for s in ("", "_0")
    )
    proposals = (
        output.loss_dict["loss_ce_enc"] + 5 * output.loss_dict["loss_bbox_enc"] + 2 * output.loss_dict["loss_giou_enc"]
    )
    assert proposals > 0.1
    torch.testing.assert_close(output.loss, without + proposals)
    output.loss.backward()
    for part in (model.class_embed[-1], model.bbox_embed[-1], model.model.enc_output):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


@pytest.mark.parametrize("fields", [{"auxiliary_loss": True}, TWO_STAGES], ids=["auxiliary loss", "two stages"])
def test_a_tuple_can_be_had_with_labels(fields: dict[str, bool]) -> None:
    """The reference raises: a list added to a tuple, an attribute of a tuple."""
    model = generic(DeformableDetrForObjectDetection(tiny_config(**fields)))
    pixel_values, pixel_mask = pictures()
    record = model(pixel_values, pixel_mask, labels=labels())
    as_tuple = model(pixel_values, pixel_mask, labels=labels(), return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(record)
    for got, name in zip(as_tuple, record, strict=True):
        torch.testing.assert_close(got, record[name])


@pytest.fixture
def seen_locations(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Collect the dtype of the reference points that locations are made from, in the fused operator."""
    seen: list[torch.dtype] = []
    operator = ddetr_lab.attention.ms_deform_attn_fused

    def spy(value: Tensor, shapes: Any, reference: Tensor, *others: Tensor, **options: Any) -> Tensor:
        seen.append(reference.dtype)
        return operator(value, shapes, reference, *others, **options)

    monkeypatch.setattr(ddetr_lab.attention, "ms_deform_attn_fused", spy)
    return seen


@KINDS
@pytest.mark.parametrize("mode", ["float16", "bfloat16", "autocast"])
def test_half_precision_runs_and_keeps_its_coordinates_in_float32(
    fields: dict[str, bool], mode: str, seen_locations: list[torch.dtype]
) -> None:
    """The reference fails: a float32 grid meets half-precision maps."""
    model = generic(DeformableDetrForObjectDetection(tiny_config(**fields)))
    pixel_values, pixel_mask = pictures()
    exact = model(pixel_values, pixel_mask)
    seen_locations.clear()
    if mode != "autocast":
        model.to(getattr(torch, mode))
    with torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else nullcontext():
        output = model.train()(pixel_values, pixel_mask, labels=labels())
    assert seen_locations == [torch.float32] * 3  # one encoder layer, two decoder layers
    for name in ("pred_boxes", "init_reference_points", "intermediate_reference_points", "loss"):
        assert output[name].dtype == torch.float32, name
    assert output.logits.dtype == (torch.bfloat16 if mode == "autocast" else getattr(torch, mode))
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    if "two_stage" not in fields:  # there, rounding may choose other proposals
        error = (output.pred_boxes - exact.pred_boxes).abs().mean()
        assert error < (0.01 if mode == "float16" else 0.05)


def test_the_resnet_of_backbone_config_trains_its_stages_2_to_4() -> None:
    """The reference freezes all of it: it looks for "stage.1" in names that say "stages.1"."""
    model = DeformableDetrModel(tiny_config())
    trained = {
        name.split(".layers")[0].removeprefix("backbone.conv_encoder.model.encoder.")
        for name, parameter in model.named_parameters()
        if name.startswith("backbone.") and parameter.requires_grad
    }
    assert trained == {"stages.1", "stages.2", "stages.3"}


def efficientnet() -> tuple[nn.Module, Backbone]:
    import timm

    original = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    backbone = Backbone(timm_config("tf_efficientnet_lite0")).eval()
    backbone.model.load_state_dict(original.state_dict())
    return original, backbone


def test_a_norm_that_carries_its_activation_keeps_it() -> None:
    """The reference replaces the pair by a bare norm, and the network loses its non-linearity."""
    original, backbone = efficientnet()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for theirs, (ours, _) in zip(original(x), backbone(x, torch.ones(1, 32, 32)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_norm_keeps_its_own_eps() -> None:
    """The reference uses 1e-5 everywhere; this network was trained with 1e-3."""
    original, backbone = efficientnet()
    theirs = {module.eps for module in original.modules() if isinstance(module, nn.BatchNorm2d)}
    ours = {module.eps for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)}
    assert ours == theirs == {1e-3}
