"""The student's process answers questions about its namespace, whatever its functions raise or return."""

import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ddetr_lab.classroom.sandbox import Limits, Sandbox
from ddetr_lab.classroom.wire import decode

CODE = """
import torch, time
class Odd(BaseException):
    def __str__(self):
        raise KeyboardInterrupt
class Wrong(ValueError): pass
def double(x): return 2 * x
def fill(x): x.zero_(); return x.sum()
def odd(x): raise Odd
def wrong(x): raise Wrong("of this kind")
def leave(x): raise SystemExit(3)
def sleep(x): time.sleep(60)
def much(x): return torch.zeros(1).expand(10**12)
def large(x): return ["x" * 10**6] * 20
def recurse(x): return recurse(x)
"""


@pytest.fixture(scope="module")
def inside() -> Iterator[Sandbox]:
    """One process for all questions: it answers each, whatever the last one did to it."""
    with Sandbox(Limits(cell_seconds=100), sealed=False, hidden=[]) as process:
        # The first backward pass of a process loads much of PyTorch: before the short limit holds.
        backward = "torch.ones(1, requires_grad=True).sum().backward()"
        assert process.ask({"op": "run", "code": CODE + backward})[0]["error"] is None
        process.limits = Limits(cell_seconds=2, grace=60)
        yield process


def called(inside: Sandbox, name: str, *arguments: Any) -> tuple[dict[str, Any], Any]:
    header, buffers = inside.ask({"op": "call", "name": name}, [pickle.dumps(arguments)])
    return header, decode(header["value"], buffers) if header["op"] == "result" else None


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("x = 1", None),
        ("1 +", "SyntaxError"),
        ("'\\x00'\x00", "ValueError|SyntaxError"),
        ("'\ud800'.encode()", "UnicodeEncodeError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise Odd", "Odd: .no message."),
        ("%nonsense", "UsageError|None"),
        ("import sys; sys.exit()", "SystemExit"),
        ("while True: pass", "TimeoutError: took longer than 2 seconds"),
    ],
)
def test_a_cell_is_run_and_its_error_told(code: str, error: str | None, inside: Sandbox) -> None:
    header, _ = inside.ask({"op": "run", "code": code})
    assert header["op"] in ("ran", "raised")
    told = header["error"] if header["op"] == "ran" else header["text"]
    assert (
        told is None
        if error is None
        else any(part in str(told) for part in error.replace(".", "").split("|")) or (error.split(":")[0] in str(told))
    )


@pytest.mark.parametrize(("name", "kind"), [("double", "function"), ("torch", "module"), ("nothing", None)])
def test_what_stands_under_a_name_is_told(name: str, kind: str | None, inside: Sandbox) -> None:
    assert inside.ask({"op": "name", "name": name})[0]["kind"] == kind


def test_a_call_returns_the_result_and_what_it_changed(inside: Sandbox) -> None:
    assert torch.equal(called(inside, "double", torch.arange(3))[1][0], torch.tensor([0, 2, 4]))
    result, changed = called(inside, "fill", torch.ones(2))[1]
    assert result == 0 and list(changed) == ["0"] and torch.equal(changed["0"], torch.zeros(2))


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("wrong", "ValueError", "Wrong: of this kind"),
        ("odd", "BaseException", "no message"),
        ("leave", "SystemExit", "3"),
        ("sleep", "TimeoutError", "took longer"),
        ("much", "RuntimeError", ""),
        ("large", "ValueError", "too large"),
        ("recurse", "RecursionError", "depth"),
        ("nothing", "KeyError", "nothing"),
    ],
)
def test_what_a_call_raises_is_told_in_words_that_both_sides_know(
    name: str, kind: str, text: str, inside: Sandbox
) -> None:
    header, _ = called(inside, name, 1)
    assert (header["op"], header["kind"]) == ("raised", kind) and text in header["text"]


def test_slopes_are_those_of_the_last_result(inside: Sandbox) -> None:
    called(inside, "double", torch.ones(2, requires_grad=True))
    header, buffers = inside.ask({"op": "slopes"}, [pickle.dumps(torch.tensor([1.0, 3.0]))])
    assert header["op"] == "result", header
    (slope,) = decode(header["value"], buffers)
    assert torch.equal(slope, torch.tensor([2.0, 6.0]))


def test_a_fork_of_the_process_says_nothing(inside: Sandbox) -> None:
    assert inside.ask({"op": "run", "code": "import os; child = os.fork()"})[0]["error"] is None
    assert inside.ask({"op": "run", "code": "assert child and os.waitpid(child, 0)[1] == 0"})[0]["error"] is None
    assert os.getpid() != inside.process.pid
