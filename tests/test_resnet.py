"""The reference's ResNet: its names and its maps."""

from typing import Any

import pytest
import torch
from torch import nn

from ddetr_lab.config_resnet import ResNetConfig
from ddetr_lab.resnet import ResNetBackbone
from tests.tiny import BACKBONE

ALL = ["stem", "stage1", "stage2", "stage3", "stage4"]


def tiny_resnet(**fields: Any) -> ResNetBackbone:
    return ResNetBackbone(ResNetConfig(**(BACKBONE | fields)))


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
@pytest.mark.parametrize("downsample_in_first_stage", [False, True])
def test_each_stage_halves_the_map(layer_type: str, downsample_in_first_stage: bool) -> None:
    network = tiny_resnet(
        layer_type=layer_type, downsample_in_first_stage=downsample_in_first_stage, out_features=ALL
    ).eval()
    maps = network(torch.randn(1, 3, 128, 64))
    first = 8 if downsample_in_first_stage else 4
    strides = [4, first, first * 2, first * 4, first * 8]
    assert [tuple(m.shape[2:]) for m in maps] == [(128 // stride, 64 // stride) for stride in strides]
    assert [m.shape[1] for m in maps] == network.channels
    assert network.channels == [8, 8, 16, 24, 32]


def test_names_and_their_order_are_the_references() -> None:
    network = ResNetBackbone(ResNetConfig(embedding_size=4, hidden_sizes=[8, 16], depths=[2, 1]))
    names = [name for name, _ in network.named_parameters()]
    blocks = []
    for stage, layers in ((0, 2), (1, 1)):
        for layer in range(layers):
            prefix = f"encoder.stages.{stage}.layers.{layer}"
            parts = ["shortcut"] if layer == 0 else []
            blocks += [f"{prefix}.{part}" for part in [*parts, "layer.0", "layer.1", "layer.2"]]
    expected = [
        f"{block}.{leaf}"
        for block in ["embedder.embedder", *blocks]
        for leaf in ("convolution.weight", "normalization.weight", "normalization.bias")
    ]
    assert names == expected


def test_defaults_are_resnet_50() -> None:
    with torch.device("meta"):
        network = ResNetBackbone(ResNetConfig())
    assert (
        sum(parameter.numel() for parameter in network.parameters()) == 23_508_032
    )  # torchvision's, less its classifier
    assert network.channels == [2048]
    assert network.encoder.stages[1].layers[0].layer[1].convolution.stride == (2, 2)
    assert network.encoder.stages[1].layers[0].layer[0].convolution.stride == (1, 1)


def test_hidden_act_reaches_the_stem_and_the_sums_and_relu_stays_inside() -> None:
    network = tiny_resnet(hidden_act="linear", depths=[1], hidden_sizes=[8]).eval()
    x = torch.randn(1, 3, 16, 16)
    stem = network.embedder.pooler(network.embedder.embedder(x))
    layer = network.encoder.stages[0].layers[0]
    inner = layer.layer[1](layer.layer[0](stem).relu())
    (result,) = network(x)
    torch.testing.assert_close(result, stem + inner)
    assert result.min() < 0 and stem.min() < 0


@pytest.mark.parametrize(
    ("settings", "indices"),
    [
        ({}, [4]),
        ({"out_features": ["stage2", "stage4"]}, [2, 4]),
        ({"out_features": ["stem", "stage4"]}, [0, 4]),
        ({"out_indices": [1, 3]}, [1, 3]),
        ({"out_indices": [-1]}, [4]),
    ],
)
def test_maps_come_finest_first(settings: dict, indices: list[int]) -> None:
    network = tiny_resnet(**settings)
    assert network.out_indices == indices
    assert network.channels == [[8, 8, 16, 24, 32][index] for index in indices]


def test_maps_that_are_chosen_afterwards_come_finest_first_too() -> None:
    config = ResNetConfig(**BACKBONE)
    config.out_features = ["stage4", "stage2"]
    network = ResNetBackbone(config)
    assert (network.out_indices, network.channels) == ([2, 4], [16, 32])


def test_convolutions_start_with_he_et_als_spread() -> None:
    convolution = tiny_resnet(depths=[1], hidden_sizes=[256]).encoder.stages[0]
    weight = convolution.layers[0].layer[1].convolution.weight
    assert isinstance(weight, nn.Parameter)
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
