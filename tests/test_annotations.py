"""COCO annotations become targets. Numbers without a formula beside them come from transformers 4.34.0."""

import copy

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.annotations import (
    AnnotionFormat,
    check_annotations,
    convert_coco_poly_to_mask,
    masks_to_boxes,
    normalize_annotation,
    prepare_coco_detection_annotation,
    prepare_coco_panoptic_annotation,
    resize_annotation,
)
from tests.pictures import HEIGHT, SEGMENTS, WIDTH, detection, panoptic

PICTURE = (HEIGHT, WIDTH)


def one(**changes):
    item = {"bbox": [1, 1, 4, 3], "category_id": 3, "area": 12.0, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]} | changes
    return {"image_id": 1, "annotations": [{key: value for key, value in item.items() if value is not None}]}


def test_detection_clips_drops_and_keeps_dtypes():
    target = prepare_coco_detection_annotation(PICTURE, detection())
    assert {key: (value.dtype.name, value.tolist()) for key, value in target.items()} == {
        "image_id": ("int64", [17]),
        "class_labels": ("int64", [3, 0]),
        "boxes": ("float32", [[1, 1, 5, 4], [0, 3, 3, 6]]),
        "area": ("float32", [12.0, 9.5]),
        "iscrowd": ("int64", [0, 0]),
        "orig_size": ("int64", [6, 9]),
        "keypoints": ("float32", [[2, 2, 2], [1, 4, 1]]),
    }


def test_the_callers_annotation_is_left_alone(tmp_path):
    for annotation in (detection(), panoptic(tmp_path)):
        before = copy.deepcopy(annotation)
        if "annotations" in annotation:
            prepare_coco_detection_annotation(PICTURE, annotation, True)
        else:
            prepare_coco_panoptic_annotation(PICTURE, annotation, tmp_path)
        assert annotation == before


@pytest.mark.parametrize(
    "bbox", [[2, 2, 0, 3], [2, 2, 3, 0], [2, 2, -3, 3], [9, 0, 3, 3], [0, 6, 3, 3], [-5, 0, 5, 3], [1e9, 1e9, 1, 1]]
)
def test_a_box_with_no_area_in_the_picture_is_dropped_with_its_object(bbox):
    target = prepare_coco_detection_annotation(PICTURE, one(bbox=bbox, keypoints=[1, 1, 2]), True)
    assert target["boxes"].shape == (0, 4) and target["keypoints"].shape == (0, 3)
    assert target["class_labels"].size == target["area"].size == target["iscrowd"].size == 0
    assert target["masks"].shape == (0, 6, 9)


def test_a_picture_without_objects_has_empty_targets():
    target = prepare_coco_detection_annotation(PICTURE, {"image_id": 1, "annotations": []}, True)
    assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == np.float32
    assert target["class_labels"].dtype == np.int64 and "keypoints" not in target
    assert target["masks"].shape == (0, 6, 9) and target["masks"].dtype == np.uint8


def test_several_keypoints_an_object():
    annotation = {"image_id": 1, "annotations": []}
    for i, bbox in enumerate(([1, 1, 2, 2], [20, 20, 2, 2], [3, 3, 2, 2])):
        annotation["annotations"].append(
            {"bbox": bbox, "category_id": i, "area": 4, "keypoints": np.arange(6) + 10 * i}
        )
    target = prepare_coco_detection_annotation(PICTURE, annotation)
    assert target["keypoints"].tolist() == [[0, 1, 2], [3, 4, 5], [20, 21, 22], [23, 24, 25]]


def test_masks_are_drawn_from_polygons_and_run_lengths():
    masks = prepare_coco_detection_annotation(PICTURE, detection(), True)["masks"]
    assert masks.dtype == bool and masks.shape == (2, 6, 9)
    rows = ["".join(".#"[pixel] for pixel in row) for row in masks[0].astype(int)]
    assert rows == [".........", ".####....", ".####....", ".####....", ".........", "........."]
    rows = ["".join(".#"[pixel] for pixel in row) for row in masks[1].astype(int)]
    assert rows == [".........", ".........", ".........", ".##......", "..#......", "........."]
    runs = {"size": [6, 9], "counts": [6, 2, 46]}  # column by column: the first two pixels of column 1
    from pycocotools import mask as coco_mask

    packed = coco_mask.frPyObjects(dict(runs), 6, 9)
    for segmentation in (runs, packed, packed | {"counts": packed["counts"].decode()}):
        (mask,) = convert_coco_poly_to_mask([segmentation], 6, 9)
        assert np.argwhere(mask).tolist() == [[0, 1], [1, 1]]


