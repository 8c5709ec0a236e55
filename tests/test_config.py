"""The configuration of the model: its fields, their checks, and the file that transformers 4.34 reads and writes."""

import copy
import inspect
import json
import pickle

import numpy as np
import pytest
import torch

from ddetr_lab.config import PRESETS, DeformableDetrConfig, preset
from ddetr_lab.config_fields import BOOLEANS, CHOICES, INTEGERS, REALS
from ddetr_lab.config_resnet import ResNetConfig

# What transformers 4.34.0 writes for its default configuration.
REFERENCE_DEFAULT = {
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "auxiliary_loss": False,
    "backbone": "resnet50",
    "backbone_config": None,
    "bbox_cost": 5,
    "bbox_loss_coefficient": 5,
    "class_cost": 1,
    "d_model": 256,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 1024,
    "decoder_layers": 6,
    "decoder_n_points": 4,
    "dice_loss_coefficient": 1,
    "dilation": False,
    "disable_custom_kernels": False,
    "dropout": 0.1,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 1024,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 6,
    "encoder_n_points": 4,
    "eos_coefficient": 0.1,
    "focal_alpha": 0.25,
    "giou_cost": 2,
    "giou_loss_coefficient": 2,
    "init_std": 0.02,
    "init_xavier_std": 1.0,
    "is_encoder_decoder": True,
    "mask_loss_coefficient": 1,
    "max_position_embeddings": 1024,
    "model_type": "deformable_detr",
    "num_channels": 3,
    "num_feature_levels": 4,
    "num_queries": 300,
    "position_embedding_type": "sine",
    "transformers_version": "4.34.0",
    "two_stage": False,
    "two_stage_num_proposals": 300,
    "use_pretrained_backbone": True,
    "use_timm_backbone": True,
    "with_box_refine": False,
}
# All but return_intermediate, which the reference takes and forgets.
FIELDS = sorted(set(REFERENCE_DEFAULT) - {"model_type", "transformers_version"} | {"return_intermediate"})
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "cow"}}


def constructor_fields() -> set[str]:
    return set(inspect.signature(DeformableDetrConfig.__init__).parameters) - {"self", "kwargs"}


def test_the_file_of_the_defaults_is_the_reference_s() -> None:
    text = json.dumps(REFERENCE_DEFAULT, indent=2, sort_keys=True) + "\n"
    assert DeformableDetrConfig().to_json_string() == text


def test_there_are_42_fields_and_each_has_a_rule_and_a_line_of_documentation() -> None:
    fields = constructor_fields()
    assert len(fields) == 42 and sorted(fields) == FIELDS
    ruled = {*INTEGERS, *REALS, *BOOLEANS, *CHOICES, "backbone", "backbone_config"}
    assert fields <= ruled
    documented = inspect.getdoc(DeformableDetrConfig) or ""
    assert [name for name in fields if f"    {name}: " not in documented] == []


@pytest.mark.parametrize("name", sorted(INTEGERS))
def test_an_integer_field_refuses_what_is_no_integer(name: str) -> None:
    for wrong in (True, 2.0, "2", None):
        with pytest.raises(TypeError, match=rf"^{name} = .*expected an int"):
            DeformableDetrConfig(**{name: wrong})
    with pytest.raises(ValueError, match=rf"^{name} = -1, expected at least {INTEGERS[name][0]}"):
        DeformableDetrConfig(**{name: -1})


@pytest.mark.parametrize("name", sorted(REALS))
def test_a_real_field_refuses_what_is_no_number_or_out_of_range(name: str) -> None:
    for wrong in (True, "0.1", None):
        with pytest.raises(TypeError, match=rf"^{name} = .*expected a number"):
            DeformableDetrConfig(**{name: wrong})
    for wrong_value in (float("nan"), float("inf"), -1.5):
        with pytest.raises(ValueError, match=rf"^{name} = "):
            DeformableDetrConfig(**{name: wrong_value})
    if REALS[name][1] == 1:
        with pytest.raises(ValueError, match=rf"^{name} = 1.01, expected .* to 1"):
            DeformableDetrConfig(**{name: 1.01})


