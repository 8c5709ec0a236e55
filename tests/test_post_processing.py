"""Outputs become detections. Numbers without a formula beside them come from transformers 4.34.0."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddetr_lab.boxes import cxcywh_to_xyxy
from ddetr_lab.post_processing import post_process, post_process_object_detection

SIZES = [(100, 200), (50, 40)]  # (height, width)


def outputs() -> SimpleNamespace:
    return SimpleNamespace(
        logits=torch.tensor([[[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]], [[-3.0, -0.25, 1.0], [0.75, -4.0, 0.125]]]),
        pred_boxes=torch.tensor(
            [[[0.5, 0.5, 0.2, 0.4], [0.25, 0.75, 0.5, 0.5]], [[0.9, 0.1, 0.3, 0.1], [0.6, 0.4, 0.1, 0.2]]]
        ),
    )


@pytest.mark.parametrize(
    "sizes",
    [SIZES, torch.tensor(SIZES), torch.tensor(SIZES, dtype=torch.float32), np.array(SIZES), tuple(SIZES)],
    ids=["list", "int tensor", "float tensor", "array", "tuple"],
)
def test_the_numbers_of_the_reference(sizes):
    first, second = post_process_object_detection(outputs(), 0.5, sizes)
    torch.testing.assert_close(
        first["scores"], torch.tensor([0.9525741338729858, 0.8807970285415649, 0.622459352016449])
    )
    assert first["labels"].tolist() == [1, 0, 2] and first["labels"].dtype == torch.int64
    torch.testing.assert_close(
        first["boxes"], torch.tensor([[0.0, 50, 100, 100], [80.0, 30, 120, 70], [80.0, 30, 120, 70]])
    )
    assert second["labels"].tolist() == [2, 0, 2]
    torch.testing.assert_close(
        second["boxes"], torch.tensor([[30.0, 2.5, 42.0, 7.5], [22.0, 15, 26, 25], [22.0, 15, 26, 25]])
    )


def test_top_k_ranks_queries_times_labels():
    first, second = post_process_object_detection(outputs(), 0.0, SIZES, top_k=2)
    assert first["labels"].tolist() == [1, 0] and second["labels"].tolist() == [2, 0]
    (everything, _) = post_process_object_detection(outputs(), 0.0, SIZES)
    assert len(everything["scores"]) == 6, "one query can yield a detection for each label"
    assert (everything["scores"].diff() <= 0).all()
    assert [len(d["scores"]) for d in post_process_object_detection(outputs(), 0.0, SIZES, top_k=0)] == [0, 0]


def test_the_threshold_is_exclusive():
    # The score of logit 0 is exactly 0.5.
    assert 0.5 not in post_process_object_detection(outputs(), 0.5, SIZES)[0]["scores"].tolist()
    assert 0.5 in post_process_object_detection(outputs(), 0.4999, SIZES)[0]["scores"].tolist()
    assert [d["boxes"].shape for d in post_process_object_detection(outputs(), 1.0, SIZES)] == [(0, 4), (0, 4)]


def test_without_target_sizes_boxes_are_relative():
    relative = post_process_object_detection(outputs(), 0.5)
    absolute = post_process_object_detection(outputs(), 0.5, SIZES)
    for picture, (height, width) in enumerate(SIZES):
        scale = torch.tensor([width, height, width, height])
        torch.testing.assert_close(relative[picture]["boxes"] * scale, absolute[picture]["boxes"])
        assert torch.equal(relative[picture]["scores"], absolute[picture]["scores"])
    torch.testing.assert_close(relative[0]["boxes"][0], cxcywh_to_xyxy(outputs().pred_boxes[0, 1]))


def test_a_float64_size_makes_float64_boxes():
    sizes = torch.tensor(SIZES, dtype=torch.float64)
    assert post_process_object_detection(outputs(), 0.5, sizes)[0]["boxes"].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_carried_into_pixels(dtype):
    half = SimpleNamespace(logits=outputs().logits.to(dtype), pred_boxes=torch.full((2, 2, 4), 0.5, dtype=dtype))
    detections = post_process_object_detection(half, 0.0, torch.tensor([[999, 1333], [999, 1333]]))
    assert detections[0]["boxes"].dtype == detections[0]["scores"].dtype == torch.float32
    assert detections[0]["boxes"][0].tolist() == [333.25, 249.75, 999.75, 749.25]


@pytest.mark.parametrize(("pictures", "queries", "labels"), [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty_outputs_have_empty_detections(pictures, queries, labels):
    empty = SimpleNamespace(
        logits=torch.zeros(pictures, queries, labels), pred_boxes=torch.full((pictures, queries, 4), 0.5)
    )
    for sizes in (None, [(4, 5)] * pictures):
        detections = post_process_object_detection(empty, 0.1, sizes)
        assert [d["boxes"].shape for d in detections] == [(0, 4)] * pictures


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(wrong):
    bad = outputs()
    bad.pred_boxes[1, 0, 2] = wrong
    with pytest.raises(ValueError, match="pred_boxes of picture 1, query 0 hold NaN or infinity.*weights"):
        post_process_object_detection(bad, 0.5, SIZES)
    bad = outputs()
    bad.logits[0, 1, 2] = wrong
    if wrong != wrong:
        with pytest.raises(ValueError, match="logits of picture 0, query 1 hold NaN"):
            post_process_object_detection(bad, 0.5, SIZES)
    else:  # an infinite logit is a sure yes or no
        scores = post_process_object_detection(bad, 0.0, SIZES)[0]["scores"]
        assert (1.0 in scores) == (wrong > 0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(4, 5)], r"target_sizes has shape \(1, 2\), but the outputs hold 2 pictures: expected \(2, 2\)"),
        (torch.ones(2, 4), r"target_sizes has shape \(2, 4\)"),
        (torch.ones(2), r"target_sizes has shape \(2,\)"),
        ([(4, 5, 3), (4, 5, 3)], r"expected one \(height, width\) a picture"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        post_process_object_detection(outputs(), 0.5, sizes)


@pytest.mark.parametrize("method", [post_process_object_detection, post_process])
@pytest.mark.parametrize(
    "size", [(-64, 64), (64, -64), (0, 64), (float("nan"), 64), (64, float("inf")), (1e39, 64), (1e-60, 64)]
)
def test_sizes_that_no_picture_has_are_named(method, size):
    for sizes in ([SIZES[0], size], torch.tensor([SIZES[0], size])):
        with pytest.raises(ValueError, match=r"target_sizes\[1\] is \(.*finite numbers above 0"):
            method(outputs(), target_sizes=sizes)


@pytest.mark.parametrize(
    "sizes",
    [["64", "64"], ["640", "480"], [b"64", b"64"], [("64", "64")] * 2, [None, None], [(None, 4)] * 2, [64, 64], 64]
    + ["6464", [(10**400, 4)] * 2, [[[4], [5, 6]]] * 2],
)
def test_sizes_that_are_no_pairs_of_numbers_are_named(sizes):
    with pytest.raises(ValueError, match=r"target_sizes is .*expected one \(height, width\) a picture, two numbers"):
        post_process_object_detection(outputs(), 0.5, sizes)


def test_sizes_may_be_numbers_of_any_library():
    for size in (np.array([100, 200]), torch.tensor([100, 200]), [np.int64(100), torch.tensor(200.0)]):
        found = post_process_object_detection(outputs(), 0.5, [size, (50, 40)])
        assert torch.equal(found[0]["boxes"], post_process_object_detection(outputs(), 0.5, SIZES)[0]["boxes"])


@pytest.mark.parametrize(
    "threshold", [float("nan"), float("inf"), -float("inf"), None, "0.5", [0.5], 1j, torch.tensor(float("nan"))]
)
def test_a_threshold_that_is_no_finite_number_is_named(threshold):
    with pytest.raises(ValueError, match="threshold is .*: expected a finite number"):
        post_process_object_detection(outputs(), threshold, SIZES)


@pytest.mark.parametrize("threshold", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_a_threshold_may_be_a_number_of_any_library(threshold):
    assert len(post_process_object_detection(outputs(), threshold, SIZES)[0]["scores"]) == 3
    assert len(post_process_object_detection(outputs(), -1, SIZES)[0]["scores"]) == 6


def test_outputs_that_do_not_fit_are_named():
    bad = outputs()
    bad.pred_boxes = bad.pred_boxes[:, :1]
    with pytest.raises(ValueError, match=r"logits have shape \(2, 2, 3\) and pred_boxes \(2, 1, 4\)"):
        post_process_object_detection(bad)
    bad.logits = bad.logits[0]
    with pytest.raises(ValueError, match=r"expected \(B, Q, K\) and \(B, Q, 4\)"):
        post_process_object_detection(bad)
    with pytest.raises(ValueError, match="top_k is -1"):
        post_process_object_detection(outputs(), top_k=-1)


def test_the_older_method_keeps_the_best_hundred():
    torch.manual_seed(1)
    many = SimpleNamespace(logits=torch.randn(2, 60, 3), pred_boxes=torch.rand(2, 60, 4))
    old = post_process(many, torch.tensor(SIZES))
    new = post_process_object_detection(many, 0.0, SIZES, top_k=100)
    for before, after in zip(old, new, strict=True):
        assert len(before["scores"]) == 100
        assert all(torch.equal(before[key], after[key]) for key in ("scores", "labels", "boxes"))
    assert len(post_process(outputs(), SIZES)[0]["scores"]) == 6