def test_two_polygons_are_one_mask():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [5, 3, 7, 3, 7, 5, 5, 5]]
    together = convert_coco_poly_to_mask([parts], 6, 9)
    assert np.array_equal(together[0], convert_coco_poly_to_mask([[part] for part in parts], 6, 9).any(axis=0))
    assert together.sum() == 8


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bbox": None}, KeyError, r"annotations\[0\] has no 'bbox'; it has \['area'"),
        ({"category_id": None}, KeyError, "no 'category_id'"),
        ({"area": None}, KeyError, "no 'area'"),
        ({"segmentation": None}, KeyError, "no 'segmentation'"),
        ({"bbox": [1, 2, 3]}, ValueError, r"annotations\[0\]\['bbox'\] is \[1, 2, 3\]: expected four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, ValueError, "four finite numbers"),
        ({"bbox": [[1, 2, 3, 4]]}, ValueError, "four finite numbers"),
        ({"category_id": "cat"}, ValueError, r"category_id is \['cat'\]: expected whole numbers"),
        ({"category_id": 1.5}, ValueError, "expected whole numbers"),
        ({"segmentation": []}, ValueError, "segmentation 0 is .*: expected a list of polygons"),
        ({"segmentation": [[1, 2, 3, 4]]}, ValueError, "expected a list of polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, ValueError, "expected a list of polygons"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, ValueError, "expected a list of polygons"),
        (
            {"segmentation": {"size": [2, 5], "counts": [5, 5]}},
            ValueError,
            "segmentation 0 is 2 x 5, the picture 6 x 9",
        ),
        ({"keypoints": [1, 2]}, ValueError, r"'keypoints' have \[2\] numbers: expected x, y and visibility"),
    ],
)
def test_a_bad_object_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        prepare_coco_detection_annotation(PICTURE, one(**changes), True)


def test_the_number_in_an_error_counts_crowds():
    annotation = one(iscrowd=1)
    annotation["annotations"].append({"category_id": 1, "area": 1})
    with pytest.raises(KeyError, match=r"annotations\[1\] has no 'bbox'"):
        prepare_coco_detection_annotation(PICTURE, annotation)


def test_keypoints_must_be_alike():
    annotation = one(keypoints=[1, 2, 2])
    annotation["annotations"] += one(keypoints=[1, 2, 2, 3, 4, 2])["annotations"]
    with pytest.raises(ValueError, match=r"have \[3, 6\] numbers"):
        prepare_coco_detection_annotation(PICTURE, annotation)
    annotation["annotations"][1].pop("keypoints")
    with pytest.raises(KeyError, match=r"annotations\[1\] has no 'keypoints'"):
        prepare_coco_detection_annotation(PICTURE, annotation)


@pytest.mark.parametrize("image_id", [12, "12", "0012", np.int64(12), 12.0])
def test_image_ids_are_whole_numbers(image_id):
    assert prepare_coco_detection_annotation(PICTURE, one() | {"image_id": image_id})["image_id"].tolist() == [12]


def test_image_ids_that_are_names_are_refused():
    with pytest.raises(ValueError, match=r"image_id is \['a.jpg'\]: expected whole numbers"):
        prepare_coco_detection_annotation(PICTURE, one() | {"image_id": "a.jpg"})
    with pytest.raises(KeyError, match="the annotation has no 'image_id'"):
        prepare_coco_detection_annotation(PICTURE, {"annotations": []})


def test_panoptic_ids_are_three_bytes_and_boxes_end_on_the_last_pixel(tmp_path):
    target = prepare_coco_panoptic_annotation(PICTURE, panoptic(tmp_path), tmp_path)
    assert list(target) == ["image_id", "size", "orig_size", "masks", "boxes", "class_labels", "iscrowd", "area"]
    assert target["masks"].dtype == np.uint8
    for mask, segment in zip(target["masks"], (70000, 300, 7), strict=True):
        assert np.array_equal(mask, segment == SEGMENTS)
    del target["masks"]
    assert {key: (value.dtype.name, value.tolist()) for key, value in target.items()} == {
        "image_id": ("int64", [4]),
        "size": ("int64", [6, 9]),
        "orig_size": ("int64", [6, 9]),
        "boxes": ("float32", [[0, 0, 8, 2], [0, 3, 3, 5], [4, 0, 8, 5]]),
        "class_labels": ("int64", [9, 2, 1]),
        "iscrowd": ("int64", [0, 1, 0]),
        "area": ("float32", [26.0, 12.0, 16.0]),
    }


def test_panoptic_without_masks_or_segments(tmp_path):
    annotation = panoptic(tmp_path)
    assert "masks" not in prepare_coco_panoptic_annotation(PICTURE, annotation, str(tmp_path), return_masks=False)
    empty = prepare_coco_panoptic_annotation(PICTURE, annotation | {"segments_info": []}, tmp_path)
    assert empty["masks"].shape == (0, 6, 9) and empty["boxes"].shape == (0, 4)
    assert empty["class_labels"].dtype == np.int64 and empty["area"].dtype == np.float32
    bare = prepare_coco_panoptic_annotation(PICTURE, {"id": 5, "file_name": "x.png"}, tmp_path)
    assert {key: value.tolist() for key, value in bare.items()} == {
        "image_id": [5],
        "size": [6, 9],
        "orig_size": [6, 9],
    }


def test_a_panoptic_palette_png_is_read_by_its_colours(tmp_path):
    annotation = panoptic(tmp_path)
    path = tmp_path / "segments.png"
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=8).save(path)
    target = prepare_coco_panoptic_annotation(PICTURE, annotation, tmp_path)
    assert np.array_equal(target["masks"][1], SEGMENTS == 300)


