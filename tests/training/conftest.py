"""A recipe for models of 60 thousand parameters on 96-pixel scenes: a step takes a few hundredths of a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.recipe import (
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    OptimizationSettings,
    Recipe,
)
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny detector of ten digits; with dropout, so that random numbers count in every step."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(1)
    names = {digit: str(digit) for digit in range(10)}
    DeformableDetrForObjectDetection(tiny_config(dropout=0.1, num_labels=10, id2label=names)).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_recipe(tiny_weights: Path) -> Recipe:
    """Four steps of two scenes each, and two scenes to score on."""
    return Recipe(
        name="tiny",
        data=DataSettings(size=96),
        model=ModelSettings(weights=str(tiny_weights)),
        optimization=OptimizationSettings(steps=4, batch_size=2),
        evaluation=EvaluationSettings(scenes=2, batch_size=2),
        checkpoint=CheckpointSettings(every_minutes=0.0),
    )


def changed(recipe: Recipe, section: str, **settings: object) -> Recipe:
    """Return a recipe with some settings of a section changed."""
    return replace(recipe, **{section: replace(getattr(recipe, section), **settings)})
