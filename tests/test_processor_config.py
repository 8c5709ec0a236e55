"""preprocessor_config.json both ways. The JSON text is what transformers 4.34.0 writes."""

import json

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.image_processing import AnnotionFormat, DeformableDetrFeatureExtractor, DeformableDetrImageProcessor

DEFAULT_JSON = """{
  "do_normalize": true,
  "do_pad": true,
  "do_rescale": true,
  "do_resize": true,
  "format": "coco_detection",
  "image_mean": [
    0.485,
    0.456,
    0.406
  ],
  "image_processor_type": "DeformableDetrImageProcessor",
  "image_std": [
    0.229,
    0.224,
    0.225
  ],
  "resample": 2,
  "rescale_factor": 0.00392156862745098,
  "size": {
    "longest_edge": 1333,
    "shortest_edge": 800
  }
}
"""


def test_the_default_is_the_references_text():
    processor = DeformableDetrImageProcessor()
    assert processor.to_json_string() == DEFAULT_JSON
    assert repr(processor) == "DeformableDetrImageProcessor " + DEFAULT_JSON


def test_the_dict_has_the_references_entries():
    assert DeformableDetrImageProcessor(foo=3).to_dict() == {
        "_processor_class": None,
        "foo": 3,
        "image_processor_type": "DeformableDetrImageProcessor",
        "format": AnnotionFormat.COCO_DETECTION,
        "do_resize": True,
        "size": {"shortest_edge": 800, "longest_edge": 1333},
        "resample": Image.Resampling.BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": True,
    }


def test_the_dict_is_a_copy():
    processor = DeformableDetrImageProcessor()
    processor.to_dict()["image_mean"].append(1)
    processor.image_std.append(1)
    assert len(processor.image_mean) == len(DeformableDetrImageProcessor().image_std) == 3


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"size": 600}, {"shortest_edge": 600, "longest_edge": 1333}),
        ({"size": 600, "max_size": 700}, {"shortest_edge": 600, "longest_edge": 700}),
        ({"max_size": 700}, {"shortest_edge": 800, "longest_edge": 1333}),
        ({"size": (3, 4)}, {"height": 3, "width": 4}),
        ({"size": {"longest_edge": 5}}, {"longest_edge": 5}),
    ],
)
def test_every_form_of_size(arguments, size):
    assert DeformableDetrImageProcessor(**arguments).size == size


def test_settings_are_written_and_read_back(tmp_path):
    processor = DeformableDetrImageProcessor(
        format="coco_panoptic", size=60, resample=3, image_mean=0.5, image_std=np.array([1.0, 2.0, 3.0]), do_pad=False,
        processor_class="Some", extra={"a": 1},
    )  # fmt: skip
    assert processor.save_pretrained(tmp_path / "new" / "folder") == [
        str(tmp_path / "new" / "folder" / "preprocessor_config.json")
    ]
    written = json.loads((tmp_path / "new" / "folder" / "preprocessor_config.json").read_text())
    assert (
        written["processor_class"] == "Some"
        and written["image_std"] == [1.0, 2.0, 3.0]
        and written["extra"] == {"a": 1}
    )
    for source in (tmp_path / "new" / "folder", str(tmp_path / "new" / "folder" / "preprocessor_config.json")):
        again = DeformableDetrImageProcessor.from_pretrained(source)
        assert again.to_json_string() == processor.to_json_string()
    again = DeformableDetrImageProcessor.from_json_file(tmp_path / "new" / "folder" / "preprocessor_config.json")
    assert again.to_json_string() == processor.to_json_string()
    again = DeformableDetrImageProcessor.from_pretrained(
        tmp_path, subfolder="new/folder", revision="main", proxies=None
    )
    assert again.format == "coco_panoptic"


def test_a_file_of_an_old_version_is_read():
    old = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "DeformableDetrFeatureExtractor",
        "format": "coco_detection",
        "image_mean": [0.4, 0.4, 0.4],
        "image_std": [0.2, 0.2, 0.2],
        "max_size": 1333,
        "size": 640,
    }
    processor = DeformableDetrImageProcessor.from_dict(old)
    assert processor.size == {"shortest_edge": 640, "longest_edge": 1333} and processor.image_std == [0.2] * 3
    assert processor.to_dict()["feature_extractor_type"] == "DeformableDetrFeatureExtractor"


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"size": 600}, "size", {"shortest_edge": 600, "longest_edge": 1333}),
        ({"size": 600, "max_size": 700}, "size", {"shortest_edge": 600, "longest_edge": 700}),
        ({"pad_and_return_pixel_mask": False}, "do_pad", False),
        ({"do_resize": False}, "do_resize", False),
        ({"image_mean": [0, 0, 0]}, "image_mean", [0, 0, 0]),
    ],
)
def test_values_can_be_replaced_on_loading(tmp_path, changes, name, value):
    DeformableDetrImageProcessor().save_pretrained(tmp_path)
    before = dict(changes)
    assert getattr(DeformableDetrImageProcessor.from_pretrained(tmp_path, **changes), name) == value
    assert changes == before


