"""The other implementations: which are installed, and how each is called as its own documentation calls it.

The one file that imports them, and only when a benchmark asks. A peer that is missing is a sentence for the reader,
never an error.

Used in chapter 9.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddetr_lab.benchmark.cases import OpCase
from ddetr_lab.ops import ms_deform_attn

__all__ = [
    "PEERS",
    "Evaluator",
    "OpFunction",
    "Peer",
    "choose",
    "evaluators",
    "fresh_transformers_detector",
    "missing_note",
    "op_functions",
    "processors",
    "transformers_detector",
    "with_our_operator",
]

OpFunction = Callable[[OpCase, Tensor, Tensor, Tensor], Tensor]
Evaluator = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], Sequence[float]]


@dataclass(frozen=True)
class Peer:
    """A distribution that does something of ours.

    Attributes:
        distribution: its name for pip, and on the command line.
        module: its name for import.
        benchmarks: the subcommands it takes part in.
        hint: what follows ``python -m pip install`` to get it.
        devices: where its code for the operator runs.
    """

    distribution: str
    module: str
    benchmarks: tuple[str, ...]
    hint: str
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def installed(self) -> bool:
        """Whether it can be imported here."""
        return importlib.util.find_spec(self.module) is not None


PEERS = (
    Peer("transformers", "transformers", ("op", "model", "train-step", "processor", "learning"), "'transformers>=5.0'"),
    Peer(
        "torch-ms-deform-attn",
        "torch_ms_deform_attn",
        ("op",),
        "--no-build-isolation 'torch-ms-deform-attn>=0.1.1'  # compiles; needs ninja, setuptools 70.1 or later",
    ),
    Peer("deformops", "deformops", ("op",), "deformops  # Python 3.12 or later", devices=("cuda",)),
    Peer("pycocotools", "pycocotools", ("evaluate",), "pycocotools"),
    Peer("faster-coco-eval", "faster_coco_eval", ("evaluate",), "faster-coco-eval"),
    Peer("torchmetrics", "torchmetrics", ("evaluate",), "torchmetrics"),
)


def _eligible(benchmark: str, device: str) -> list[Peer]:
    kind = torch.device(device).type
    return [peer for peer in PEERS if benchmark in peer.benchmarks and kind in peer.devices]


def choose(benchmark: str, against: Sequence[str] | None = None, device: str = "cpu") -> list[Peer]:
    """Return the peers that take part.

    Args:
        benchmark: the subcommand.
        against: distributions by name; None takes every one that is installed.
        device: where the benchmark runs.

    Raises:
        ValueError: if a name is unknown here, or not installed; the message has the remedy.
    """
    eligible = {peer.distribution: peer for peer in _eligible(benchmark, device)}
    if against is None:
        return [peer for peer in eligible.values() if peer.installed]
    for name in against:
        if name not in eligible:
            known = ", ".join(eligible) or "none"
            raise ValueError(f"--against {name} has no part in `benchmark {benchmark}` on {device}, expected {known}")
        if not eligible[name].installed:
            raise ValueError(f"--against {name} is not installed: python -m pip install {eligible[name].hint}")
    return [eligible[name] for name in dict.fromkeys(against)]


def missing_note(benchmark: str, device: str = "cpu") -> str:
    """Return which pip commands bring the peers that are not installed, or an empty string."""
    missing = [peer for peer in _eligible(benchmark, device) if not peer.installed]
    return "; ".join(f"{peer.distribution} is not installed: python -m pip install {peer.hint}" for peer in missing)


def op_functions(distribution: str, device: str = "cpu") -> dict[str, OpFunction]:
    """Return a peer's entry points to the operator, by the names that the tables use."""
    if distribution == "transformers":
        return {"transformers": _transformers_op()}
    if distribution == "torch-ms-deform-attn":
        return {"torch-ms-deform-attn": _torch_ms_deform_attn()}
    if distribution == "deformops":
        return _deformops()
    raise ValueError(f"{distribution!r} has no operator")


