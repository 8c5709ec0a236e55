"""Views of a dataset: the same from the same (seed, epoch, index), in any process, and the dataset's own otherwise."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.data.transforms import training_transform
from ddetr_lab.data.views import TransformedDataset, item_generator


def views(seed=0, name="jitter"):
    return TransformedDataset(DigitScenes("val", num_scenes=6), training_transform(name), seed=seed)


def same(one, other):
    return np.array_equal(np.asarray(one[0]), np.asarray(other[0])) and one[1] == other[1]


def test_a_view_depends_on_seed_epoch_and_index_alone():
    one, two = views(), views()
    assert all(same(one[index], two[index]) for index in (3, 0, 3, 5))
    torch.manual_seed(99)
    assert same(one[1], two[1]) and same(one[-1], two[5])
    assert same(one[1], two[0, 1]) and same(one[2, -1], two[2, 5])
    assert not same(one[1], two[1, 1])
    assert not same(one[1], views(seed=1)[1])


def test_the_global_generators_are_left_alone():
    state = torch.get_rng_state()
    views(name="aerial")[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_see_the_same_views():
    places = [[(0, 1), (0, 2)], [(1, 2), (4, 0)]]
    loader = DataLoader(views(), collate_fn=list, num_workers=1, batch_sampler=places)
    found = [item for batch in loader for item in batch]
    assert all(same(item, views()[place]) for item, place in zip(found, sum(places, []), strict=True))


def test_everything_else_is_the_dataset_s_own():
    dataset = views()
    assert len(dataset) == 6 and dataset.categories[3] == "3"
    assert dataset.coco_ground_truth() == dataset.dataset.coco_ground_truth()
    assert "DigitScenes" in repr(dataset) and "RandomScaleJitter" in repr(dataset)
    with pytest.raises(AttributeError):
        _ = dataset.nothing_of_this_name
    with pytest.raises(IndexError):
        dataset[6]
    assert same(pickle.loads(pickle.dumps(dataset))[2], dataset[2])


def test_generators_of_neighbours_are_unrelated():
    first = {
        torch.rand((), generator=item_generator(seed, epoch, index)).item()
        for seed in range(4)
        for epoch in range(10)
        for index in range(25)
    }
    assert len(first) == 1000 and abs(np.mean(list(first)) - 0.5) < 0.05