def test_a_size_is_understood_even_if_the_file_has_none():
    processor = DeformableDetrImageProcessor.from_dict({"do_pad": False}, size=600)
    assert processor.size == {"shortest_edge": 600, "longest_edge": 1333}


def test_unused_keywords_come_back_on_request():
    config = DeformableDetrImageProcessor().to_dict()
    processor, unused = DeformableDetrImageProcessor.from_dict(config, return_unused_kwargs=True, bar=3, do_pad=False)
    assert unused == {"bar": 3} and processor.do_pad is False
    assert not hasattr(DeformableDetrImageProcessor.from_dict(config, bar=3), "bar")
    assert config == DeformableDetrImageProcessor().to_dict()


def test_a_file_cannot_replace_a_method():
    with pytest.raises(ValueError, match="resize=1 would hide the method of that name"):
        DeformableDetrImageProcessor(resize=1)
    processor, unused = DeformableDetrImageProcessor.from_dict({}, return_unused_kwargs=True, preprocess="x")
    assert unused == {"preprocess": "x"} and callable(processor.preprocess)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="'coco' is no AnnotionFormat"):
        DeformableDetrImageProcessor(format="coco")
    with pytest.raises(ValueError, match="size is 'large'"):
        DeformableDetrImageProcessor(size="large")


SWITCHES = ["do_resize", "do_rescale", "do_normalize", "do_pad"]


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("value", ["no", "", "false", 2, [], [False], {}])
def test_a_switch_takes_no_text(switch, value, tmp_path):
    message = rf"{switch} = .* expected True or False"
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({switch: value}))
    with pytest.raises(TypeError, match=message):
        DeformableDetrImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match=message):
        DeformableDetrImageProcessor(**{switch: value})
    with pytest.raises(TypeError, match=message):
        DeformableDetrImageProcessor.from_dict({}, **{switch: value})
    with pytest.raises(TypeError, match=message):
        DeformableDetrImageProcessor()(Image.new("RGB", (8, 8)), **{switch: value})
    with pytest.raises(TypeError, match=r"do_pad = 'no' is a str"):
        DeformableDetrImageProcessor(pad_and_return_pixel_mask="no")


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("value", [True, False, 0, 1, 1.0, None, np.True_, np.int64(0)])
def test_a_switch_takes_numbers_that_say_on_or_off(switch, value):
    assert getattr(DeformableDetrImageProcessor(**{switch: value}), switch) is value


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json"):
        DeformableDetrImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file .*gone.json"):
        DeformableDetrImageProcessor.from_json_file(tmp_path / "gone.json")
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"size": ')
    with pytest.raises(
        ValueError, match="preprocessor_config.json is no processor's config: expected .* what is no JSON"
    ):
        DeformableDetrImageProcessor.from_pretrained(tmp_path)
    path.write_text("[1]")
    with pytest.raises(
        ValueError, match="preprocessor_config.json is no processor's config: expected a JSON object.*got a list"
    ):
        DeformableDetrImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a file: give a folder"):
        DeformableDetrImageProcessor().save_pretrained(path)
    with pytest.raises(ValueError, match="push_to_hub=True is not supported"):
        DeformableDetrImageProcessor().save_pretrained(tmp_path, push_to_hub=True)


def test_the_old_class_warns_and_is_the_same(tmp_path):
    with pytest.warns(
        FutureWarning, match="DeformableDetrFeatureExtractor is deprecated: use DeformableDetrImageProcessor"
    ):
        old = DeformableDetrFeatureExtractor(size=600)
    assert isinstance(old, DeformableDetrImageProcessor)
    assert old.to_dict()["image_processor_type"] == "DeformableDetrFeatureExtractor"
    old.save_pretrained(tmp_path)
    assert DeformableDetrImageProcessor.from_pretrained(tmp_path).size == old.size
    with pytest.warns(FutureWarning):
        assert type(DeformableDetrFeatureExtractor.from_pretrained(tmp_path)) is DeformableDetrFeatureExtractor


def test_the_old_token_argument_warns(tmp_path):
    DeformableDetrImageProcessor().save_pretrained(tmp_path)
    with pytest.warns(FutureWarning, match="use_auth_token is deprecated"):
        DeformableDetrImageProcessor.from_pretrained(tmp_path, use_auth_token="t")
