"""Calls that no backend may ever see: each raises an error that says what came, what was expected and where."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ddetr_lab.ops import ms_deform_attn
from ddetr_lab.ops.arguments import MOST_CELLS

SHAPES = [(2, 3), (1, 2)]
NAN, INF = float("nan"), float("inf")
VALUE, LOCATIONS, WEIGHTS, STARTS = "value", "sampling_locations", "attention_weights", "level_start_index"


class Case(NamedTuple):
    """A call of the small problem with some arguments exchanged, and what its error must be."""

    label: str
    changes: dict[str, Any]
    error: type[Exception]
    message: str  # a regular expression


def arguments() -> dict[str, Any]:
    """Return a good call: B = 2, S = 8, M = 2, D = 4, Q = 3, L = 2, P = 2."""
    return {
        VALUE: torch.zeros(2, 8, 2, 4),
        "spatial_shapes": SHAPES,
        STARTS: None,
        LOCATIONS: torch.zeros(2, 3, 2, 2, 2, 2),
        WEIGHTS: torch.zeros(2, 3, 2, 2, 2),
    }


GOOD = arguments()
TENSORS = (VALUE, LOCATIONS, WEIGHTS)


def shape_of(tensor: Tensor) -> str:
    return re.escape(str(tuple(tensor.shape)))


def no_tensors() -> list[Case]:
    """Return calls whose tensors are something else."""
    others = {"None": None, "list": [[0.0]], "ndarray": np.zeros(3), "float": 1.5, "str": "x"}
    return [
        Case(
            f"{name} is {kind}",
            {name: other},
            TypeError,
            rf"{name} is a {type(other).__name__}, expected a torch.Tensor",
        )
        for name in TENSORS
        for kind, other in others.items()
    ]


def wrong_dtypes() -> list[Case]:
    """Return calls with dtypes that no sum of samples is made of."""
    integers = [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool]
    others = [torch.complex64, torch.complex128, torch.float8_e4m3fn]
    cases = [
        Case(
            f"{name} {dtype}",
            {name: GOOD[name].to(dtype)},
            ValueError,
            rf"{name} has dtype {dtype}, expected float32.*float64: call \.float\(\)",
        )
        for name in TENSORS
        for dtype in integers + others
    ]
    for dtype in (torch.float16, torch.bfloat16):
        moved = rf"{LOCATIONS} has dtype {dtype}, expected float32 or float64: half precision moves.*\.float\(\)"
        cases.append(Case(f"{LOCATIONS} {dtype}", {LOCATIONS: GOOD[LOCATIONS].to(dtype)}, ValueError, moved))
    return cases


def wrong_axes() -> list[Case]:
    """Return calls with too few axes, too many, or a location that is no pair."""
    expected = {VALUE: "(B, S, M, D)", LOCATIONS: "(B, Q, M, L, P, 2)", WEIGHTS: "(B, Q, M, L, P)"}
    cases = []
    for name in TENSORS:
        for axes in range(8):
            if axes == GOOD[name].ndim:
                continue
            given = torch.zeros((2,) * axes)
            message = rf"{name} has shape {shape_of(given)}, expected {re.escape(expected[name])}"
            cases.append(Case(f"{name} with {axes} axes", {name: given}, ValueError, message))
    for last in (0, 1, 3, 4):
        given = torch.zeros(2, 3, 2, 2, 2, last)
        message = rf"{LOCATIONS} has shape {shape_of(given)}, expected .*its last axis is \(x, y\)"
        cases.append(Case(f"locations of {last} numbers", {LOCATIONS: given}, ValueError, message))
    return cases


def wrong_sizes() -> list[Case]:
    """Return calls whose tensors do not belong to each other."""
    cases = []
    for axis, letter in enumerate("BQMLP"):
        for step in (-1, 1):
            size = list(GOOD[WEIGHTS].shape)
            size[axis] += step
            given = torch.zeros(size)
            message = rf"{WEIGHTS} has shape {shape_of(given)}, expected \(2, 3, 2, 2, 2\) \(B, Q, M, L, P\)"
            cases.append(Case(f"weights {letter}{step:+d}", {WEIGHTS: given}, ValueError, message))
    for axis, letter in ((0, "B"), (2, "M")):
        for step in (-2, -1, 1):
            size = list(GOOD[VALUE].shape)
            size[axis] += step
            message = rf"value has B = {size[0]} and M = {size[2]}, but sampling_locations has B = 2 and M = 2: both"
            cases.append(Case(f"value {letter}{step:+d}", {VALUE: torch.zeros(size)}, ValueError, message))
    for tokens in (0, 1, 7, 9, 16):
        message = rf"value has S = {tokens} tokens, but spatial_shapes .* add up to 8: flatten exactly"
        cases.append(Case(f"S = {tokens}", {VALUE: torch.zeros(2, tokens, 2, 4)}, ValueError, message))
    cases.append(
        Case("heads before tokens", {VALUE: torch.zeros(2, 2, 8, 4)}, ValueError, r"value has B = 2 and M = 8, but")
    )
    return cases


def wrong_levels() -> list[Case]:
    """Return calls with whole numbers that are no sizes of these maps."""
    counts = [[], [(8, 1)], [(2, 3), (1, 1), (1, 1)]]
    cases = [
        Case(
            f"{len(pairs)} levels",
            {"spatial_shapes": pairs},
            ValueError,
            rf"spatial_shapes has {len(pairs)} levels, but",
        )
        for pairs in counts
    ]
    for pairs in ([(2, 3), (2, 2)], [(2, 2), (1, 2)], [(3, 3), (1, 2)], torch.tensor([(8, 1), (1, 1)])):
        message = r"value has S = 8 tokens, but spatial_shapes \[.*\] add up to (6|9|10|11)"
        cases.append(Case(f"sum of {pairs}", {"spatial_shapes": pairs}, ValueError, message))
    for pair in ((0, 3), (2, 0), (0, 0), (-2, 3), (2, -3), (-2, -3), (-(2**63), 2)):
        message = rf"spatial_shapes\[0\] = {re.escape(str(pair))}, expected positive sizes"
        cases.append(Case(f"size {pair}", {"spatial_shapes": [pair, (1, 2)]}, ValueError, message))
    # Products that 32 or 64 bits would wrap around, some of them to exactly 6.
    for pair in ((2**31, 1), (2**16, 2**16), (2**32, 2**32), (2**63, 2), (2**64, 1), (2**64 + 2, 3), (2**32 + 6, 1)):
        cells = pair[0] * pair[1]
        message = rf"spatial_shapes\[0\] = {re.escape(str(pair))} are {cells} cells, expected at most {MOST_CELLS}"
        cases.append(Case(f"size {pair}", {"spatial_shapes": [pair, (1, 2)]}, ValueError, message))
    return cases


def no_levels() -> list[Case]:
    """Return calls whose spatial shapes are no whole numbers, or no pairs of them."""
    cases = []
    for size in (2.0, 2.5, NAN, INF, "2", None, True, 2j, np.float64(2), torch.tensor(2), [2], (2, 3)):
        came = re.escape(f"{size!r} ({type(size).__name__})")
        message = rf"spatial_shapes\[1\] holds {came}, expected whole numbers: convert it with int\(\)"
        cases.append(Case(f"a size of {size!r}", {"spatial_shapes": [(2, 3), (1, size)]}, TypeError, message))
    for pair in (2, None, (2,), (2, 3, 1), [], "23", {2, 3}, torch.tensor([2, 3]), ((2, 3), (1, 2), (1, 1))):
        message = rf"spatial_shapes\[0\] = {re.escape(repr(pair))}, expected a pair \(H, W\)"
        cases.append(Case(f"a pair of {pair!r}", {"spatial_shapes": [pair, (1, 2)]}, TypeError, message))
    for given in (None, 6, 2.5, "23", b"23", {(2, 3), (1, 2)}, {2: 3, 1: 2}, iter(SHAPES)):
        message = rf"spatial_shapes is a {type(given).__name__}, expected L pairs \(H, W\)"
        cases.append(Case(f"shapes of {type(given).__name__}", {"spatial_shapes": given}, TypeError, message))
    cases += [
        Case("a flat list", {"spatial_shapes": [2, 3, 1, 2]}, TypeError, r"spatial_shapes\[0\] = 2, expected a pair"),
        Case(
            "NumPy floats",
            {"spatial_shapes": np.array(SHAPES) / 1},
            TypeError,
            r"spatial_shapes\[0\] holds 2\.0 \(float\)",
        ),
        Case(
            "a NumPy number", {"spatial_shapes": np.int64(6)}, TypeError, r"spatial_shapes is a int64, expected L pairs"
        ),
    ]
    return cases


def wrong_shape_tensors() -> list[Case]:
    """Return calls with tensors of spatial shapes that hold something else, or lie elsewhere."""
    good = torch.tensor(SHAPES)
    cases = [
        Case(
            f"shapes {dtype}",
            {"spatial_shapes": good.to(dtype)},
            ValueError,
            rf"spatial_shapes has dtype {dtype}, .*\.long\(\)",
        )
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bool, torch.complex64)
    ]
    for given in (good[0], good[:, :1], good[None], good.flatten(), good.repeat(1, 2), torch.tensor(8)):
        message = rf"spatial_shapes has shape {shape_of(given)}, expected \(L, 2\)"
        cases.append(Case(f"shapes {tuple(given.shape)}", {"spatial_shapes": given}, ValueError, message))
    cases += [
        Case(
            "NaN shapes",
            {"spatial_shapes": good * NAN},
            ValueError,
            r"spatial_shapes has dtype torch\.float32, expected an integer",
        ),
        Case(
            "meta shapes",
            {"spatial_shapes": good.to("meta")},
            ValueError,
            r"spatial_shapes is on meta, expected .* CPU.*pass a list",
        ),
        Case(
            "sparse shapes",
            {"spatial_shapes": good.to_sparse()},
            ValueError,
            r"spatial_shapes is on torch\.sparse_coo, expected",
        ),
    ]
    return cases


def wrong_starts() -> list[Case]:
    """Return calls whose levels start where they do not."""
    cases = [
        Case(
            f"starts of {given!r}",
            {STARTS: given},
            TypeError,
            rf"{STARTS} is a {type(given).__name__}, expected a torch\.Tensor",
        )
        for given in ([0, 6], (0, 6), 0, "06", np.array([0, 6]))
    ]
    good = torch.tensor([0, 6])
    for dtype in (torch.float32, torch.float64, torch.bool, torch.complex64):
        message = rf"{STARTS} has dtype {dtype}, expected an integer one: call \.long\(\)"
        cases.append(Case(f"starts {dtype}", {STARTS: good.to(dtype)}, ValueError, message))
    for given in (good[:1], good.repeat(2), good[:, None], good[0], good[:0]):
        message = rf"{STARTS} has shape {shape_of(given)}, expected \(2,\)"
        cases.append(Case(f"starts {tuple(given.shape)}", {STARTS: given}, ValueError, message))
    for level, numbers in (
        (0, (1, 6)),
        (0, (-6, 0)),
        (0, (6, 0)),
        (1, (0, 0)),
        (1, (0, 5)),
        (1, (0, 7)),
        (1, (0, 2**40 + 6)),
    ):
        message = rf"{STARTS}\[{level}\] = {numbers[level]}, expected {6 * level}: levels follow each other"
        cases.append(Case(f"starts {numbers}", {STARTS: torch.tensor(numbers)}, ValueError, message))
    cases.append(
        Case("meta starts", {STARTS: good.to("meta")}, ValueError, rf"{STARTS} is on meta, expected .* pass None")
    )
    return cases


def wrong_places() -> list[Case]:
    """Return calls whose tensors lie on different devices, or in memory in a way that has no strides."""
    cases = []
    for name in TENSORS:
        blamed, came = (name, "meta") if name != VALUE else (LOCATIONS, "cpu")
        message = rf"{blamed} is on {came}, expected {'cpu' if came == 'meta' else 'meta'}, where value is: move it"
        cases.append(Case(f"{name} on meta", {name: GOOD[name].to("meta")}, ValueError, message))
        sparse = rf"{name} has layout torch\.sparse_coo, expected torch\.strided: call \.to_dense\(\)"
        cases.append(Case(f"{name} sparse", {name: GOOD[name].to_sparse()}, ValueError, sparse))
    others = {name: GOOD[name].to("meta") for name in (VALUE, LOCATIONS)}
    cases.append(Case("only weights on cpu", others, ValueError, rf"{WEIGHTS} is on cpu, expected meta"))
    mkldnn = r"value has layout torch\._mkldnn, expected torch\.strided"
    cases.append(Case("value mkldnn", {VALUE: GOOD[VALUE].to_mkldnn()}, ValueError, mkldnn))
    return cases


def too_large() -> list[Case]:
    """Return calls whose result has more elements than 64 bits count, though no argument takes memory."""
    cases = []
    for batch, queries, heads, channels in (
        (2**20, 2**20, 2**10, 2**20),
        (1, 2**31, 1, 2**31),
        (2**16, 2**16, 1, 2**32),
    ):
        for device in ("cpu", "meta"):
            one = torch.zeros((), device=device)
            changes = {
                VALUE: one.expand(batch, 1, heads, channels),
                LOCATIONS: one.expand(batch, queries, heads, 1, 0, 2),
                WEIGHTS: one.expand(batch, queries, heads, 1, 0),
                "spatial_shapes": [(1, 1)],
            }
            message = (
                rf"B \* Q \* M \* D = {batch} \* {queries} \* {heads} \* {channels} elements, expected at most .*split"
            )
            cases.append(Case(f"{batch} x {queries} x {heads} x {channels} on {device}", changes, ValueError, message))
    return cases


def wrong_backends() -> list[Case]:
    """Return calls for a backend that is not here."""
    cases = [
        Case(
            f"backend {name!r}",
            {"backend": name},
            ValueError,
            rf"backend = {re.escape(repr(name))} is not available on cpu, expected one of",
        )
        for name in ("", "Native", "cuda-fast", "loop", 3, True, ["native"])
    ]
    on_meta = {name: GOOD[name].to("meta") for name in TENSORS}
    cases.append(
        Case(
            "native on meta",
            {**on_meta, "backend": "native"},
            ValueError,
            r"backend = 'native' is not available on meta",
        )
    )
    return cases


GROUPS: tuple[Callable[[], list[Case]], ...] = (
    no_tensors,
    wrong_dtypes,
    wrong_axes,
    wrong_sizes,
    wrong_levels,
    no_levels,
    wrong_shape_tensors,
    wrong_starts,
    wrong_places,
    too_large,
    wrong_backends,
)
CASES = [case for group in GROUPS for case in group()]


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_the_public_function_names_what_does_not_fit(case: Case) -> None:
    with pytest.raises(case.error, match=case.message) as caught:
        ms_deform_attn(**(arguments() | case.changes))
    assert "expected" in str(caught.value) or ", but " in str(caught.value)


def test_the_bad_calls_are_many_and_no_two_are_alike() -> None:
    assert len({case.label for case in CASES}) == len(CASES) >= 150
    result = ms_deform_attn(**arguments())  # and the call that they were made from is good
    assert result.shape == (2, 3, 8) and not result.any()
