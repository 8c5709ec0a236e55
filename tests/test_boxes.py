"""Formats, areas and overlaps, against numbers worked out by hand."""

import pytest
import torch
from torch import Tensor

from ddetr_lab import boxes as bx

XYXY = torch.tensor([[10.0, 20.0, 50.0, 100.0], [0.0, 0.0, 1.0, 1.0]])


def test_formats_by_hand() -> None:
    assert bx.xyxy_to_cxcywh(XYXY).tolist() == [[30, 60, 40, 80], [0.5, 0.5, 1, 1]]
    assert bx.xyxy_to_xywh(XYXY).tolist() == [[10, 20, 40, 80], [0, 0, 1, 1]]
    assert bx.cxcywh_to_xyxy(torch.tensor([30.0, 60.0, 40.0, 80.0])).tolist() == [10, 20, 50, 100]
    assert bx.xywh_to_xyxy(torch.tensor([10.0, 20.0, 40.0, 80.0])).tolist() == [10, 20, 50, 100]


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 3, 4)])
@pytest.mark.parametrize("name", ["cxcywh_to_xyxy", "xyxy_to_cxcywh", "xywh_to_xyxy", "xyxy_to_xywh"])
def test_conversions_keep_leading_axes(name: str, shape: tuple[int, ...]) -> None:
    assert getattr(bx, name)(torch.rand(shape)).shape == shape


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("cxcywh_to_xyxy", "boxes_cxcywh"),
        ("xyxy_to_cxcywh", "boxes_xyxy"),
        ("xywh_to_xyxy", "boxes_xywh"),
        ("xyxy_to_xywh", "boxes_xyxy"),
        ("box_area", "boxes_xyxy"),
    ],
)
@pytest.mark.parametrize("shape", [(4, 5), (3,), ()])
def test_a_last_axis_that_is_not_four_is_named(name: str, argument: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} has shape .* but boxes are \(\.\.\., 4\)"):
        getattr(bx, name)(torch.zeros(shape))


def test_area_does_not_overflow_small_types() -> None:
    assert bx.box_area(torch.tensor([[0, 0, 200, 200]], dtype=torch.uint8)).tolist() == [40_000]
    assert bx.box_area(torch.tensor([[0, 0, 30_000, 30_000]], dtype=torch.int16)).tolist() == [900_000_000]
    half = bx.box_area(torch.tensor([[0, 0, 300, 300]], dtype=torch.float16))
    assert half.dtype == torch.float32 and half.tolist() == [90_000]


def test_iou_by_hand() -> None:
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    two = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
    iou, union = bx.box_iou(one, two)
    torch.testing.assert_close(iou, torch.tensor([[1 / 7, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert union.tolist() == [[7, 4, 8], [5, 5, 5]]


def test_giou_by_hand() -> None:
    # Two unit squares with a gap of one: nothing in common, and a third of their hull is neither.
    one, two = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    torch.testing.assert_close(bx.generalized_box_iou(one, two), torch.tensor([[-1 / 3]]))
    # Overlap 1 of union 7 in a hull of 9.
    one, two = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0, 3.0]])
    torch.testing.assert_close(bx.generalized_box_iou(one, two), torch.tensor([[1 / 7 - 2 / 9]]))


def test_elementwise_is_the_diagonal() -> None:
    one = bx.cxcywh_to_xyxy(torch.rand(9, 4))
    two = bx.cxcywh_to_xyxy(torch.rand(9, 4))
    torch.testing.assert_close(
        bx.elementwise_generalized_box_iou(one, two), bx.generalized_box_iou(one, two).diagonal()
    )


def test_boxes_without_area_give_zero_and_a_finite_gradient() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    iou, union = bx.box_iou(point, point)
    assert (iou.item(), union.item()) == (0, 0)
    giou = bx.elementwise_generalized_box_iou(point, point.detach())
    giou.sum().backward()
    assert giou.item() == 0 and point.grad is not None and torch.isfinite(point.grad).all()


def test_no_boxes_give_empty_tables() -> None:
    none, some = torch.zeros(0, 4), torch.rand(3, 2).repeat(1, 2)
    assert bx.generalized_box_iou(none, some).shape == (0, 3)
    assert bx.box_iou(some, none)[0].shape == (3, 0)
    assert bx.elementwise_generalized_box_iou(none, none).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overlaps_of_half_precision_boxes_are_float32(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]], dtype=dtype)
    assert bx.box_iou(boxes, boxes)[0].dtype == torch.float32
    assert bx.generalized_box_iou(boxes, boxes).dtype == torch.float32


