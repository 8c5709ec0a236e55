"""What a call of the processor asks for."""

from typing import Any

import pytest

from ddetr_lab.advice import warn_once
from ddetr_lab.image_processing import AnnotionFormat, DeformableDetrImageProcessor
from ddetr_lab.processor_options import CallOptions, call_options

UNSAID = dict.fromkeys(
    (
        "do_resize",
        "size",
        "resample",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_pad",
        "format",
    )
)


def options(others: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **given: Any) -> CallOptions:
    processor = DeformableDetrImageProcessor(**(settings or {}))
    return call_options(processor, others or {}, **(UNSAID | given))


def test_what_a_call_leaves_out_is_the_processor_s() -> None:
    made = options(
        settings={"size": {"height": 4, "width": 6}, "image_mean": 0.5, "pad_size": {"height": 8, "width": 8}}
    )
    assert made.size == {"height": 4, "width": 6} and made.pad_size == {"height": 8, "width": 8}
    assert (made.factor, made.mean, made.do_pad) == (1 / 255, 0.5, True)
    assert made.format is AnnotionFormat.COCO_DETECTION


def test_a_step_that_is_switched_off_is_none() -> None:
    made = options(do_resize=False, do_rescale=False, do_normalize=0)
    assert (made.size, made.factor, made.mean, made.std) == (None, None, None, None)
    assert not made.coloured and made.channels is None
    assert made.sizes_after([(3, 4)]) == [(3, 4)]


def test_colours_and_channels() -> None:
    assert options(do_rescale=False).coloured and options(do_normalize=False).coloured
    assert options(image_mean=[0.5], image_std=0.5).channels == 1
    assert options().channels == 3


def test_sizes_are_computed_and_a_picture_that_vanishes_is_named() -> None:
    made = options(size={"shortest_edge": 10, "longest_edge": 20})
    assert made.sizes_after([(5, 5), (4, 8)]) == [(10, 10), (10, 20)]
    with pytest.raises(ValueError, match="picture 1: size .* no pixels left"):
        made.sizes_after([(5, 5), (1, 900)])


def test_other_names_are_understood_and_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    others = {"pad_and_return_pixel_mask": False, "max_size": 9, "pad_size": {"height": 4, "width": 4}, "sise": 3}
    made = options(others)
    assert (made.do_pad, made.size, made.pad_size) == (False, {"shortest_edge": 9}, {"height": 4, "width": 4})
    assert [record.getMessage() for record in caplog.records] == [
        "pad_and_return_pixel_mask is deprecated: pass do_pad",
        "max_size is deprecated: pass size={'shortest_edge': ..., 'longest_edge': ...}",
        "preprocess() ignores ['sise']: it knows no such argument",
    ]


@pytest.mark.parametrize(
    ("given", "error"), [({"do_pad": "no"}, TypeError), ({"size": "big"}, ValueError), ({"format": "x"}, ValueError)]
)
def test_what_is_none_of_the_choices_is_refused(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        options(**given)
