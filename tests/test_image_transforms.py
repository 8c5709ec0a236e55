"""Resize, rescale, normalise. Numbers without a formula beside them come from transformers 4.34.0."""

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.image_inputs import ChannelDimension
from ddetr_lab.image_transforms import colour, colour_table, normalize, output_size, rescale, resize, size_dict
from tests.pictures import picture

FIRST, LAST = ChannelDimension.FIRST, ChannelDimension.LAST
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# Channel 0 of picture() after a bilinear resize from 6 x 9 to 4 x 6.
SMALL = [
    [8, 32, 84, 162, 147, 167],
    [28, 58, 116, 167, 100, 110],
    [48, 84, 148, 96, 123, 108],
    [68, 110, 180, 119, 111, 99],
]


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [
        (600, None, {"shortest_edge": 600}),
        (600, 1333, {"shortest_edge": 600, "longest_edge": 1333}),
        (np.int64(5), None, {"shortest_edge": 5}),
        ((3, 4), 1333, {"height": 3, "width": 4}),
        ([3, 4], None, {"height": 3, "width": 4}),
        (None, 9, {"longest_edge": 9}),
        ({"longest_edge": 5}, None, {"longest_edge": 5}),
        ({"width": 5, "height": 6}, 7, {"width": 5, "height": 6}),
    ],
)
def test_every_form_of_a_size(size, max_size, expected):
    assert size_dict(size, max_size) == expected


@pytest.mark.parametrize("size", [None, "800", {"edge": 5}, {"height": 5}, (1, 2, 3), True, 5.0])
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match="size (is|has the keys)"):
        size_dict(size)


@pytest.mark.parametrize(
    ("before", "edges", "after"),
    [
        ((653, 958), (640, 640), (436, 639)),
        ((480, 640), (800, 1333), (800, 1066)),
        ((427, 640), (800, 1333), (800, 1199)),
        ((640, 427), (800, 1333), (1199, 800)),
        ((1000, 3000), (800, 1333), (444, 1332)),
        ((3000, 1000), (800, 1333), (1332, 444)),
        ((800, 1200), (800, 1333), (800, 1200)),
        ((1333, 800), (800, 1333), (1333, 800)),
        ((1, 2000), (800, 1333), (1, 2000)),
        ((37, 911), (480, 600), (24, 590)),
        ((600, 600), (600, 600), (600, 600)),
        ((7, 5), (3, 4), (4, 3)),
    ],
)
def test_sizes_are_those_of_the_reference(before, edges, after):
    assert output_size(*before, {"shortest_edge": edges[0], "longest_edge": edges[1]}) == after


def test_height_and_width_are_taken_as_they_are():
    assert output_size(5, 9, {"height": 7, "width": 3}) == (7, 3)


def test_a_longest_edge_of_none_is_no_limit() -> None:
    assert output_size(50, 70, {"shortest_edge": 48, "longest_edge": None}) == (48, 67)
    assert output_size(10, 7000, {"shortest_edge": 48, "longest_edge": None}) == (48, 33600)


@pytest.mark.parametrize("size", [{"shortest_edge": 5}, {"longest_edge": 5}])
def test_one_edge_is_not_enough(size):
    with pytest.raises(ValueError, match="not enough to resize: .*give both edges"):
        output_size(5, 9, size)


@pytest.mark.parametrize(
    ("before", "size"),
    [((1, 5000), {"shortest_edge": 800, "longest_edge": 1333}), ((5, 5), {"height": 0, "width": 5})],
)
def test_a_picture_is_never_resized_to_nothing(before, size):
    with pytest.raises(ValueError, match="no pixels left"):
        output_size(*before, size)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a,
        lambda a: a.astype(np.int64),
        lambda a: a.astype(np.float32),
        lambda a: a.astype(np.uint16),
    ],
    ids=["uint8", "int64", "whole floats", "uint16"],
)
@pytest.mark.parametrize("layout", [FIRST, LAST])
def test_whole_numbers_are_resized_as_8_bits(make, layout):
    array = make(picture())
    small = resize(array if layout is LAST else array.transpose(2, 0, 1), (4, 6), layout=layout)
    assert small.dtype == np.uint8
    assert (small[..., 0] if layout is LAST else small[0]).tolist() == SMALL


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fractions_go_through_8_bits_too(dtype):
    small = resize((picture() / 255).astype(dtype), (4, 6))
    assert small.dtype == np.float32
    assert np.array_equal(small[..., 0], (np.array(SMALL) * (1 / 255)).astype(np.float32))


def test_fractions_are_cut_not_rounded():
    assert np.array_equal(resize(np.full((3, 4, 4), 0.999), (2, 2)), np.full((3, 2, 2), np.float32(254 * (1 / 255))))


def test_zeros_and_ones_count_as_whole_numbers():
    # As in the reference: a picture of only 0.0 and 1.0 is taken for 8-bit values and not stretched.
    small = resize(np.ones((3, 4, 4), dtype=np.float32), (2, 2))
    assert small.dtype == np.uint8 and (small == 1).all()
    almost = np.ones((40, 40, 3), dtype=np.float32)
    almost[-1, -1] = 0.5  # one fraction in the last row of a large picture changes that
    assert resize(almost, (2, 2)).dtype == np.float32


