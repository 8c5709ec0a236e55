"""The compiled resize against Pillow's: every pixel of many sizes, every form of a picture, any number of threads."""

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from ddetr_lab import image_transforms, resampling
from ddetr_lab.image_inputs import ChannelDimension
from ddetr_lab.image_processing import DeformableDetrImageProcessor
from ddetr_lab.ops.native import native_problem
from ddetr_lab.resampling import resize_and_colour, rows_first
from tests.pictures import picture

FIRST, LAST = ChannelDimension.FIRST, ChannelDimension.LAST
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
COLOURS = {"factor": 1 / 255, "mean": MEAN, "std": STD}
compiled = pytest.mark.skipif(native_problem() is not None, reason="the library is not compiled")


def step_by_step(image, layout, size, output_layout=FIRST):
    resized, stretched = image_transforms.resize_to_8_bits(image, size, layout=layout)
    return image_transforms.colour(resized, layout, 1 / 255, MEAN, STD, output_layout, stretched)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_every_pixel_is_pillow_s(seed):
    sizes = np.random.default_rng(seed)
    for _ in range(40):
        height, width, new_height, new_width = (int(side) for side in sizes.integers(1, 120, 4))
        image = Image.fromarray(noise(height, width, seed))
        ours = resize_and_colour(image, LAST, (new_height, new_width), output_layout=FIRST, **COLOURS)
        assert ours.dtype == np.float32
        there = step_by_step(image, LAST, (new_height, new_width))
        assert np.array_equal(ours, there), f"{height} x {width} to {new_height} x {new_width}"


@compiled
def test_rows_are_first_where_they_are_said_to_be():
    """The kernel itself against the installed Pillow: exact where the rule holds, elsewhere what Pillow 13 changed."""
    sizes, known, others = np.random.default_rng(5), 0, 0
    table = np.broadcast_to(np.arange(256, dtype=np.float32), (3, 256)).copy()
    for _ in range(800):
        height, width, new_height, new_width = (int(side) for side in sizes.integers(1, 120, 4))
        pixels, planes = noise(height, width), np.empty((3, new_height, new_width), dtype=np.float32)
        tensors = (torch.from_numpy(array) for array in (pixels, table, planes))
        torch.ops.ddetr_lab.resize_bilinear(*tensors)
        there = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BILINEAR))
        difference = np.abs(planes.transpose(1, 2, 0) - there).max()
        if rows_first((height, width), (new_height, new_width)):
            known += 1
            assert difference == 0, f"{height} x {width} to {new_height} x {new_width}"
        else:
            others += 1
            assert difference <= (2 if int(PIL.__version__.split(".")[0]) >= 13 else 0)
    assert known > 400 and others > 200


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((3000, 4000), (800, 1066), True),
        ((4000, 3000), (1066, 800), True),
        ((480, 640), (800, 1066), True),
        ((100, 50), (80, 40), True),  # 20 rows lost, 2 * 10 columns
        ((101, 50), (80, 40), False),
        ((2100, 1000), (1333, 635), False),  # a picture more than twice as high as wide
        ((50, 40), (49, 40), False),
        ((50, 40), (50, 80), True),
    ],
)
def test_the_rule_of_the_order(before, after, expected):
    assert rows_first(before, after) is expected


@compiled
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((480, 640), (800, 1066)),  # three rows become five: many sums fall half-way between two values
        ((427, 640), (800, 1199)),
        ((1080, 1920), (750, 1333)),
        ((1500, 2000), (800, 1066)),
        ((2000, 1500), (1066, 800)),
        ((640, 480), (320, 960)),
        ((512, 512), (1024, 1024)),
        ((1, 1), (5, 7)),
        ((3, 700), (2, 2)),
        ((64, 48), (64, 48)),
    ],
)
def test_usual_and_odd_sizes(before, after):
    image = Image.fromarray(noise(*before))
    ours = resize_and_colour(image, LAST, after, output_layout=FIRST, **COLOURS)
    assert np.array_equal(ours, step_by_step(image, LAST, after))


