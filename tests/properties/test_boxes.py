"""What holds for all boxes, searched by hypothesis."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddetr_lab import boxes as bx

coordinate = st.floats(-1000, 1000, allow_nan=False, width=32)
side = st.floats(0, 1000, allow_nan=False, width=32)


@st.composite
def xywh_lists(draw: st.DrawFn, least: int = 1, shortest: float = 0.0) -> Tensor:
    """Draw (N, 4) float64 boxes as left, top, width, height."""
    sides = st.floats(shortest, 1000, allow_nan=False, width=32)
    rows = draw(st.lists(st.tuples(coordinate, coordinate, sides, sides), min_size=least, max_size=6))
    return torch.tensor(rows, dtype=torch.float64).view(-1, 4)


@given(xywh_lists(least=0))
def test_every_pair_of_formats_goes_there_and_back(xywh: Tensor) -> None:
    xyxy = bx.xywh_to_xyxy(xywh)
    torch.testing.assert_close(bx.xyxy_to_xywh(xyxy), xywh, rtol=0, atol=1e-9)
    torch.testing.assert_close(bx.cxcywh_to_xyxy(bx.xyxy_to_cxcywh(xyxy)), xyxy, rtol=0, atol=1e-9)


@given(xywh_lists())
def test_area_is_width_times_height(xywh: Tensor) -> None:
    torch.testing.assert_close(bx.box_area(bx.xywh_to_xyxy(xywh)), xywh[:, 2] * xywh[:, 3], rtol=1e-6, atol=1e-6)


@given(xywh_lists(), xywh_lists())
def test_iou_is_symmetric_and_between_0_and_1(one: Tensor, two: Tensor) -> None:
    a, b = bx.xywh_to_xyxy(one), bx.xywh_to_xyxy(two)
    iou, union = bx.box_iou(a, b)
    torch.testing.assert_close(iou, bx.box_iou(b, a)[0].T)
    assert (iou >= 0).all() and (iou <= 1 + 1e-9).all()
    assert (union + 1e-6 >= torch.max(bx.box_area(a)[:, None], bx.box_area(b)[None])).all()


@given(xywh_lists(shortest=0.5))
def test_a_box_is_itself_only(xywh: Tensor) -> None:
    boxes = bx.xywh_to_xyxy(xywh)
    ones = torch.ones(len(boxes), dtype=torch.float64)
    torch.testing.assert_close(bx.box_iou(boxes, boxes)[0].diagonal(), ones)
    torch.testing.assert_close(bx.generalized_box_iou(boxes, boxes).diagonal(), ones)


@given(xywh_lists(shortest=0.5), xywh_lists(shortest=0.5), st.floats(0.01, 100), coordinate, coordinate)
def test_overlaps_do_not_depend_on_scale_or_place(one: Tensor, two: Tensor, scale: float, dx: float, dy: float) -> None:
    a, b = bx.xywh_to_xyxy(one), bx.xywh_to_xyxy(two)
    shift = torch.tensor([dx, dy, dx, dy], dtype=torch.float64)
    c, d = a * scale + shift, b * scale + shift
    torch.testing.assert_close(bx.box_iou(c, d)[0], bx.box_iou(a, b)[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(bx.generalized_box_iou(c, d), bx.generalized_box_iou(a, b), rtol=1e-5, atol=1e-7)


@given(xywh_lists(), xywh_lists())
def test_giou_is_symmetric_bounded_and_never_above_iou(one: Tensor, two: Tensor) -> None:
    a, b = bx.xywh_to_xyxy(one), bx.xywh_to_xyxy(two)
    giou, iou = bx.generalized_box_iou(a, b), bx.box_iou(a, b)[0]
    torch.testing.assert_close(giou, bx.generalized_box_iou(b, a).T)
    assert (giou <= iou + 1e-9).all()
    assert (giou >= -1 - 1e-9).all()
    assert torch.isfinite(giou).all()


@given(xywh_lists())
def test_elementwise_is_the_diagonal_of_the_pairs(xywh: Tensor) -> None:
    a = bx.xywh_to_xyxy(xywh)
    b = a.flip(0)
    torch.testing.assert_close(bx.elementwise_generalized_box_iou(a, b), bx.generalized_box_iou(a, b).diagonal())


@given(xywh_lists(shortest=0.5), st.floats(0.05, 0.95))
def test_a_part_covers_its_share(xywh: Tensor, share: float) -> None:
    whole = bx.xywh_to_xyxy(xywh)
    part = whole.clone()
    part[:, 2] = whole[:, 0] + share * xywh[:, 2]
    expected = torch.full((len(whole),), share, dtype=torch.float64)
    torch.testing.assert_close(bx.box_iou(whole, part)[0].diagonal(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(bx.elementwise_generalized_box_iou(whole, part), expected, rtol=0, atol=1e-9)


@given(xywh_lists(shortest=0.5))
def test_giou_falls_as_boxes_move_apart(xywh: Tensor) -> None:
    here = bx.xywh_to_xyxy(xywh[:1])
    width = xywh[0, 2]
    steps = torch.stack([here[0] + torch.tensor([1.0, 0.0, 1.0, 0.0]) * width * step for step in range(6)])
    assert (bx.generalized_box_iou(here, steps)[0].diff() < 0).all()


@given(st.lists(st.floats(1e-4, 1 - 1e-4), min_size=1, max_size=8))
def test_inverse_sigmoid_is_the_inverse(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(bx.inverse_sigmoid(x).sigmoid(), x)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
def test_every_box_between_0_and_1_is_a_legal_target(rows: list[tuple[float, ...]]) -> None:
    bx.check_boxes_cxcywh(torch.tensor(rows).view(-1, 4), "boxes")
