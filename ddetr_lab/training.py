"""Training: parameter groups, a schedule, and one plain loop.

Built in chapter 16.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from tqdm import tqdm

from ddetr_lab.backbone import load_efficientnet_lite0_weights
from ddetr_lab.config import preset
from ddetr_lab.data.collate import Collate
from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.evaluation import EvaluationResult, evaluate
from ddetr_lab.image_processing import DeformableDetrImageProcessor
from ddetr_lab.recipe import RECORD, OptimizationSettings, Recipe

__all__ = [
    "TrainingRun",
    "build_model",
    "build_processor",
    "learning_rate_factor",
    "parameter_groups",
    "train",
    "validation_set",
]

WEIGHTS_EVERY = 500  # steps between two saves of the weights while training


@dataclass
class TrainingRun:
    """What a training run leaves: the model in memory, its folder, steps and seconds taken, and its score."""

    model: DeformableDetrForObjectDetection
    folder: Path
    steps: int
    seconds: float
    result: EvaluationResult


def build_model(recipe: Recipe) -> DeformableDetrForObjectDetection:
    """Build a recipe's model: preset, backbone weights, and what of the backbone stays frozen.

    Raises:
        ValueError: if the recipe names unknown backbone weights, or freezes parameters that do not exist.
    """
    model = DeformableDetrForObjectDetection(preset(recipe.model.preset))
    backbone = model.model.backbone.conv_encoder
    sources: dict[str, Callable[[Any], None]] = {"efficientnet_lite0": load_efficientnet_lite0_weights}
    if recipe.model.backbone_weights:
        if recipe.model.backbone_weights not in sources:
            raise ValueError(
                f"backbone_weights = {recipe.model.backbone_weights!r}, expected one of {', '.join(sources)}"
            )
        sources[recipe.model.backbone_weights](backbone)
    names = [name for name, _ in backbone.model.named_modules()]
    for prefix in recipe.model.frozen_backbone:
        if prefix not in names:
            raise ValueError(f"frozen_backbone names {prefix!r}, which the backbone lacks; it has {names[1:8]} ...")
        backbone.model.get_submodule(prefix).requires_grad_(False)
    return model


def build_processor(recipe: Recipe) -> DeformableDetrImageProcessor:
    """Build a recipe's processor: scale pictures to ``data.size`` pixels on their longest side, then pad them square.

    On small pictures a map's last cell hangs far over the picture's edge. With one padded size the network meets the
    same overhang in training and in use, for a picture alone as in a batch.
    """
    side = recipe.data.size
    return DeformableDetrImageProcessor(
        size={"shortest_edge": side, "longest_edge": side}, pad_size={"height": side, "width": side}
    )


def _scenes(recipe: Recipe, split: str, count: int, seed: int) -> DigitScenes:
    if recipe.data.dataset != "digits":
        raise ValueError(f"dataset = {recipe.data.dataset!r}, expected 'digits'")
    return DigitScenes(split, num_scenes=count, seed=seed, size=recipe.data.size)


def validation_set(recipe: Recipe) -> DigitScenes:
    """Return the recipe's validation scenes: the same for every run, whatever its seed."""
    return _scenes(recipe, "val", recipe.evaluation.scenes, seed=0)


