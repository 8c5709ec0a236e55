"""Saving a run state when the process is killed, the disk is full or the folder may not be written."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from ddetr_lab.training.state import StateFolder
from tests.faults.kill_while_saving import kill_while_saving, tensors


def test_a_killed_process_leaves_a_good_state(tmp_path):
    tally = kill_while_saving(25, tmp_path)
    assert (tally.kills, tally.lost) == (25, 0)


class FailingCalls:
    """Let the n-th of the operating system's calls that saving makes fail, once and from then on."""

    NAMES = ("open", "fsync", "replace", "unlink", "mkdir")

    def __init__(self, patch: pytest.MonkeyPatch, number: int, error: int) -> None:
        self.left, self.error, self.failed = number, error, False
        import io

        for owner, name in [*((os, name) for name in self.NAMES), (io, "open"), (Path, "open"), (Path, "write_text")]:
            patch.setattr(owner, name, self._failing(getattr(owner, name)))
        patch.setattr("builtins.open", self._failing(open))

    def _failing(self, call):
        def attempt(*arguments, **named):
            self.left -= 1
            if self.left < 0 and not self.failed:
                self.failed = True
                raise OSError(self.error, os.strerror(self.error), str(arguments[:1]))
            return call(*arguments, **named)

        return attempt


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=["full", "read-only", "broken"])
def test_whichever_call_fails_a_good_state_is_left(tmp_path, error):
    calls = 0
    while True:
        folder = tmp_path / str(calls)
        for number in (1, 2):
            StateFolder(folder).save(tensors(number), {"number": number})
        with pytest.MonkeyPatch.context() as patch:
            failing = FailingCalls(patch, calls, error)
            try:
                StateFolder(folder).save(tensors(3), {"number": 3})
            except OSError as problem:
                assert problem.errno == error
        state = StateFolder(folder).load()
        assert state.content["number"] in (2, 3), calls
        expected = tensors(state.content["number"])
        assert all(torch.equal(state.tensors[name], value) for name, value in expected.items())
        # The run goes on as soon as it can.
        StateFolder(folder).save(tensors(4), {"number": 4})
        assert StateFolder(folder).load().content["number"] == 4
        assert not [entry.name for entry in folder.iterdir() if entry.name.endswith(".part")]
        if not failing.failed:
            break
        calls += 1
    assert calls >= 8, "no call of saving was made to fail"


def test_a_disk_that_fills_up_in_the_middle_of_a_file(tmp_path):
    """The kernel itself refuses to write beyond 20,000 bytes, in a child process; the weights take 80,000."""
    StateFolder(tmp_path).save(tensors(1), {"number": 1})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            StateFolder(tmp_path).save(tensors(2), {"number": 2})
        except OSError as problem:
            code = 42 if "the last good state is" in str(problem) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 42
    state = StateFolder(tmp_path).load()
    assert state.content == {"number": 1}
    assert torch.equal(state.tensors["weights"], tensors(1)["weights"])
