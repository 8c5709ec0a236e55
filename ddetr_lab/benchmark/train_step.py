"""``benchmark train-step``: forward, loss, backward and optimiser on two pictures.

Used in chapter 9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.benchmark import peers
from ddetr_lab.benchmark.ceilings import count_network_work
from ddetr_lab.benchmark.contest import Plan, Rules, compete
from ddetr_lab.benchmark.detectors import FULL, QUICK, build_detector, make_labels, make_pictures
from ddetr_lab.benchmark.report import Case
from ddetr_lab.benchmark.timing import Contender
from ddetr_lab.ops import default_backend

__all__ = ["train_step_cases"]

BATCH = 2
LEARNING_RATE, WEIGHT_DECAY = 1e-5, 1e-4
TOLERANCE = 1e-4  # share of the loss, and of the norm of all gradients together


def train_step_cases(plan: Plan) -> list[Case]:
    """Compare training steps: same weights, pictures and labels, auxiliary losses, AdamW.

    Losses and gradients are compared without dropout, before the first step; steps are timed as training runs them,
    with dropout.
    """
    sizes = QUICK if plan.quick else FULL
    height, width = sizes.training_picture
    ours = build_detector(sizes, auxiliary_loss=True)
    labels = make_labels(BATCH, sizes.objects, ours.config.num_labels)
    inputs: dict[str, Any] = {
        name: tensor.to(plan.device) for name, tensor in make_pictures(BATCH, height, width).items()
    }
    inputs["labels"] = [{name: tensor.to(plan.device) for name, tensor in picture.items()} for picture in labels]
    best = default_backend(plan.device)
    contenders = [_entry(f"ours ({best})", ours.to(plan.device), inputs, trusted=True)]
    contenders += [_entry(peer, peers.transformers_detector(ours).to(plan.device), inputs) for peer in plan.against]
    if not plan.against and best != "grid_sample":
        slow = build_detector(sizes, auxiliary_loss=True, disable_custom_kernels=True)
        contenders.append(_entry("ours (grid_sample)", slow.to(plan.device), inputs, trusted=True))
    what = (
        f"{dict(sizes.fields)['backbone']}, batch {BATCH} of {height} x {width}, {sizes.objects} objects a picture, "
        "auxiliary losses, AdamW"
    )
    rules = Rules(plan.rounds, TOLERANCE, relative=True, device=plan.device)
    work = count_network_work(contenders[0].check or contenders[0].call)  # the check steps no weight
    case = compete("two pictures", what, contenders, rules, work=work)
    plan.report(case)
    return [case]


def _entry(name: str, model: nn.Module, inputs: dict[str, Any], trusted: bool = False) -> Contender:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def backward() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = model(**inputs).loss
        loss.backward()
        return loss.detach()

    def step() -> Tensor:
        loss = backward()
        optimizer.step()
        return loss

    def check() -> list[Tensor]:
        model.eval()
        loss = backward()
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in trained if weight.grad is not None])
        optimizer.zero_grad(set_to_none=True)
        model.train()
        return [loss, norm]

    return Contender(name, step, check, trusted=trusted)
