"""What a run tells while it trains: lines in files, and a bar.

Built in chapter 16.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from ddetr_lab.training.progress import RunProgress

__all__ = ["LineFile", "RunLog", "Stopwatch", "memory_in_use", "read_lines"]


class LineFile:
    """A file of JSON objects, a line each, that grows while a run goes on.

    Args:
        path: appended to; made if missing.
        step: lines of later steps are dropped: they belong to what was lost when the run stopped, and come again.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        kept = [line for line in read_lines(path) if line.get("step", 0) <= step]
        partial = path.with_name(f".{path.name}.part")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; it is in the file when this returns, so that others can read it while the run goes on."""
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a last line that a killed run left unfinished is passed over."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


class Stopwatch:
    """The seconds that a run has trained, over all of its parts, without the pauses.

    Args:
        before: seconds of the parts before this one.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._started = before, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.perf_counter() - self._started

    def __enter__(self) -> Stopwatch:
        """Pause, until the ``with`` block ends."""
        self._paused = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._started += time.perf_counter() - self._paused


def memory_in_use(device: torch.device) -> int | None:
    """Return the bytes that training holds: on a GPU the most that PyTorch had at once, else the process's resident.

    None where the system does not tell (any but Linux).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class RunLog:
    """The files and the bar of a run, open inside a ``with`` block.

    Args:
        folder: of the run.
        progress: of the run.
        shows: show a bar on stderr: loss, learning rate, memory, and the time that is left.
        writes: write the files; of many processes one does.
    """

    def __init__(self, folder: Path, progress: RunProgress, shows: bool, writes: bool) -> None:
        from tqdm import tqdm

        self._progress = progress
        self._steps = LineFile(folder / "metrics.jsonl", progress.step) if writes else None
        self._evaluations = LineFile(folder / "evaluations.jsonl", progress.step) if writes else None
        # tqdm's own guess of the time left knows nothing of a limit in minutes.
        self._bar = tqdm(
            total=progress.total,
            initial=progress.step,
            desc="train",
            unit="step",
            disable=not shows,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]",
        )
        self._clock = tqdm.format_interval

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for file in (self._steps, self._evaluations):
            if file is not None:
                file.close()

    def advance(self) -> None:
        """Let the bar go on by a step."""
        self._bar.update()

    def add_step(self, line: dict[str, Any]) -> None:
        """Write a line on a step, and show its loss, learning rate and memory with the bar's next move."""
        self._write(self._steps, line)
        shown = [
            f"{self._clock(self._progress.seconds_left)} left",
            f"loss {line['loss']:.3f}",
            f"rate {line['learning_rate']:.1e}",
        ]
        if line.get("memory_mb") is not None:
            shown.append(f"{line['memory_mb']:,.0f} MB")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def add_evaluation(self, line: dict[str, Any]) -> None:
        """Write a line on an evaluation."""
        self._write(self._evaluations, line)

    def _write(self, file: LineFile | None, line: dict[str, Any]) -> None:
        if file is not None:
            file.write({"step": self._progress.step, "seconds": round(self._progress.seconds, 1), **line})
