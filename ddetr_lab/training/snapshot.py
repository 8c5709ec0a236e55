"""What a run state holds: everything that the next step depends on.

Weights, averages of the optimiser and of the weights, the scaler, the random numbers of torch, numpy and Python on
every process, how far the schedule and the data have come. (Of the data nothing else is needed: which pictures a step
sees, and in which view, is a function of the seed and the step.)

Built in chapter 16.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddetr_lab.training.engine import Engine

__all__ = ["load_random_states", "load_snapshot", "random_states", "snapshot"]


def snapshot(
    engine: Engine, random_numbers: list[dict[str, Any]], finite: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the other numbers of a training, for :meth:`StateFolder.save`.

    Args:
        engine: model, optimiser, scaler and moving average.
        random_numbers: :func:`random_states` of every process.
        finite: refuse tensors that are not: a run could not go on from them.

    Raises:
        FloatingPointError: if a tensor is not finite and should be.
    """
    tensors = _model_tensors(engine) | _optimizer_tensors(engine)
    broken = [name for name, value in tensors.items() if finite and not bool(torch.isfinite(value).all())]
    if broken:
        raise FloatingPointError(f"{broken[0]} is not finite: it is not saved; lower the learning rate")
    content: dict[str, Any] = {"scaler": engine.scaler.state_dict(), "random": random_numbers}
    if engine.average is not None:
        content["average_updates"] = engine.average.updates
    return tensors, content


def load_snapshot(engine: Engine, tensors: Mapping[str, Tensor], content: Mapping[str, Any], rank: int = 0) -> None:
    """Put a training back to where :func:`snapshot` was taken.

    Args:
        engine: built as the one that was saved.
        tensors: see :func:`snapshot`.
        content: see :func:`snapshot`.
        rank: of this process. One that was not there then keeps the random numbers that it has.

    Raises:
        ValueError: if the model, its trained parameters or the moving average are others.
    """
    _load_tensors(_model_tensors(engine), tensors)
    _load_optimizer(engine, tensors)
    engine.scaler.load_state_dict(content["scaler"])
    if engine.average is not None:
        engine.average.updates = int(content["average_updates"])
    if rank < len(content["random"]):
        load_random_states(content["random"][rank], engine.device)


def _model_tensors(engine: Engine) -> dict[str, Tensor]:
    """Name every parameter and every saved buffer of the model once, and the moving averages."""
    model = engine.model
    tensors: dict[str, Tensor] = {f"model.{name}": value for name, value in model.named_parameters()}
    saved = model.state_dict(keep_vars=True)
    tensors |= {f"model.{name}": value for name, value in model.named_buffers() if name in saved}
    if engine.average is not None:
        tensors |= {f"average.{name}": value for name, value in engine.average.values.items()}
    return tensors


def _optimizer_tensors(engine: Engine) -> dict[str, Tensor]:
    """Name the optimisers' tensors by the parameters that they belong to: each parameter has one optimiser."""
    return {
        f"optimizer.{name}:{key}": value
        for name, parameter in engine.model.named_parameters()
        for optimizer in engine.optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def _load_tensors(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    given = {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}
    if given.keys() != targets.keys():
        wrong = sorted(given.keys() ^ targets.keys())[0]
        raise ValueError(f"the state is of another model: only one of the two has {wrong}")
    for name, target in targets.items():
        if target.shape != given[name].shape:
            raise ValueError(
                f"the state is of another model: {name} has shape {tuple(given[name].shape)} in it, "
                f"here {tuple(target.shape)}"
            )
    for name, target in targets.items():
        target.copy_(given[name])


def _load_optimizer(engine: Engine, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(engine.model.named_parameters())
    owners = {
        id(parameter): optimizer
        for optimizer in engine.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for optimizer in engine.optimizers:
        optimizer.state.clear()
    for name, value in tensors.items():
        if not name.startswith("optimizer."):
            continue
        owner, _, key = name.removeprefix("optimizer.").partition(":")
        parameter = parameters.get(owner)
        if parameter is None or id(parameter) not in owners:
            raise ValueError(f"the state trained {owner}, which does not train now: resume with the same recipe")
        state = owners[id(parameter)].state[parameter]
        if value.shape == parameter.shape:  # laid out in memory as the parameter is
            state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        else:  # the number of steps; the fused optimiser wants it where the parameter is
            state[key] = value.to(parameter.device)


def random_states(device: torch.device) -> dict[str, Any]:
    """Return where this process's random numbers stand: plain lists and text, for JSON."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, next_gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), next_gauss],
    }
    if device.type == "cuda":
        states["cuda"] = bytes(torch.cuda.get_rng_state(device).tolist()).hex()
    return states


def load_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set this process's random numbers to what :func:`random_states` returned."""
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(states["torch"])), dtype=torch.uint8))
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, next_gauss = states["python"]
    random.setstate((version, tuple(internal), next_gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(torch.tensor(list(bytes.fromhex(states["cuda"])), dtype=torch.uint8), device)
