"""Labels, JSON, overrides and loading: what every configuration shares."""

import json
import re
from pathlib import Path

import pytest
import torch

from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.config_base import ConfigBase


def test_two_labels_unless_told() -> None:
    config = ConfigBase()
    assert config.num_labels == 2 and config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_setting_num_labels_renames_only_when_the_number_changes() -> None:
    config = ConfigBase(id2label={0: "cat", 1: "dog"})
    config.num_labels = 2
    assert config.id2label == {0: "cat", 1: "dog"}
    config.num_labels = 3
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_label2id_follows_id2label_where_it_is_not_given() -> None:
    assert ConfigBase(id2label={"0": "cat", "1": "dog"}).label2id == {"cat": 0, "dog": 1}
    assert ConfigBase(id2label={0: "cat"}, label2id={"Cat": "0"}).label2id == {"Cat": 0}


def test_set_labels_takes_names_or_a_dict() -> None:
    config = ConfigBase()
    config.set_labels(["a", "b", "c"])
    assert config.id2label == {0: "a", 1: "b", 2: "c"} and config.label2id["c"] == 2
    config.set_labels({0: "x"})
    assert config.num_labels == 1 and config.label2id == {"x": 0}


@pytest.mark.parametrize("labels", [{1: "a", 2: "b"}, {0: "a", 2: "b"}, {}, {"zero": "a"}])
def test_labels_with_holes_are_refused(labels: dict) -> None:
    with pytest.raises(ValueError, match="id2label has the labels"):
        ConfigBase(id2label=labels)


@pytest.mark.parametrize(
    "fields", [{"id2label": ["a"]}, {"label2id": ["a"]}, {"num_labels": 2.0}, {"num_labels": True}]
)
def test_labels_of_a_wrong_type_are_refused(fields: dict) -> None:
    with pytest.raises(TypeError, match=next(iter(fields))):
        ConfigBase(**fields)


def test_a_number_of_labels_that_contradicts_the_names_is_refused() -> None:
    with pytest.raises(ValueError, match="num_labels = 3, but id2label names 1"):
        ConfigBase(num_labels=3, id2label={0: "a"})
    with pytest.raises(ValueError, match="num_labels = 0, expected at least 1"):
        ConfigBase(num_labels=0)


@pytest.mark.parametrize("given", ["float16", "torch.float16", torch.float16])
def test_a_dtype_is_kept_as_a_dtype_and_written_as_a_name(given: object) -> None:
    config = ConfigBase(torch_dtype=given)
    assert config.torch_dtype is torch.float16
    assert json.loads(config.to_json_string())["torch_dtype"] == "float16"


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="torch_dtype = 'float17'"):
        ConfigBase(torch_dtype="float17")


def test_use_return_dict_is_off_for_torchscript() -> None:
    assert ConfigBase().use_return_dict
    assert not ConfigBase(torchscript=True).use_return_dict
    assert not ConfigBase(return_dict=False).use_return_dict


def test_unknown_fields_are_kept_but_a_slip_of_the_pen_is_pointed_out() -> None:
    assert DeformableDetrConfig(my_note=3).to_dict()["my_note"] == 3
    with pytest.warns(
        UserWarning, match="'num_querys' is no field of DeformableDetrConfig: did you mean 'num_queries'"
    ):
        DeformableDetrConfig(num_querys=3)


def test_override_fields_or_get_back_what_is_none() -> None:
    fields = DeformableDetrConfig(num_queries=7).to_dict()
    config, unused = DeformableDetrConfig.from_dict(fields, d_model=64, revision="x", return_unused_kwargs=True)
    assert (config.num_queries, config.d_model, unused) == (7, 64, {"revision": "x"})
    with pytest.warns(UserWarning, match="colour: no field of DeformableDetrConfig"):
        DeformableDetrConfig.from_dict(fields, colour="red")
    assert fields == DeformableDetrConfig(num_queries=7).to_dict()


def test_overriding_labels_replaces_the_old_ones_altogether() -> None:
    old = DeformableDetrConfig(id2label={0: "cat", 1: "dog"}).to_dict()
    assert DeformableDetrConfig.from_dict(old, num_labels=3).id2label[2] == "LABEL_2"
    assert DeformableDetrConfig.from_dict(old, num_labels=2).id2label == {0: "cat", 1: "dog"}
    assert DeformableDetrConfig.from_dict(old, id2label={0: "owl"}).label2id == {"owl": 0}
    with pytest.raises(ValueError, match="num_labels = 2, but id2label names 1"):
        DeformableDetrConfig.from_dict(old, id2label={0: "owl"}, num_labels=2)


def test_an_override_can_mend_a_file_with_holes_in_its_labels() -> None:
    broken = json.loads(DeformableDetrConfig().to_json_string()) | {"id2label": {"1": "cat", "2": "dog"}}
    with pytest.raises(ValueError, match="without holes"):
        DeformableDetrConfig.from_dict(broken)
    assert DeformableDetrConfig.from_dict(broken, id2label={0: "cat", 1: "dog"}).num_labels == 2


