"""``benchmark learning``: who learns how much in how many steps and seconds, from the same data.

Every contestant gets the same scenes in the same order, the same ImageNet backbone with the same frozen stages, the
same number of queries, layers and channels, the same processor, groups of learning rates, schedule, clipping and batch:
those of the recipe. It is scored on the same validation scenes, by the same code. Seconds are those of training,
preparing the batches included, evaluation not.

Built in chapter 17.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ddetr_lab.backbone import load_efficientnet_lite0_weights
from ddetr_lab.benchmark import learning_peer
from ddetr_lab.benchmark.learning_report import LearningRun, Point
from ddetr_lab.benchmark.machine import describe_machine, describe_versions, today
from ddetr_lab.config import preset
from ddetr_lab.data.transforms import training_transform
from ddetr_lab.dense_detr import DenseDetrForObjectDetection
from ddetr_lab.evaluation import evaluate
from ddetr_lab.recipe import Recipe
from ddetr_lab.training.batches import BatchOrder, training_batches
from ddetr_lab.training.build import build_model, build_processor
from ddetr_lab.training.engine import Engine, NonFiniteError
from ddetr_lab.training.metrics import Stopwatch
from ddetr_lab.training.progress import RunProgress, is_due
from ddetr_lab.training.schedule import learning_rate_factor
from ddetr_lab.training.sets import training_set, validation_set

__all__ = ["DEFORMABLE", "DENSE", "LearningPlan", "build_contestant", "canonical_name", "run_contestant"]

DEFORMABLE = "deformable"
# The plain DETR on which maps: fields that differ from the recipe's preset.
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("on the deformable one's four maps", {}),
    "dense-last": ("on the last map, stride 32, as in DETR", {"num_feature_levels": 1}),
    "dense-dc5": ("on the last map at stride 16, as in DETR-DC5", {"num_feature_levels": 1, "dilation": True}),
}


@dataclass(frozen=True)
class LearningPlan:
    """What all contestants share.

    Attributes:
        recipe: data, optimisation and batch.
        steps: updates of the weights at most.
        minutes: of training at most; None for no limit.
        points: evaluations, the one at the end included.
        device: where to train.
        command: as it was typed, for the record.
    """

    recipe: Recipe
    steps: int
    minutes: float | None
    points: int
    device: str
    command: str

    @property
    def settings(self) -> dict[str, Any]:
        """What two runs must share to be compared."""
        return {
            "recipe": self.recipe.name,
            "steps": self.steps,
            "minutes": self.minutes,
            "batch_size": self.recipe.optimization.batch_size,
            "size": self.recipe.data.size,
            "scenes": self.recipe.evaluation.scenes,
            "points": self.points,
            "device": self.device,
        }


def canonical_name(contestant: str) -> str:
    """Return a contestant's one name.

    Raises:
        ValueError: if there is none; the message lists what there is.
    """
    mends = learning_peer.read_mends(contestant)
    if mends is not None:
        return learning_peer.peer_name(mends)
    if contestant not in (DEFORMABLE, *DENSE):
        raise ValueError(
            f"--contestants {contestant}: unknown, expected {', '.join((DEFORMABLE, *DENSE))}, "
            f"or {learning_peer.PEER} with mends, such as transformers+heads, transformers+all or transformers+all-eps"
        )
    return contestant


def build_contestant(contestant: str, recipe: Recipe, seed: int) -> tuple[nn.Module, str]:
    """Build a contestant from its name.

    Returns:
        The model in training mode, and how it was built in a sentence.
    """
    labels = validation_set(recipe).label_map
    torch.manual_seed(seed)
    if contestant in DENSE:
        maps, fields = DENSE[contestant]
        return _dense(recipe, fields).train(), f"this package's DenseDetrForObjectDetection, {maps}"
    ours = build_model(recipe, labels).train()
    mends = learning_peer.read_mends(contestant)
    if mends is None:
        ours.model.backbone.to(memory_format=torch.channels_last)
        return ours, "this package's DeformableDetrForObjectDetection, by its constructor"
    told = "; ".join(text for name, text in learning_peer.MENDS.items() if name in mends)
    how = "transformers' DeformableDetrForObjectDetection, by its constructor from an equal configuration, with this "
    how += f"package's backbone weights and frozen stages; mended: {told or 'nothing'}"
    peer = learning_peer.build_peer(ours, mends, seed)
    if mends == learning_peer.ALL:
        share = _difference_at_start(ours, peer, recipe, seed)
        how += f". Before the first step its loss differs from this package's by {share:.0e} of it"
    return peer, how


@torch.no_grad()
def _difference_at_start(ours: nn.Module, peer: nn.Module, recipe: Recipe, seed: int) -> float:
    """Return by which share two models' losses of the first batch differ: is all mended that there is to mend?"""
    (batch,) = next(_batches(recipe, 1, seed))
    first, second = (
        model(batch["pixel_values"], batch["pixel_mask"], labels=batch["labels"]).loss.item() for model in (ours, peer)
    )
    return abs(second - first) / first


