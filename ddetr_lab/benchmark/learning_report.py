"""What ``benchmark learning`` found: runs with their points, in a JSON file that grows run by run.

Built in chapter 17.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddetr_lab.benchmark.report import one_writer, rewrite_json

__all__ = [
    "HEADINGS",
    "LearningReport",
    "LearningRun",
    "Point",
    "add_run",
    "learning_rows",
    "read_learning",
    "report_for",
]

SCHEMA = 1
OURS = "deformable"  # the contestant that others are held against


@dataclass(frozen=True)
class Point:
    """One evaluation: when, and what came out.

    Attributes:
        step: updates of the weights so far.
        seconds: of training so far; evaluation does not count.
        loss: mean of the training loss since the point before.
        ap: on the validation scenes, as the other five; None where it is undefined.
    """

    step: int
    seconds: float
    loss: float
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None


@dataclass(frozen=True)
class LearningRun:
    """One contestant with one seed.

    Attributes:
        contestant: its name on the command line.
        seed: of weights, order and scenes.
        how: how it was built, in a sentence.
        parameters: of the model; ``trained`` are those that are not frozen.
        points: in order of steps; the last one is the end of the run.
        date: when it ended, in UTC; ``machine``, ``versions`` and ``command`` say on what it ran.
        note: what a reader must know: a run that stopped, or how far equal weights gave equal losses.
    """

    contestant: str
    seed: int
    how: str
    parameters: int
    trained: int
    points: tuple[Point, ...]
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    note: str = ""


@dataclass(frozen=True)
class LearningReport:
    """Runs under the same settings: recipe, steps, minutes, batch, scenes and evaluations."""

    settings: dict[str, Any]
    runs: tuple[LearningRun, ...] = ()

    def find(self, contestant: str, seed: int) -> LearningRun | None:
        """Return a run that is there already."""
        return next((run for run in self.runs if (run.contestant, run.seed) == (contestant, seed)), None)

    def contestants(self) -> dict[str, list[LearningRun]]:
        """Return the runs by contestant, in the order in which they came first, seeds in order."""
        grouped: dict[str, list[LearningRun]] = {}
        for run in self.runs:
            grouped.setdefault(run.contestant, []).append(run)
        return {name: sorted(runs, key=lambda run: run.seed) for name, runs in grouped.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"schema": SCHEMA, "benchmark": "learning", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> LearningReport:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: if it is something else.
        """
        if written.get("schema") != SCHEMA or written.get("benchmark") != "learning":
            raise ValueError("this is no file of `ddetr-lab benchmark learning`, or one of another version")
        try:
            runs = [
                LearningRun(**{**run, "points": tuple(Point(**point) for point in run["points"])})
                for run in written["runs"]
            ]
            return cls(settings=dict(written["settings"]), runs=tuple(runs))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the report is damaged: {error}") from error


def read_learning(path: Path) -> LearningReport:
    """Read a report from its JSON file.

    Raises:
        ValueError: if it is no such file; the message names it.
    """
    try:
        return LearningReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:  # JSON that is a list has no .get
        raise ValueError(f"{path}: {error}") from error


def add_run(path: Path, settings: Mapping[str, Any], run: LearningRun) -> LearningReport:
    """Put a run into a file, in place of one of the same contestant and seed; other processes may do so meanwhile.

    Raises:
        ValueError: if the file holds runs under other settings, which could not be compared.
    """
    with one_writer(path):
        report = report_for(path, settings)
        others = [other for other in report.runs if (other.contestant, other.seed) != (run.contestant, run.seed)]
        report = dataclasses.replace(report, runs=(*others, run))
        rewrite_json(report.to_dict(), path)
    return report


def report_for(path: Path | None, settings: Mapping[str, Any]) -> LearningReport:
    """Return the report that a file holds, or an empty one.

    Raises:
        ValueError: if the file holds runs under other settings.
    """
    if path is None or not path.is_file():
        return LearningReport(dict(settings))
    report = read_learning(path)
    other = {name for name in {*settings, *report.settings} if settings.get(name) != report.settings.get(name)}
    if other:
        told = ", ".join(
            f"{name} {report.settings.get(name)} instead of {settings.get(name)}" for name in sorted(other)
        )
        raise ValueError(f"{path} holds runs with {told}: they cannot be compared, write to another file")
    return report


HEADINGS = ("contestant", "AP", "of ours", "AP small", "steps", "ms a step", "minutes", "parameters", "seeds")


def learning_rows(report: LearningReport) -> list[tuple[str, ...]]:
    """Return a row a contestant: medians over its seeds at the end of the run, and the range of AP."""
    grouped = report.contestants()
    ours = _median_ap(grouped.get(OURS, []))
    rows = []
    for name, runs in grouped.items():
        ends = [run.points[-1] for run in runs if run.points]
        if not ends:
            rows.append((name, "no evaluation", *[""] * (len(HEADINGS) - 2)))
            continue
        found = [end.ap for end in ends if end.ap is not None]
        ap = statistics.median(found) if found else None
        spread = f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
        small = [end.ap_small for end in ends if end.ap_small is not None]
        rows.append(
            (
                name,
                "undefined" if ap is None else f"{ap:.3f}{spread}",
                "" if ap is None or not ours else f"{ap / ours:.2f}",
                f"{statistics.median(small):.3f}" if small else "undefined",
                f"{statistics.median(end.step for end in ends):.0f}",
                f"{1000 * statistics.median(end.seconds / max(end.step, 1) for end in ends):.0f}",
                f"{statistics.median(end.seconds for end in ends) / 60:.1f}",
                f"{runs[0].parameters / 1e6:.2f} M",
                ", ".join(str(run.seed) for run in runs),
            )
        )
    return rows


def _median_ap(runs: Sequence[LearningRun]) -> float | None:
    found = [run.points[-1].ap for run in runs if run.points and run.points[-1].ap is not None]
    return statistics.median(found) if found else None
