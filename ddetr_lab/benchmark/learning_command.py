"""``ddetr-lab benchmark learning``: its arguments and its course. Importing this file loads nothing heavy.

Built in chapter 17.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddetr_lab.argument_types import positive_float, positive_int, valid_seed

if TYPE_CHECKING:
    from ddetr_lab.benchmark.learning import LearningPlan
    from ddetr_lab.benchmark.learning_report import LearningReport

__all__ = ["NAME", "add_learning_arguments", "run_learning"]

NAME = "learning"
HELP = "AP against steps and seconds: deformable, dense and the peer, from the same data"
DESCRIPTION = (
    "Train each contestant on the same scenes in the same order, with the recipe's optimiser, schedule and batch, and "
    "score it on the way. With --json, every run is added to the file as it ends, and runs that are there already are "
    "not made again: the whole can be done in pieces."
)
CONTESTANTS = """\
contestants:
  deformable                this package's detector
  dense                     its plain DETR on the same four maps
  dense-last, dense-dc5     the same on the last map, at stride 32 or 16
  transformers              the peer as its constructor builds it
  transformers+MEND+MEND    with these mended: activations, eps, heads, priors, queries, rest, weights
  transformers+all          with all of these mended: it then gives this package's numbers
  transformers+all-MEND     with all but one
"""
DEFAULT = ("deformable", "dense", "transformers", "transformers+activations", "transformers+all")
RECIPE, STEPS, POINTS = "digits_adamw", 1000, 5


def add_learning_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of ``ddetr-lab benchmark learning``.

    Args:
        parser: of the subcommand.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, CONTESTANTS
    parser.add_argument(
        "--contestants",
        nargs="+",
        default=list(DEFAULT),
        metavar="NAME",
        help=f"who takes part (default {' '.join(DEFAULT)}, the peer if it is installed)",
    )
    parser.add_argument("--seeds", nargs="+", type=valid_seed, default=[0], metavar="N", help="a run each (default 0)")
    parser.add_argument("--recipe", default=RECIPE, help=f"data, optimiser and batch (default {RECIPE})")
    parser.add_argument(
        "--steps", type=positive_int, default=STEPS, metavar="N", help=f"updates of the weights (default {STEPS})"
    )
    parser.add_argument("--minutes", type=positive_float, metavar="N", help="stop each after N minutes of training")
    parser.add_argument("--points", type=positive_int, default=POINTS, help=f"evaluations a run (default {POINTS})")
    parser.add_argument("--scenes", type=positive_int, metavar="N", help="validation scenes (default: the recipe's)")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the runs in this file")
    parser.add_argument("--again", action="store_true", help="make runs again that are in the file")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the curves of all runs of the file here")


def run_learning(
    arguments: argparse.Namespace, words: Sequence[str], device: str, report: Callable[[str], None]
) -> int:
    """Make the runs that are asked for and not there yet, then print the table of all.

    Args:
        arguments: parsed by what :func:`add_learning_arguments` added.
        words: the command line as it was typed, without the program, for the record.
        device: where to train.
        report: prints a line.
    """
    from ddetr_lab.benchmark.learning_figure import save_learning_figure
    from ddetr_lab.benchmark.learning_report import HEADINGS, learning_rows, report_for
    from ddetr_lab.benchmark.tables import text_table

    plan = _plan(arguments, words, device)
    names = _contestants(arguments, report)
    result = report_for(arguments.json, plan.settings)
    for seed in arguments.seeds:
        for name in names:
            result = _one_run(name, seed, plan, result, arguments, report)
    report("")
    report(text_table(HEADINGS, learning_rows(result)))
    for run in result.runs:
        if run.note:
            report(f"{run.contestant}, seed {run.seed}: {run.note}")
    if arguments.figure is not None:
        save_learning_figure(result, arguments.figure)
    return 0


def _plan(arguments: argparse.Namespace, words: Sequence[str], device: str) -> LearningPlan:
    from dataclasses import replace

    from ddetr_lab.benchmark.learning import LearningPlan
    from ddetr_lab.recipe import load_recipe

    recipe = load_recipe(arguments.recipe)
    if arguments.scenes is not None:
        recipe = replace(recipe, evaluation=replace(recipe.evaluation, scenes=arguments.scenes))
    command = shlex.join(["ddetr-lab", *words])
    return LearningPlan(recipe, arguments.steps, arguments.minutes, arguments.points, device, command)


def _contestants(arguments: argparse.Namespace, report: Callable[[str], None]) -> list[str]:
    """Return the contestants' names; without a choice, the peer takes part if it is installed.

    Raises:
        ValueError: for an unknown name, or for the peer where it is not installed.
    """
    from ddetr_lab.benchmark import peers
    from ddetr_lab.benchmark.learning import canonical_name
    from ddetr_lab.benchmark.learning_peer import read_mends

    names = list(dict.fromkeys(map(canonical_name, arguments.contestants)))
    if all(read_mends(name) is None for name in names):
        return names
    if missing := peers.missing_note(NAME):
        if arguments.contestants != list(DEFAULT):
            raise ValueError(f"--contestants {' '.join(names)}: {missing}")
        report(f"{missing}.")
        return [name for name in names if read_mends(name) is None]
    return names


def _one_run(
    name: str,
    seed: int,
    plan: LearningPlan,
    result: LearningReport,
    arguments: argparse.Namespace,
    report: Callable[[str], None],
) -> LearningReport:
    from dataclasses import replace

    from ddetr_lab.benchmark.learning import run_contestant
    from ddetr_lab.benchmark.learning_report import add_run

    if result.find(name, seed) is not None and not arguments.again:
        report(f"{name} seed {seed}: in {arguments.json} already")
        return result
    report(f"{name} seed {seed}")
    run = run_contestant(name, seed, plan, report)
    if arguments.json is None:
        return replace(result, runs=(*result.runs, run))
    return add_run(arguments.json, plan.settings, run)
