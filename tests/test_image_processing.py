"""The processor as a whole. Numbers without a formula beside them come from transformers 4.34.0."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ddetr_lab
from ddetr_lab.advice import warn_once
from ddetr_lab.batch import BatchFeature
from ddetr_lab.image_processing import DeformableDetrImageProcessor
from tests.pictures import SIZE, detection, panoptic, picture

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
PROCESSOR = DeformableDetrImageProcessor(size=SIZE)


def test_the_classes_are_those_of_the_package():
    assert ddetr_lab.DeformableDetrImageProcessor is DeformableDetrImageProcessor
    assert DeformableDetrImageProcessor.model_input_names == ["pixel_values", "pixel_mask"]


@pytest.mark.parametrize(
    ("image", "corner", "total"),
    [
        (picture(), [[-1.980906, -1.5699118, -0.67942464], [-1.6384109, -1.1246684, -0.13143253]], 10.803728988394141),
        (
            picture() / 255,
            [[-2.1173668, -2.1157548, -2.112263], [-2.1160235, -2.114009, -2.1101139]],
            -142.39037656784058,
        ),
    ],
    ids=["8 bits", "fractions, rescaled twice"],
)
def test_pixels_are_those_of_the_reference(image, corner, total):
    values = PROCESSOR(image, return_tensors="np").pixel_values
    assert values.shape == (1, 3, 4, 6) and values.dtype == np.float32
    assert np.abs(values[0, 0, :2, :3] - np.float32(corner)).max() <= 2e-6
    assert abs(values.astype(np.float64).sum() - total) <= 1e-4


def test_every_kind_of_picture_gives_the_same_pixels():
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "PNG")
    expected = PROCESSOR(picture(), return_tensors="pt").pixel_values
    for image in (
        Image.fromarray(picture()),
        Image.open(stream),
        picture().transpose(2, 0, 1),
        torch.from_numpy(picture()).permute(2, 0, 1),
        picture().astype(np.float32),
        [picture()],
        picture()[None],
    ):
        batch = PROCESSOR(image, return_tensors="pt")
        assert torch.equal(batch.pixel_values, expected) and torch.equal(batch.pixel_mask, torch.ones(1, 4, 6).long())


def test_targets_are_those_of_the_reference():
    batch = PROCESSOR(picture(), annotations=detection(), return_segmentation_masks=True, return_tensors="pt")
    assert list(batch) == ["pixel_values", "pixel_mask", "labels"]
    (target,) = batch.labels
    assert isinstance(target, BatchFeature) and all(isinstance(value, torch.Tensor) for value in target.values())
    masks = target.pop("masks")
    assert masks.dtype == torch.bool and [mask.nonzero().tolist() for mask in masks] == [
        [[1, 1], [1, 2], [2, 1], [2, 2]],
        [[2, 1]],
    ]
    assert {key: (str(value.dtype)[6:], value.tolist()) for key, value in target.items()} == {
        "size": ("int64", [4, 6]),
        "image_id": ("int64", [17]),
        "class_labels": ("int64", [3, 0]),
        "boxes": (
            "float32",
            [
                [0.3333333432674408, 0.4166666865348816, 0.4444444477558136, 0.5],
                [0.1666666716337204, 0.75, 0.3333333432674408, 0.5],
            ],
        ),
        "area": ("float32", [5.333333492279053, 4.222222328186035]),
        "iscrowd": ("int64", [0, 0]),
        "orig_size": ("int64", [6, 9]),
        "keypoints": ("float32", [[2.0, 2.0, 2.0], [1.0, 4.0, 1.0]]),
    }


def test_without_normalising_boxes_stay_corners_in_pixels():
    (target,) = PROCESSOR(picture(), annotations=detection(), do_normalize=False, return_tensors="np").labels
    assert target.boxes[1].tolist() == [0.0, 2.0, 2.0, 4.0]


def test_without_resizing_there_is_no_size():
    (target,) = PROCESSOR(picture(), annotations=detection(), do_resize=False).labels
    assert "size" not in target and target.area.tolist() == [12.0, 9.5]
    (target,) = PROCESSOR(picture(), annotations=detection()).labels
    assert target["size"] == (4, 6)


@pytest.mark.parametrize("masks", [None, True, False])
def test_panoptic_targets_are_those_of_the_reference(tmp_path, masks):
    batch = PROCESSOR(
        picture(),
        annotations=panoptic(tmp_path),
        masks_path=tmp_path,
        format="coco_panoptic",
        return_segmentation_masks=masks,
        return_tensors="np",
    )
    (target,) = batch.labels
    order = ["size", "image_id", "orig_size", "masks", "boxes", "class_labels", "iscrowd", "area"]
    assert list(target) == [key for key in order if key != "masks" or masks is not False]
    assert target.boxes.dtype == np.float32 and target.boxes.tolist() == [
        [0.4444444477558136, 0.1666666716337204, 0.8888888955116272, 0.3333333432674408],
        [0.1666666716337204, 0.6666666865348816, 0.3333333432674408, 0.3333333730697632],
        [0.6666666865348816, 0.4166666865348816, 0.4444444477558136, 0.8333333730697632],
    ]
    assert target.area.tolist() == [11.55555534362793, 5.333333492279053, 7.111111164093018]
    assert target.iscrowd.tolist() == [0, 1, 0] and target.class_labels.tolist() == [9, 2, 1]


def test_a_batch_is_padded_with_zeros_and_boxes_ignore_the_padding():
    pictures = [picture(), picture(9, 6), picture(6, 12)]
    batch = PROCESSOR(pictures, annotations=[detection(i) for i in range(3)], return_tensors="pt")
    assert batch.pixel_values.shape == (3, 3, 6, 8) and batch.pixel_mask.dtype == torch.int64
    for i, image in enumerate(pictures):
        alone = PROCESSOR(image, annotations=detection(i), return_tensors="pt")
        height, width = alone.pixel_values.shape[2:]
        assert torch.equal(batch.pixel_values[i, :, :height, :width], alone.pixel_values[0])
        assert batch.pixel_mask[i].sum() == height * width == batch.pixel_mask[i, :height, :width].sum()
        assert not (batch.pixel_values[i] * (batch.pixel_mask[i] == 0)).any()
        assert torch.equal(batch.labels[i].boxes, alone.labels[0].boxes)
        assert batch.labels[i]["size"].tolist() == [height, width]


def test_no_objects_and_masks():
    empty = {"image_id": 1, "annotations": []}
    (target,) = PROCESSOR(picture(), annotations=empty, return_segmentation_masks=True, return_tensors="pt").labels
    assert target.masks.shape == (0, 4, 6) and target.boxes.shape == (0, 4) and target.boxes.dtype == torch.float32


def test_no_segments_and_masks(tmp_path):
    empty = panoptic(tmp_path) | {"segments_info": []}
    processor = DeformableDetrImageProcessor(format="coco_panoptic", size=SIZE)
    (target,) = processor(picture(), annotations=empty, masks_path=tmp_path, return_tensors="pt").labels
    assert target.masks.shape == (0, 4, 6) and target.boxes.shape == (0, 4)


def test_several_keypoints_an_object():
    annotation = detection()
    for item in annotation["annotations"]:
        item["keypoints"] = [1, 2, 2, 3, 4, 1]
    (target,) = PROCESSOR(picture(), annotations=annotation, return_tensors="pt").labels
    assert target.keypoints.tolist() == [[1, 2, 2], [3, 4, 1]] * 2


@pytest.mark.parametrize("do_resize", [True, False])
@pytest.mark.parametrize(
    "make", [lambda a: a, Image.fromarray, lambda a: a.astype(np.int32)], ids=["8", "pil", "int32"]
)
def test_normalising_8_bits_without_rescaling_is_not_nan(make, do_resize):
    settings = {"do_resize": do_resize, "return_tensors": "np"}
    pixels = PROCESSOR(make(picture()), do_rescale=False, do_normalize=False, **settings).pixel_values
    mean, std = [123.0, 117.0, 104.0], [58.0, 57.0, 57.5]
    out = PROCESSOR(make(picture()), do_rescale=False, image_mean=mean, image_std=std, **settings).pixel_values
    expected = (pixels.astype(float) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert out.dtype == np.float32 and np.abs(out - expected).max() <= 2e-6


@pytest.mark.parametrize(
    ("image", "settings", "dtype"),
    [
        (picture(), {"do_rescale": False, "do_normalize": False}, np.uint8),
        (picture(), {"do_normalize": False}, np.float32),
        (picture() / 255, {"do_rescale": False}, np.float32),
        (picture() / 255, {"do_rescale": False, "do_resize": False}, np.float64),
        (picture() / 255, {"do_resize": False}, np.float32),
        ((picture() / 255).astype(np.float16), {"do_rescale": False, "do_resize": False}, np.float16),
        ((picture() / 255).astype(np.float16), {"do_rescale": False}, np.float32),
    ],
)
def test_dtypes_are_those_of_the_reference(image, settings, dtype):
    for return_tensors in ("np", None):
        assert PROCESSOR(image, return_tensors=return_tensors, **settings).pixel_values[0].dtype == dtype


@pytest.mark.parametrize("do_pad", [True, False])
@pytest.mark.parametrize("source", ["channels_first", "channels_last"])
def test_layouts_of_the_output(do_pad, source):
    image = picture() if source == "channels_last" else picture().transpose(2, 0, 1)
    first = PROCESSOR(image, do_pad=do_pad, return_tensors="np").pixel_values
    last = PROCESSOR(image, do_pad=do_pad, data_format="channels_last", return_tensors="np").pixel_values
    assert first.shape == (1, 3, 4, 6) and np.array_equal(last, first.transpose(0, 2, 3, 1))
    own = PROCESSOR(image, do_pad=do_pad, data_format=None, input_data_format=source, return_tensors="np").pixel_values
    assert np.array_equal(own, last if source == "channels_last" else first)


def test_kinds_of_tensors():
    for kind, cls in (("pt", torch.Tensor), ("np", np.ndarray), (None, list)):
        batch = PROCESSOR([picture(), picture(9, 6)], return_tensors=kind)
        assert isinstance(batch.pixel_values, cls) and isinstance(batch.pixel_mask, cls)
        assert batch.pixel_values[0].shape == (3, 6, 6)
    assert "pixel_mask" not in PROCESSOR(picture(), do_pad=False)


def test_pictures_of_several_sizes_need_padding():
    pictures = [picture(), picture(9, 6)]
    assert [value.shape for value in PROCESSOR(pictures, do_pad=False).pixel_values] == [(3, 4, 6), (3, 6, 4)]
    with pytest.raises(ValueError, match="'pixel_values' cannot become one tensor.*do_pad=True"):
        PROCESSOR(pictures, do_pad=False, return_tensors="pt")


def test_the_callers_pixels_are_never_changed_or_shared():
    image = picture().astype(np.float32)
    settings = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    values = PROCESSOR(image, return_tensors="pt", **settings).pixel_values
    values.zero_()
    PROCESSOR(image)
    assert np.array_equal(image, picture())


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("do_resize", False, {"do_resize": False}),
        ("do_rescale", False, {"do_rescale": False}),
        ("do_normalize", False, {"do_normalize": False}),
        ("rescale_factor", 0.01, {"rescale_factor": 0.01}),
        ("image_mean", [0.5, 0.4, 0.3], {"image_mean": [0.5, 0.4, 0.3]}),
        ("image_std", 0.5, {"image_std": 0.5}),
        ("resample", 0, {"resample": Image.Resampling.NEAREST}),
        ("size", (5, 8), {"size": {"height": 5, "width": 8}}),
    ],
)
def test_an_argument_of_the_call_replaces_the_processors(name, value, plain):
    called = PROCESSOR(picture(), **{name: value}, return_tensors="np").pixel_values
    built = DeformableDetrImageProcessor(**({"size": SIZE} | plain))(picture(), return_tensors="np").pixel_values
    assert np.array_equal(called, built)
    default = PROCESSOR(picture(), return_tensors="np").pixel_values
    assert called.shape != default.shape or not np.array_equal(called, default)


def test_old_arguments():
    assert "pixel_mask" not in PROCESSOR(picture(), pad_and_return_pixel_mask=False)
    assert DeformableDetrImageProcessor(pad_and_return_pixel_mask=False).do_pad is False
    for arguments in ({"size": 100}, {"max_size": 100}):
        with pytest.raises(ValueError, match="picture 0: size has the keys.*In a call an int stands for"):
            PROCESSOR(picture(), **arguments)
        PROCESSOR(picture(), do_resize=False, **arguments)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA", "1", "I;16"])
def test_pictures_that_are_not_rgb(mode):
    image = Image.fromarray(picture())
    image = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    values = PROCESSOR(image, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 4, 6) and values.isfinite().all()
    if mode == "I;16":
        grey = PROCESSOR(Image.fromarray(picture()[..., 0]), return_tensors="pt").pixel_values
        assert torch.equal(values, grey)


def test_grey_arrays_fit_three_means_or_one():
    grey = picture()[..., 0]
    values = PROCESSOR(grey, return_tensors="np").pixel_values
    assert np.array_equal(values, PROCESSOR(np.dstack([grey] * 3), return_tensors="np").pixel_values)
    arrays = PROCESSOR(grey, image_mean=MEAN, image_std=STD, return_tensors="np").pixel_values
    assert np.array_equal(values, arrays)
    assert PROCESSOR(grey, image_mean=0.5, image_std=0.2, return_tensors="np").pixel_values.shape == (1, 1, 4, 6)
    assert PROCESSOR(grey, image_mean=[0.5], image_std=[0.2], return_tensors="np").pixel_values.shape == (1, 1, 4, 6)


@pytest.mark.parametrize("image", [Image.new("RGB", (1, 1), (9, 8, 7)), np.full((3, 1, 1), 9, np.uint8)])
def test_a_picture_of_one_pixel(image):
    annotation = {"image_id": 1, "annotations": [{"bbox": [0, 0, 1, 1], "category_id": 0, "area": 1}]}
    batch = PROCESSOR(image, annotations=annotation, return_tensors="np")
    assert batch.pixel_values.shape == (1, 3, 4, 4) and batch.labels[0].boxes.tolist() == [[0.5, 0.5, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": []}, ValueError, "images is an empty list"),
        ({"images": "a.png"}, ValueError, r"images\[0\] has type str"),
        ({"images": np.zeros((0, 4, 3))}, ValueError, r"images\[0\] has no pixels"),
        ({"return_tensors": "tf"}, ValueError, "'tf' is no TensorType"),
        ({"data_format": "chw"}, ValueError, "'chw' is no ChannelDimension"),
        ({"input_data_format": "chw"}, ValueError, "'chw' is no ChannelDimension"),
        ({"format": "coco"}, ValueError, "'coco' is no AnnotionFormat"),
        ({"size": {"edge": 5}}, ValueError, r"size has the keys \['edge'\]"),
        ({"size": {"height": 0, "width": 4}}, ValueError, "picture 0: size .* no pixels left"),
        ({"resample": 77}, ValueError, "77 is not a valid Resampling"),
        ({"image_mean": [1, 2]}, ValueError, "picture 0: image_mean has 2 entries, but the picture has 3 channels"),
        ({"image_std": 0}, ValueError, "picture 0: image_std is 0: expected no zero"),
        ({"images": [picture(), picture() * 1.5 - 9]}, ValueError, "picture 1: resizing needs pixels in 0 to 255"),
        (
            {"annotations": [detection()] * 2},
            ValueError,
            "expected a list of 1 dicts, one a picture, but got 2 of them",
        ),
        ({"annotations": 5}, ValueError, "one a picture, but got int"),
        ({"annotations": {"image_id": 3}}, ValueError, r"annotations\[0\] has the keys \['image_id'\]"),
        ({"annotations": detection(), "format": "coco_panoptic"}, ValueError, "lacks .*segments_info"),
        (
            {"images": [picture()] * 2, "annotations": [detection(), {"image_id": 1, "annotations": [{"area": 1}]}]},
            KeyError,
            r"picture 1: annotations\[0\] has no 'category_id'",
        ),
    ],
)
def test_bad_calls_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        PROCESSOR(**({"images": picture()} | arguments))


def test_bad_panoptic_calls_are_named(tmp_path):
    settings = {"annotations": panoptic(tmp_path), "format": "coco_panoptic"}
    with pytest.raises(ValueError, match="masks_path has type int: expected the folder"):
        PROCESSOR(picture(), masks_path=3, **settings)
    with pytest.raises(TypeError, match="picture 0: masks_path is None"):
        PROCESSOR(picture(), **settings)
    with pytest.raises(FileNotFoundError, match="no mask file"):
        PROCESSOR(picture(), masks_path=tmp_path / "elsewhere", **settings)


def test_advice_is_logged(caplog):
    warn_once.cache_clear()
    PROCESSOR(picture() / 255)
    PROCESSOR(picture() / 255)
    PROCESSOR(picture(), do_resise=False)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "pixels between 0 and 1 are being rescaled once more: pass do_rescale=False",
        "preprocess() ignores ['do_resise']: it knows no such argument",
    ]


def test_the_steps_one_by_one_are_the_whole():
    image = picture().transpose(2, 0, 1)
    step = PROCESSOR.resize(image, SIZE)
    assert step.shape == (3, 4, 6) and step.dtype == np.uint8
    step = PROCESSOR.rescale(step, 1 / 255)
    step = PROCESSOR.normalize(step, MEAN, STD)
    padded = PROCESSOR.pad([step], return_tensors="np")
    assert np.array_equal(padded.pixel_values, PROCESSOR(image, return_tensors="np").pixel_values)
    target = PROCESSOR.prepare_annotation(image, detection())
    target = PROCESSOR.normalize_annotation(PROCESSOR.resize_annotation(target, (6, 9), (4, 6)), (4, 6))
    assert np.array_equal(target["boxes"], PROCESSOR(image, annotations=detection()).labels[0].boxes)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_batch_is_its_pictures_padded(layout):
    pictures = [picture(6, 9), picture(9, 6), Image.fromarray(picture(5, 5))]
    batch = PROCESSOR(pictures, return_tensors="pt", data_format=layout)
    steps = [PROCESSOR(image, do_pad=False, data_format=layout).pixel_values[0] for image in pictures]
    padded = PROCESSOR.pad(steps, return_tensors="pt", input_data_format=layout)
    assert torch.equal(batch.pixel_values, padded.pixel_values) and torch.equal(batch.pixel_mask, padded.pixel_mask)
    assert batch.pixel_values.is_contiguous() and batch.pixel_mask.is_contiguous()


def test_a_subclass_s_own_pad_is_called():
    class Padded(DeformableDetrImageProcessor):
        def pad(self, images, **kwargs):
            return BatchFeature({"shapes": [image.shape for image in images]})

    assert Padded(size=SIZE)([picture(), picture(9, 6)]) == {"shapes": [(3, 4, 6), (3, 6, 4)]}


def test_helpers_change_the_layout():
    last = picture()
    first = last.transpose(2, 0, 1)
    assert np.array_equal(PROCESSOR.resize(last, (4, 6), data_format="channels_first"), PROCESSOR.resize(first, (4, 6)))
    assert np.array_equal(PROCESSOR.resize(Image.fromarray(last), (4, 6)), PROCESSOR.resize(last, (4, 6)))
    assert PROCESSOR.resize(last, 4, max_size=7).shape == (4, 6, 3)
    assert PROCESSOR.rescale(last, 0.5, "channels_first").shape == (3, 6, 9)
    assert PROCESSOR.normalize(first, 0.5, 0.5, data_format="channels_last").shape == (6, 9, 3)
    padded = PROCESSOR.pad([first, first[:, :3]], 7, False, "np", "channels_last")
    assert list(padded) == ["pixel_values"] and padded.pixel_values.shape == (2, 6, 9, 3)
    assert (padded.pixel_values[1, 3:] == 7).all()
    with pytest.raises(ValueError, match="nothing to pad"):
        PROCESSOR.pad([])


def test_detections_come_back_in_pixels_of_the_original():
    outputs = SimpleNamespace(logits=torch.tensor([[[3.0, -3.0]]]), pred_boxes=torch.tensor([[[0.5, 0.5, 0.5, 0.5]]]))
    (found,) = PROCESSOR.post_process_object_detection(outputs, target_sizes=[(6, 8)])
    assert found["labels"].tolist() == [0] and found["boxes"].tolist() == [[2.0, 1.5, 6.0, 4.5]]
    (found,) = PROCESSOR.post_process_object_detection(outputs, 0.0, None, 1)
    assert found["boxes"].tolist() == [[0.25, 0.25, 0.75, 0.75]]
