"""What all checks share: seeded random inputs, a careful call of the reader's function, and hints.

A check does not only say *that* an answer is wrong. It holds a list of mistakes that people really make, computes
what each of them would give on the same input, and if the answer is one of those, says which. Where no known mistake
fits, it looks for the usual general ones: another shape, another dtype, x and y exchanged, a constant factor.

Built in chapter 0.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

__all__ = [
    "CheckError",
    "Mistake",
    "Passed",
    "call",
    "check_function",
    "compare",
    "generator",
    "random_boxes_cxcywh",
    "random_integer",
    "random_size",
]

Answer = Callable[..., Any]

_PAGE = 72  # columns that a page of the book shows without scrolling sideways

# What a reader's code may raise; each becomes a CheckError that says on which input.
_ANSWER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


class CheckError(AssertionError):
    """A wrong answer: what is wrong, and a hint at why.

    Attributes:
        problem: what was asked, what was expected and what came.
        hint: the misconception that this looks like.
    """

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        lines = f"{self.problem}\nHint: {self.hint}".split("\n")
        return "\n".join(textwrap.fill(line, _PAGE, subsequent_indent="  ") if line.strip() else line for line in lines)


class Passed(str):
    """The one sentence that a passed check returns; a notebook shows it without quotes."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people really give.

    Attributes:
        answer: computes what the mistake gives, from the same arguments as the reference.
        hint: leads out of it without giving the line away.
    """

    answer: Answer
    hint: str


def generator(seed: int) -> torch.Generator:
    """Return a generator of random numbers of its own, so that a check asks the same questions every time."""
    return torch.Generator().manual_seed(seed)


def random_integer(rng: torch.Generator, low: int, high: int) -> int:
    """Draw an integer from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def random_size(rng: torch.Generator, low: int = 40, high: int = 200) -> tuple[int, int]:
    """Draw (height, width) of a picture that is never square: a square one forgives every exchange of x and y."""
    height = random_integer(rng, low, high)
    width = random_integer(rng, low, high - 1)
    return height, width + (width >= height)


def random_boxes_cxcywh(rng: torch.Generator, count: int) -> Tensor:
    """Draw (count, 4) float32 boxes, cxcywh in _norm, inside the picture and never square."""
    wide = torch.rand(count, 1, generator=rng) < 0.5
    short = torch.empty(count, 1).uniform_(0.05, 0.2, generator=rng)
    long = torch.empty(count, 1).uniform_(0.25, 0.45, generator=rng)
    size = torch.cat((torch.where(wide, long, short), torch.where(wide, short, long)), dim=1)  # (count, 2)
    centre = size / 2 + torch.rand(count, 2, generator=rng) * (1 - size)
    return torch.cat((centre, size), dim=1)


def check_function(
    answer: Answer,
    reference: Answer,
    cases: Iterable[tuple[Any, ...]],
    mistakes: Sequence[Mistake] = (),
    name: str | None = None,
    parts: Sequence[str] = (),
) -> Passed:
    """Compare a reader's function with the reference on every case.

    Args:
        answer: the reader's function.
        reference: the right one; the names of its arguments stand in the messages.
        cases: tuples of positional arguments.
        mistakes: tried in this order on the first case that fails.
        name: of the exercise; by default the reference's.
        parts: names of the returned tensors, where there are several.

    Returns:
        the sentence that the notebook shows.

    Raises:
        CheckError: on the first case with another result.
    """
    name = name or reference.__name__
    asked = 0
    for arguments in cases:
        got = call(answer, arguments, name, reference)
        expected = reference(*arguments)
        where = f"{name} is wrong for {describe(reference, arguments)}"
        try:
            compare(got, expected, where, parts)
        except CheckError as error:
            for mistake in mistakes:
                if same(got, mistake.answer(*arguments)):
                    raise CheckError(error.problem, mistake.hint) from None
            raise
        asked += 1
    return Passed(f"{name}: correct on {asked} random inputs.")


