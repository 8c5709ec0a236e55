"""Padding at the bottom and the right, alone and in a batch."""

import numpy as np
import pytest

from ddetr_lab.image_inputs import ChannelDimension
from ddetr_lab.padding import empty_batch, pad, pad_batch
from tests.pictures import picture

FIRST, LAST = ChannelDimension.FIRST, ChannelDimension.LAST


@pytest.mark.parametrize("layout", [FIRST, LAST])
@pytest.mark.parametrize(
    ("value", "bottom", "right"),
    [(0, 0, 0), (7, 7, 7), ((3,), 3, 3), ((1, 2), 2, 2), (((1, 2), (3, 4)), 2, 4)],
)
def test_padding_is_below_and_to_the_right(layout, value, bottom, right):
    array = picture(2, 3)
    out = pad(array if layout is LAST else array.transpose(2, 0, 1), (4, 5), layout, value)
    out = out if layout is LAST else out.transpose(1, 2, 0)
    assert out.dtype == np.uint8 and out.shape == (4, 5, 3)
    assert np.array_equal(out[:2, :3], array)
    assert (out[2:, :3] == bottom).all() and (out[:, 3:] == right).all()


def test_padding_of_another_form_is_refused():
    with pytest.raises(ValueError, match="constant_values is"):
        pad(picture(), (9, 9), LAST, (1, 2, 3))


def test_a_batch_is_padded_to_its_largest_sides():
    padded, mask = pad_batch([picture(2, 5), picture(4, 3)], LAST)
    assert isinstance(padded, np.ndarray) and padded.shape == (2, 4, 5, 3) and mask.dtype == np.int64
    assert mask[0].tolist() == [[1] * 5] * 2 + [[0] * 5] * 2
    assert mask[1].tolist() == [[1, 1, 1, 0, 0]] * 4
    assert np.array_equal(padded[1, :, :3], picture(4, 3)) and not padded[1, :, 3:].any()


def test_a_batch_of_unlike_arrays_is_a_list():
    padded, _ = pad_batch([picture(2, 5), picture(4, 3).astype(np.float32)], LAST)
    assert [array.dtype for array in padded] == [np.uint8, np.float32] and padded[0].shape == (4, 5, 3)
    padded, _ = pad_batch([picture(2, 5), picture(4, 3)[..., :1]], LAST)
    assert [array.shape for array in padded] == [(4, 5, 3), (4, 5, 1)]


@pytest.mark.parametrize("layout", [FIRST, LAST])
@pytest.mark.parametrize("target", [None, (6, 7)])
def test_pictures_written_to_their_places_are_the_batch(layout, target):
    pictures = [picture(2, 5).astype(np.float32), picture(4, 3).astype(np.float32)]
    pictures = pictures if layout is LAST else [array.transpose(2, 0, 1) for array in pictures]
    block, places = empty_batch([(2, 5), (4, 3)], 3, layout, target)
    block[...] = np.nan
    for place, array in zip(places, pictures, strict=True):
        place[...] = array
    padded, mask = pad_batch(places, layout, block=block)
    expected, expected_mask = pad_batch(pictures, layout, target=target)
    assert padded is block and np.array_equal(padded, expected) and np.array_equal(mask, expected_mask)


def test_no_room_is_made_for_what_does_not_fit():
    with pytest.raises(ValueError, match="does not fit into pad_size"):
        empty_batch([(2, 5), (4, 3)], 3, FIRST, (3, 9))
