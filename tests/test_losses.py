"""The losses in plain numbers, their sum, and labels that are refused."""

import math
from collections import UserDict
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor

from ddetr_lab.losses import DetectionLoss, box_losses, cardinality_error, check_labels, sigmoid_focal_loss
from tests.tiny import tiny_config

LEFT, RIGHT = [0.25, 0.5, 0.2, 0.2], [0.75, 0.5, 0.2, 0.2]


def target(classes: list[int], boxes: list[list[float]]) -> dict[str, Tensor]:
    return {"class_labels": torch.tensor(classes, dtype=torch.long), "boxes": torch.tensor(boxes).view(-1, 4)}


def predictions(seed: int = 0, queries: int = 4) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(2, queries, 3, generator=draw).requires_grad_(),
        "pred_boxes": (torch.rand(2, queries, 4, generator=draw) * 0.3 + 0.3).requires_grad_(),
    }


def targets() -> list[dict[str, Tensor]]:
    return [target([2, 0], [LEFT, RIGHT]), target([1], [RIGHT])]


@pytest.mark.parametrize("alpha", [0.25, 0.9, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_is_its_formula(alpha: float, gamma: float) -> None:
    logits = [[0.5, -3.0], [2.0, 0.0]]
    wanted = [[1.0, 0.0], [0.0, 1.0]]
    total = 0.0
    for row, answers in zip(logits, wanted, strict=True):
        for logit, answer in zip(row, answers, strict=True):
            p = 1 / (1 + math.exp(-logit))
            right = p if answer else 1 - p
            weight = 1.0 if alpha < 0 else (alpha if answer else 1 - alpha)
            total -= weight * (1 - right) ** gamma * math.log(right)
    loss = sigmoid_focal_loss(torch.tensor([logits]), torch.tensor([wanted]), 2, alpha, gamma)
    assert loss.item() == pytest.approx(total / 2, rel=1e-5)


def test_focal_loss_of_sure_queries_is_finite() -> None:
    logits = torch.tensor([[[80.0, -80.0]]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([[[0.0, 1.0]]]), 1)
    loss.backward()
    assert loss.item() == pytest.approx(80, rel=1e-4)  # 0.75 * 80 + 0.25 * 80
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_box_losses_compare_matched_pairs_only() -> None:
    boxes = torch.tensor([[LEFT, [0.5, 0.5, 0.9, 0.9], RIGHT]])
    wanted = [target([0, 0], [RIGHT, [0.25, 0.5, 0.2, 0.4]])]
    l1, giou = box_losses(boxes, wanted, [(torch.tensor([0, 2]), torch.tensor([1, 0]))], num_boxes=4)
    assert l1.item() == pytest.approx(0.2 / 4, abs=1e-6)
    assert giou.item() == pytest.approx((1 - 0.5) / 4, abs=1e-6)  # one box is half of the other, one is exact


def test_box_losses_without_objects_are_zero_with_a_zero_gradient() -> None:
    boxes = torch.rand(2, 3, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    l1, giou = box_losses(boxes, [target([], [])] * 2, [(none, none)] * 2, num_boxes=1.0)
    (l1 + giou).backward()
    assert (l1.item(), giou.item()) == (0, 0)
    assert boxes.grad is not None and not boxes.grad.any()


def test_cardinality_counts_queries_whose_best_class_is_not_the_last() -> None:
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]], [[0.0, 1.0]] * 3])
    assert cardinality_error(logits, [target([0], [LEFT]), target([0, 0], [LEFT, LEFT])]).item() == (1 + 2) / 2


def test_the_total_is_the_weighted_sum_of_the_last_layer() -> None:
    config = tiny_config(bbox_loss_coefficient=7, giou_loss_coefficient=0.5)
    total, losses = DetectionLoss(config)(predictions(), targets())
    assert list(losses) == ["loss_ce", "loss_bbox", "loss_giou", "cardinality_error"]
    torch.testing.assert_close(total, losses["loss_ce"] + 7 * losses["loss_bbox"] + 0.5 * losses["loss_giou"])