def test_a_pillow_picture_stays_one():
    small = resize(Image.fromarray(picture()), (4, 6))
    assert isinstance(small, Image.Image) and np.asarray(small)[..., 0].tolist() == SMALL


def test_filters_and_single_channels():
    grey = picture()[..., :1]
    for filter_ in (Image.Resampling.NEAREST, 3):
        expected = np.asarray(Image.fromarray(grey[..., 0]).resize((6, 4), filter_))
        assert np.array_equal(resize(grey, (4, 6), filter_)[..., 0], expected)
    assert not np.array_equal(resize(grey, (4, 6), 0), resize(grey, (4, 6), None))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((3, 4, 4), 256), "range from 256 to 256: divide 16-bit pixels by 257"),
        (np.full((3, 4, 4), -0.5), "range from -0.5"),
        (np.full((3, 4, 4), np.inf), "range from inf"),
        (np.full((3, 4, 4), 1e30), "range from 1e"),
        (np.full((3, 4, 4), 100.5), "with fractions: round them or divide them by 255"),
        (np.full((4, 4, 5), 1, dtype=np.uint8), "knows 1 to 4 channels, but the picture has 5"),
    ],
)
def test_what_cannot_be_resized_is_named(array, message):
    with pytest.raises(ValueError, match=message):
        resize(array, (2, 2), layout=LAST if array.shape[-1] == 5 else FIRST)


def test_rescale_is_float32_of_the_exact_product():
    assert rescale(np.array([0, 1, 255], dtype=np.uint8), 1 / 255).tolist() == np.float32([0, 1 / 255, 1]).tolist()
    assert rescale(np.array([200], dtype=np.uint8), 2).tolist() == [400.0], "8-bit numbers would wrap around"
    assert rescale(np.array([1.0]), 0.5).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normalize_keeps_floats(dtype):
    array = (picture() / 255).astype(dtype)
    out = normalize(array, MEAN, STD, LAST)
    assert out.dtype == dtype
    assert np.allclose(
        out.astype(float), (array.astype(float) - MEAN) / STD, atol=1e-2 if dtype == np.float16 else 2e-6
    )
    assert np.array_equal(normalize(array.transpose(2, 0, 1), MEAN, STD), out.transpose(2, 0, 1))


def test_normalize_of_8_bits_is_arithmetic_and_not_nan():
    for mean, std in ((MEAN, STD), (0.5, 0.25), ([123.0, 117.0, 104.0], [58.0, 57.0, 57.5])):
        out = normalize(picture(), mean, std)
        assert out.dtype == np.float32 and np.allclose(
            out, (picture().astype(float) - mean) / std, rtol=1e-6, atol=2e-6
        )


def test_normalize_names_what_does_not_fit():
    with pytest.raises(ValueError, match="image_mean has 2 entries, but the picture has 3 channels"):
        normalize(picture(), [1, 2], STD)
    with pytest.raises(ValueError, match="image_std has 4 entries"):
        normalize(picture(), MEAN, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="image_std is .*: expected no zero"):
        normalize(picture(), MEAN, [1, 0, 1])


@pytest.mark.parametrize("factor", [1 / 255, 0.01, 1, None])
@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (0.3, [0.1, 0.2, 0.3]), (None, None)])
@pytest.mark.parametrize("layout", [FIRST, LAST])
@pytest.mark.parametrize("output_layout", [FIRST, LAST, None])
def test_the_table_gives_the_arithmetic_bit_for_bit(factor, mean, std, layout, output_layout):
    pixels = np.arange(768, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)  # all 256 values in each channel
    expected = pixels if factor is None else (pixels * factor).astype(np.float32)
    if mean is not None:
        expected = (expected.astype(np.float32) - np.float32(mean)) / np.float32(std)
    array = pixels if layout is LAST else pixels.transpose(2, 0, 1)
    out = colour(array, layout, factor, mean, std, output_layout)
    out = out.transpose(1, 2, 0) if (output_layout or layout) is FIRST else out
    assert out.dtype == expected.dtype and np.array_equal(out, expected)
    if layout is LAST:
        from_pillow = colour(Image.fromarray(pixels), FIRST, factor, mean, std, LAST)
        assert np.array_equal(from_pillow, expected) and from_pillow.flags.writeable


def test_stretched_pixels_take_one_more_step():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    back = (pixels * (1 / 255)).astype(np.float32)
    assert np.array_equal(colour(pixels, LAST, stretched=True), back)
    assert np.array_equal(colour(pixels, LAST, 0.5, stretched=True), back * np.float32(0.5))


@pytest.mark.parametrize("stretched", [False, True])
@pytest.mark.parametrize(("mean", "std"), [(None, None), (MEAN, STD), (0.5, 0.25)])
@pytest.mark.parametrize("factor", [None, 1 / 255, 1 / 127.5])
def test_the_table_has_all_256_values_of_every_channel(factor, mean, std, stretched):
    values = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=0)  # (3, 256, 1)
    expected = rescale(values, 1 / 255) if stretched else values
    expected = expected if factor is None else rescale(expected, factor)
    expected = expected if mean is None else normalize(expected, mean, std, FIRST)
    assert np.array_equal(colour_table(3, factor, mean, std, stretched), expected[..., 0])