def call(answer: Answer, arguments: tuple[Any, ...], name: str, reference: Answer) -> Any:
    """Call a reader's function with copies of its arguments, and turn what goes wrong into a hint.

    A dict of tensors may be used up, entry by entry; a tensor or a list must stay as it is.

    Raises:
        CheckError: if the answer is no function, still a stub, raises, returns nothing, or changes its arguments.
    """
    if not callable(answer):
        raise CheckError(
            f"{name}: got a {type(answer).__name__}, expected a function.",
            "pass the function itself, without calling it: no parentheses after its name.",
        )
    copies = tuple(_copied(value) for value in arguments)
    asked = describe(reference, arguments)
    try:
        got = answer(*copies)
    except NotImplementedError as error:
        raise CheckError(
            f"{name} is not written yet.", "replace the line that raises NotImplementedError by your code."
        ) from error
    except _ANSWER_ERRORS as error:
        raise CheckError(
            f"{name} raised {type(error).__name__} for {asked}: {error}",
            f"the function is called as {name}({', '.join(inspect.signature(reference).parameters)}); "
            "try it on a small input of your own, and print the shape of every step.",
        ) from error
    if got is None:
        raise CheckError(f"{name} returned None for {asked}.", "does the function end with a return?")
    for value, copy in zip(arguments, copies, strict=True):
        if not _kept(value, copy):
            if isinstance(value, Tensor):
                raise CheckError(
                    f"{name} changed its argument for {asked}.",
                    "the caller still needs it: assignments like boxes[:, 0] = ... and methods that end in _ write "
                    "into the argument. Make a new tensor, with torch.stack or after .clone().",
                )
            raise CheckError(
                f"{name} changed the list that it was given, or a tensor in it.",
                "the caller still needs it: an assignment to one of its entries writes into the caller's list, and += "
                "into the caller's tensors. Collect what you make in a list of your own.",
            )
    return got


