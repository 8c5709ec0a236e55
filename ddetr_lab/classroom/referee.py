"""One notebook graded: the student's code runs in its sandbox, the checks run here.

A check calls the student's function as ever. What it holds is a stand-in that sends the arguments to the sandbox and
decodes the answer. The comparison, the reference and the verdict never leave this process.

Used in every chapter.
"""

from __future__ import annotations

import builtins
import importlib
import io
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.checks import CheckError
from ddetr_lab.classroom.exercises import Exercise
from ddetr_lab.classroom.sandbox import Ended, Limits, Sandbox
from ddetr_lab.classroom.submissions import Plan
from ddetr_lab.classroom.wire import WireError, decode

__all__ = ["STUMBLES", "Graded", "Verdict", "grade_notebook"]

# What a check may stumble over when an answer is of a kind that nobody thought of: a wrong answer, not a defect.
STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
    MemoryError,
    pickle.PickleError,
)
# Checks of functions that change a module in place, on a copy that the check makes for them: what the check then runs
# is the module as the student's process left it.
IN_PLACE = {("chapter03", "freeze")}
MOST_QUESTIONS = 100_000  # to a witness, in one call
LONGEST_PROBLEM = 300  # characters of what a check found, before its hint


@dataclass(frozen=True)
class Verdict:
    """One exercise's result.

    Attributes:
        label: of the exercise.
        points: earned.
        most: that could be earned.
        state: passed, failed, not written, not reached.
        hint: what the check found, and its hint.
    """

    label: str
    points: int
    most: int
    state: str
    hint: str = ""


@dataclass
class Graded:
    """One notebook's results.

    Attributes:
        verdicts: by exercise, in the chapter's order.
        notes: what the teacher should know.
        seconds: it took.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def grade_notebook(
    plan: Plan,
    exercises: Sequence[Exercise],
    limits: Limits,
    sealed: bool,
    hidden: Sequence[Path],
    shown: Sequence[Path] = (),
) -> Graded:
    """Run a notebook's cells and checks in order, and go on after whatever fails.

    Args:
        plan: the steps, from ``submissions.plan``.
        exercises: of the chapter; one without a verdict in the end was not reached.
        limits: for the student's process.
        sealed: whether that runs in namespaces.
        hidden: folders that it must not see.
        shown: folders inside those that it may.
    """
    started = time.monotonic()
    graded = Graded(notes=list(plan.notes))
    verdicts: dict[str, Verdict] = {}
    first_error = ""
    with Sandbox(limits, sealed, hidden, shown) as sandbox:
        try:
            for step in plan.steps:
                if isinstance(step, Exercise):
                    verdicts[step.label] = _judge(step, sandbox, first_error)
                else:
                    answer, _ = sandbox.ask({"op": "run", "code": step})
                    error = str(answer.get("error") or answer.get("text") or "")
                    if error and not first_error and not error.startswith("NotImplementedError"):
                        first_error = error[:200]
        except Ended as ended:
            graded.notes.append(f"{ended}.")
    if sandbox.printed > 10 * 2**20:
        graded.notes.append(f"printed {sandbox.printed / 2**20:.0f} MB; the output was cut.")
    if first_error:
        graded.notes.append(f"first error: {first_error}")
    why = sandbox.reason or "the notebook ended before it"
    for one in exercises:
        graded.verdicts.append(verdicts.get(one.label) or Verdict(one.label, 0, one.points, "not reached", why))
    graded.seconds = time.monotonic() - started
    return graded


def _judge(exercise: Exercise, sandbox: Sandbox, first_error: str) -> Verdict:
    known, _ = sandbox.ask({"op": "name", "name": exercise.answer})
    kind = known.get("kind")
    if not isinstance(kind, str):
        hint = f"{exercise.answer} is not defined" + (f"; before it: {first_error}" if first_error else "")
        return Verdict(exercise.label, 0, exercise.points, "failed", hint)
    check = getattr(importlib.import_module(f"ddetr_lab.checks.{exercise.module}"), exercise.name)
    answer = RemoteAnswer(sandbox, exercise) if kind == "function" else decode({"other": kind}, [])
    try:
        check(answer)
    except CheckError as error:
        state = "not written" if error.problem.endswith("is not written yet.") else "failed"
        hint = error.hint if state == "not written" else f"{error.problem[:LONGEST_PROBLEM]} Hint: {error.hint}"
        return Verdict(exercise.label, 0, exercise.points, state, hint)
    except STUMBLES as error:
        hint = f"the check could not make sense of the answer: {type(error).__name__}: {error}"
        return Verdict(exercise.label, 0, exercise.points, "failed", hint)
    return Verdict(exercise.label, exercise.points, exercise.points, "passed")


class RemoteAnswer:
    """A student's function, called in the student's process.

    Args:
        sandbox: where it lives.
        exercise: that it answers.
    """

    def __init__(self, sandbox: Sandbox, exercise: Exercise) -> None:
        self.sandbox, self.exercise, self.__name__ = sandbox, exercise, exercise.answer

    def __call__(self, *arguments: Any) -> Any:
        """Send the arguments, return the decoded result, and change the arguments as the function did."""
        witnesses: list[Any] = []
        got = self._ask({"op": "call", "name": self.exercise.answer}, _pickled(arguments, witnesses), witnesses)
        if not (isinstance(got, list) and len(got) == 2 and isinstance(got[1], dict)):
            raise ValueError("the process sent what no answer looks like")
        result, changed = got
        for place, value in changed.items():
            target = arguments[int(place)]
            if isinstance(target, Tensor) and isinstance(value, Tensor):
                target.data = value.detach()
        if (self.exercise.module, self.exercise.name) in IN_PLACE:
            self._follow(arguments[0])
        inputs = [one for one in arguments if isinstance(one, Tensor) and one.requires_grad]
        if inputs and isinstance(result, Tensor) and result.requires_grad:
            return _Slopes.apply(result.detach(), self, *inputs)
        return result

    def slopes(self, gradient: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the gradient of the last call's result by its inputs, as the student's process has it."""
        got = self._ask({"op": "slopes"}, _pickled(gradient, []), [])
        if not isinstance(got, list) or len(got) != len(inputs):
            raise ValueError("the process sent what no gradient looks like")
        for one, own in zip(got, inputs, strict=True):
            if one is not None and not (isinstance(one, Tensor) and one.shape == own.shape):
                raise ValueError("the process sent a gradient of another shape")
        return got

    def _follow(self, module: nn.Module) -> None:
        """Let a module's forward be that of the student's changed copy, in the mode that the module is in then."""

        def forward(*inputs: Tensor) -> Any:
            return self._ask({"op": "forward", "training": module.training}, _pickled(inputs, []), [])

        module.forward = forward

    def _ask(self, header: dict[str, Any], data: bytes, witnesses: list[Any]) -> Any:
        answer, buffers = self.sandbox.ask(header, [data])
        for _ in range(MOST_QUESTIONS):
            if answer.get("op") != "ask":
                break
            answer, buffers = self.sandbox.ask(*_testimony(answer, buffers, witnesses))
        if answer.get("op") == "raised":
            kind, text = str(answer.get("kind")), str(answer.get("text"))[:500]
            error = getattr(builtins, kind, None)
            if not isinstance(error, type) or not issubclass(error, STUMBLES) or issubclass(error, UnicodeError):
                error = RuntimeError
            raise error(text)
        return decode(answer.get("value"), buffers)