def _in_float32(function: OpFunction) -> OpFunction:
    """Let a peer that wants one dtype for all operands have float32 where ours takes half-precision values.

    Locations in half precision would move the samples: it could not give the right numbers at all.
    """

    def call(case: OpCase, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        if value.dtype == locations.dtype:
            return function(case, value, locations, weights)
        return function(case, value.float(), locations, weights.float()).to(value.dtype)

    return call


def _transformers_op() -> OpFunction:
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    module = MultiScaleDeformableAttention()
    step = 64  # as its layer sets it; the path without a custom kernel does not use it

    def call(case: OpCase, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return module(value, case.shapes, list(case.spatial_shapes), case.starts, locations, weights, step)

    return _in_float32(call)


def _torch_ms_deform_attn() -> OpFunction:
    import torch_ms_deform_attn

    def call(case: OpCase, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        # im2col_step stays at its default.
        return torch_ms_deform_attn.ms_deform_attn(value, case.shapes, case.starts, locations, weights)

    return _in_float32(call)


def _deformops() -> dict[str, OpFunction]:
    """Its documented functional form, once for each of its GPU backends; one that cannot run says so when it is called.

    Its locations must have the dtype of its values only in so far as it checks them: they are handed over as they are.
    """
    from deformops.registry import Backend, msda

    def through(backend: Any) -> OpFunction:
        def call(case: OpCase, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            return msda(value, case.shapes, case.starts, locations, weights.flatten(-2), backend=backend)

        return call

    return {"deformops (triton)": through(Backend.TRITON), "deformops (cuda)": through(Backend.CUDA)}


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep a peer's progress bars, logs and deprecations off the terminal while it loads."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def transformers_detector(model: Any) -> nn.Module:
    """Return transformers' detector with the weights of ours, through a saved folder, as its users load one.

    Release 5 no longer freezes the stem and first stage of a backbone from timm, which 4.34 and ours do. They are
    frozen here, so that a training step does the same work on both sides.

    Raises:
        ValueError: if it did not find a place for every weight and a weight for every place.
    """
    with _hushed():
        from transformers import DeformableDetrForObjectDetection

        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            theirs, report = DeformableDetrForObjectDetection.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            raise ValueError(f"transformers reports {kind} {sorted(report[kind])[:3]} ... for weights of ours")
    for name, weight in model.model.backbone.conv_encoder.model.named_parameters():
        theirs.model.backbone.model.get_parameter(name).requires_grad_(weight.requires_grad)
    return theirs.train(model.training)


def fresh_transformers_detector(model: Any) -> nn.Module:
    """Return transformers' detector as its constructor builds it, from the configuration of ours; its own weights."""
    with _hushed():
        from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            return DeformableDetrForObjectDetection(DeformableDetrConfig.from_pretrained(folder))


class _OurOperator(nn.Module):
    """Our operator behind the arguments of transformers' module."""

    def forward(
        self,
        value: Tensor,
        shapes: Tensor,
        shapes_list: list[tuple[int, int]],
        starts: Tensor,
        locations: Tensor,
        weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        return ms_deform_attn(value, [(int(h), int(w)) for h, w in shapes_list], None, locations, weights)


def with_our_operator(theirs: nn.Module) -> nn.Module:
    """Return a copy of transformers' detector in which only the operator is exchanged for ours."""
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    exchanged = copy.deepcopy(theirs)
    for module in list(exchanged.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MultiScaleDeformableAttention):
                setattr(module, name, _OurOperator())
    return exchanged


def processors() -> dict[str, Callable[[Any], Any]]:
    """Return transformers' two image processors: the default one on torchvision, and the one on Pillow."""
    with _hushed():
        from transformers import DeformableDetrImageProcessor
        from transformers.models.deformable_detr.image_processing_pil_deformable_detr import (
            DeformableDetrImageProcessorPil,
        )

    fast, pillow = DeformableDetrImageProcessor(), DeformableDetrImageProcessorPil()
    return {
        "transformers (torchvision)": lambda picture: fast(images=picture, return_tensors="pt"),
        "transformers (Pillow)": lambda picture: pillow(images=picture, return_tensors="pt"),
    }


def evaluators(distribution: str) -> dict[str, Evaluator]:
    """Return a peer's way from COCO dictionaries to COCO's twelve numbers."""
    if distribution == "pycocotools":
        return {"pycocotools": _coco_loop("pycocotools.coco", "COCO", "pycocotools.cocoeval", "COCOeval")}
    if distribution == "faster-coco-eval":
        return {"faster-coco-eval": _coco_loop("faster_coco_eval", "COCO", "faster_coco_eval", "COCOeval_faster")}
    if distribution == "torchmetrics":
        return {"torchmetrics": _torchmetrics}
    raise ValueError(f"{distribution!r} does not evaluate")


def _coco_loop(coco_module: str, coco_name: str, eval_module: str, eval_name: str) -> Evaluator:
    """The loop that every tutorial shows: index, load results, evaluate, accumulate, summarise."""
    coco_class = getattr(importlib.import_module(coco_module), coco_name)
    eval_class = getattr(importlib.import_module(eval_module), eval_name)

    def call(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco_class()
            truth.dataset = {key: [dict(entry) for entry in ground_truth[key]] for key in ground_truth}
            truth.createIndex()
            scorer = eval_class(truth, truth.loadRes([dict(entry) for entry in detections]), iouType="bbox")
            scorer.evaluate()
            scorer.accumulate()
            scorer.summarize()
        return [float(number) for number in scorer.stats[:12]]

    return call


def _torchmetrics(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> Sequence[float]:
    from torchmetrics.detection import MeanAveragePrecision

    def stacked(entries: Sequence[Mapping[str, Any]], score: bool) -> dict[str, Tensor]:
        boxes = torch.tensor(np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4))
        found = {"boxes": boxes, "labels": torch.tensor([entry["category_id"] for entry in entries], dtype=torch.long)}
        if score:
            found["scores"] = torch.tensor([entry["score"] for entry in entries], dtype=torch.float64)
        else:
            found["area"] = torch.tensor([entry["area"] for entry in entries], dtype=torch.float64)
        return found

    by_picture: dict[Any, tuple[list[Any], list[Any]]] = {entry["id"]: ([], []) for entry in ground_truth["images"]}
    for side, entries in enumerate((detections, ground_truth["annotations"])):
        for entry in entries:
            by_picture[entry["image_id"]][side].append(entry)
    metric = MeanAveragePrecision(box_format="xywh", iou_type="bbox")
    metric.update(
        [stacked(found, score=True) for found, _ in by_picture.values()],
        [stacked(truth, score=False) for _, truth in by_picture.values()],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        result = metric.compute()
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
    return [float(result[name]) for name in (*names, "mar_small", "mar_medium", "mar_large")]