@pytest.mark.parametrize(
    "row", [[0.5, 0.5, 0.2, 0.9], [0.2, 0.9, 0.5, 0.5], [0.1, 0.1, float("nan"), 0.5]], ids=["x", "y", "nan"]
)
@pytest.mark.parametrize("argument", ["boxes1_xyxy", "boxes2_xyxy"])
def test_corners_the_wrong_way_round_are_named_with_their_row(row: list[float], argument: str) -> None:
    good = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]])
    bad = good.clone()
    bad[1] = torch.tensor(row)
    pair = (bad, good) if argument == "boxes1_xyxy" else (good, bad)
    for function in (bx.generalized_box_iou, bx.elementwise_generalized_box_iou):
        with pytest.raises(ValueError, match=rf"{argument}\[1\] = .* is no corner box.*cxcywh_to_xyxy"):
            function(*pair)


def test_elementwise_wants_equal_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\) and boxes2_xyxy \(3, 4\).*generalized_box_iou for all pairs"):
        bx.elementwise_generalized_box_iou(torch.zeros(2, 4), torch.zeros(3, 4))


def test_inverse_sigmoid_undoes_the_sigmoid_and_keeps_the_ends_finite() -> None:
    x = torch.tensor([0.001, 0.25, 0.5, 0.999])
    torch.testing.assert_close(bx.inverse_sigmoid(x).sigmoid(), x)
    ends = bx.inverse_sigmoid(torch.tensor([-3.0, 0.0, 1.0, 4.0]))
    torch.testing.assert_close(ends, torch.tensor([-11.5129, -11.5129, 11.5129, 11.5129]), rtol=0, atol=1e-3)


def test_at_least_float32_touches_half_precision_only() -> None:
    kept = [torch.zeros(1, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.int64)]
    assert all(bx.at_least_float32(tensor) is tensor for tensor in kept)
    assert bx.at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


def check(boxes: Tensor) -> None:
    bx.check_boxes_cxcywh(boxes, 'labels[2]["boxes"]')


def test_good_targets_pass() -> None:
    check(torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.1, 0.9, 0.0, 0.2], [1.005, 0.5, 0.1, 0.1]]))
    check(torch.zeros(0, 4))


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ([320.0, 200.0, 50.0, 40.0], "looks like pixels"),
        ([0.5, 0.5, -0.1, 0.2], "negative.*xyxy_to_cxcywh"),
        ([-0.2, 0.5, 0.1, 0.2], "negative"),
        ([0.5, float("nan"), 0.1, 0.2], "not finite"),
        ([0.5, 0.5, float("inf"), 0.2], "not finite"),
    ],
)
def test_a_bad_target_is_named_by_row_and_by_what_it_looks_like(row: list[float], hint: str) -> None:
    with pytest.raises(ValueError, match=rf'labels\[2\]\["boxes"\]\[1\] = \[.*expected cx, cy, w, h.*{hint}'):
        check(torch.tensor([[0.5, 0.5, 0.1, 0.1], row]))


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 4), (0,)])
def test_targets_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 4\); a picture without objects \(0, 4\)"):
        check(torch.zeros(shape))


def test_integer_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype torch.int64, expected a float tensor"):
        check(torch.zeros(2, 4, dtype=torch.int64))
