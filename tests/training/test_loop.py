"""The loop: what a run leaves, that it learns, and that a run which was stopped goes on to the same last bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection, DeformableDetrImageProcessor
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.recipe import load_recipe
from ddetr_lab.training import build_processor, train
from ddetr_lab.training.engine import Engine
from ddetr_lab.training.metrics import read_lines
from ddetr_lab.training.state import StateFolder
from tests.conftest import ROOT
from tests.training.conftest import changed


@pytest.mark.parametrize(("argument", "value"), [("steps", 0), ("minutes", 0.0)])
def test_nothing_to_do_is_refused(tiny_recipe, tmp_path, argument, value):
    with pytest.raises(ValueError, match=f"{argument} = {value}"):
        train(tiny_recipe, tmp_path, **{argument: value})


def test_a_run_leaves_a_detector_a_processor_and_its_record(tiny_recipe, tmp_path):
    told: list[str] = []
    recipe = changed(tiny_recipe, "evaluation", every_steps=2)
    run = train(recipe, tmp_path / "run", seed=1, progress=False, report=told.append)
    assert run.steps == 4
    for folder in (run.folder, run.folder / "best"):
        loaded = DeformableDetrForObjectDetection.from_pretrained(folder)
        assert DeformableDetrImageProcessor.from_pretrained(folder).to_dict() == build_processor(recipe).to_dict()
        assert LabelMap.load(folder).names == loaded.config.id2label == {digit: str(digit) for digit in range(10)}
        assert load_recipe(folder) == recipe
    loaded = DeformableDetrForObjectDetection.from_pretrained(run.folder)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    lines = read_lines(run.folder / "metrics.jsonl")
    assert lines[-1]["step"] == 4
    assert {"loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm", "learning_rate", "memory_mb"} <= set(lines[-1])
    assert [line["step"] for line in read_lines(run.folder / "evaluations.jsonl")] == [2, 4]
    record = json.loads((run.folder / "result.json").read_text())
    assert (record["steps"], record["seed"], record["num_images"]) == (4, 1, 2)
    assert run.result.line().startswith("AP ") and run.best == record["best_ap"]
    assert (run.folder / "curves.png").stat().st_size > 5_000
    assert "offsets and reference points" in told[0] and [line[:7] for line in told[1:]] == ["step 2:", "step 4:"]


def test_an_unknown_view_is_refused_before_the_earlier_run_is_removed(tiny_recipe, tmp_path):
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(ValueError, match="transform = 'jiter', expected one of"):
        train(changed(tiny_recipe, "data", transform="jiter"), tmp_path, overwrite=True, progress=False)
    assert (tmp_path / "model.safetensors").read_text() == "precious"


def test_a_run_can_start_from_another_s_weights(tiny_recipe, tmp_path):
    first = train(tiny_recipe, tmp_path / "first", steps=1, progress=False)
    # A warm-up step at a learning rate of 0 changes nothing, so the second run still holds the first one's weights.
    second = train(tiny_recipe, tmp_path / "second", steps=1, seed=9, weights=first.folder, progress=False)
    state = first.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.model.state_dict().items())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(tiny_recipe, tmp_path / "third", steps=1, weights=tmp_path / "nowhere", progress=False)
    assert not (tmp_path / "third").exists()


def test_the_same_seed_trains_the_same_weights(tiny_recipe, tmp_path):
    first, second, other = (
        train(tiny_recipe, tmp_path / str(number), steps=2, seed=seed, progress=False).model.state_dict()
        for number, seed in enumerate((5, 5, 6))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_pieces_and_workers_train_the_same_weights_up_to_rounding(tiny_recipe, tmp_path):
    recipe = changed(tiny_recipe, "data", pictures=5, transform="jitter")
    recipe = changed(recipe, "optimization", batch_size=4, steps=3, learning_rate=1e-3, warmup_fraction=0.0)
    recipe = changed(recipe, "model", frozen=("model.input_proj",))
    runs = [
        train(variant, tmp_path / str(number), progress=False)
        for number, variant in enumerate(
            (recipe, changed(recipe, "optimization", accumulation=2), changed(recipe, "data", workers=1))
        )
    ]
    losses = [read_lines(run.folder / "metrics.jsonl")[-1]["loss"] for run in runs]
    assert losses[2] == losses[0], "workers change nothing"
    # Dropout draws other numbers for two pieces than for one: near, not equal; without dropout see test_engine.
    assert losses[1] == pytest.approx(losses[0], rel=0.3)


def test_time_ends_a_run_before_its_steps_are_done(tiny_recipe, tmp_path):
    run = train(changed(tiny_recipe, "data", pictures=4), tmp_path, steps=10_000, minutes=1e-9, progress=False)
    assert run.steps == 1


def test_epochs_count_steps(tiny_recipe, tmp_path):
    recipe = changed(changed(tiny_recipe, "data", pictures=5), "optimization", epochs=2.0)
    assert train(recipe, tmp_path, progress=False).steps == 6  # three batches of at most two pictures, twice


def test_training_lowers_the_loss_on_pictures_it_sees_again_and_again(tiny_recipe, tmp_path):
    recipe = changed(tiny_recipe, "data", pictures=2)
    recipe = changed(recipe, "optimization", learning_rate=3e-3, warmup_fraction=0.1, clip_norm=1.0)
    run = train(recipe, tmp_path, steps=60, progress=False)
    losses = [line["loss"] for line in read_lines(run.folder / "metrics.jsonl")]
    assert losses[-1] < 0.8 * losses[0]


def test_the_saved_weights_are_the_averaged_ones(tiny_recipe, tmp_path):
    recipe = changed(tiny_recipe, "optimization", ema_decay=0.9)
    run = train(recipe, tmp_path, progress=False)
    loaded = DeformableDetrForObjectDetection.from_pretrained(tmp_path).state_dict()
    state = StateFolder(tmp_path / "state").load()
    differ = 0
    for name, value in run.model.named_parameters():
        assert torch.equal(value, loaded[name])
        if value.requires_grad:
            assert torch.equal(value, state.tensors[f"average.{name}"])
            differ += not torch.equal(value, state.tensors[f"model.{name}"])
    assert differ > 50


class Killed(BaseException):
    """What ends a process that is killed, as near as one process can play it: nothing of ours runs afterwards."""


def stop_in_update(patch, number):
    """Let the number-th update from now on end the run."""
    update, done = Engine.update, []

    def dying(self, pieces):
        done.append(1)
        if len(done) == number:
            raise Killed
        return update(self, pieces)

    patch.setattr(Engine, "update", dying)


def assert_equal_runs(first, second):
    states = [StateFolder(folder / "state").load() for folder in (first, second)]
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert any(name.endswith(":exp_avg_sq") for name in states[0].tensors)
    for name, value in states[0].tensors.items():
        assert torch.equal(value, states[1].tensors[name]), name
    for key in ("random", "data", "scaler", "labels", "recipe"):
        assert states[0].content[key] == states[1].content[key], key
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        clock = ("seconds", "memory_mb")
        lines = [
            [{key: value for key, value in line.items() if key not in clock} for line in read_lines(folder / name)]
            for folder in (first, second)
        ]
        assert lines[0] == lines[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_twenty_steps_are_ten_a_kill_a_resume_and_ten_bit_for_bit(tiny_recipe, tmp_path, workers):
    recipe = changed(tiny_recipe, "data", pictures=7, transform="jitter", workers=workers)
    recipe = changed(recipe, "optimization", ema_decay=0.9, accumulation=2, batch_size=4, learning_rate=1e-3)
    recipe = changed(recipe, "optimization", shrink=0.75, shrink_until=0.6)
    recipe = changed(changed(recipe, "checkpoint", every_steps=5), "evaluation", every_steps=7)
    train(recipe, tmp_path / "whole", steps=20, seed=3, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_update(patch, 14)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "parts", steps=20, seed=3, progress=False)
    assert StateFolder(tmp_path / "parts" / "state").load().content["progress"]["step"] == 10
    torch.manual_seed(12345)  # the new process's random numbers are others
    told: list[str] = []
    run = train(recipe, tmp_path / "parts", resume=True, progress=False, report=told.append)
    assert run.steps == 20 and told[0].startswith("going on after step 10 of 20")
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_pictures_are_small_in_the_first_part_of_a_run(tiny_recipe, tmp_path, monkeypatch):
    recipe = changed(tiny_recipe, "optimization", shrink=0.5, shrink_until=0.5)
    sides: list[int] = []
    update = Engine.update

    def seen(engine, pieces):
        sides.append(pieces[0]["pixel_values"].shape[-1])
        return update(engine, pieces)

    monkeypatch.setattr(Engine, "update", seen)
    train(recipe, tmp_path, steps=4, progress=False)
    assert sides == [recipe.data.size // 2] * 2 + [recipe.data.size] * 2


def test_a_run_that_is_over_is_only_scored_again(tiny_recipe, tmp_path):
    first = train(tiny_recipe, tmp_path, progress=False)
    second = train(tiny_recipe, tmp_path, resume=True, progress=False)
    assert (second.steps, second.result) == (4, first.result)


def test_resume_without_a_run_begins_one(tiny_recipe, tmp_path):
    assert train(tiny_recipe, tmp_path / "new", steps=1, resume=True, progress=False).steps == 1


def test_a_run_that_goes_on_takes_no_other_seed_and_no_other_weights(tiny_recipe, tmp_path):
    weights = tiny_recipe.model.weights
    train(tiny_recipe, tmp_path, steps=1, seed=3, weights=weights, progress=False)
    before = (tmp_path / "model.safetensors").read_bytes()
    for other, told in (({"seed": 7}, "seed = 7"), ({"weights": "/nonexistent"}, "weights = /nonexistent")):
        with pytest.raises(ValueError, match=f"{told}, but the run began with"):
            train(tiny_recipe, tmp_path, resume=True, progress=False, **other)
    # The command that began it may be given again as it was.
    train(tiny_recipe, tmp_path, steps=1, seed=3, weights=weights, resume=True, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_seed_that_no_generator_takes_is_refused(tiny_recipe, tmp_path):
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed = {seed}, expected 0 to"):
            train(tiny_recipe, tmp_path, seed=seed)
    assert train(tiny_recipe, tmp_path, seed=2**63 - 1, steps=1, progress=False).steps == 1


def test_weights_without_a_state_are_not_trained_over(tiny_recipe, tiny_weights, tmp_path):
    shutil.copytree(tiny_weights, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    with pytest.raises(FileExistsError, match=r"model\.safetensors, but no state to resume: --overwrite"):
        train(tiny_recipe, tmp_path / "copy", steps=1, resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before


def test_a_second_process_is_kept_out_of_a_folder_for_as_long_as_a_run_lasts(tiny_recipe, tmp_path, monkeypatch):
    update, refused = Engine.update, []

    def second(self, pieces):
        before = sorted(tmp_path.rglob("*"))
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match="another process trains into .*: wait for its end"):
                train(tiny_recipe, tmp_path, progress=False, **how)
            refused.append(how)
        assert sorted(tmp_path.rglob("*")) == before
        return update(self, pieces)

    monkeypatch.setattr(Engine, "update", second)
    train(tiny_recipe, tmp_path, steps=1, progress=False)
    assert len(refused) == 3
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob(".*"))
    train(tiny_recipe, tmp_path, resume=True, progress=False)


def test_a_run_is_not_overwritten_unless_that_is_asked_for(tiny_recipe, tmp_path):
    train(tiny_recipe, tmp_path, steps=1, progress=False)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already: --resume goes on .* --overwrite"):
        train(tiny_recipe, tmp_path, steps=1, seed=8, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    train(changed(tiny_recipe, "optimization", warmup_fraction=0.0), tmp_path, steps=2, overwrite=True, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_a_loss_that_is_not_finite_names_all_and_leaves_the_state_before_the_step(tiny_recipe, tmp_path, monkeypatch):
    from ddetr_lab import losses

    focal, calls = losses.sigmoid_focal_loss, []

    def breaks(logits, *rest):
        calls.append(1)
        return focal(logits, *rest) * (float("inf") if len(calls) > 4 else 1.0)  # two layers a step: the third step

    monkeypatch.setattr(losses, "sigmoid_focal_loss", breaks)
    with pytest.raises(
        FloatingPointError, match=r"step 2: .*loss_ce.*pictures \[\d, \d\].*the state before this step is in"
    ):
        train(tiny_recipe, tmp_path, progress=False)
    failure = json.loads((tmp_path / "failure.json").read_text())
    state = StateFolder(tmp_path / "failed").load()
    assert failure["step"] == state.content["progress"]["step"] == 2
    assert len(failure["pictures"]) == 2
    assert all(torch.isfinite(value).all() for value in state.tensors.values())


def test_a_diverging_run_stops_with_its_pictures(tiny_recipe, tmp_path):
    recipe = changed(tiny_recipe, "optimization", learning_rate=1e30, warmup_fraction=0.0, clip_norm=0.0)
    with pytest.raises(FloatingPointError, match=r"step \d+: .*pictures \[\d+, \d+\].*Lower the learning rate"):
        train(recipe, tmp_path, steps=20, progress=False)
    assert not (tmp_path / "result.json").exists()


def test_wrong_labels_stop_the_run_with_step_and_pictures(tiny_recipe, tmp_path, monkeypatch):
    from ddetr_lab.data import DigitScenes

    scene = DigitScenes.__getitem__

    def mislabelled(self, index):
        picture, annotation = scene(self, index)
        for entry in annotation["annotations"]:
            entry["category_id"] = 10
        return picture, annotation

    monkeypatch.setattr(DigitScenes, "__getitem__", mislabelled)
    with pytest.raises(ValueError, match=r"step \d: pictures \[\d+, \d+\]: class_labels.* = 10 .*0 to 9"):
        train(tiny_recipe, tmp_path, progress=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_saves(tiny_recipe, tmp_path, monkeypatch, number):
    update, done = Engine.update, []

    def interrupted(self, pieces):
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), number)
        return update(self, pieces)

    monkeypatch.setattr(Engine, "update", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3; it is saved, --resume goes on"):
        train(tiny_recipe, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    train(tiny_recipe, tmp_path / "parts", resume=True, progress=False)
    train(tiny_recipe, tmp_path / "whole", progress=False)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_killed_process_s_run_goes_on_bit_for_bit(tiny_recipe, tmp_path):
    """The same with a real process, a real SIGKILL, and the command line."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f'[data]\nsize = 96\n[model]\nweights = "{tiny_recipe.model.weights}"\n[optimization]\nsteps = 20\n'
        "batch_size = 2\n[evaluation]\nscenes = 2\n[checkpoint]\nevery_steps = 5\n"
    )
    killed = (
        "import os, signal, sys\n"
        "from ddetr_lab.training.engine import Engine\n"
        "from ddetr_lab.cli import main\n"
        "update, done = Engine.update, []\n"
        "def dying(self, pieces):\n"
        "    done.append(1)\n"
        "    if len(done) == 13: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return update(self, pieces)\n"
        "Engine.update = dying\n"
        "main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["train", str(recipe), "--device", "cpu", "--out"]
    command = [sys.executable, "-c", killed, *arguments, str(tmp_path / "parts")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    from ddetr_lab.cli import main

    assert main([*arguments, str(tmp_path / "parts"), "--resume"]) == 0
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
