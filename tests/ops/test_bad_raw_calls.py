"""Bad calls of the raw operators, which anybody can make through ``torch.ops``: the compiled check refuses them.

Every error is a RuntimeError that names the argument. Nothing here may crash: a kernel reads by address.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import torch

from tests.ops.test_bad_calls import GOOD, LOCATIONS, SHAPES, STARTS, TENSORS, VALUE, WEIGHTS, arguments, too_large
from tests.ops.test_native import needs_native

pytestmark = needs_native


def raw_arguments() -> dict[str, Any]:
    """Return a good call of the raw operators, the same problem with tensors for shapes and starts."""
    return arguments() | {"spatial_shapes": torch.tensor(SHAPES), STARTS: torch.tensor([0, 6])}


class RawCase(NamedTuple):
    """As :class:`Case`; every error of a raw operator is a RuntimeError."""

    label: str
    changes: dict[str, Any]
    message: str


def raw_cases() -> list[RawCase]:
    """Return calls that the compiled check refuses, for both operators."""
    shapes, starts = torch.tensor(SHAPES), torch.tensor([0, 6])
    cases = []
    for name in (*TENSORS, "spatial_shapes", STARTS):
        for other in ([[1]], "x", 1.5):
            message = f"Expected a value of type 'Tensor' for argument '{name}'"
            cases.append(RawCase(f"{name} is {other!r}", {name: other}, message))
    for name in TENSORS:
        for dtype in (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn):
            cases.append(
                RawCase(f"{name} {dtype}", {name: GOOD[name].to(dtype)}, rf"{name} has .*dtype.*float64, float32")
            )
        for axes in range(8):
            if axes != GOOD[name].ndim:
                message = rf"{name} (has {axes} dimensions|is not \(B, Q, M, L, P, 2\))"
                cases.append(RawCase(f"{name} with {axes} axes", {name: torch.zeros((2,) * axes)}, message))
        cases.append(RawCase(f"{name} sparse", {name: GOOD[name].to_sparse()}, "SparseCPU"))
    for axis, letter in enumerate("BQMLP"):
        for step in (-1, 1):
            size = list(GOOD[WEIGHTS].shape)
            size[axis] += step
            message = rf"{WEIGHTS} and {LOCATIONS} differ in axis {axis}: {size[axis]} and {size[axis] - step}"
            cases.append(RawCase(f"weights {letter}{step:+d}", {WEIGHTS: torch.zeros(size)}, message))
    for size in ((1, 8, 2, 4), (3, 8, 2, 4), (0, 8, 2, 4), (2, 8, 1, 4), (2, 8, 3, 4), (2, 8, 0, 4)):
        message = rf"value has B = {size[0]}, M = {size[2]}, but {LOCATIONS} has B = 2, M = 2"
        cases.append(RawCase(f"value {size}", {VALUE: torch.zeros(size)}, message))
    for tokens in (0, 1, 7, 9):
        message = rf"value has S = {tokens} tokens, but spatial_shapes add up to 8"
        cases.append(RawCase(f"S = {tokens}", {VALUE: torch.zeros(2, tokens, 2, 4)}, message))
    for given in (
        shapes[0],
        shapes[:1],
        shapes[:, :1],
        shapes[None],
        shapes.repeat(2, 1),
        shapes.repeat(1, 2),
        shapes[:0],
    ):
        message = r"spatial_shapes is not \(L, 2\) with L = 2"
        cases.append(RawCase(f"shapes {tuple(given.shape)}", {"spatial_shapes": given}, message))
    for pair in (
        (0, 3),
        (2, 0),
        (-2, 3),
        (-2, -3),
        (2**31, 1),
        (2**16, 2**16),
        (2**32, 2**32),
        (2**62, 4),
        (-(2**63), -1),
    ):
        message = rf"spatial_shapes\[0\] = {re.escape(str(pair))} is no size of a map"
        cases.append(RawCase(f"size {pair}", {"spatial_shapes": torch.tensor([pair, (1, 2)])}, message))
    for dtype in (torch.float32, torch.float64, torch.bool, torch.complex64, torch.float16):
        message = r"{} has dtype .*, expected int64: convert it with \.long\(\)"
        cases.append(RawCase(f"shapes {dtype}", {"spatial_shapes": shapes.to(dtype)}, message.format("spatial_shapes")))
        cases.append(RawCase(f"starts {dtype}", {STARTS: starts.to(dtype)}, message.format(STARTS)))
    for given in (starts[:1], starts[:0], starts.repeat(2), starts[:, None], starts[0]):
        cases.append(RawCase(f"starts {tuple(given.shape)}", {STARTS: given}, rf"{STARTS} is not \(L,\) with L = 2"))
    for level, numbers in (
        (0, (1, 6)),
        (0, (-6, 0)),
        (0, (6, 0)),
        (1, (0, 0)),
        (1, (0, 7)),
        (1, (0, -6)),
        (1, (0, 2**62)),
    ):
        message = rf"{STARTS}\[{level}\] = {numbers[level]}, but the levels before it have {6 * level} tokens"
        cases.append(RawCase(f"starts {numbers}", {STARTS: torch.tensor(numbers)}, message))
    for case in too_large():
        if case.changes[VALUE].device.type == "cpu":
            changes = case.changes | {"spatial_shapes": torch.tensor([(1, 1)]), STARTS: torch.tensor([0])}
            cases.append(RawCase(case.label, changes, r"B \* Q \* M \* D = .* elements overflow a 64-bit size: split"))
    return cases


def gradient_cases() -> list[RawCase]:
    """Return calls of the backward operator with a gradient, or a switch, that is none."""
    name, good = "grad_output", torch.zeros(2, 3, 8)
    message = r"grad_output is not \(B, Q, M \* D\) = \(2, 3, 8\), it is "
    sizes = [
        (),
        (8,),
        (3, 8),
        (2, 3, 2, 4),
        (1, 3, 8),
        (3, 3, 8),
        (2, 2, 8),
        (2, 4, 8),
        (2, 3, 7),
        (2, 3, 9),
        (2, 8, 3),
        (0, 3, 8),
    ]
    cases = [
        RawCase(f"gradient {size}", {name: torch.zeros(size)}, message + re.escape(str(size).replace(",)", ")")))
        for size in sizes
    ]
    for dtype in (torch.int64, torch.bool, torch.complex64, torch.uint8):
        cases.append(
            RawCase(f"gradient {dtype}", {name: good.to(dtype)}, r"grad_output has dtype .*, expected float64, float32")
        )
    for other in ([[1]], "x", 1.5):
        cases.append(
            RawCase(
                f"gradient {other!r}", {name: other}, "Expected a value of type 'Tensor' for argument 'grad_output'"
            )
        )
    cases.append(RawCase("gradient sparse", {name: good.to_sparse()}, "SparseCPU"))
    for other in ("yes", [True]):
        message = "Expected a value of type 'bool' for argument 'deterministic'"
        cases.append(RawCase(f"deterministic {other!r}", {"deterministic": other}, message))
    return cases


RAW_CASES, GRADIENT_CASES = raw_cases(), gradient_cases()


@pytest.mark.parametrize("case", RAW_CASES, ids=[case.label for case in RAW_CASES])
def test_the_raw_forward_operator_names_what_does_not_fit(case: RawCase) -> None:
    with pytest.raises(RuntimeError, match=case.message):
        torch.ops.ddetr_lab.ms_deform_attn(**(raw_arguments() | case.changes))


@pytest.mark.parametrize("case", RAW_CASES + GRADIENT_CASES, ids=[case.label for case in RAW_CASES + GRADIENT_CASES])
def test_the_raw_backward_operator_names_what_does_not_fit(case: RawCase) -> None:
    good = raw_arguments() | {"grad_output": torch.zeros(2, 3, 8), "deterministic": True}
    with pytest.raises(RuntimeError, match=case.message):
        torch.ops.ddetr_lab.ms_deform_attn_backward(**(good | case.changes))


def test_the_raw_calls_are_many_and_the_call_they_were_made_from_is_good() -> None:
    assert len({case.label for case in RAW_CASES}) == len(RAW_CASES) >= 100
    assert torch.ops.ddetr_lab.ms_deform_attn(**raw_arguments()).shape == (2, 3, 8)
    good = raw_arguments() | {"grad_output": torch.zeros(2, 3, 8), "deterministic": True}
    gradients = torch.ops.ddetr_lab.ms_deform_attn_backward(**good)
    assert [gradient.shape for gradient in gradients] == [GOOD[name].shape for name in TENSORS]


@pytest.mark.parametrize("name", [*TENSORS, "spatial_shapes", STARTS, "grad_output"])
def test_one_tensor_on_the_meta_device_is_refused_and_not_answered_with_unwritten_memory(name: str) -> None:
    good = raw_arguments() | {"grad_output": torch.zeros(2, 3, 8), "deterministic": True}
    good[name] = good[name].to("meta")
    with pytest.raises(ValueError, match="is on (meta|cpu), expected"):
        torch.ops.ddetr_lab.ms_deform_attn_backward(**good)
    if name != "grad_output":
        del good["grad_output"], good["deterministic"]
        with pytest.raises(ValueError, match="is on (meta|cpu), expected"):
            torch.ops.ddetr_lab.ms_deform_attn(**good)


def fused_arguments() -> dict[str, Any]:
    """Return a good call of the raw fused operator."""
    good = raw_arguments()
    offsets, logits = good.pop(LOCATIONS), good.pop(WEIGHTS)
    reference = torch.rand(*offsets.shape[:2], len(SHAPES), 2)
    return good | {"reference_points": reference, "sampling_offsets": offsets, "attention_logits": logits}


def fused_cases() -> list[RawCase]:
    """Return the plain operators' cases by the fused operators' names, and those of the reference points."""
    renamed = {LOCATIONS: "sampling_offsets", WEIGHTS: "attention_logits"}
    cases = []
    for case in RAW_CASES:
        message = case.message
        for old, new in renamed.items():
            message = message.replace(old, new)
        cases.append(RawCase(case.label, {renamed.get(k, k): v for k, v in case.changes.items()}, message))
    name, good = "reference_points", fused_arguments()["reference_points"]
    batch, queries, levels, _ = good.shape
    for size in ((), (2,), good.shape[:3], (*good.shape, 2), *((*good.shape[:3], last) for last in (0, 1, 3, 5))):
        cases.append(RawCase(f"reference {tuple(size)}", {name: torch.zeros(size)}, rf"{name} is not \(B, Q, L, 2\)"))
    for last in (2, 4):
        for axis in range(3):
            size = [batch, queries, levels, last]
            size[axis] += 1
            message = rf"{name} is .* but sampling_offsets has B = {batch}, Q = {queries}, L = {levels}"
            cases.append(RawCase(f"reference {tuple(size)}", {name: torch.zeros(size)}, message))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        cases.append(RawCase(f"reference {dtype}", {name: good.to(dtype)}, rf"{name} has dtype .*, expected float64"))
    return cases


FUSED_CASES = fused_cases()


@pytest.mark.parametrize("case", FUSED_CASES, ids=[case.label for case in FUSED_CASES])
def test_the_raw_fused_operators_name_what_does_not_fit(case: RawCase) -> None:
    good = fused_arguments()
    operators = torch.ops.ddetr_lab
    assert operators.ms_deform_attn_fused(**good).shape == (2, 3, 8)
    with pytest.raises(RuntimeError, match=case.message):
        operators.ms_deform_attn_fused(**(good | case.changes))
    good |= {"grad_output": torch.zeros(2, 3, 8), "deterministic": True}
    with pytest.raises(RuntimeError, match=case.message):
        operators.ms_deform_attn_fused_backward(**(good | case.changes))
