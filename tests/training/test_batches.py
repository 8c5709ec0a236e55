"""The order of the data: a function of seed and step, cut the same way for any number of processes and pieces."""

from __future__ import annotations

import pytest
import torch

from ddetr_lab.data import DigitScenes
from ddetr_lab.data.transforms import training_transform
from ddetr_lab.training.batches import BatchOrder, training_batches
from ddetr_lab.training.build import build_processor
from ddetr_lab.training.distributed import Processes

SCENES = DigitScenes("train", num_scenes=11, seed=3, size=64)


def test_each_epoch_shows_every_picture_once_and_in_another_order():
    order = BatchOrder(SCENES, 4, seed=0)
    assert order.steps_of_epoch == 3
    epochs = [[place for step in range(3 * epoch, 3 * epoch + 3) for place in order.batch(step)] for epoch in (0, 1, 5)]
    for epoch, places in zip((0, 1, 5), epochs, strict=True):
        assert sorted(places) == [(epoch, index) for index in range(11)]
    assert [index for _, index in epochs[0]] != [index for _, index in epochs[1]]
    assert BatchOrder(SCENES, 4, seed=0).batch(16) == epochs[2][4:8], "asked in the middle, it is the same"
    assert BatchOrder(SCENES, 4, seed=1).batch(0) != order.batch(0)


@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize(("size", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 2), (3, 1), (3, 2)])
def test_processes_and_pieces_share_the_one_batch(size, accumulation, bucket):
    whole = BatchOrder(SCENES, 8, seed=0, bucket=bucket)
    ranks = [BatchOrder(SCENES, 8, 0, bucket, accumulation, Processes(rank, size)) for rank in range(size)]
    for step in range(4):
        pieces = [order.pieces(step) for order in ranks]
        assert len({len(one) for one in pieces}) == 1, "all processes have equally many pieces"
        assert all(piece for one in pieces for piece in one), "no piece is empty"
        assert [place for one in pieces for piece in one for place in piece] == whole.batch(step)


def test_a_rest_that_is_smaller_than_the_group_comes_twice():
    few = DigitScenes("train", num_scenes=2, size=64)
    pieces = [BatchOrder(few, 8, 0, accumulation=2, processes=Processes(rank, 3)).pieces(0) for rank in range(3)]
    assert [len(one) for one in pieces] == [1, 1, 1]
    assert {place for one in pieces for piece in one for place in piece} == {(0, 0), (0, 1)}


def test_a_state_is_of_the_same_data():
    order = BatchOrder(SCENES, 4, seed=0)
    state = order.state_dict(7)
    assert (state["epoch"], state["consumed"]) == (2, 1)
    order.check(state)
    fewer = DigitScenes("train", num_scenes=10, size=64)
    for other in (BatchOrder(SCENES, 5, seed=0), BatchOrder(SCENES, 4, seed=1), BatchOrder(fewer, 4, seed=0)):
        with pytest.raises(ValueError, match="resume with the same"):
            other.check(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_nothing_but_the_step(tiny_recipe, workers):
    processor, transform = build_processor(tiny_recipe), training_transform("jitter")

    def batches(steps, workers=0):
        order = BatchOrder(SCENES, 4, seed=5, accumulation=2)
        return list(training_batches(SCENES, order, processor, transform, 5, steps, workers))

    before = torch.get_rng_state()
    whole = batches(range(6))
    later = batches(range(4, 6), workers)
    assert torch.equal(torch.get_rng_state(), before), "training's own random numbers are left alone"
    assert [len(pieces) for pieces in whole] == [2] * 6
    for first, second in zip(whole[4:], later, strict=True):
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one["pixel_values"], other["pixel_values"])
            for label, same in zip(one["labels"], other["labels"], strict=True):
                assert all(torch.equal(label[key], same[key]) for key in label)
    # Another epoch shows the same picture in another view.
    order = BatchOrder(SCENES, 11, seed=5)
    first, second = training_batches(SCENES, order, processor, transform, 5, range(2))
    shown = [
        {int(label["image_id"]): v for v, label in zip(b["pixel_values"], b["labels"], strict=True)}
        for (b,) in (first, second)
    ]
    assert any(not torch.equal(shown[0][index], shown[1][index]) for index in range(11))
