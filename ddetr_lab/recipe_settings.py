"""The settings of a training run, in five sections, each with its default and its limits.

Built in chapter 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "CheckpointSettings",
    "DataSettings",
    "EvaluationSettings",
    "ModelSettings",
    "OptimizationSettings",
]


def _one_of(section: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"[{section}] {name} = {value!r}, expected one of {', '.join(choices)}")


def _within(section: str, name: str, value: Any, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"[{section}] {name} = {value!r}, expected {low} to {high}")


@dataclass(frozen=True)
class DataSettings:
    """Which pictures, and how they reach the network.

    Attributes:
        dataset: "digits", "trees" or "coco".
        folder: where a "coco" data set lies; see :func:`ddetr_lab.training.sets.coco_split`.
        size: without ``longest`` the side of the square that pictures are scaled into and padded to, in pixels; with
            it the shorter side that pictures are scaled to.
        longest: the longer side is never scaled beyond it; batches are padded to their largest picture. 0: squares.
        tile: side of the square tiles that the large pictures of "trees" are cut into, in pixels.
        pictures: how many of the training pictures to use, from the first on; 0 takes all. For "digits", which are
            drawn on the fly, 0 draws a new scene for every place of every step.
        crowded: "digits" only: train on scenes with twice as many digits; scores are of ordinary ones.
        transform: the random view of each picture; a name of ``ddetr_lab.data.transforms.TRANSFORMS``.
        workers: processes that prepare batches while the network computes; 0 prepares them in between.
        bucket: put pictures of like size into a batch, which saves padding where sizes differ.
    """

    dataset: str = "digits"
    folder: str = ""
    size: int = 160
    longest: int = 0
    tile: int = 256
    pictures: int = 0
    crowded: bool = False
    transform: str = "none"
    workers: int = 0
    bucket: bool = False

    def __post_init__(self) -> None:
        _one_of("data", "dataset", self.dataset, ("digits", "trees", "coco"))
        if self.crowded and self.dataset != "digits":
            raise ValueError(f'[data] crowded = true is for "digits" alone: set it to false for {self.dataset!r}')


@dataclass(frozen=True)
class ModelSettings:
    """Which model.

    Attributes:
        preset: of the configuration; without effect where ``weights`` bring their own.
        kind: "deformable", or "dense" for the plain DETR of chapter 17.
        weights: what to start from: a shipped name, a folder or a hub name; "" starts afresh. The class head is
            replaced if the labels differ.
        backbone_weights: ImageNet weights of a fresh model's backbone: "efficientnet_lite0", or "" for those that the
            preset's ``use_pretrained_backbone`` fetches, if any.
        frozen_backbone: modules of the backbone network that do not train, such as "blocks.0".
        frozen: modules of the whole detector that do not train, such as "model.encoder".
        auxiliary_loss: train on every decoder layer's predictions. Without it the heads of earlier layers of a refining
            model never learn.
    """

    preset: str = "digits"
    kind: str = "deformable"
    weights: str = ""
    backbone_weights: str = ""
    frozen_backbone: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    auxiliary_loss: bool = True

    def __post_init__(self) -> None:
        _one_of("model", "kind", self.kind, ("deformable", "dense"))


@dataclass(frozen=True)
class OptimizationSettings:
    """How to train.

    Attributes:
        optimizer: "adamw", the paper's; or "muon", which moves the matrices inside encoder and decoder layers by Muon
            and everything else by AdamW (``ddetr_lab.training.optimizers``).
        steps: updates of the weights.
        epochs: how often to see every picture; 0.0 counts ``steps`` instead.
        batch_size: pictures of one update, over all processes and all pieces together.
        accumulation: pieces that a process computes its share of a batch in, to save memory. The update is that of the
            whole batch: every loss is divided by the objects of all pieces together.
        learning_rate: at its highest.
        backbone_multiplier: of the backbone's rate.
        offsets_multiplier: of the rate of sampling offsets and reference points.
        matrices_multiplier: of the rate of what Muon moves; its steps stand a higher one.
        weight_decay: of every parameter.
        clip_norm: gradients whose common norm is larger are scaled down to it; 0.0 leaves them.
        schedule: "cosine" (half a cosine down to 0), "step" (a tenth after each of ``drops``), "one_cycle" (cosine
            from 1/25 up during the warm-up, then down to 0), all after a warm-up.
        warmup_fraction: share of the run in which rates rise.
        drops: where the step schedule drops, as shares of the run.
        precision: "float32"; "bfloat16" or "float16" compute what stands it in half precision.
        ema_decay: keep an exponential moving average of the weights, and evaluate and save that; 0.0 does not.
        shrink: in the first part of a run, what both sides of the pictures are multiplied by: small pictures teach the
            coarse in less time a step.
        shrink_until: the share of the run that this part is.
        recompute: parts that compute their activations again in the backward pass instead of keeping them, to save
            memory: some of "backbone", "encoder", "decoder".
    """

    optimizer: str = "adamw"
    steps: int = 1000
    epochs: float = 0.0
    batch_size: int = 8
    accumulation: int = 1
    learning_rate: float = 4e-4
    backbone_multiplier: float = 0.1
    offsets_multiplier: float = 0.1
    matrices_multiplier: float = 1.0
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    schedule: str = "cosine"
    warmup_fraction: float = 0.02
    drops: tuple[float, ...] = (0.8,)
    precision: str = "float32"
    ema_decay: float = 0.0
    shrink: float = 1.0
    shrink_until: float = 0.0
    recompute: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("optimization", "optimizer", self.optimizer, ("adamw", "muon"))
        _one_of("optimization", "schedule", self.schedule, ("cosine", "step", "one_cycle"))
        _one_of("optimization", "precision", self.precision, ("float32", "bfloat16", "float16"))
        if (self.optimizer, self.precision) == ("muon", "float16"):
            raise ValueError(
                '[optimization] optimizer = "muon" does not go with precision = "float16", where each of the two '
                'optimisers would leave out its overflowing steps by itself: take "bfloat16", or optimizer = "adamw"'
            )
        if self.learning_rate == 0:
            raise ValueError("[optimization] learning_rate = 0.0, expected more: nothing would be learnt")
        _within("optimization", "warmup_fraction", self.warmup_fraction, 0, 1)
        _within("optimization", "ema_decay", self.ema_decay, 0, 0.999999)
        _within("optimization", "shrink", self.shrink, 0.1, 1)
        _within("optimization", "shrink_until", self.shrink_until, 0, 1)
        _within("optimization", "accumulation", self.accumulation, 1, self.batch_size)
        for drop in self.drops:
            _within("optimization", "drops", drop, 0, 1)
        for part in self.recompute:
            _one_of("optimization", "recompute", part, ("backbone", "encoder", "decoder"))


@dataclass(frozen=True)
class EvaluationSettings:
    """What to score on, and when besides at the end.

    Attributes:
        scenes: validation scenes of "digits"; other data sets have a fixed number.
        batch_size: pictures at a time.
        every_steps: score while training, each time after so many steps; 0 does not.
        every_minutes: the same by the clock; 0.0 does not.
    """

    scenes: int = 500
    batch_size: int = 8
    every_steps: int = 0
    every_minutes: float = 0.0


@dataclass(frozen=True)
class CheckpointSettings:
    """When to save, besides at the end, on an interrupt and before a failure.

    Attributes:
        every_steps: after so many steps; 0 does not.
        every_minutes: after so many minutes since the last time; 0.0 does not.
    """

    every_steps: int = 0
    every_minutes: float = 5.0