@compiled
def test_the_compiled_function_runs_where_the_order_is_known(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("Pillow was called")

    image = Image.fromarray(noise(48, 64))
    monkeypatch.setattr(image_transforms, "resize_to_8_bits", refuse)
    assert resize_and_colour(image, LAST, (48, 30), factor=1.0).shape == (48, 30, 3)
    assert resize_and_colour(image, LAST, (24, 32), factor=1.0).shape == (24, 32, 3)
    with pytest.raises(AssertionError, match="Pillow was called"):
        resize_and_colour(image, LAST, (47, 64), factor=1.0)


@pytest.mark.parametrize("output_layout", [FIRST, LAST])
@pytest.mark.parametrize("size", [(24, 32), (20, 64)], ids=["compiled", "by Pillow"])
def test_the_result_goes_where_it_is_wanted(size, output_layout):
    image = Image.fromarray(noise(48, 64))
    room = np.full((3, 50, 70) if output_layout is FIRST else (50, 70, 3), 7, dtype=np.float32)
    out = room[:, : size[0], : size[1]] if output_layout is FIRST else room[: size[0], : size[1]]
    assert resize_and_colour(image, LAST, size, output_layout=output_layout, out=out, **COLOURS) is out
    assert np.array_equal(out, step_by_step(image, LAST, size, output_layout))
    out[...] = 7
    assert (room == 7).all()  # nothing was written beside it


@compiled
def test_black_and_white_stay_so():
    for value in (0, 255):
        image = np.full((37, 53, 3), value, dtype=np.uint8)
        assert (resize_and_colour(image, LAST, (91, 30), factor=1.0) == value).all()


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("output_layout", [FIRST, LAST])
@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (Image.fromarray, LAST),
        (np.copy, LAST),
        (lambda array: array.transpose(2, 0, 1), FIRST),
        (lambda array: array[::-1, ::-1], LAST),
        (lambda array: np.repeat(array, 2, axis=1)[:, ::2], LAST),
        (read_only, LAST),
        (lambda array: array.astype(np.int64), LAST),
        (lambda array: array.astype(np.float32) / 255, LAST),
        (lambda array: array.astype(np.float64).transpose(2, 0, 1), FIRST),
    ],
    ids=["pillow", "last", "first", "backwards", "strided", "read-only", "int64", "fractions", "wide"],
)
def test_every_form_of_a_picture(make, layout, output_layout):
    image = make(picture(30, 41))
    ours = resize_and_colour(image, layout, (50, 33), output_layout=output_layout, **COLOURS)
    assert ours.shape == ((3, 50, 33) if output_layout is FIRST else (50, 33, 3))
    assert np.array_equal(ours, step_by_step(image, layout, (50, 33), output_layout))


@compiled
def test_the_number_of_threads_changes_nothing():
    before, image = torch.get_num_threads(), Image.fromarray(noise(200, 300))
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(resize_and_colour(image, LAST, (333, 500), **COLOURS))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_without_the_library_the_processor_gives_the_same(monkeypatch):
    pictures = [Image.fromarray(noise(48, 64)), picture(70, 50)]
    processor = DeformableDetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    here = processor(pictures, return_tensors="pt")
    monkeypatch.setattr(resampling, "native_problem", lambda: "the library is not compiled")
    there = processor(pictures, return_tensors="pt")
    assert torch.equal(here.pixel_values, there.pixel_values) and torch.equal(here.pixel_mask, there.pixel_mask)


@pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_other_filters_are_pillow_s(resample):
    image = Image.fromarray(noise(20, 30))
    ours = resize_and_colour(image, LAST, (44, 51), resample, factor=1.0)
    assert np.array_equal(ours, np.asarray(image.resize((51, 44), resample), dtype=np.float32))


def test_nothing_to_compute_leaves_8_bits():
    assert resize_and_colour(picture(6, 9), LAST, (4, 6)).dtype == np.uint8


@compiled
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pixels": torch.zeros(4, 5, 4, dtype=torch.uint8)},
            r"pixels is \(4, 5, 4\) Byte on cpu, expected .*uint8: give",
        ),
        ({"pixels": torch.zeros(4, 5, 3)}, "pixels is .* Float on cpu, expected"),
        ({"pixels": torch.zeros(0, 5, 3, dtype=torch.uint8)}, r"pixels is \(0, 5, 3\) and planes is .* no side of 0"),
        ({"table": torch.zeros(3, 255)}, r"table is \(3, 255\) .*expected"),
        ({"table": torch.zeros(256, 3).T}, "table is .*expected .*contiguous"),
        ({"planes": torch.zeros(3, 6, 7, dtype=torch.float64)}, "planes is .* Double on cpu, expected .*float32"),
        ({"planes": torch.zeros(3, 0, 7)}, "no side of 0"),
        ({"planes": torch.zeros(1, 6, 7)}, "planes is .*expected"),
        ({"planes": torch.zeros(3, 6, 7, device="meta")}, "resize_bilinear"),  # there is no kernel elsewhere
    ],
)
def test_a_bad_call_is_refused(change, message):
    call = {
        "pixels": torch.zeros(4, 5, 3, dtype=torch.uint8),
        "table": torch.zeros(3, 256),
        "planes": torch.zeros(3, 6, 7),
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ddetr_lab.resize_bilinear(*(call | change).values())