def _copied(value: Any) -> Any:
    """Copy tensors, also inside lists, tuples and dicts, so that no answer can change the question."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(_copied(one) for one in value)
    return {key: _copied(one) for key, one in value.items()} if type(value) is dict else value


def _kept(value: Any, copy: Any) -> bool:
    """Whether a call left the copy of a tensor, or of a list of tensors, as it was."""
    if isinstance(value, Tensor):
        return value.shape == copy.shape and _equal(value, copy)
    if type(value) in (list, tuple):
        return len(value) == len(copy) and all(_kept(one, two) for one, two in zip(value, copy, strict=True))
    return True


def describe(reference: Answer, arguments: tuple[Any, ...]) -> str:
    """Name a case in a message: tensors by their shape, numbers by their value."""
    named = zip(inspect.signature(reference).parameters, arguments, strict=False)
    words = []
    for name, value in named:
        if isinstance(value, Tensor):
            words.append(f"{name} of shape {tuple(value.shape)}")
        elif isinstance(value, Image.Image):
            words.append(f"a {name} {value.width} wide and {value.height} high")
        elif isinstance(value, (bool, int, float, str, tuple)):
            words.append(f"{name} = {value}")
    return ", ".join(words) or "the first input"


def same(got: Any, other: Any) -> bool:
    """Whether two results (tensors, or tuples or dicts of them) are equal up to rounding, dtypes apart."""
    if isinstance(got, dict) and isinstance(other, dict):
        return got.keys() == other.keys() and all(same(got[key], other[key]) for key in got)
    if isinstance(got, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(got) == len(other) and all(same(one, two) for one, two in zip(got, other, strict=True))
    if isinstance(got, Tensor) and isinstance(other, Tensor):
        return got.shape == other.shape and _equal(got, other)
    return False


def compare(got: Any, expected: Any, where: str, parts: Sequence[str] = ()) -> None:
    """Compare a result with the right one, and raise with the most telling general hint.

    Args:
        got: the reader's result.
        expected: a tensor, or a tuple or dict of tensors.
        where: starts the message, for example ``area is wrong for boxes of shape (3, 4)``.
        parts: names for the entries of a tuple.

    Raises:
        CheckError: if they differ.
    """
    if isinstance(expected, dict):
        if not isinstance(got, dict) or got.keys() != expected.keys():
            what = f"the keys {sorted(got)}" if isinstance(got, dict) else f"a {type(got).__name__}"
            raise CheckError(
                f"{where}: got {what}, expected a dict with {sorted(expected)}.", "look at what it returns."
            )
        for key, value in expected.items():
            compare(got[key], value, f"{where}, {key}")
    elif isinstance(expected, tuple):
        if not isinstance(got, (tuple, list)) or len(got) != len(expected):
            what = f"{len(got)} values" if isinstance(got, (tuple, list)) else f"a {type(got).__name__}"
            raise CheckError(
                f"{where}: got {what}, expected {len(expected)}: {', '.join(parts)}.", "look at what it returns."
            )
        for part, one, value in zip(parts, got, expected, strict=True):
            compare(one, value, f"{where}, {part}")
    else:
        _compare_tensors(got, expected, where)


def _compare_tensors(got: Any, expected: Tensor, where: str) -> None:
    if not isinstance(got, Tensor):
        raise CheckError(
            f"{where}: got a {type(got).__name__}, expected a tensor.",
            "stay in PyTorch: torch.stack joins tensors into one, and no .tolist() or .numpy() is needed.",
        )
    if got.shape != expected.shape:
        problem = f"{where}: got the shape {tuple(got.shape)}, expected {tuple(expected.shape)}."
        if sorted(got.shape) == sorted(expected.shape):
            raise CheckError(problem, "the axes are in another order: compare the dim= of your stack, or transpose.")
        if got.numel() == expected.numel():
            raise CheckError(
                problem, "the numbers are all there, in another arrangement: look at reshape, flatten and dim=."
            )
        raise CheckError(
            problem, "print the shape after each step: one of them drops, keeps or joins what it should not."
        )
    if got.is_floating_point() != expected.is_floating_point():
        raise CheckError(
            f"{where}: got {got.dtype}, expected {expected.dtype}.",
            "positions and scores are floats, indices and labels are integers; // and % keep integers what they are.",
        )
    if not _equal(got, expected):
        raise CheckError(f"{where}.\n{_first_difference(got, expected)}", _general_hint(got.detach(), expected))
    if got.requires_grad and not expected.requires_grad:
        raise CheckError(
            f"{where}: the values are right, but they carry a graph for gradients.",
            "nothing is trained here: run the model under torch.no_grad(), or the memory of every call piles up.",
        )


def _equal(one: Tensor, two: Tensor) -> bool:
    one, two = one.detach(), two.detach()
    if one.is_floating_point() or two.is_floating_point():
        return torch.allclose(one.double(), two.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
    return torch.equal(one, two)


def _general_hint(got: Tensor, expected: Tensor) -> str:
    """Name a general mistake that leads from one tensor to the other of the same shape."""
    if got.is_floating_point() and not got.isfinite().all():
        return "there is a NaN or an infinity: look for a division by zero or a logarithm of zero."
    axes = {2: [1, 0], 4: [1, 0, 3, 2]}.get(expected.shape[-1] if expected.ndim else 0)
    if axes is not None and _equal(got, expected[..., axes]):
        return "x and y are exchanged: a point is (x, y), but a size is (height, width)."
    one, two = got.double().flatten(), expected.double().flatten()
    filled = two.abs() > 1e-6
    if filled.any():
        factor = float((one[filled] / two[filled]).median())
        if abs(factor) > 1e-6 and torch.allclose(one, factor * two, rtol=1e-3, atol=1e-5):
            return f"every number is {factor:.4g} times what it should be."
    shift = float((one - two).median())
    if torch.allclose(one, two + shift, rtol=1e-3, atol=1e-5):
        return f"every number is off by {shift:.4g}."
    right = int((one - two).abs().le(1e-4).sum())
    return f"{right} of {len(two)} numbers are right: work the first wrong row out by hand."


def _first_difference(got: Tensor, expected: Tensor) -> str:
    """Show the first row (along the last axis) in which two tensors of one shape differ."""
    one, two = got.detach().double(), expected.detach().double()
    differ = ~torch.isclose(one, two, rtol=1e-4, atol=1e-5, equal_nan=True)
    row = tuple(differ.nonzero()[0].tolist()[:-1])
    index = f"[{', '.join(map(str, row))}]" if row else ""
    return f"  got{index}      = {_numbers(one[row])}\n  expected{index} = {_numbers(two[row])}"


def _numbers(row: Tensor) -> str:
    values = row.reshape(-1).tolist()
    shown = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"[{shown}{', ...' if len(values) > 8 else ''}]"