@pytest.mark.parametrize("name", BOOLEANS)
def test_a_boolean_field_takes_only_true_and_false(name: str) -> None:
    for wrong in (1, 0, "true", None):
        with pytest.raises(TypeError, match=rf"^{name} = .*expected True or False"):
            DeformableDetrConfig(**{name: wrong})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding_type": "cosine"}, "position_embedding_type = 'cosine', expected one of sine, learned"),
        ({"activation_function": "rellu"}, "activation_function = 'rellu', expected one of .*relu"),
        ({"two_stage": True}, "two_stage = True needs with_box_refine = True"),
        ({"d_model": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4}, "d_model = 48.*multiple of 32"),
        ({"d_model": 64, "encoder_attention_heads": 6}, "does not split into encoder_attention_heads = 6"),
        ({"d_model": 64, "decoder_attention_heads": 5}, "does not split into decoder_attention_heads = 5"),
        ({"num_feature_levels": 2}, "num_feature_levels = 2, expected 1 or at least 3"),
        ({"backbone": ""}, "backbone = ''"),
        ({"backbone": None}, "backbone = None"),
        ({"backbone_config": {"model_type": "resnet"}}, "use_timm_backbone = True and backbone_config contradict"),
        ({"class_cost": 0, "bbox_cost": 0, "giou_cost": 0}, "class_cost, bbox_cost and giou_cost are all 0"),
        (
            {"use_timm_backbone": False, "backbone_config": {"model_type": "swin"}},
            "model_type 'swin', expected 'resnet'",
        ),
        (
            {
                "use_timm_backbone": False,
                "backbone_config": {"out_features": ["stage2", "stage3", "stage4"]},
                "num_feature_levels": 2,
            },
            "num_feature_levels = 2, but backbone_config.out_features names 3 maps",
        ),
        ({"to_dict": 3}, "'to_dict' is a method"),
        ({"model_type": "detr"}, "model_type = 'detr', expected 'deformable_detr'"),
    ],
)
def test_a_contradiction_is_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeformableDetrConfig(**fields)


def test_a_backbone_config_of_a_wrong_type_is_named() -> None:
    with pytest.raises(TypeError, match="backbone_config is a list, expected a ResNetConfig, a dict or None"):
        DeformableDetrConfig(use_timm_backbone=False, backbone_config=[1])


@pytest.mark.parametrize("levels", [1, 3, 4, 5, 6])
def test_the_numbers_of_levels_that_exist(levels: int) -> None:
    assert DeformableDetrConfig(num_feature_levels=levels).num_feature_levels == levels


def test_without_timm_the_default_backbone_is_a_resnet_with_its_last_map() -> None:
    config = DeformableDetrConfig(use_timm_backbone=False)
    assert config.backbone_config == ResNetConfig(out_features=["stage4"])
    assert config.to_dict()["backbone_config"]["out_indices"] == [4]
    assert "transformers_version" not in config.to_dict()["backbone_config"]


def test_a_backbone_config_may_be_a_dict_an_object_or_come_from_a_foreign_class() -> None:
    class Foreign:
        def to_dict(self) -> dict:
            return {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [8, 16]}

    fields = Foreign().to_dict()
    configs = [
        DeformableDetrConfig(use_timm_backbone=False, backbone_config=given)
        for given in (fields, ResNetConfig(depths=[1, 1], hidden_sizes=[8, 16]), Foreign())
    ]
    assert configs[0] == configs[1] == configs[2]
    assert isinstance(configs[0].backbone_config, ResNetConfig)


def test_a_field_set_later_is_checked_at_once_and_a_contradiction_by_validate() -> None:
    config = DeformableDetrConfig()
    with pytest.raises(ValueError, match=r"dropout = 2, expected 0 to 1"):
        config.dropout = 2
    assert config.dropout == 0.1
    config.two_stage = True
    with pytest.raises(ValueError, match="needs with_box_refine"):
        config.validate()
    config.with_box_refine = True
    config.validate()


