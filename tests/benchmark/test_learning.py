"""A contestant's run: the same data for all, points on time, and what happens when a loss is not finite."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from ddetr_lab.benchmark import learning
from ddetr_lab.benchmark.learning import LearningPlan, build_contestant, canonical_name, run_contestant
from ddetr_lab.recipe import load_recipe
from ddetr_lab.training.engine import NonFiniteError
from tests.tiny import labels as tiny_labels
from tests.tiny import tiny_config


def small_plan(**fields: Any) -> LearningPlan:
    recipe = load_recipe("digits")
    recipe = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, size=64),
        optimization=dataclasses.replace(recipe.optimization, batch_size=2),
        evaluation=dataclasses.replace(recipe.evaluation, scenes=3),
    )
    return dataclasses.replace(LearningPlan(recipe, 5, None, 2, "cpu", "the command"), **fields)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Contestants of 60 thousand parameters; returns those that were built."""
    from ddetr_lab.detector import DeformableDetrForObjectDetection

    built: list[nn.Module] = []

    def build(contestant: str, recipe: Any, seed: int) -> tuple[nn.Module, str]:
        torch.manual_seed(seed)
        config = tiny_config(num_feature_levels=3, num_labels=10, auxiliary_loss=True)
        built.append(DeformableDetrForObjectDetection(config).train())
        return built[-1], "tiny"

    monkeypatch.setattr(learning, "build_contestant", build)
    return built


def test_a_run_has_its_points_its_circumstances_and_reports_them(tiny: list[nn.Module]) -> None:
    lines: list[str] = []
    run = run_contestant("deformable", 1, small_plan(), lines.append)
    assert [point.step for point in run.points] == [2, 4, 5]
    seconds = [point.seconds for point in run.points]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert len(lines) == 3 and lines[-1].startswith("  deformable seed 1: step 5, ")
    assert run.parameters == sum(weight.numel() for weight in tiny[0].parameters())
    assert 0 < run.trained < run.parameters
    assert (run.seed, run.how, run.command, run.note) == (1, "tiny", "the command", "")
    assert run.machine["threads"] == torch.get_num_threads() and "torch" in run.versions


def test_all_contestants_see_the_same_batches(tiny: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    class Watched(learning.Engine):
        def update(self, pieces: Any) -> Any:
            seen[-1].append(float(pieces[0]["pixel_values"].sum()))
            return super().update(pieces)

    monkeypatch.setattr(learning, "Engine", Watched)
    for name, seed in (("deformable", 0), ("dense", 0), ("deformable", 1)):
        seen.append([])
        run_contestant(name, seed, small_plan(steps=3, points=1), lambda line: None)
    assert len(seen[0]) == 3
    assert seen[0] == seen[1] and seen[0] != seen[2]


def test_a_limit_in_minutes_ends_the_run(tiny: list[nn.Module]) -> None:
    run = run_contestant("deformable", 0, small_plan(steps=100_000, minutes=1e-6, points=1), lambda line: None)
    assert [point.step for point in run.points] == [1]


@pytest.mark.parametrize("contestant", ["deformable", "transformers"])
def test_a_loss_that_is_not_finite_ends_a_peers_run_and_is_an_error_of_ours(
    tiny: list[nn.Module], contestant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(learning.Engine):
        calls = 0

        def update(self, pieces: Any) -> Any:
            self.calls += 1
            if self.calls == 4:
                raise NonFiniteError("the loss is nan", [7])
            return super().update(pieces)

    monkeypatch.setattr(learning, "Engine", Failing)
    if contestant == "deformable":
        with pytest.raises(NonFiniteError):
            run_contestant(contestant, 0, small_plan(), lambda line: None)
        return
    run = run_contestant(contestant, 0, small_plan(), lambda line: None)
    assert [point.step for point in run.points] == [2]
    assert run.note == "stopped after step 3: the loss is nan, in the batch of pictures [7]"


def test_settings_hold_what_comparisons_need() -> None:
    plan = small_plan()
    assert plan.settings["steps"] == 5 and plan.settings["scenes"] == 3 and plan.settings["batch_size"] == 2
    assert small_plan(minutes=2.0).settings != plan.settings


def test_names_of_contestants() -> None:
    assert canonical_name("dense-dc5") == "dense-dc5"
    assert canonical_name("transformers+heads+eps") == "transformers+eps+heads"
    with pytest.raises(ValueError, match="--contestants sparse: unknown, expected deformable, dense, dense-last"):
        canonical_name("sparse")


def test_dense_contestants_differ_in_their_maps_only() -> None:
    recipe = load_recipe("digits")
    cells = {"dense": 400 + 100 + 25 + 9, "dense-last": 25, "dense-dc5": 100}
    ours, _ = build_contestant("deformable", recipe, 0)
    for name, expected in cells.items():
        model, how = build_contestant(name, recipe, 0)
        outputs = model(torch.zeros(1, 3, 160, 160), labels=[tiny_labels()[0]])
        assert outputs.encoder_last_hidden_state.shape[1] == expected
        assert outputs.logits.shape == (1, 50, 10)
        assert "DenseDetrForObjectDetection" in how
        for name, weight in model.model.backbone.conv_encoder.named_parameters():
            same = ours.model.backbone.conv_encoder.get_parameter(name)
            torch.testing.assert_close(weight, same)
            assert weight.requires_grad == same.requires_grad
