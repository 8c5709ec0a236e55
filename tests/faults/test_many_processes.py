"""`torchrun` for real: two processes train as one, one of them writes, and a killed run goes on to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.data import DigitScenes, write_coco
from ddetr_lab.recipe import load_recipe
from ddetr_lab.training import train
from ddetr_lab.training.batches import BatchOrder
from ddetr_lab.training.distributed import Processes
from tests.conftest import ROOT
from tests.tiny import tiny_config

# Put in the way of every process: it notes what is opened for writing, made, renamed or removed inside a folder.
WATCH = """
import os, sys

def note(event, arguments):
    if event in ("open", "os.mkdir", "os.rename", "os.remove"):
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if str(arguments[0]).startswith(os.environ["WATCHED"]) and not reads:
            with os.fdopen(os.open(os.environ["NOTES"], os.O_APPEND | os.O_CREAT | os.O_WRONLY), "w") as notes:
                notes.write(f"{os.environ.get('RANK')} {event} {arguments[0]}\\n")

sys.addaudithook(note)
"""


def weights(folder: Path, dropout: float) -> Path:
    torch.manual_seed(1)
    names = {digit: str(digit) for digit in range(10)}
    config = tiny_config(dropout=dropout, num_labels=10, id2label=names)
    DeformableDetrForObjectDetection(config).save_pretrained(folder)
    return folder


def write_recipe(path: Path, data: str, weights: Path, optimization: str, checkpoint: str = "") -> Path:
    path.write_text(
        f'[data]\nsize = 96\n{data}\n[model]\nweights = "{weights}"\n[optimization]\n{optimization}\n'
        f"[evaluation]\nscenes = 4\nbatch_size = 2\n[checkpoint]\nevery_minutes = 0.0\n{checkpoint}\n"
    )
    return path


def torchrun(recipe: Path, out: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    """Start two processes of one training."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "ddetr_lab.training", str(recipe), "--device", "cpu", "--out", str(out), *more]
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> list[str]:
    """Wait for its end and return the lines that it printed."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures to train on, two of them without boxes, and two to score on."""
    scenes = DigitScenes("train", num_scenes=7, seed=3, size=64)
    for split, indices in (("train", range(5)), ("val", range(5, 7))):
        path = write_coco(scenes, tmp_path / "data" / split, indices)
        content = json.loads(path.read_text())
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] not in (1, 3)]
        path.write_text(json.dumps(content))
    return tmp_path / "data"


def test_two_processes_train_as_one_and_one_of_them_writes(folder: Path, tmp_path: Path) -> None:
    """With a last batch of one picture for both, and a process that has no box in some step."""
    recipe = write_recipe(
        tmp_path / "recipe.toml",
        f'dataset = "coco"\nfolder = "{folder}"',
        weights(tmp_path / "weights", dropout=0.0),
        "steps = 10\nbatch_size = 4",
    )
    orders = [BatchOrder(range(5), 4, 0, processes=Processes(rank, 2)) for rank in (0, 1)]
    shares = [{index for _, index in order.pieces(step)[0]} for order in orders for step in range(10)]
    assert {1} in shares or {3} in shares or {1, 3} in shares, "a process without a box"
    assert len(orders[0].batch(1)) == 1, "an uneven last batch"

    (tmp_path / "sitecustomize.py").write_text(WATCH)
    notes = tmp_path / "notes"
    lines = finished(
        torchrun(
            recipe,
            tmp_path / "two",
            PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
            WATCHED=str(tmp_path / "two"),
            NOTES=str(notes),
        )
    )
    assert lines[-1].startswith("AP ") and sum(line.startswith("AP ") for line in lines) == 1
    writers = {line.split()[0] for line in notes.read_text().splitlines()}
    assert writers == {"0"}

    train(load_recipe(recipe), tmp_path / "one", progress=False)
    (one,), (two,) = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for key in ("step", "learning_rate", "loss", "loss_ce", "loss_bbox", "loss_giou"):
        assert two[key] == pytest.approx(one[key], rel=1e-4), key
    before, alone, together = (load_file(tmp_path / name / "model.safetensors") for name in ("weights", "one", "two"))
    moved = max(float((alone[name] - value).abs().max()) for name, value in before.items())
    apart = max(float((alone[name] - value).abs().max()) for name, value in together.items())
    assert apart < 0.02 * moved, (apart, moved)


def workers(launcher: int) -> dict[str, int]:
    """Return the number of each rank's process, from what Linux tells of a launcher's children."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        entries = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {entry.removeprefix(b"RANK=").decode(): int(child) for entry in entries if entry.startswith(b"RANK=")}
    return found


def after_a_state(out: Path, process: subprocess.Popen[str], number: int) -> None:
    """Wait until the run has saved so many states."""
    deadline = time.monotonic() + 240
    # Older ones go: this one may be gone before it is seen.
    while max((int(path.stem[-6:]) for path in (out / "state").glob("state-*.json")), default=0) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.005)


def kill_all(launcher: subprocess.Popen[str]) -> None:
    """Kill a launcher and its processes, which torchrun gives sessions of their own; none has time to do anything."""
    every = [launcher.pid, *workers(launcher.pid).values()]
    for pid in every:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=60)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Take processes that must be gone after the test, whatever it finds."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            kill_all(process)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes as Linux lists them")
def test_a_run_whose_processes_are_killed_goes_on_to_the_same_weights(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """First all of it with SIGKILL, then one of two, each at an arbitrary moment; with dropout, so that the random
    numbers of both processes count."""
    recipe = write_recipe(
        tmp_path / "recipe.toml",
        "",
        weights(tmp_path / "weights", dropout=0.1),
        "steps = 20\nbatch_size = 4",
        "every_steps = 2",
    )
    out = tmp_path / "killed"

    process = torchrun(recipe, out)
    started.append(process)
    after_a_state(out, process, 2)
    kill_all(process)

    process = torchrun(recipe, out, "--resume")
    started.append(process)
    after_a_state(out, process, 5)
    os.kill(workers(process.pid)["1"], signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0 and "Signal 9" in error, "the other process does not wait for ever"

    lines = finished(torchrun(recipe, out, "--resume"))
    assert any("going on after step" in line for line in lines) and lines[-1].startswith("AP ")
    finished(torchrun(recipe, tmp_path / "whole"))
    whole, killed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[name], value) for name, value in killed.items())
    steps = [
        [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", out)
    ]
    assert steps == [[10, 20]] * 2