def test_second_names_read_and_write_their_field() -> None:
    config = DeformableDetrConfig(hidden_size=128, num_attention_heads=4)
    assert (config.d_model, config.encoder_attention_heads, config.decoder_attention_heads) == (128, 4, 8)
    config.hidden_size = 64
    config.num_attention_heads = 2
    assert (config.d_model, config.encoder_attention_heads) == (64, 2)
    assert (config.hidden_size, config.num_attention_heads) == (64, 2)
    assert "hidden_size" not in config.to_dict()
    assert DeformableDetrConfig.from_dict({"d_model": 64}, hidden_size=96, num_attention_heads=8).d_model == 96


def test_numpy_numbers_become_plain_ones() -> None:
    config = DeformableDetrConfig(num_queries=np.int64(7), dropout=np.float32(0.5))
    assert type(config.num_queries) is int and type(config.dropout) is float
    assert json.loads(config.to_json_string())["num_queries"] == 7


def test_integers_in_real_fields_stay_integers_in_the_file() -> None:
    assert '"class_cost": 2,' in DeformableDetrConfig(class_cost=2).to_json_string()


def test_return_intermediate_is_taken_and_forgotten() -> None:
    assert DeformableDetrConfig(return_intermediate=False) == DeformableDetrConfig()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_build_fresh_configurations(name: str) -> None:
    first, second = preset(name), preset(name)
    assert first == second and first is not second
    first.id2label[0] = "changed"
    assert preset(name).id2label[0] != "changed"


def test_second_names_of_fields_are_listed() -> None:
    assert DeformableDetrConfig.attribute_map == {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
    }
    assert not DeformableDetrConfig.is_composition


def test_the_presets_of_the_paper() -> None:
    balance = {"class_cost": 2, "bbox_loss_coefficient": 2.5, "giou_loss_coefficient": 1}  # the authors' 2 : 5 : 2
    assert preset("paper") == DeformableDetrConfig(**balance)
    assert preset("paper-refine").with_box_refine and not preset("paper-refine").two_stage
    assert preset("paper-two-stage").with_box_refine and preset("paper-two-stage").two_stage


def test_the_digits_preset_knows_its_ten_digits_and_needs_no_network() -> None:
    config = preset("digits", dropout=0.2)
    assert config.id2label == {digit: str(digit) for digit in range(10)} and config.num_labels == 10
    assert not config.use_pretrained_backbone and config.dropout == 0.2
    assert preset("digits", num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(KeyError, match="expected one of paper, paper-refine, paper-two-stage, digits"):
        preset("huge")


def test_copies_and_pickles_are_equal_and_apart() -> None:
    config = preset("digits", use_timm_backbone=False, torch_dtype="float16")
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config and other.torch_dtype is torch.float16
        other.id2label[0] = "zero"
        assert other != config


@pytest.mark.parametrize(
    "fields",
    [
        {},
        LABELS,
        {"num_labels": 91, "two_stage": True, "with_box_refine": True},
        {"use_timm_backbone": False, "backbone_config": {"layer_type": "basic", "out_features": ["stage3", "stage4"]}},
        {"torch_dtype": "bfloat16", "return_dict": False, "output_attentions": True, "my_note": {"a": [1, 2]}},
        {"architectures": ["DeformableDetrForObjectDetection"], "is_encoder_decoder": False, "hidden_size": 96},
    ],
)
def test_a_file_comes_back_equal(fields: dict, tmp_path) -> None:
    config = DeformableDetrConfig(**fields)
    config.save_pretrained(tmp_path / "new" / "folder")
    loaded = DeformableDetrConfig.from_pretrained(tmp_path / "new" / "folder")
    assert loaded == config
    assert DeformableDetrConfig.from_json_file(tmp_path / "new" / "folder" / "config.json") == config
    assert DeformableDetrConfig.from_dict(json.loads(config.to_json_string(use_diff=False))) == config
    assert loaded.to_json_string() == config.to_json_string()
