"""``benchmark fine-tuning``: what crowns of trees are learnt from, and with how much of the network, in the same time.

Every trial is recipe ``trees`` with a few settings changed. It is scored on the held-out strip while it trains, and in
the end on two sites that it never saw. Seconds are those of training; evaluation does not count.

Built in chapter 18.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddetr_lab.benchmark.machine import describe_machine, describe_versions, today
from ddetr_lab.benchmark.report import one_writer, rewrite_json
from ddetr_lab.data.trees import TreeCrowns
from ddetr_lab.evaluation import evaluate
from ddetr_lab.recipe import Recipe, load_recipe
from ddetr_lab.training.build import build_processor
from ddetr_lab.training.loop import train
from ddetr_lab.training.metrics import read_lines
from ddetr_lab.training.sets import training_set

__all__ = [
    "HEADINGS",
    "SITES",
    "TRIALS",
    "Score",
    "Tuning",
    "add_tuning",
    "comparable_tunings",
    "read_tunings",
    "run_trial",
    "trial_recipe",
    "tuning_rows",
]

SCHEMA = 1
SITES = ("OSBS", "SOAP")
_IMAGENET = {"weights": "", "backbone_weights": "efficientnet_lite0"}
_FREE = {"frozen": (), "frozen_backbone": ("conv_stem", "bn1", "blocks.0", "blocks.1")}
_AVERAGED = {"ema_decay": 0.998, "weight_decay": 0.05}
# Trial: (in words, settings that differ from recipe ``trees`` by section).
TRIALS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "digits": ("from the shipped digits, as the recipe has it", {}),
    "imagenet": ("from ImageNet's backbone alone, frozen too, and all else fresh", {"model": _IMAGENET}),
    "free-backbone": ("from the digits, the backbone's later stages train too", {"model": _FREE}),
    "free-backbone-imagenet": (
        "from ImageNet's backbone alone, whose later stages train too",
        {"model": {**_IMAGENET, **_FREE}},
    ),
    "averaged": (
        "as free-backbone; weights averaged, and decayed 500 times as much",
        {"model": _FREE, "optimization": _AVERAGED},
    ),
    "averaged-imagenet": (
        "as free-backbone-imagenet; weights averaged and decayed in that way",
        {"model": {**_IMAGENET, **_FREE}, "optimization": _AVERAGED},
    ),
    "heads-only": ("from the digits, only the heads train", {"model": {"frozen": ("model",)}}),
    "aerial": (
        "as free-backbone; tiles also turned and in other colours",
        {"model": _FREE, "data": {"transform": "aerial"}},
    ),
    "32-tiles": ("as free-backbone; the first 32 tiles only", {"model": _FREE, "data": {"pictures": 32}}),
    "8-tiles": ("as free-backbone; the first 8 tiles only", {"model": _FREE, "data": {"pictures": 8}}),
}


@dataclass(frozen=True)
class Score:
    """One evaluation on the held-out strip.

    Attributes:
        step: updates of the weights so far.
        seconds: of training so far.
        ap50: average precision at an overlap of one half; ``ap`` is COCO's mean. None where undefined.
    """

    step: int
    seconds: float
    ap50: float | None
    ap: float | None


@dataclass(frozen=True)
class Tuning:
    """One trial with one seed.

    Attributes:
        trial: its name in ``TRIALS``; ``how`` is what that means.
        seed: of the new weights, the order and the views.
        tiles: that it trained on, with ``crowns`` in them; a crown may lie in several.
        trained: parameters that were not frozen.
        scores: in order of steps; the last one is the end of the run.
        sites: AP50 on each site that it never saw.
        date: when it ended, in UTC; ``machine``, ``versions`` and ``command`` say on what it ran.
    """

    trial: str
    how: str
    seed: int
    tiles: int
    crowns: int
    trained: int
    scores: tuple[Score, ...]
    sites: dict[str, float | None]
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str


def trial_recipe(trial: str, points: int = 0, steps: int | None = None, minutes: float | None = None) -> Recipe:
    """Return recipe ``trees`` with a trial's changes, scored ``points`` times in all.

    Raises:
        ValueError: if there is no such trial; the message lists what there is.
    """
    if trial not in TRIALS:
        raise ValueError(f"trial = {trial!r}, expected one of {', '.join(TRIALS)}")
    recipe = load_recipe("trees")
    changed = {
        section: dataclasses.replace(getattr(recipe, section), **settings)
        for section, settings in TRIALS[trial][1].items()
    }
    every_minutes = minutes / points if minutes and points else 0.0
    every_steps = max(1, (steps or recipe.optimization.steps) // points) if points and not minutes else 0
    scored = dataclasses.replace(recipe.evaluation, every_minutes=every_minutes, every_steps=every_steps)
    return dataclasses.replace(recipe, **changed, evaluation=scored)


def run_trial(
    trial: str,
    seed: int,
    *,
    command: str,
    report: Callable[[str], object],
    steps: int | None = None,
    minutes: float | None = None,
    points: int = 5,
    device: str = "cpu",
) -> Tuning:
    """Train one trial to the end and score it.

    Args:
        trial: a name in ``TRIALS``.
        seed: see :class:`Tuning`.
        command: as it was typed, for the record.
        report: is told each score in a line.
        steps: updates of the weights at most, instead of the recipe's.
        minutes: of training at most.
        points: evaluations, the one at the end included.
        device: where to train.
    """
    recipe = trial_recipe(trial, points, steps, minutes)
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            recipe, folder, steps=steps, minutes=minutes, seed=seed, device=device, progress=False, report=report
        )
        lines = read_lines(Path(folder) / "evaluations.jsonl")
    processor = build_processor(recipe)
    sites = {
        site: evaluate(
            run.model, processor, TreeCrowns(site, tile=recipe.data.tile), device=device, progress=False
        ).to_dict()["ap50"]
        for site in SITES
    }
    pictures = training_set(recipe, run.steps, seed)
    return Tuning(
        trial=trial,
        how=TRIALS[trial][0],
        seed=seed,
        tiles=len(pictures),
        crowns=len(pictures.coco_ground_truth()["annotations"]),
        trained=sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad),
        scores=tuple(Score(line["step"], line["seconds"], line["ap50"], line["ap"]) for line in lines),
        sites=sites,
        date=today(),
        machine=describe_machine(device),
        versions=describe_versions(["torchvision", "timm"]),
        command=command,
    )


def read_tunings(path: Path) -> list[Tuning]:
    """Read the runs of a file, in the order of ``TRIALS``, seeds in order.

    Raises:
        ValueError: if it is no file of this benchmark; the message names it.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if written.get("schema") != SCHEMA or written.get("benchmark") != "fine-tuning":
            raise ValueError("this is no file of `ddetr-lab benchmark fine-tuning`, or one of another version")
        runs = [
            Tuning(**{**run, "scores": tuple(Score(**score) for score in run["scores"])}) for run in written["runs"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    order = list(TRIALS)
    return sorted(runs, key=lambda run: (order.index(run.trial) if run.trial in order else len(order), run.seed))


def comparable_tunings(path: Path, settings: Mapping[str, Any]) -> list[Tuning]:
    """Return the runs of a file, none if there is no file.

    Raises:
        ValueError: if the file holds runs under other settings, which could not be compared with new ones.
    """
    if not path.is_file():
        return []
    there, known = read_tunings(path), json.loads(path.read_text(encoding="utf-8")).get("settings")
    if there and known != dict(settings):
        raise ValueError(f"{path} holds runs under {known}, not {dict(settings)}: write to another file")
    return there


def add_tuning(path: Path, run: Tuning, settings: Mapping[str, Any]) -> list[Tuning]:
    """Put a run into a file, in place of one of the same trial and seed, and return all that are there.

    Raises:
        ValueError: if the file holds runs under other settings, which could not be compared.
    """
    with one_writer(path):
        kept = [
            other for other in comparable_tunings(path, settings) if (other.trial, other.seed) != (run.trial, run.seed)
        ]
        content = {"schema": SCHEMA, "benchmark": "fine-tuning", "settings": dict(settings)}
        rewrite_json({**content, "runs": [dataclasses.asdict(one) for one in (*kept, run)]}, path)
    return read_tunings(path)


HEADINGS = ("trial", "AP50", "AP", *SITES, "steps", "minutes", "trained", "tiles", "seeds")


def tuning_rows(runs: list[Tuning]) -> list[tuple[str, ...]]:
    """Return a row a trial: medians over its seeds at the end of the run, sites included."""
    grouped: dict[str, list[Tuning]] = {}
    for run in runs:
        grouped.setdefault(run.trial, []).append(run)
    return [
        (
            trial,
            _median(run.scores[-1].ap50 for run in its),
            _median(run.scores[-1].ap for run in its),
            *(_median(run.sites.get(site) for run in its) for site in SITES),
            f"{statistics.median(run.scores[-1].step for run in its):.0f}",
            f"{statistics.median(run.scores[-1].seconds for run in its) / 60:.1f}",
            f"{its[0].trained:,}",
            str(its[0].tiles),
            ", ".join(str(run.seed) for run in its),
        )
        for trial, its in grouped.items()
    ]


def _median(values: Any) -> str:
    found = [value for value in values if value is not None]
    return f"{statistics.median(found):.3f}" if found else "undefined"