def test_overrides_may_change_two_fields_that_depend_on_each_other() -> None:
    config = DeformableDetrConfig.from_dict(DeformableDetrConfig().to_dict(), two_stage=True, with_box_refine=True)
    assert config.two_stage


def test_equality_is_about_the_fields_not_about_where_they_came_from(tmp_path: Path) -> None:
    config = DeformableDetrConfig(num_queries=9)
    config.save_pretrained(tmp_path)
    loaded = DeformableDetrConfig.from_pretrained(tmp_path)
    assert loaded == config and loaded.to_dict() == config.to_dict()
    loaded.name_or_path = tmp_path
    assert loaded == config and loaded.name_or_path == str(tmp_path)
    assert loaded != DeformableDetrConfig(num_queries=8)
    assert config != "config" and config != ConfigBase()


def test_a_file_does_not_say_on_which_machine_it_was_made(tmp_path: Path) -> None:
    DeformableDetrConfig().save_pretrained(tmp_path)
    DeformableDetrConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()


def test_load_from_a_json_file_with_another_name(tmp_path: Path) -> None:
    DeformableDetrConfig(num_queries=9).to_json_file(tmp_path / "nine.json", use_diff=False)
    assert DeformableDetrConfig.from_pretrained(tmp_path / "nine.json", num_labels=5).num_queries == 9


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", '"x"', "\x00\xff"])
def test_a_broken_file_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content.encode("latin-1"))
    for load, source in ((DeformableDetrConfig.from_pretrained, tmp_path), (DeformableDetrConfig.from_json_file, path)):
        with pytest.raises(ValueError, match=re.escape(f"{path} is no config: expected a JSON object")):
            load(source)


def test_more_labels_than_any_data_set_has_are_refused_before_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_labels": 1000000000000}')
    with pytest.raises(ValueError, match="num_labels = 1000000000000, expected at most 1000000"):
        DeformableDetrConfig.from_pretrained(tmp_path)


def test_saving_onto_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="save_directory"):
        DeformableDetrConfig().save_pretrained(tmp_path / "file")


def test_update_and_repr() -> None:
    config = DeformableDetrConfig()
    config.update({"num_queries": 5, "dropout": 0.0})
    assert (config.num_queries, config.dropout) == (5, 0.0)
    assert repr(config).startswith("DeformableDetrConfig {") and '"num_queries": 5' in repr(config)


def test_a_text_changes_fields_without_their_type() -> None:
    config = DeformableDetrConfig()
    config.update_from_string(
        "dropout=0.25,hidden_size=64,with_box_refine=Yes,two_stage=1,backbone=resnet18,class_cost=2"
    )
    assert (config.dropout, config.d_model, config.backbone, config.class_cost) == (0.25, 64, "resnet18", 2)
    assert config.with_box_refine is True and config.two_stage is True
    for text, error, message in (
        ("nothing=1", ValueError, "'nothing=1' sets no field of DeformableDetrConfig: expected field=value"),
        ("dropout", ValueError, "'dropout' sets no field"),
        ("two_stage=maybe", ValueError, "two_stage = 'maybe', expected true or false"),
        ("num_queries=x", ValueError, "invalid literal for int"),
        ("dropout=3", ValueError, "dropout = 3.0, expected 0 to 1"),
        ("backbone_config=3", TypeError, "backbone_config is a NoneType, which a text cannot change"),
    ):
        with pytest.raises(error, match=message):
            config.update_from_string(text)


def test_configurations_cannot_be_keys() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(DeformableDetrConfig())


def test_the_fields_of_a_file_can_be_had_without_building_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_labels": 3, "own": 1}')
    fields, rest = ConfigBase.get_config_dict(tmp_path, own=2, local_files_only=True)
    assert fields == {"num_labels": 3, "own": 1} and rest == {"own": 2}


def test_the_folder_goes_by_the_references_name_too(tmp_path: Path) -> None:
    DeformableDetrConfig(num_queries=9).save_pretrained(save_directory=tmp_path)
    assert DeformableDetrConfig.from_pretrained(pretrained_model_name_or_path=tmp_path).num_queries == 9
    assert DeformableDetrConfig.get_config_dict(pretrained_model_name_or_path=tmp_path)[0]["num_queries"] == 9


def test_only_a_dict_or_a_file_has_texts_for_the_numbers_of_pruned_layers() -> None:
    assert ConfigBase(pruned_heads={"a": 1}).pruned_heads == {"a": 1}
    assert ConfigBase.from_dict({"pruned_heads": {"1": [0, 2]}}).pruned_heads == {1: [0, 2]}


def test_label2id_alone_names_nothing() -> None:
    with pytest.warns(
        UserWarning, match="changes nothing without id2label, and the labels are called LABEL_0, LABEL_1"
    ):
        config = ConfigBase(label2id={"cat": 0, "dog": 1, "owl": 2})
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"} and config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    # Over a file's own labels it is another spelling of them.
    assert ConfigBase.from_dict({"id2label": {"0": "cat"}}, label2id={"Cat": 0}).label2id == {"Cat": 0}
    assert ConfigBase.from_dict({}, label2id={"Cat": 0, "Dog": 1}).label2id == {"Cat": 0, "Dog": 1}