class _Slopes(torch.autograd.Function):
    """Gives a decoded result the gradient that the student's own graph has."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, answer: RemoteAnswer, *inputs: Tensor) -> Tensor:
        ctx.answer, ctx.inputs = answer, inputs
        return result.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, *ctx.answer.slopes(gradients[0], ctx.inputs)


class _Writer(pickle.Pickler):
    """Pickles arguments for the student's process; what a check has made to watch the student stays here."""

    def __init__(self, file: io.BytesIO, witnesses: list[Any]) -> None:
        super().__init__(file)
        self.witnesses = witnesses

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, type) and type(value).__module__.startswith("ddetr_lab.checks."):
            self.witnesses.append(value)
            return len(self.witnesses) - 1
        return None


def _pickled(value: Any, witnesses: list[Any]) -> bytes:
    file = io.BytesIO()
    _Writer(file, witnesses).dump(value)
    return file.getvalue()


def _testimony(asked: dict[str, Any], buffers: list[bytes], witnesses: list[Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Call a witness for the student's process, and make the frame with what it returned or raised."""
    try:
        place, value = asked.get("witness"), decode(asked.get("value"), buffers)
        if not isinstance(place, int) or not isinstance(value, list):
            raise WireError("a question that no witness understands")
        args, kwargs = value
        with torch.set_grad_enabled(bool(asked.get("graph"))):  # as the student's code has it
            return {"op": "answer"}, [_pickled(witnesses[place](*args, **kwargs), [])]
    except STUMBLES as error:
        return {"op": "raised", "kind": type(error).__name__, "text": str(error)}, []
