"""The tell-tales: each rule sees what it is for, and keeps quiet on healthy numbers."""

import math

import pytest
import torch

from ddetr_lab.diagnosis.overfit import prepare
from ddetr_lab.diagnosis.telltales import (
    look_at_batch,
    look_at_log,
    look_at_scores,
    look_inside,
    reacts_to_padding,
)


def log(*losses: float, norm: float = 1.0, ce: float = 1.0) -> list[dict[str, float]]:
    return [{"loss": loss, "grad_norm": norm, "loss_ce": ce} for loss in losses]


def faults(found: list) -> list[str]:
    return [suspicion.fault for suspicion in found]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (log(10.0, 6.0, 3.0, 1.0), []),
        (log(10.0, 30.0, 8.0), ["rate_too_high"]),
        (log(10.0, math.nan), ["rate_too_high"]),
        (log(10.0, 9.9, 9.8), ["rate_too_high"]),
        (log(10.0, 10.0, 10.0, norm=0.0), ["everything_frozen"]),
        (log(95.0, 8.0, 5.0, ce=30.0), ["prior_wiped"]),
        (log(10.0), []),  # one line says nothing of where the loss goes
    ],
)
def test_a_log_names_its_fault(lines: list[dict[str, float]], expected: list[str]) -> None:
    assert faults(look_at_log(lines)) == expected


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(ValueError, match="lines is empty"):
        look_at_log([])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.96, 0.92, 0.8), []),
        ((0.001, 0.92, 1.0), ["class_ids_off_by_one"]),
        ((0.29, 0.13, 1.9), ["boxes_in_the_wrong_format"]),
        ((0.0, 0.0, 9.0), []),
    ],
)
def test_scores_are_held_against_each_other(scores: tuple[float, float, float], expected: list[str]) -> None:
    assert faults(look_at_scores(*scores)) == expected


def batch(boxes: list[list[float]], labels: list[int] | None = None) -> dict:
    target = {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "class_labels": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    }
    mask = torch.ones(1, 32, 32, dtype=torch.long)
    return {"pixel_values": torch.zeros(1, 3, 32, 32), "pixel_mask": mask, "labels": [target]}


def test_a_label_beyond_the_head_is_seen() -> None:
    assert faults(look_at_batch(batch([[0.5, 0.5, 0.2, 0.2]], [10]), num_labels=10)) == ["class_ids_off_by_one"]
    assert look_at_batch(batch([[0.5, 0.5, 0.2, 0.2]], [9]), num_labels=10) == []


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.2, 0.0], [0.9, 0.5, 0.4, 0.2], [50.0, 50.0, 20.0, 20.0]])
def test_a_box_that_is_none_is_seen(box: list[float]) -> None:
    assert faults(look_at_batch(batch([box]))) == ["boxes_in_the_wrong_format"]


def test_many_boxes_that_end_at_the_edge_are_seen() -> None:
    clipped = [[0.75, 0.5 - 0.01 * place, 0.5, 0.2] for place in range(8)]
    assert faults(look_at_batch(batch(clipped))) == ["boxes_in_the_wrong_format"]
    assert look_at_batch(batch([[0.5, 0.5, 0.3, 0.2]] * 8)) == []


def test_a_mask_of_padding_is_seen() -> None:
    wrong = batch([])
    wrong["pixel_mask"] = 1 - wrong["pixel_mask"]
    assert faults(look_at_batch(wrong)) == ["padding_mask_inverted"]


def test_padding_is_needed_to_try_it() -> None:
    test = prepare(pictures=1)
    whole = test.make_batch()
    whole["pixel_mask"] = torch.ones_like(whole["pixel_mask"])
    with pytest.raises(ValueError, match="no picture of the batch is padded"):
        reacts_to_padding(test.model, whole)
    assert look_inside(test.model, whole) == [], "nothing to try is no suspicion"