def parameter_groups(model: nn.Module, settings: OptimizationSettings) -> list[dict[str, Any]]:
    """Sort every trained parameter into exactly one group with its learning rate (paper, section 5).

    Sampling offsets and reference points train at a fraction: a small change of theirs moves what a query sees. So does
    the backbone, which starts from ImageNet.

    Returns:
        Groups for the optimiser, each with ``name``, ``params`` and ``lr``; empty ones left out.
    """
    factors = {
        "backbone": settings.backbone_multiplier,
        "offsets and reference points": settings.offsets_multiplier,
        "other": 1.0,
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if ".conv_encoder." in name:
            group = "backbone"
        elif "sampling_offsets" in name or "reference_points" in name:
            group = "offsets and reference points"
        else:
            group = "other"
        members[group].append(parameter)
    return [
        {"name": name, "params": parameters, "lr": settings.learning_rate * factors[name]}
        for name, parameters in members.items()
        if parameters
    ]


def learning_rate_factor(progress: float, warmup_fraction: float) -> float:
    """Return what to multiply learning rates by at ``progress`` in 0-1: up in a line, then down in half a cosine."""
    if progress < warmup_fraction:
        return progress / warmup_fraction
    return 0.5 * (1 + math.cos(math.pi * min((progress - warmup_fraction) / (1 - warmup_fraction), 1.0)))


def _endless(loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def _training_batches(
    dataset: Dataset[Any], processor: DeformableDetrImageProcessor, batch_size: int, seed: int
) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=RandomSampler(dataset, generator=generator),  # type: ignore[arg-type]
        collate_fn=Collate(processor),
        drop_last=True,
    )
    return _endless(loader)


def _refuse_non_finite(loss: Tensor, loss_dict: dict[str, Tensor], step: int, batch: dict[str, Any]) -> None:
    if torch.isfinite(loss):
        return
    bad = [name for name, value in loss_dict.items() if not torch.isfinite(value)]
    pictures = [int(label["image_id"]) for label in batch["labels"]]
    raise FloatingPointError(
        f"step {step}: the loss is {loss.item()} through {', '.join(bad)}, in the batch of pictures {pictures}. "
        "Lower the learning rate, or look at these pictures' boxes"
    )


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> TrainingRun:
    """Train a recipe's model from its backbone's weights (or from ``weights``), save it, and score it.

    Into ``out`` go ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` (every 500 steps and at the
    end), ``metrics.jsonl`` (a line every 10 steps), ``recipe.json`` and ``result.json``.

    Args:
        recipe: what to do.
        out: the folder, made if missing.
        steps: how many steps, instead of the recipe's.
        minutes: stop after so many minutes; the schedule then runs over time as well as over steps, whichever is
            further, so that the run ends at a learning rate of 0 in either case.
        seed: of weights, order and scenes.
        weights: a folder or shipped name to start from, of a model like the recipe's; the optimiser starts afresh.
        device: where to train.
        progress: show a bar.

    Returns:
        A :class:`TrainingRun`.

    Raises:
        ValueError: if steps or minutes are not positive.
        FloatingPointError: if a loss is not finite; the message names the loss, the step and the pictures.
    """
    settings = recipe.optimization
    total = settings.steps if steps is None else steps
    for name, value in (("steps", total), ("minutes", minutes)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} = {value}, expected a positive number")
    folder = Path(out)
    torch.manual_seed(seed)
    model = build_model(recipe).to(device)
    if weights is not None:
        model.load_state_dict(DeformableDetrForObjectDetection.from_pretrained(weights).state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps({**recipe.to_dict(), "seed": seed}, indent=2) + "\n", encoding="utf-8")
    # Channels side by side in memory, the layout that convolutions are fastest in.
    model.model.backbone.to(memory_format=torch.channels_last)
    processor = build_processor(recipe)
    groups = parameter_groups(model, settings)
    trained = [parameter for group in groups for parameter in group["params"]]
    base_rates = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    scenes = _scenes(recipe, "train", total * settings.batch_size, seed)
    batches = _training_batches(scenes, processor, settings.batch_size, seed)
    model.train()
    started = time.perf_counter()
    step = 0
    with (
        (folder / "metrics.jsonl").open("w", encoding="utf-8") as metrics,
        tqdm(total=total, desc="train", unit="step", disable=not progress) as bar,
    ):
        while step < total:
            seconds = time.perf_counter() - started
            share = max(step / total, 0.0 if minutes is None else seconds / (60 * minutes))
            if share >= 1:
                break
            factor = learning_rate_factor(share, settings.warmup_fraction)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            batch = next(batches)
            # Labels stay where they are: the losses move what they need.
            outputs = model(batch["pixel_values"].to(device), batch["pixel_mask"].to(device), labels=batch["labels"])
            _refuse_non_finite(outputs.loss, outputs.loss_dict, step, batch)
            optimizer.zero_grad()
            outputs.loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            optimizer.step()
            step += 1
            bar.update()
            if step % 10 == 0 or step == total:
                loss = outputs.loss.item()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                line = {"step": step, "seconds": round(seconds, 1), "loss": loss, "grad_norm": norm.item()}
                line |= {name: value.item() for name, value in outputs.loss_dict.items() if name[-1].isalpha()}
                metrics.write(json.dumps(line) + "\n")
                metrics.flush()
            if step % WEIGHTS_EVERY == 0:
                model.save_pretrained(folder)
                processor.save_pretrained(folder)
    seconds = time.perf_counter() - started
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    result = evaluate(
        model,
        processor,
        validation_set(recipe),
        batch_size=recipe.evaluation.batch_size,
        device=torch.device(device),
        progress=progress,
    )
    record = {"steps": step, "seconds": round(seconds, 1), "seed": seed, **result.to_dict()}
    (folder / "result.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return TrainingRun(model=model, folder=folder, steps=step, seconds=seconds, result=result)
