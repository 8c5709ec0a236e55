"""The student's process: runs cells and answers calls, and knows nothing of checks or points.

Started by ``ddetr_lab.classroom.sandbox`` as ``python -m ddetr_lab.classroom.inside SETTINGS``. The grader asks over
the wire: run this code, what is this name, call this function with these arguments. Whatever the student's code does to
this process, it can only answer such calls.

Used in every chapter.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ddetr_lab.classroom import confine

__all__ = ["main"]

LONGEST_TEXT = 1000
Frame = tuple[dict[str, Any], list[bytes]]


class TooLong(KeyboardInterrupt):
    """A cell or a call ran past its limit; no ordinary except clause of the student's catches it."""


class Wire:
    """The student's end of the wire, by file descriptor."""

    def __init__(self, descriptor: int) -> None:
        from ddetr_lab.classroom import wire

        self.descriptor, self.codec, self.owner = descriptor, wire, os.getpid()

    def read(self) -> tuple[dict[str, Any], list[bytes]]:
        """Wait for the grader's next frame; leave if there is no grader any more."""
        return self.codec.unpack(self._exactly)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self.descriptor, min(size, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, header: dict[str, Any], buffers: list[bytes]) -> None:
        """Send a frame; what is too large is replaced by a remark. A fork of this process has nothing to say."""
        if os.getpid() != self.owner:
            os._exit(0)
        try:
            frame = self.codec.pack(header, buffers)
        except self.codec.WireError as error:
            frame = self.codec.pack({"op": "raised", "kind": "ValueError", "text": str(error)}, [])
        view = memoryview(frame)
        while view:
            view = view[os.write(self.descriptor, view) :]


class Witness:
    """Stands for an object of a check that stays with the grader, such as a model that remembers what it was shown."""

    def __init__(self, wire: Wire, place: int) -> None:
        self._wire, self._place = wire, place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        buffers: list[bytes] = []
        value = self._wire.codec.encode([list(args), kwargs], buffers)
        asked = {"op": "ask", "witness": self._place, "value": value, "graph": torch.is_grad_enabled()}
        self._wire.write(asked, buffers)
        header, answer = self._wire.read()
        if header["op"] == "raised":
            import builtins

            raise getattr(builtins, header["kind"], RuntimeError)(header["text"])
        return pickle.loads(answer[0])  # from the grader, whom this side trusts

    def eval(self) -> Witness:
        """Do nothing, as models in evaluation do."""
        return self

    train = to = requires_grad_ = lambda self, *_: self


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, wire: Wire) -> None:
        super().__init__(io.BytesIO(data))
        self.wire = wire

    def persistent_load(self, place: Any) -> Witness:
        return Witness(self.wire, place)


@contextmanager
def _at_most(seconds: float) -> Any:
    def ring(*_: Any) -> None:
        raise TooLong(f"took longer than {seconds:g} seconds")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Session:
    """A student's namespace, and the grader's questions about it.

    Args:
        wire: to the grader.
    """

    def __init__(self, wire: Wire) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.xmode = "Minimal"
        self.wire, self.shell = wire, InteractiveShell.instance(config=config)
        self.arguments: tuple[Any, ...] = ()
        self.result: Any = None

    def run(self, header: dict[str, Any], _: list[bytes]) -> Frame:
        """Run a cell as Jupyter does."""
        done = self.shell.run_cell(header["code"])
        error = done.error_before_exec or done.error_in_exec
        return {"op": "ran", "error": _told(error) if error is not None else None}, []

    def name(self, header: dict[str, Any], _: list[bytes]) -> Frame:
        """Say what stands under a name."""
        known = self.shell.user_ns.get(header["name"])
        kind = "function" if callable(known) else type(known).__name__
        return {"op": "named", "kind": kind if header["name"] in self.shell.user_ns else None}, []

    def call(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        """Call a function, and send its result and the tensors among its arguments that it changed."""
        import torch

        self.arguments = _Reader(buffers[0], self.wire).load()
        before = [one.detach().clone() if isinstance(one, torch.Tensor) else None for one in self.arguments]
        self.result = self.shell.user_ns[header["name"]](*self.arguments)
        changed = {
            str(place): one
            for place, (one, old) in enumerate(zip(self.arguments, before, strict=True))
            if old is not None and not (old.shape == one.shape and torch.equal(old, one.detach()))
        }
        return self._result([self.result, changed])

    def forward(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        """Run the module that the last call was given, as that call left it."""
        module: Any = self.arguments[0]
        return self._result(module.train(header["training"])(*pickle.loads(buffers[0])))

    def slopes(self, _: dict[str, Any], buffers: list[bytes]) -> Frame:
        """Send the gradient of the last result by the arguments that asked for one."""
        import torch

        inputs = [one for one in self.arguments if isinstance(one, torch.Tensor) and one.requires_grad]
        gradient = pickle.loads(buffers[0])
        slopes = torch.autograd.grad(self.result, inputs, gradient, retain_graph=True, allow_unused=True)
        return self._result(list(slopes))

    def _result(self, value: Any) -> Frame:
        buffers: list[bytes] = []
        return {"op": "result", "value": self.wire.codec.encode(value, buffers)}, buffers

    def serve(self) -> None:
        """Say that all is loaded, then answer until the grader leaves."""
        asked: dict[str, Callable[[dict[str, Any], list[bytes]], Frame]] = {
            "run": self.run,
            "name": self.name,
            "call": self.call,
            "forward": self.forward,
            "slopes": self.slopes,
        }
        answer: Frame = {"op": "ready"}, []
        while True:
            self.wire.write(*answer)  # after the limit's alarm is off, which would cut a frame in two
            header, buffers = self.wire.read()
            try:
                limited: AbstractContextManager[None] = _at_most(header["seconds"])
                with limited:
                    answer = asked[header["op"]](header, buffers)
            except BaseException as error:  # whatever the student's code raises, SystemExit included, is told
                answer = {"op": "raised", "kind": _kind(error), "text": _told(error)}, []


def _kind(error: BaseException) -> str:
    """The nearest class of an error that both sides know."""
    if isinstance(error, TooLong):
        return "TimeoutError"
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


def _told(error: BaseException) -> str:
    name = "TimeoutError" if isinstance(error, TooLong) else type(error).__name__
    try:
        text = str(error)
    except BaseException:  # a student's own __str__ may raise anything
        text = "(no message)"
    return f"{name}: {text}"[:LONGEST_TEXT]


def main() -> None:
    """Confine this process as the settings say, then serve."""
    settings = json.loads(sys.argv[1])
    workspace = Path(settings["workspace"])
    if settings["sealed"]:
        hidden, shown = ([Path(folder) for folder in settings[kind]] for kind in ("hidden", "shown"))
        confine.seal_disk(workspace, hidden, settings["file_size"] * 2, shown)
        confine.drop_privileges()
        confine.forbid_sockets()
    else:
        grader = os.getppid()
        confine.keep_children()
        confine.refuse_by_hook({grader, os.getppid()})
    os.chdir(workspace)
    (workspace / "tmp").mkdir(exist_ok=True)
    if settings["probe"]:
        os._exit(0)
    confine.limit(settings["memory"], settings["file_size"], settings["cpu_seconds"], settings["processes"])
    sys.path.insert(0, str(workspace))
    Session(Wire(settings["descriptor"])).serve()


if __name__ == "__main__":
    main()
