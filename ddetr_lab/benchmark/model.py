"""``benchmark model``: one picture through the whole detector.

Used in chapter 9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ddetr_lab.benchmark import peers
from ddetr_lab.benchmark.ceilings import count_network_work
from ddetr_lab.benchmark.contest import Plan, Rules, compete
from ddetr_lab.benchmark.detectors import FULL, QUICK, build_detector, make_pictures
from ddetr_lab.benchmark.report import Case
from ddetr_lab.benchmark.timing import Contender
from ddetr_lab.ops import default_backend

__all__ = ["model_cases"]

TOLERANCE = 1e-4  # of logits and of boxes in _norm, absolute


def model_cases(plan: Plan) -> list[Case]:
    """Compare detectors of the same weights on one picture, in inference mode.

    Beside a peer's detector as it is stands the same one with only the operator exchanged for ours: what is left
    between that and ours is the rest of the model. Without a peer, ours runs beside itself on the vectorised operator.
    """
    sizes = QUICK if plan.quick else FULL
    height, width = sizes.picture
    inputs = {name: tensor.to(plan.device) for name, tensor in make_pictures(1, height, width).items()}
    ours = build_detector(sizes).eval()
    best = default_backend(plan.device)
    contenders = [_entry(f"ours ({best})", ours.to(plan.device), inputs, trusted=True)]
    for peer in plan.against:
        theirs = peers.transformers_detector(ours).to(plan.device)
        contenders.append(_entry(peer, theirs, inputs))
        contenders.append(_entry(f"{peer} with our operator", peers.with_our_operator(theirs), inputs))
    if not plan.against and best != "grid_sample":
        slow = build_detector(sizes, disable_custom_kernels=True).eval()
        contenders.append(_entry("ours (grid_sample)", slow.to(plan.device), inputs, trusted=True))
    weights = sum(weight.numel() for weight in ours.parameters())
    what = f"{dict(sizes.fields)['backbone']}, one picture of {height} x {width}, {weights / 1e6:.1f} million weights"
    rules = Rules(plan.rounds, TOLERANCE, device=plan.device)
    work = count_network_work(lambda: ours(**inputs))  # gradients on, since PyTorch's counter stands no inference mode
    case = compete("one picture", what, contenders, rules, work=work)
    plan.report(case)
    return [case]


def _entry(name: str, model: nn.Module, inputs: dict[str, Any], trusted: bool = False) -> Contender:
    def call() -> Any:
        with torch.inference_mode():
            outputs = model(**inputs)
        return outputs.logits, outputs.pred_boxes

    return Contender(name, call, trusted=trusted)