def test_the_matched_query_is_the_one_that_is_taught() -> None:
    boxes = torch.tensor([[LEFT, RIGHT, [0.5, 0.1, 0.1, 0.1]]] * 2)
    logits = torch.zeros(2, 3, 3, requires_grad=True)
    _, losses = DetectionLoss(tiny_config())({"logits": logits, "pred_boxes": boxes}, targets())
    losses["loss_ce"].backward()
    assert logits.grad is not None
    pushed_up = (logits.grad < 0).nonzero().tolist()
    assert pushed_up == [[0, 0, 2], [0, 1, 0], [1, 1, 1]]
    assert losses["loss_bbox"].item() == pytest.approx(0, abs=1e-6)


def test_earlier_layers_and_proposals_are_named_matched_by_themselves_and_added() -> None:
    loss = DetectionLoss(tiny_config())
    layers = [predictions(seed) for seed in (0, 1, 2)]
    cells = predictions(3, queries=9)
    total, losses = loss(layers[2], targets(), layers[:2], cells)
    names = ["loss_ce", "loss_bbox", "loss_giou", "cardinality_error"]
    assert list(losses) == [name + suffix for suffix in ("", "_0", "_1", "_enc") for name in names]
    expected = torch.zeros(())
    objects = [{**one, "class_labels": torch.zeros_like(one["class_labels"])} for one in targets()]
    for suffix, layer, wanted in [
        ("", layers[2], targets()),
        ("_0", layers[0], targets()),
        ("_1", layers[1], targets()),
        ("_enc", cells, objects),
    ]:
        alone, its_losses = loss(layer, wanted)
        expected = expected + alone
        for name in names:
            torch.testing.assert_close(losses[name + suffix], its_losses[name])
    torch.testing.assert_close(total, expected)


def test_losses_are_divided_by_the_objects_of_the_batch() -> None:
    loss = DetectionLoss(tiny_config())
    one = {"logits": torch.zeros(1, 2, 3), "pred_boxes": torch.tensor([[LEFT, RIGHT]])}
    shifted = [[0.25, 0.6, 0.2, 0.2], [0.75, 0.6, 0.2, 0.2]]
    _, both = loss(one, [target([0, 0], shifted)])
    _, single = loss(one, [target([0], shifted[:1])])
    assert both["loss_bbox"].item() == pytest.approx(0.1, abs=1e-6)
    assert single["loss_bbox"].item() == pytest.approx(0.1, abs=1e-6)


def test_a_batch_without_objects_teaches_nothing_is_there() -> None:
    given = predictions()
    total, losses = DetectionLoss(tiny_config())(given, [target([], []), target([], [])])
    total.backward()
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0
    assert total.item() == pytest.approx(losses["loss_ce"].item()) and total.item() > 0
    assert (given["logits"].grad > 0).all()  # type: ignore[operator]


