"""The subcommand ``ddetr-lab diagnose``: its arguments, what it runs, and the records that the book shows.

Importing this file loads nothing heavy: the command line builds its parser from it for every command.

Built in chapters 16 and 19.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddetr_lab.argument_types import positive_int
from ddetr_lab.files import check_writable

if TYPE_CHECKING:
    from ddetr_lab.diagnosis.overfit import OverfitTest

__all__ = ["add_diagnose_arguments", "diagnose_command"]

Report = Callable[[str], None]
LEARNED = 0.95  # AP50 above which eight pictures are known by heart
SHOWN = 1  # which picture's detections a record keeps: one with several digits
RUN_FILES = {"metrics": "metrics.jsonl", "evaluations": "evaluations.jsonl"}


def add_diagnose_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the kinds of diagnosis as subcommands.

    Args:
        parser: of ``ddetr-lab diagnose``.
    """
    kinds = parser.add_subparsers(dest="diagnosis", required=True, metavar="WHAT")
    overfit = kinds.add_parser("overfit", help="learn eight pictures by heart: a detector that cannot has a fault")
    overfit.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="COCO folder (default: DigitScenes)")
    faults = kinds.add_parser("faults", help="plant eight faults, one after another, in that test (chapter 19)")
    faults.add_argument("--only", nargs="+", metavar="FAULT", help="only these; others that FILE holds stay in it")
    curves = kinds.add_parser("curves", help="the curves of one good and three bad runs (chapter 16)")
    record = kinds.add_parser(
        "record", help="put what a training run on this machine wrote into one file, with its date"
    )
    record.add_argument("run", type=Path, metavar="RUN", help="folder of a run of `ddetr-lab train`")
    for one in (overfit, faults, curves):
        one.add_argument("--steps", type=positive_int, metavar="N", help="of each run (default 80)")
        one.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: PyTorch's)")
    for one in (overfit, faults, curves, record):
        one.add_argument("--json", type=Path, metavar="FILE", required=one is record, help="write the record here")


def diagnose_command(arguments: argparse.Namespace, words: Sequence[str], report: Report) -> int:
    """Run ``ddetr-lab diagnose``.

    Args:
        arguments: parsed by what :func:`add_diagnose_arguments` added.
        words: the command line as it was typed, without the program, for the record.
        report: prints a line.
    """
    import torch

    from ddetr_lab.benchmark.machine import describe_machine, describe_versions, today

    if arguments.json is not None:
        check_writable(arguments.json, "--json")
    runs = {"overfit": _overfit, "faults": _faults, "curves": _curves, "record": _record}
    threads = torch.get_num_threads()
    torch.set_num_threads(getattr(arguments, "threads", None) or threads)
    try:
        head: dict[str, Any] = {
            "command": shlex.join(["ddetr-lab", *words]),
            "date": today(),
            "machine": describe_machine(),
            "versions": describe_versions(["timm"]),
        }
        content = runs[arguments.diagnosis](arguments, report)
        if arguments.diagnosis == "record":  # of this process, not of the training
            head["machine"].pop("threads")
    finally:
        torch.set_num_threads(threads)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**head, **content}) + "\n", encoding="utf-8")
    return 0


def _overfit(arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    from dataclasses import replace

    from ddetr_lab.diagnosis.overfit import overfit_recipe, prepare, run_test
    from ddetr_lab.diagnosis.verdicts import before_training, from_the_run

    recipe = overfit_recipe()
    if arguments.folder is not None:  # real pictures are larger than digits
        recipe = replace(recipe, data=replace(recipe.data, size=160))
    started = time.perf_counter()
    test = prepare(recipe, arguments.folder)
    named = {"look": before_training(test)}
    _report_named(named, report)
    run = run_test(test, arguments.steps, report)
    seconds = time.perf_counter() - started
    report(f"{len(test.items)} pictures, {len(run.curve)} steps, {seconds:.0f} seconds: {run.result.line()}")
    report(f"AP50 {run.class_blind_ap50:.3f} if every class counts as right")
    named["log and scores"] = from_the_run(run)
    _report_named({"log and scores": named["log and scores"]}, report)
    if run.result.ap50 <= LEARNED:
        report(f"AP50 is not above {LEARNED}: more --steps may do; if not, chapter 19 lists what to look for")
    return {"seconds": round(seconds, 1), "run": {**run.to_dict(_shown(test)), "named": named}}


def _report_named(named: dict[str, list[str]], report: Report) -> None:
    for place, sentences in named.items():
        for sentence in sentences:
            report(f"  {place}: {sentence}")


def _faults(arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    from ddetr_lab.diagnosis.overfit import prepare, run_test
    from ddetr_lab.diagnosis.planted_faults import FAULTS
    from ddetr_lab.diagnosis.verdicts import before_training, by_the_trainer, from_the_run

    names = arguments.only or ["healthy", *FAULTS]
    if unknown := sorted(set(names) - {"healthy", *FAULTS}):
        raise ValueError(f"--only {unknown[0]}: unknown, expected some of healthy, {', '.join(FAULTS)}")
    kept = arguments.only and arguments.json is not None and arguments.json.is_file()
    records: dict[str, Any] = json.loads(arguments.json.read_text(encoding="utf-8"))["runs"] if kept else {}
    for name in names:
        test = prepare()
        if name in FAULTS:
            FAULTS[name].plant(test)
        named = {
            "trainer": by_the_trainer(name),
            "look": before_training(test),
        }
        run = run_test(test, arguments.steps)
        named["log and scores"] = from_the_run(run)
        report(f"{name}: AP50 {run.result.ap50:.3f}, {run.class_blind_ap50:.3f} without classes")
        _report_named(named, report)
        records[name] = {**run.to_dict(_shown(test)), "named": named}
    return {"picture": SHOWN, "runs": {name: records[name] for name in ("healthy", *FAULTS) if name in records}}


def _curves(arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    from ddetr_lab.diagnosis.bad_curves import CURVES
    from ddetr_lab.diagnosis.overfit import run_test

    records = {}
    for name, curve in CURVES.items():
        test = curve.prepare()
        run = run_test(test, arguments.steps)
        report(f"{name}: {curve.title}: loss {run.curve[-1]['loss']:.3f}, {run.result.line()}")
        records[name] = {"title": curve.title, **run.to_dict(_shown(test))}
    return {"runs": records}


def _record(arguments: argparse.Namespace, report: Report) -> dict[str, Any]:
    from ddetr_lab.training.metrics import read_lines

    result = arguments.run / "result.json"
    if not result.is_file():
        raise FileNotFoundError(f"{arguments.run} has no result.json: expected a run that came to its end")
    content: dict[str, Any] = {key: read_lines(arguments.run / name) for key, name in RUN_FILES.items()}
    for key in ("result", "recipe"):
        content[key] = json.loads((arguments.run / f"{key}.json").read_text(encoding="utf-8"))
    finished = datetime.datetime.fromtimestamp(result.stat().st_mtime, datetime.timezone.utc)
    content["finished"] = finished.isoformat(timespec="seconds")
    if not content["evaluations"]:  # of a run that was scored at its end alone
        content["evaluations"] = [{"step": content["result"]["steps"], **content["result"]}]
    report(f"{len(content['metrics'])} lines and {len(content['evaluations'])} evaluations of {arguments.run}")
    return content


def _shown(test: OverfitTest) -> int:
    return min(SHOWN, len(test.items) - 1)