def test_bad_panoptic_annotations_are_named(tmp_path):
    annotation = panoptic(tmp_path)
    with pytest.raises(TypeError, match="masks_path is None"):
        prepare_coco_panoptic_annotation(PICTURE, annotation, None)
    with pytest.raises(FileNotFoundError, match=r"no mask file .*gone.png: masks_path must be the folder"):
        prepare_coco_panoptic_annotation(PICTURE, annotation | {"file_name": "gone.png"}, tmp_path)
    with pytest.raises(ValueError, match="segments.png is 6 x 9 pixels, but its picture is 6 x 8"):
        prepare_coco_panoptic_annotation((6, 8), annotation, tmp_path)
    segment = annotation["segments_info"][0]
    with pytest.raises(ValueError, match=r"segments_info\[0\]\['id'\] = 5 has no pixel in"):
        prepare_coco_panoptic_annotation(PICTURE, annotation | {"segments_info": [segment | {"id": 5}]}, tmp_path)
    for key in ("id", "category_id", "iscrowd", "area"):
        lacking = {name: value for name, value in segment.items() if name != key}
        with pytest.raises(KeyError, match=rf"segments_info\[0\] has no '{key}'"):
            prepare_coco_panoptic_annotation(PICTURE, annotation | {"segments_info": [lacking]}, tmp_path)


def test_bad_panoptic_files_are_named(tmp_path):
    annotation = panoptic(tmp_path)
    path = tmp_path / "segments.png"
    whole = path.read_bytes()
    Image.fromarray(SEGMENTS.astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match="has mode L: a panoptic PNG codes its segments in RGB"):
        prepare_coco_panoptic_annotation(PICTURE, annotation, tmp_path)
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="segments.png is truncated or damaged"):
        prepare_coco_panoptic_annotation(PICTURE, annotation, tmp_path)
    path.write_text("text")
    with pytest.raises(ValueError, match="segments.png is not a picture"):
        prepare_coco_panoptic_annotation(PICTURE, annotation, tmp_path)


