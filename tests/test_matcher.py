"""The Hungarian matcher: its cost in plain numbers, its result, and what it says about bad input."""

import math

import pytest
import torch
from torch import Tensor

from ddetr_lab.matcher import HungarianMatcher, focal_class_cost


def target(classes: list[int], boxes: list[list[float]]) -> dict[str, Tensor]:
    return {"class_labels": torch.tensor(classes, dtype=torch.long), "boxes": torch.tensor(boxes).view(-1, 4)}


def outputs(queries: int = 4, labels: int = 3, batch: int = 2) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(8)
    return {
        "logits": torch.randn(batch, queries, labels, generator=draw),
        "pred_boxes": torch.rand(batch, queries, 4, generator=draw) * 0.4 + 0.3,
    }


LEFT, RIGHT = [0.25, 0.5, 0.2, 0.2], [0.75, 0.5, 0.2, 0.2]


def test_class_cost_is_the_focal_loss_of_yes_less_that_of_no() -> None:
    logits = torch.tensor([[0.3, -2.0]])
    cost = focal_class_cost(logits, torch.tensor([1, 0, 1]))
    expected = []
    for logit in (-2.0, 0.3, -2.0):
        p = 1 / (1 + math.exp(-logit))
        yes = -0.25 * (1 - p) ** 2 * math.log(p + 1e-8)
        no = -0.75 * p**2 * math.log(1 - p + 1e-8)
        expected.append(yes - no)
    torch.testing.assert_close(cost, torch.tensor([expected]))


def test_cost_adds_class_distance_and_overlap_with_their_weights() -> None:
    given = {"logits": torch.tensor([[0.0]]), "pred_boxes": torch.tensor([LEFT])}
    wanted = target([0], [RIGHT])
    # L1 0.5; no overlap, and 0.06 of the hull of 0.14 covered by neither box.
    giou = -(0.14 - 0.08) / 0.14
    clazz = focal_class_cost(given["logits"], wanted["class_labels"]).item()
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (2.0, 3.0, 4.0)):
        cost = HungarianMatcher(*weights).cost_matrix(given["logits"], given["pred_boxes"], wanted)
        expected = weights[0] * clazz + weights[1] * 0.5 - weights[2] * giou
        assert cost.item() == pytest.approx(expected, abs=1e-5)


def test_each_object_gets_the_query_that_fits_it() -> None:
    given = {
        "logits": torch.zeros(1, 3, 2),
        "pred_boxes": torch.tensor([[[0.5, 0.9, 0.1, 0.1], RIGHT, LEFT]]),
    }
    ((queries, objects),) = HungarianMatcher()(given, [target([0, 1], [LEFT, RIGHT])])
    assert queries.tolist() == [1, 2] and objects.tolist() == [1, 0]
    assert queries.dtype == objects.dtype == torch.int64


def test_the_total_counts_not_the_first_come() -> None:
    # Query 0 fits both objects best, but query 1 can take only the first: together 0-1 and 1-0 are cheaper.
    given = {"logits": torch.zeros(1, 2, 1), "pred_boxes": torch.tensor([[[0.5, 0.5, 0.2, 0.2], LEFT]])}
    wanted = target([0, 0], [[0.45, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2]])
    ((queries, objects),) = HungarianMatcher(0, 1, 0)(given, [wanted])
    assert list(zip(queries.tolist(), objects.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_pictures_are_matched_by_themselves() -> None:
    given = outputs()
    targets = [target([0], [LEFT]), target([2, 1, 0], [LEFT, RIGHT, LEFT])]
    together = HungarianMatcher()(given, targets)
    for picture in range(2):
        alone = {name: tensor[picture : picture + 1] for name, tensor in given.items()}
        ((queries, objects),) = HungarianMatcher()(alone, [targets[picture]])
        assert torch.equal(queries, together[picture][0]) and torch.equal(objects, together[picture][1])


def test_a_picture_without_objects_has_no_pairs() -> None:
    (one, other) = HungarianMatcher()(outputs(), [target([], []), target([1], [LEFT])])
    assert len(one[0]) == len(one[1]) == 0 and one[0].dtype == torch.int64
    assert len(other[0]) == 1


def test_with_more_objects_than_queries_the_dearest_stay_alone() -> None:
    given = {"logits": torch.zeros(1, 2, 1), "pred_boxes": torch.tensor([[LEFT, RIGHT]])}
    ((queries, objects),) = HungarianMatcher()(given, [target([0] * 3, [[0.5, 0.1, 0.1, 0.1], RIGHT, LEFT])])
    assert queries.tolist() == [0, 1] and objects.tolist() == [2, 1]


def test_alpha_and_gamma_are_fixed_whatever_the_loss_uses() -> None:
    cost = focal_class_cost(torch.tensor([[0.0]]), torch.tensor([0]))
    assert cost.item() == pytest.approx((0.25 - 0.75) * 0.25 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_match_alike(dtype: torch.dtype) -> None:
    given = {name: tensor.to(dtype) for name, tensor in outputs().items()}
    wanted = [target([0], [LEFT]), target([2, 1], [LEFT, RIGHT])]
    rounded = {name: tensor.float() for name, tensor in given.items()}
    for got, expected in zip(HungarianMatcher()(given, wanted), HungarianMatcher()(rounded, wanted), strict=True):
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def test_matching_makes_no_gradient() -> None:
    given = {name: tensor.requires_grad_() for name, tensor in outputs(batch=1).items()}
    HungarianMatcher()(given, [target([0], [LEFT])])
    assert all(tensor.grad is None for tensor in given.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["logits", "pred_boxes"])
def test_a_prediction_that_is_not_finite_is_named_with_picture_and_query(name: str, bad: float) -> None:
    given = outputs()
    given[name][1, 2, 0] = bad
    given[name][1, 3, 1] = bad
    with pytest.raises(ValueError, match=rf"cannot weigh {name} .*: 2 of 8 rows, first picture 1, query 2: .*weights"):
        HungarianMatcher()(given, [target([0], [LEFT]), target([0], [LEFT])])


def test_a_target_that_is_not_finite_is_named_with_picture_and_object() -> None:
    bad = target([0, 1], [LEFT, [0.5, float("nan"), 0.1, 0.1]])
    with pytest.raises(ValueError, match=r"target boxes .* first picture 1, object 1: .*correct the annotation"):
        HungarianMatcher()(outputs(), [target([0], [LEFT]), bad])


def test_all_weights_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="class_cost, bbox_cost and giou_cost are all 0"):
        HungarianMatcher(0, 0, 0)
