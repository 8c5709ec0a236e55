"""The ResNet that stands in for timm."""

import pytest

from ddetr_lab.config_resnet import ResNetConfig


def test_the_default_is_resnet_50_with_its_last_map() -> None:
    config = ResNetConfig()
    assert (config.depths, config.hidden_sizes) == ([3, 4, 6, 3], [256, 512, 1024, 2048])
    assert (config.out_features, config.out_indices, config.channels) == (["stage4"], [4], [2048])


@pytest.mark.parametrize(
    ("fields", "features", "channels"),
    [
        ({"out_features": ["stage2", "stage4"]}, ["stage2", "stage4"], [512, 2048]),
        ({"out_indices": [0, 3]}, ["stem", "stage3"], [64, 1024]),
        ({"out_indices": (-1,)}, ["stage4"], [2048]),
        ({"out_indices": [2], "out_features": ["stage2"]}, ["stage2"], [512]),
        ({"depths": [1, 1], "hidden_sizes": [8, 16]}, ["stage2"], [16]),
    ],
)
def test_the_maps_that_come_out(fields: dict, features: list[str], channels: list[int]) -> None:
    config = ResNetConfig(**fields)
    assert (config.out_features, config.channels) == (features, channels)
    assert ResNetConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [1, 1]}, "hidden_sizes has 4 entries and depths has 2"),
        ({"depths": [], "hidden_sizes": []}, "one of each a stage"),
        ({"depths": [0, 1, 1, 1]}, "backbone_config.depths = 0, expected at least 1"),
        ({"layer_type": "wide"}, "backbone_config.layer_type = 'wide', expected one of basic, bottleneck"),
        ({"hidden_act": "x"}, "backbone_config.hidden_act = 'x'"),
        ({"out_features": ["stage5"]}, "expected some of stem, stage1"),
        ({"out_features": ["stage4", "stage2"]}, "in this order"),
        ({"out_features": []}, "expected some of"),
        ({"out_indices": [5]}, "expected numbers from 0 to 4"),
        ({"out_indices": [3], "out_features": ["stage4"]}, "do not name the same maps"),
    ],
)
def test_a_wrong_field_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**fields)