def test_focal_alpha_changes_the_loss_but_not_the_matching() -> None:
    given = predictions()
    _, low = DetectionLoss(tiny_config(focal_alpha=0.1))(given, targets())
    _, high = DetectionLoss(tiny_config(focal_alpha=0.9))(given, targets())
    assert low["loss_ce"] != high["loss_ce"]
    assert low["loss_bbox"] == high["loss_bbox"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_give_a_float32_loss(dtype: torch.dtype) -> None:
    given = {name: tensor.detach().to(dtype) for name, tensor in predictions().items()}
    total, losses = DetectionLoss(tiny_config())(given, targets())
    assert total.dtype == torch.float32 and losses["loss_ce"].dtype == torch.float32


def test_more_objects_than_queries_are_a_loss_all_the_same() -> None:
    many = target([0, 1, 2, 0, 1, 2], [[0.1 * i + 0.2, 0.5, 0.1, 0.1] for i in range(6)])
    total, losses = DetectionLoss(tiny_config())(predictions(queries=4), [many, target([], [])])
    assert torch.isfinite(total) and losses["loss_bbox"] > 0


def test_with_processes_the_divisor_is_their_average(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, given = DetectionLoss(tiny_config()), predictions()
    alone, _ = loss(given, targets())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.mul_(4))  # three more, each with three
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    torch.testing.assert_close(loss(given, targets())[0], alone / 2)


def test_labels_may_carry_more_keys_and_other_containers() -> None:
    extra = {"area": torch.ones(1), "iscrowd": torch.zeros(1), "image_id": torch.tensor([7]), "size": [3, 4]}
    given = (
        UserDict(targets()[1] | extra),
        {"class_labels": torch.tensor([2], dtype=torch.int32), "boxes": torch.ones(1, 4)},
    )
    checked = check_labels(given, 2, 3)
    assert [sorted(one) for one in checked] == [["boxes", "class_labels"]] * 2
    assert checked[1]["class_labels"].dtype == torch.int64


def test_a_picture_without_objects_may_have_any_dtype_of_classes() -> None:
    checked = check_labels([{"class_labels": torch.tensor([]), "boxes": torch.zeros(0, 4)}], 1, 3)
    assert checked[0]["class_labels"].dtype == torch.int64


def without(key: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in targets()[1].items() if name != key}


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (None, TypeError, r"labels\[1\] is a NoneType, expected a dict of class_labels and boxes"),
        (torch.zeros(2, 4), TypeError, r"labels\[1\] is a Tensor, expected a dict"),
        ("boxes class_labels", TypeError, r"labels\[1\] is a str, expected a dict"),
        (without("boxes"), KeyError, r"labels\[1\] lacks boxes; it has class_labels"),
        (without("class_labels"), KeyError, r"labels\[1\] lacks class_labels; it has boxes"),
        ({}, KeyError, r"labels\[1\] lacks class_labels and boxes; it has nothing"),
        ({"class_labels": [1], "boxes": torch.zeros(1, 4)}, TypeError, r"labels\[1\]\['class_labels'\] is a list"),
        ({"class_labels": torch.tensor([1]), "boxes": [LEFT]}, TypeError, r"labels\[1\]\['boxes'\] is a list"),
        (target([0, 1], [LEFT]), ValueError, r"labels\[1\] has 2 class_labels and 1 boxes"),
        (
            target([0, 3], [LEFT, LEFT]),
            ValueError,
            r"class_labels\[1\] = 3 in image 1, .* 3 labels \(0 to 2\)\. COCO ids",
        ),
        (target([-1], [LEFT]), ValueError, r"class_labels\[0\] = -1 in image 1, but the config has 3 labels"),
        (
            {"class_labels": torch.tensor([1.0]), "boxes": torch.tensor([LEFT])},
            ValueError,
            r"dtype torch.float32, expected torch.int64",
        ),
        (
            {"class_labels": torch.tensor([[1]]), "boxes": torch.tensor([LEFT])},
            ValueError,
            r'labels\[1\]\["class_labels"\] has shape \(1, 1\), expected \(N,\)',
        ),
        (
            {"class_labels": torch.tensor([1]), "boxes": torch.tensor(LEFT)},
            ValueError,
            r'labels\[1\]\["boxes"\] has shape \(4,\), expected \(N, 4\)',
        ),
        (target([0], [[320, 200, 40, 30]]), ValueError, r"dtype torch.int64, expected a float tensor"),
        (target([0], [[320.0, 200.0, 40.0, 30.0]]), ValueError, r'labels\[1\]\["boxes"\]\[0\].*looks like pixels'),
        (target([0], [[0.6, 0.6, -0.1, 0.2]]), ValueError, r"negative coordinate or size: corner boxes"),
        (target([0], [[float("nan"), 0.6, 0.1, 0.2]]), ValueError, r"not finite"),
    ],
)
def test_bad_labels_are_named_by_picture_and_object(second: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DetectionLoss(tiny_config())(predictions(), [targets()[0], second])


def test_labels_must_be_a_list_of_one_dict_a_picture() -> None:
    with pytest.raises(ValueError, match=r"labels has 1 entries, but the batch has 2 pictures"):
        check_labels(targets()[:1], 2, 3)
    with pytest.raises(ValueError, match="no loss of an empty batch"):
        check_labels([], 0, 3)
    with pytest.raises(TypeError, match=r"labels is a dict, expected a list with one dict a picture"):
        check_labels(targets()[0], 2, 3)
