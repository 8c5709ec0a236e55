"""Two processes train as one: equal gradients although one has no object, agreement, and errors that reach all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.distributed import ALONE, Processes, process_group
from ddetr_lab.training.engine import Engine
from tests.conftest import ROOT
from tests.tiny import labels, pictures, tiny_config

MODELS: dict[str, dict[str, bool]] = {
    "plain": {},
    "refined": {"with_box_refine": True},
    "two stages": {"with_box_refine": True, "two_stage": True},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pieces(rows: slice) -> list[dict[str, object]]:
    values, mask = pictures()
    wanted = [{**label, "boxes": label["boxes"].double()} for label in labels()]
    return [{"pixel_values": values[rows].double(), "pixel_mask": mask[rows], "labels": wanted[rows]}]


def gradients(fields: dict[str, bool], processes: Processes, rows: slice) -> dict[str, torch.Tensor]:
    torch.manual_seed(processes.rank)  # other weights on every rank at first: the first one's must win
    model = DeformableDetrForObjectDetection(tiny_config(auxiliary_loss=True, **fields)).double().train()
    engine = Engine(model, OptimizationSettings(clip_norm=0.0), processes)
    update = engine.update(pieces(rows))
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    found["loss"] = processes.mean(update.loss)
    engine.update(pieces(rows))  # a second one: DistributedDataParallel complains here if a parameter was left out
    return found


def worker(rank: int, port: int, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    with process_group(torch.device("cpu")) as (processes, _):
        assert (processes.rank, processes.size) == (rank, 2)
        found = {kind: gradients(fields, processes, slice(rank, rank + 1)) for kind, fields in MODELS.items()}
        # Agreement, and an error of the first process that reaches the second.
        assert processes.largest([rank, -rank], torch.device("cpu")) == [1, 0]
        assert processes.gather(rank * 10) == [0, 10]
        assert processes.on_first(lambda: processes.rank + 5) == 5
        try:
            processes.on_first(lambda: int("no number"))
        except ValueError as error:
            found["error"] = {"reached": torch.tensor("no number" in str(error))}
    assert dist.is_initialized(), "a group that was there before is not this context's to end"
    torch.save(found, f"{out}.{rank}")
    dist.destroy_process_group()


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    torch.multiprocessing.spawn(worker, (free_port(), str(tmp_path / "found")), nprocs=2)
    ranks = [torch.load(tmp_path / f"found.{rank}", weights_only=True) for rank in (0, 1)]
    assert all(rank["error"]["reached"] for rank in ranks)
    for kind, fields in MODELS.items():
        expected = gradients(fields, ALONE, slice(0, 2))
        assert ranks[0][kind].keys() == ranks[1][kind].keys() == expected.keys()
        for name, value in expected.items():
            for rank in ranks:
                largest = (rank[kind][name] - value).abs().max() / value.abs().max().clamp(min=1.0)
                assert largest < 1e-6, (kind, name)


@pytest.mark.parametrize("count", [1, 2])
def test_torchrun_trains_and_writes_over_no_run(tiny_weights, tmp_path, count):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f'[data]\nsize = 64\n[model]\nweights = "{tiny_weights}"\n[optimization]\nsteps = 2\nbatch_size = 4\n'
        "[evaluation]\nscenes = 4\nbatch_size = 2\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--standalone"]
    command += ["-m", "ddetr_lab.training", str(recipe), "--device", "cpu", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("AP ")
    assert done.stdout.count("group   ") == 1, "one process prints"
    again = run()
    assert again.returncode != 0 and "holds a run already" in again.stderr
    assert Path(tmp_path / "run" / "model.safetensors").is_file()


def test_alone_there_is_nothing_to_agree_on():
    with process_group(torch.device("cpu")) as (processes, device):
        assert (processes, device) == (ALONE, torch.device("cpu"))
    assert processes.is_first
    assert processes.largest([1.5, 2.0], torch.device("cpu")) == [1.5, 2.0]
    assert processes.gather("a") == ["a"]
    tensor = torch.ones(2)
    assert processes.mean(tensor) is not tensor and torch.equal(processes.mean(tensor), tensor)
    with pytest.raises(ZeroDivisionError):
        processes.on_first(lambda: 1 / 0)
