"""Each planted fault does what its name says, and the checks that should name it do, without a false alarm."""

import pytest
import torch

from ddetr_lab.diagnosis.overfit import prepare
from ddetr_lab.diagnosis.planted_faults import FAULTS, TOO_HIGH
from ddetr_lab.diagnosis.telltales import reacts_to_padding
from ddetr_lab.diagnosis.verdicts import before_training, by_the_trainer

SEEN_BEFORE = {  # by a look at model and batches; the other two need a run
    "boxes_in_the_wrong_format",
    "everything_frozen",
    "prior_wiped",
    "wrong_normalisation",
    "padding_mask_inverted",
    "head_tied",
}
REFUSED = {  # by the trainer
    "class_ids_off_by_one": "COCO ids start at 1",
    "everything_frozen": "nothing to train",
    "padding_mask_inverted": "needs 1 - mask",
}


def test_there_are_eight() -> None:
    assert len(FAULTS) == 8
    assert len({fault.title for fault in FAULTS.values()}) == 8


def test_a_healthy_test_raises_no_alarm() -> None:
    assert before_training(prepare()) == []
    assert by_the_trainer("healthy") == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_look_before_training_names_what_it_can(name: str) -> None:
    test = prepare()
    FAULTS[name].plant(test)
    seen = before_training(test)
    assert bool(seen) == (name in SEEN_BEFORE)
    assert all(line.startswith(FAULTS[name].title) for line in seen)


@pytest.mark.parametrize("name", FAULTS)
def test_the_trainer_refuses_what_it_can(name: str) -> None:
    refusals = by_the_trainer(name)
    assert bool(refusals) == (name in REFUSED)
    assert all(REFUSED[name] in line for line in refusals)


def test_ids_are_one_too_high_and_the_wider_head_is_trained() -> None:
    right, test = prepare(pictures=2), prepare(pictures=2)
    FAULTS["class_ids_off_by_one"].plant(test)
    pairs = zip(right.make_batch()["labels"], test.make_batch()["labels"], strict=True)
    assert all(torch.equal(one["class_labels"] + 1, two["class_labels"]) for one, two in pairs)
    trained = {id(value) for group in test.optimizer.param_groups for value in group["params"]}
    assert all(id(value) in trained for value in test.model.class_embed.parameters())
    assert test.model.config.num_labels == 11


def test_the_rate_is_a_hundred_times_higher() -> None:
    right, test = prepare(pictures=1), prepare(pictures=1)
    FAULTS["rate_too_high"].plant(test)
    pairs = zip(right.optimizer.param_groups, test.optimizer.param_groups, strict=True)
    assert all(two["lr"] == TOO_HIGH * one["lr"] for one, two in pairs)


def test_padding_speaks_only_through_an_inverted_mask() -> None:
    test = prepare(pictures=2)
    assert reacts_to_padding(test.model, test.make_batch()) == 0
    FAULTS["padding_mask_inverted"].plant(test)
    assert reacts_to_padding(test.model, test.make_batch()) > 1e-3
