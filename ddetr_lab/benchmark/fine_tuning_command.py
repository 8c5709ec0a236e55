"""``ddetr-lab benchmark fine-tuning``: its arguments and its course. Importing this file loads nothing heavy.

Built in chapter 18.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from ddetr_lab.argument_types import positive_float, positive_int, valid_seed

__all__ = ["NAME", "add_fine_tuning_arguments", "run_fine_tuning"]

NAME = "fine-tuning"
HELP = "crowns of trees: from digits or from ImageNet, with parts frozen, with fewer tiles"
TRIALS = (
    "digits",
    "imagenet",
    "free-backbone",
    "free-backbone-imagenet",
    "averaged",
    "averaged-imagenet",
    "heads-only",
    "aerial",
    "32-tiles",
    "8-tiles",
)
MINUTES, POINTS = 5.0, 5


def add_fine_tuning_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of ``ddetr-lab benchmark fine-tuning``.

    Args:
        parser: of the subcommand.
    """
    parser.description = (
        "Train variants of recipe trees for the same time, score them on the held-out strip and on two other sites. "
        "With --json every run is added to the file as it ends, and runs that are there already are not made again."
    )
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), help="which (default: all)")
    parser.add_argument("--seeds", nargs="+", type=valid_seed, default=[0], metavar="N", help="a run each (default 0)")
    parser.add_argument(
        "--minutes", type=positive_float, metavar="N", help=f"of training each (default {MINUTES:g}, without --steps)"
    )
    parser.add_argument("--steps", type=positive_int, metavar="N", help="at most so many updates each")
    parser.add_argument("--points", type=positive_int, default=POINTS, help=f"evaluations a run (default {POINTS})")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the runs in this file")


def run_fine_tuning(
    arguments: argparse.Namespace, words: Sequence[str], device: str, report: Callable[[str], None]
) -> int:
    """Make the runs that are asked for and not there yet, then print the table of all.

    Args:
        arguments: parsed by what :func:`add_fine_tuning_arguments` added.
        words: the command line as it was typed, without the program, for the record.
        device: where to train.
        report: prints a line.
    """
    from ddetr_lab.benchmark.fine_tuning import (
        HEADINGS,
        add_tuning,
        comparable_tunings,
        read_tunings,
        run_trial,
        tuning_rows,
    )
    from ddetr_lab.benchmark.tables import text_table

    minutes = arguments.minutes or (None if arguments.steps else MINUTES)
    settings = {"minutes": minutes, "steps": arguments.steps, "points": arguments.points, "device": device}
    path = arguments.json
    runs = read_tunings(path) if path is not None and path.is_file() else []
    for seed in arguments.seeds:
        for trial in arguments.trials:
            if any((run.trial, run.seed) == (trial, seed) for run in runs):
                report(f"{trial} seed {seed}: in {path} already")
                continue
            if path is not None:
                comparable_tunings(path, settings)  # refuses now, not after the training
            report(f"{trial} seed {seed}:")
            made = run_trial(
                trial,
                seed,
                command=shlex.join(["ddetr-lab", *words]),
                report=report,
                steps=arguments.steps,
                minutes=minutes,
                points=arguments.points,
                device=device,
            )
            runs = [*runs, made] if path is None else add_tuning(path, made, settings)
    report("")
    report(text_table(HEADINGS, tuning_rows(runs)))
    return 0
