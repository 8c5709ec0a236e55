"""The subcommands ``train`` and ``evaluate``: their arguments and what they print.

Importing this file loads nothing heavy: the command line builds its parser from it for every command.

Built in chapter 16.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddetr_lab.argument_types import positive_float, positive_int, valid_seed
from ddetr_lab.files import check_writable

if TYPE_CHECKING:
    from ddetr_lab.recipe import Recipe

__all__ = ["add_evaluate_arguments", "add_train_arguments", "choose_recipe", "evaluate_command", "train_command"]

FOLDER_RECIPE = "classroom"  # what a folder of pictures without a recipe of its own is trained by


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of ``ddetr-lab train``.

    Args:
        parser: of the subcommand.
    """
    parser.add_argument(
        "recipe",
        metavar="RECIPE|DIR",
        help="a shipped recipe's name, a TOML file, the folder of a run, or a folder of pictures with a COCO file",
    )
    parser.add_argument(
        "--minutes",
        type=positive_float,
        metavar="N",
        help="stop after N minutes of training; evaluation is not counted",
    )
    parser.add_argument("--steps", type=positive_int, metavar="N", help="run N steps instead of the recipe's")
    parser.add_argument("--seed", type=valid_seed, metavar="N", help="of weights, order and scenes (default 0)")
    parser.add_argument(
        "--weights", metavar="DIR", help="start from these weights: a shipped name, a folder, a hub name"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the recipe's COCO data set lies")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for weights and records (default runs/RECIPE)")
    parser.add_argument("--no-validate", action="store_true", help="train on a folder of pictures without checking it")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in --out; begin it if there is none")
    again.add_argument("--overwrite", action="store_true", help="remove the run in --out and begin anew")
    parser.add_argument("--device", default=None, help="cpu, cuda ... (default: a GPU if there is one)")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of ``ddetr-lab evaluate``."""
    parser.add_argument("target", metavar="RECIPE|DIR", help="a recipe with shipped weights, or a folder from train")
    parser.add_argument("--split", default="val", help="part of the data to score on (default val)")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write here what went wrong: every picture, the worst ones drawn"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the recipe's COCO data set lies")
    parser.add_argument("--device", default=None, help="cpu, cuda ... (default: a GPU if there is one)")


def choose_recipe(target: str, data: Path | None = None) -> Recipe:
    """Return the recipe that a word of the command line stands for.

    Args:
        target: a recipe's name, a TOML file, the folder of a run, or a folder of pictures with a COCO file, which the
            recipe ``classroom`` is applied to.
        data: where the data set lies, instead of what the recipe says.

    Raises:
        FileNotFoundError: if it is none of these, or ``data`` is no folder.
        ValueError: if the recipe is no valid one, or has no use for ``data``.
    """
    from dataclasses import replace

    from ddetr_lab.recipe import RECORD, load_recipe

    path = Path(target)
    if path.is_dir() and not (path / RECORD).is_file():
        if data is not None:
            raise ValueError(
                f"--data {data} beside {target}, which is a folder of pictures itself: leave one of them out, or name "
                "a recipe in its place"
            )
        recipe = load_recipe(FOLDER_RECIPE)
        name = path.resolve().name
        return replace(recipe, name=name, data=replace(recipe.data, dataset="coco", folder=str(path.resolve())))
    recipe = load_recipe(target)
    if data is None:
        return recipe
    if recipe.data.dataset != "coco":
        raise ValueError(
            f"--data {data}, but the recipe {recipe.name!r} has its own pictures, {recipe.data.dataset!r}: leave "
            '--data out, or take a recipe with dataset = "coco"'
        )
    if not data.is_dir():
        raise FileNotFoundError(f"--data {data} is no folder: expected one with pictures and a COCO file")
    return replace(recipe, data=replace(recipe.data, folder=str(data.resolve())))


def train_command(
    arguments: argparse.Namespace, usable: Callable[[str | None], str], report: Callable[[str], None]
) -> int:
    """Run ``ddetr-lab train``.

    Args:
        arguments: parsed by what :func:`add_train_arguments` added.
        usable: returns a device's name, or raises if there is no such device.
        report: prints a line.
    """
    from ddetr_lab.recipe import RECORD
    from ddetr_lab.training import train

    recipe = choose_recipe(arguments.recipe, arguments.data)
    is_first = os.environ.get("RANK", "0") == "0"  # under torchrun one process looks and tells
    is_run = (Path(arguments.recipe) / RECORD).is_file()
    if Path(arguments.recipe).is_dir() and not is_run and is_first and not arguments.no_validate:
        _validate(Path(arguments.recipe), report)
    out = arguments.out or (Path(arguments.recipe) if is_run and arguments.resume else Path("runs") / recipe.name)
    run = train(
        recipe,
        out,
        steps=arguments.steps,
        minutes=arguments.minutes,
        seed=arguments.seed,
        weights=arguments.weights,
        device=usable(arguments.device),
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        report=report,
    )
    if run.is_first:
        report(f"{run.steps} steps in {run.seconds / 60:.1f} minutes, saved in {run.folder}")
        report(run.result.line())
    return 0


def _validate(folder: Path, report: Callable[[str], None]) -> None:
    """Look at a folder of pictures before an hour is spent on it; faults that would spoil the training raise."""
    from ddetr_lab.data.validate import validate_dataset

    found = validate_dataset(folder)
    for line in found.lines(3):
        report(line)
    report(found.summary())
    if not found.ok:
        raise ValueError(
            f"{folder} has errors: mend them (`ddetr-lab validate {folder}` lists all), or train with --no-validate"
        )


def evaluate_command(
    arguments: argparse.Namespace, usable: Callable[[str | None], str], report: Callable[[str], None]
) -> int:
    """Run ``ddetr-lab evaluate``; the arguments are those of :func:`train_command`.

    Raises:
        ValueError: if the weights were trained for other labels.
        FileNotFoundError: if a folder holds no weights.
    """
    from ddetr_lab import DeformableDetrImageProcessor
    from ddetr_lab.data.labels import LABEL_MAP_FILE, LabelMap
    from ddetr_lab.evaluation import detect_dataset, score_dataset
    from ddetr_lab.training.build import detector_class, refuse_strips
    from ddetr_lab.training.sets import label_map_of, validation_set

    if arguments.report is not None:
        check_writable(arguments.report / "report.json", "--report")
    recipe = choose_recipe(arguments.target, arguments.data)
    if Path(arguments.target).is_dir() and not (Path(arguments.target) / "config.json").is_file():
        raise FileNotFoundError(
            f"{arguments.target} holds no weights to score: name the folder of a run, such as "
            f"{Path('runs') / recipe.name}; --data names other pictures to score it on"
        )
    pictures = validation_set(recipe, arguments.split)
    folder, labels = Path(arguments.target), label_map_of(pictures)
    if (folder / LABEL_MAP_FILE).is_file() and LabelMap.load(folder) != labels:
        raise ValueError(
            f"{folder} was trained for the labels {LabelMap.load(folder).to_dict()['labels']}, but the data have "
            f"{labels.to_dict()['labels']}: evaluate on data with the same categories"
        )
    weights = str(folder) if folder.is_dir() else recipe.name
    processor: Any = DeformableDetrImageProcessor.from_pretrained(weights)
    if recipe.data.dataset == "coco":
        refuse_strips(processor, pictures, arguments.split)
    detections = detect_dataset(
        detector_class(recipe).from_pretrained(weights),
        processor,
        pictures,
        batch_size=recipe.evaluation.batch_size,
        device=usable(arguments.device),
    )
    result = score_dataset(pictures, detections)
    try:
        if arguments.report is not None:
            from ddetr_lab.evaluation_figures import write_report

            for line in write_report(arguments.report, pictures, detections, result):
                report(line)
    finally:
        report(result.line())
    return 0
