"""Batches of like size: every picture once, equal shares for every rank, exactly resumable, little padding."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.data.sampling import SizeBucketSampler, padding_waste, picture_sizes


def photographs(count=2000, seed=0):
    """Sizes as in COCO after the resize to 800/1333: most are 4:3 or 3:4, some of any shape."""
    rng = np.random.default_rng(seed)
    ratio = rng.choice([4 / 3, 3 / 4, 3 / 2, 1.0], p=[0.5, 0.25, 0.15, 0.1], size=count)
    ratio = np.where(rng.random(count) < 0.3, rng.uniform(0.5, 2.0, count), ratio)
    width, height = np.where(ratio > 1, 800 * ratio, 800), np.where(ratio > 1, 800, 800 / ratio)
    return np.stack([width, height], axis=1) * np.minimum(1, 1333 / np.maximum(width, height))[:, None]


@given(count=st.integers(1, 70), batch=st.integers(1, 6), world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_every_picture_comes_once_and_ranks_have_equal_shares(count, batch, world, epoch):
    sizes = photographs(count)
    ranks = [SizeBucketSampler(sizes, batch, seed=3, rank=rank, world_size=world) for rank in range(world)]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    shares = [list(sampler) for sampler in ranks]
    lengths = [[len(indices) for indices in share] for share in shares]
    assert all(row == lengths[0] for row in lengths)
    assert all(len(share) == len(sampler) for share, sampler in zip(shares, ranks, strict=True))
    assert all(0 < length <= batch for length in lengths[0])
    seen = Counter(index for share in shares for indices in share for index in indices)
    assert set(seen) == set(range(count))
    if count >= world:
        assert sum(seen.values()) - count < world and max(seen.values()) <= 2


def test_epochs_differ_and_repeat_from_the_seed():
    sizes = photographs(100)
    first, again, other = (SizeBucketSampler(sizes, 4, seed=seed) for seed in (0, 0, 1))
    epoch_0 = list(first)
    assert epoch_0 == list(again) != list(other)
    first.set_epoch(1)
    assert list(first) != epoch_0
    fixed = SizeBucketSampler(sizes, 4, shuffle=False)
    before = list(fixed)
    fixed.set_epoch(1)
    assert list(fixed) == before


def test_little_is_padding():
    """The figure that the bucketing is for; random batches of the same pictures beside it."""
    sizes = photographs()
    bucketed = padding_waste(sizes, list(SizeBucketSampler(sizes, 4)))
    order = np.random.default_rng(0).permutation(len(sizes)).reshape(-1, 4)
    random = padding_waste(sizes, order.tolist())
    print(f"padding of 2000 pictures in batches of 4: {random:.1%} in random order, {bucketed:.1%} bucketed")
    assert random > 0.25 and bucketed < 0.03


def test_waste_is_counted_by_hand():
    assert padding_waste([[4, 2], [2, 4], [3, 3]], [[0, 1], [2]]) == pytest.approx(1 - 25 / 41)
    assert padding_waste([[4, 2]], []) == 0


def consumed(sampler, count):
    """What a training loop sees in so many steps."""
    found = []
    while len(found) < count:
        for batch in sampler:
            found.append((sampler.epoch, batch))
            sampler.advance()
            if len(found) == count or sampler.consumed == 0:
                break
    return found


def test_training_goes_on_with_the_very_next_batch_wherever_it_stopped():
    sizes = photographs(50)  # 13 batches an epoch
    expected = consumed(SizeBucketSampler(sizes, 4, seed=5), 45)
    assert {epoch for epoch, _ in expected} == {0, 1, 2, 3}
    for stop in range(45):
        halted, resumed = (SizeBucketSampler(sizes, 4, seed=5) for _ in range(2))
        had = consumed(halted, stop)
        state = halted.state_dict()
        assert (state["epoch"], state["consumed"]) == divmod(stop, 13)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert had + consumed(resumed, 45 - stop) == expected


def test_what_a_loader_fetches_ahead_does_not_count():
    sampler = SizeBucketSampler(photographs(50), 4, seed=5)
    ahead = iter(sampler)
    next(ahead), next(ahead)
    assert sampler.state_dict()["consumed"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "saved with seed = 1"),
        ({"batch_size": 2}, "saved with batch_size = 2"),
        ({"pictures": 49}, "saved with pictures = 49"),
        ({"world_size": 2}, "saved with world_size = 2"),
    ],
)
def test_another_sampler_s_state_is_refused(change, message):
    sampler = SizeBucketSampler(photographs(50), 4)
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(sampler.state_dict() | change)
    with pytest.raises(ValueError, match="lacks batch_size, consumed"):
        sampler.load_state_dict({"epoch": 0, "seed": 0, "pictures": 50, "world_size": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": []}, "sizes has shape"),
        ({"sizes": [[3, 0]]}, "all above 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"world_size": 0}, "world_size = 0"),
        ({"rank": 2, "world_size": 2}, "rank = 2, expected 0 to 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SizeBucketSampler(**({"sizes": [[3, 4]], "batch_size": 1} | arguments))


def test_sizes_of_a_dataset_are_those_of_its_pictures():
    scenes = DigitScenes("val", num_scenes=5)
    assert picture_sizes(scenes).tolist() == [list(scenes[index][0].size) for index in range(5)]


def test_sizes_of_a_million_pictures_take_no_time():
    sizes = np.random.default_rng(0).integers(100, 1000, size=(120_000, 2))
    sampler = SizeBucketSampler(sizes, 2, world_size=8)
    assert len(list(sampler)) == len(sampler) == 7500
