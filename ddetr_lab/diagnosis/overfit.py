"""The test on eight pictures: a detector that cannot learn them by heart has a fault, and no patience will mend it.

Everything that a training is made of lies in one object, so that a fault can be planted in it before it runs. The loop
is the plainest there is, and trusts everything: it shall show what a fault does, not refuse it.

Built in chapters 16 and 19.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddetr_lab.data.collate import Collate
from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.evaluation import EvaluationResult, detect_dataset, evaluate_detections
from ddetr_lab.recipe import Recipe, load_recipe
from ddetr_lab.training.build import build_model, build_processor
from ddetr_lab.training.groups import parameter_groups
from ddetr_lab.training.schedule import learning_rate_factor
from ddetr_lab.training.sets import PictureSubset, coco_split

__all__ = ["OverfitRun", "OverfitTest", "class_blind", "overfit_recipe", "prepare", "run_test", "score_test"]

PICTURES = 8
STEPS = 80
SIDE = 96  # pixels: small enough for a laptop's patience, large enough to tell an 8 from a 3
LOOK_EVERY = 10  # steps
KEPT = 20  # best detections of a picture that a record keeps


@dataclass
class OverfitTest:
    """A training of a few pictures, ready to run.

    Attributes:
        recipe: the settings; only those of the model and the optimisation count.
        pictures: what the scores are computed against: a dataset.
        items: what training reads: ``(picture, annotation)`` of each.
        model: in training mode.
        processor: makes the batch that is trained on; ``scoring_processor`` the ones that are scored.
        optimizer: AdamW over the parameter groups.
        held_out: a batch of other pictures, whose loss is looked at every ten steps.
    """

    recipe: Recipe
    pictures: Any
    items: list[Any]
    model: Any
    processor: Any
    scoring_processor: Any
    optimizer: torch.optim.AdamW
    held_out: dict[str, Any] | None = None

    def make_batch(self) -> dict[str, Any]:
        """Return the one batch of the test."""
        return Collate(self.processor)(self.items)

    def watch_others(self, pictures: int = PICTURES, seed: int = 0) -> None:
        """Follow the loss of validation scenes, which share neither a scan nor a photograph with the training ones."""
        others = DigitScenes("val", num_scenes=pictures, seed=seed, size=self.recipe.data.size)
        self.held_out = Collate(self.scoring_processor)([others[index] for index in range(pictures)])


@dataclass(frozen=True)
class OverfitRun:
    """What such a test found.

    Attributes:
        curve: for every step ``step, loss, grad_norm, loss_ce, loss_bbox, loss_giou``, and where it was looked at
            ``held_out_loss``.
        result: the scores on the same pictures.
        class_blind_ap50: AP50 if every class counts as right.
        detections: in COCO's result form, of all pictures.
    """

    curve: list[dict[str, float]]
    result: EvaluationResult
    class_blind_ap50: float
    detections: list[dict[str, Any]]

    def to_dict(self, picture: int) -> dict[str, Any]:
        """Return plain JSON types, with the best detections of one picture."""
        shown = [found for found in self.detections if found["image_id"] == picture]
        shown.sort(key=lambda found: -found["score"])
        return {
            "curve": [{key: float(f"{value:.6g}") for key, value in line.items()} for line in self.curve],
            "ap": self.result.ap,
            "ap50": self.result.ap50,
            "class_blind_ap50": self.class_blind_ap50,
            "detections": [
                {**found, "bbox": [round(side, 2) for side in found["bbox"]], "score": round(found["score"], 4)}
                for found in shown[:KEPT]
            ],
        }


def overfit_recipe(side: int = SIDE, learning_rate: float = 1e-3) -> Recipe:
    """Return the recipe of the shipped detector, with settings of its own for learning a few pictures by heart.

    Args:
        side: pictures are scaled into such a square, in pixels.
        learning_rate: at its highest; more than for a real training, since nothing needs to generalise.
    """
    recipe = load_recipe("digits")
    settings = replace(
        recipe.optimization,
        optimizer="adamw",
        steps=STEPS,
        batch_size=PICTURES,
        learning_rate=learning_rate,
        backbone_multiplier=0.1,
        offsets_multiplier=0.1,
        warmup_fraction=0.05,
    )
    return replace(recipe, name="overfit", data=replace(recipe.data, size=side), optimization=settings)


def prepare(
    recipe: Recipe | None = None, folder: str | Path | None = None, pictures: int = PICTURES, seed: int = 0
) -> OverfitTest:
    """Make a test on the first pictures of a data set.

    Args:
        recipe: by default :func:`overfit_recipe`.
        folder: with COCO annotations; by default DigitScenes are drawn.
        pictures: how many.
        seed: of weights and scenes.

    Raises:
        FileNotFoundError, ValueError: if the folder holds no such data.
    """
    recipe = recipe or overfit_recipe()
    if pictures < 1:
        raise ValueError(f"pictures = {pictures}, expected at least 1")
    dataset: Any = DigitScenes("train", num_scenes=pictures, seed=seed, size=recipe.data.size)
    if folder is not None:
        everything = coco_split(folder, "train")
        dataset = PictureSubset(everything, list(range(min(pictures, len(everything)))))
    torch.manual_seed(seed)
    model = build_model(recipe, dataset.label_map).train()
    processor = build_processor(recipe)
    return OverfitTest(
        recipe=recipe,
        pictures=dataset,
        items=[copy.deepcopy(dataset[index]) for index in range(len(dataset))],
        model=model,
        processor=processor,
        scoring_processor=processor,
        optimizer=torch.optim.AdamW(parameter_groups(model, recipe.optimization)),
    )


def run_test(
    test: OverfitTest, steps: int | None = None, report: Callable[[str], object] = lambda line: None
) -> OverfitRun:
    """Train on the one batch, then detect on the same pictures.

    Args:
        test: from :func:`prepare`; its model is trained in place.
        steps: by default the recipe's.
        report: is told the loss now and then.
    """
    settings = test.recipe.optimization
    steps = steps or settings.steps
    rates = [group["lr"] for group in test.optimizer.param_groups]
    batch, curve = test.make_batch(), []
    parameters = list(test.model.parameters())
    test.model.train()
    for step in range(steps):
        factor = learning_rate_factor(step / steps, settings.warmup_fraction, settings.schedule, settings.drops)
        for group, rate in zip(test.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        output = test.model(**batch)
        test.optimizer.zero_grad()
        if output.loss.requires_grad:  # of a model that is frozen throughout it does not
            output.loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip_norm or float("inf"))
        test.optimizer.step()
        parts = {name: output.loss_dict[name].item() for name in ("loss_ce", "loss_bbox", "loss_giou")}
        curve.append({"step": step + 1, "loss": output.loss.item(), "grad_norm": norm.item(), **parts})
        if (step + 1) % LOOK_EVERY == 0:
            if test.held_out is not None:
                with torch.no_grad():
                    curve[-1]["held_out_loss"] = test.model(**test.held_out).loss.item()
            report(f"step {step + 1}: loss {curve[-1]['loss']:.3f}")
    return score_test(test, curve)


def score_test(test: OverfitTest, curve: list[dict[str, float]]) -> OverfitRun:
    """Detect on a test's pictures with the weights that it has now."""
    found = detect_dataset(test.model, test.scoring_processor, test.pictures, batch_size=PICTURES, progress=False)
    truth = test.pictures.coco_ground_truth()
    known = [entry for entry in found if entry["category_id"] in test.pictures.categories]
    result = evaluate_detections(truth, known)
    return OverfitRun(curve, result, evaluate_detections(*class_blind(truth, found)).ap50, found)


def class_blind(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return truth and detections with a single class, so that only the boxes are scored."""
    entries = [{**entry, "category_id": 0} for entry in truth["annotations"]]
    only = {**truth, "categories": [{"id": 0, "name": "object"}], "annotations": entries}
    return only, [{**found, "category_id": 0} for found in detections]