def test_boxes_around_masks():
    masks = np.zeros((2, 5, 7), dtype=np.uint8)
    masks[0, 1, 2] = masks[0, 3, 4] = 1
    masks[1] = 1
    assert masks_to_boxes(masks).tolist() == [[2, 1, 4, 3], [0, 0, 6, 4]]
    assert masks_to_boxes(masks).dtype == np.float32 and masks_to_boxes(masks[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match="mask 1 has no pixel"):
        masks_to_boxes(masks * np.array([1, 0], dtype=np.uint8)[:, None, None])


def test_a_target_follows_its_picture_through_a_resize():
    before = prepare_coco_detection_annotation(PICTURE, detection(), True)
    after = resize_annotation(before, PICTURE, (4, 6))
    assert list(after)[0] == "size" and after["size"] == (4, 6)
    # 3.3333334922790527 and 5.333333492279053 are the float32 numbers of the reference.
    assert after["boxes"].dtype == np.float32
    assert after["boxes"][0].tolist() == [
        0.6666666865348816,
        0.6666666865348816,
        3.3333334922790527,
        2.6666667461395264,
    ]
    assert after["area"].dtype == np.float32 and after["area"].tolist() == [5.333333492279053, 4.222222328186035]
    assert after["masks"].dtype == bool
    assert [np.argwhere(mask).tolist() for mask in after["masks"]] == [[[1, 1], [1, 2], [2, 1], [2, 2]], [[2, 1]]]
    for key in ("image_id", "class_labels", "iscrowd", "orig_size", "keypoints"):
        assert after[key] is before[key]


def test_panoptic_masks_follow_pillows_nearest_rule(tmp_path):
    before = prepare_coco_panoptic_annotation(PICTURE, panoptic(tmp_path), tmp_path)
    after = resize_annotation(before, PICTURE, (4, 6))
    assert after["size"] == (4, 6) and list(after) == list({"size": 0} | before)
    rows = (after["masks"] * np.array([1, 2, 3])[:, None, None]).sum(axis=0)
    assert rows.tolist() == [[1, 1, 1, 1, 1, 3], [1, 1, 1, 1, 1, 1], [2, 2, 2, 3, 3, 3], [2, 2, 2, 3, 3, 3]]


def test_masks_of_a_picture_without_objects_are_resized():
    empty = prepare_coco_detection_annotation(PICTURE, {"image_id": 1, "annotations": []}, True)
    after = resize_annotation(empty, PICTURE, (4, 6))
    assert after["masks"].shape == (0, 4, 6) and after["masks"].dtype == bool


def test_boxes_become_relative_to_the_unpadded_picture():
    target = normalize_annotation(prepare_coco_detection_annotation(PICTURE, detection()), PICTURE)
    # 0.4166666567325592 is the float32 number of the reference.
    assert (
        target["boxes"].tolist()
        == np.float32([[3 / 9, 0.4166666567325592, 4 / 9, 0.5], [1.5 / 9, 0.75, 3 / 9, 0.5]]).tolist()
    )
    assert target["boxes"].dtype == np.float32 and target["area"].tolist() == [12.0, 9.5]
    assert normalize_annotation({"area": 3}, PICTURE) == {"area": 3}
    empty = prepare_coco_detection_annotation(PICTURE, {"image_id": 1, "annotations": []})
    assert normalize_annotation(empty, PICTURE)["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("a", r"annotations\[1\] has type str: expected one dict a picture"),
        ({"image_id": 1}, r"annotations\[1\] has the keys \['image_id'\] and lacks \['annotations'\]"),
        ({"annotations": []}, r"lacks \['image_id'\]"),
        ({"image_id": 1, "annotations": {}}, r"annotations\[1\]\['annotations'\] is not a list of dicts"),
        ({"image_id": 1, "annotations": [{}, 3]}, "is not a list of dicts"),
    ],
)
def test_wrong_detection_annotations_are_named(annotation, message):
    check_annotations([detection()], AnnotionFormat.COCO_DETECTION)
    with pytest.raises(ValueError, match=message):
        check_annotations([detection(), annotation], AnnotionFormat.COCO_DETECTION)


def test_wrong_panoptic_annotations_are_named(tmp_path):
    check_annotations([panoptic(tmp_path)], AnnotionFormat.COCO_PANOPTIC)
    with pytest.raises(ValueError, match=r"lacks \['file_name', 'segments_info'\].*coco_panoptic"):
        check_annotations([detection()], AnnotionFormat.COCO_PANOPTIC)
    with pytest.raises(ValueError, match="'rle' is no AnnotionFormat: choose one of"):
        AnnotionFormat("rle")


def test_dropped_boxes_are_mentioned(caplog):
    from ddetr_lab.advice import warn_once

    warn_once.cache_clear()
    for _ in range(2):
        prepare_coco_detection_annotation(PICTURE, detection())
    assert [record.name for record in caplog.records] == ["ddetr_lab.annotations"]