def _batches(recipe: Recipe, steps: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    """Return the batches of a run, the same for every contestant."""
    scenes = training_set(recipe, steps, seed)
    return training_batches(
        scenes,
        BatchOrder(scenes, recipe.optimization.batch_size, seed),
        build_processor(recipe),
        training_transform(recipe.data.transform),
        seed,
        range(steps),
    )


def _dense(recipe: Recipe, fields: Mapping[str, Any]) -> nn.Module:
    kind = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, kind="dense"))
    if not fields:
        model = build_model(kind)
    else:
        model = build_model(kind, config=preset(recipe.model.preset, **fields))
        load_efficientnet_lite0_weights(model.model.backbone.conv_encoder)
    if not isinstance(model, DenseDetrForObjectDetection):
        raise TypeError(f"the recipe gave a {type(model).__name__}, expected a DenseDetrForObjectDetection")
    model.model.backbone.to(memory_format=torch.channels_last)
    return model


def run_contestant(contestant: str, seed: int, plan: LearningPlan, report: Callable[[str], None]) -> LearningRun:
    """Train a contestant to the plan's end and score it on the way.

    Args:
        contestant: a name from :func:`canonical_name`.
        seed: of weights, order and scenes.
        plan: what all share.
        report: is told each point in a line.

    Returns:
        The run. One of a peer that stopped at a loss or gradient that is not finite ends there, with a note.

    Raises:
        NonFiniteError: if that befalls a model of ours.
    """
    recipe, settings = plan.recipe, plan.recipe.optimization
    device = torch.device(plan.device)
    model, how = build_contestant(contestant, recipe, seed)
    model.to(device)
    is_peer = learning_peer.read_mends(contestant) is not None
    progress = RunProgress(seed, plan.steps, plan.minutes)
    validation = validation_set(recipe)
    engine = Engine(model, settings)
    batches = _batches(recipe, plan.steps, seed)
    every_minutes = 0.0 if plan.minutes is None else plan.minutes / plan.points
    every_steps = max(1, plan.steps // plan.points)
    points: list[Point] = []
    losses: list[torch.Tensor] = []
    note = ""
    watch = Stopwatch()
    while progress.share < 1:
        factor = learning_rate_factor(progress.share, settings.warmup_fraction, settings.schedule, settings.drops)
        engine.set_rate(factor)
        try:
            losses.append(engine.update(next(batches)).loss)
        except NonFiniteError as error:
            if not is_peer:
                raise
            note = f"stopped after step {progress.step}: {error}"
            break
        progress.step, progress.seconds = progress.step + 1, watch.seconds
        due = is_due(progress, every_steps, every_minutes, progress.evaluated_step, progress.evaluated_seconds)
        if due or progress.share >= 1:
            with watch:
                points.append(_score(model, plan, progress, torch.stack(losses).mean().item(), validation))
                losses.clear()
                report(f"  {contestant} seed {seed}: {_line(points[-1])}")
    return LearningRun(
        contestant=contestant,
        seed=seed,
        how=how,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        points=tuple(points),
        date=today(),
        machine=describe_machine(plan.device),
        versions=describe_versions(["torchvision", "timm", *([learning_peer.PEER] if is_peer else [])]),
        command=plan.command,
        note=note,
    )


def _score(model: nn.Module, plan: LearningPlan, progress: RunProgress, loss: float, validation: Any) -> Point:
    result = evaluate(
        model,
        build_processor(plan.recipe),
        validation,
        batch_size=plan.recipe.evaluation.batch_size,
        device=plan.device,
        progress=False,
    ).to_dict()
    progress.evaluated_step, progress.evaluated_seconds = progress.step, progress.seconds
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    rounded = {name: None if result[name] is None else round(result[name], 5) for name in names}
    return Point(progress.step, round(progress.seconds, 2), round(loss, 5), **rounded)


def _line(point: Point) -> str:
    ap, small = (f"{value:.3f}" if value is not None else "nan" for value in (point.ap, point.ap_small))
    return f"step {point.step}, {point.seconds:.0f} s, loss {point.loss:.3f}, AP {ap}, AP small {small}"
