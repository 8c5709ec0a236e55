"""Peers: who takes part, how they are called, and, where they are installed, that they give our numbers."""

from __future__ import annotations

import ast
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddetr_lab.benchmark import peers
from ddetr_lab.benchmark.agreement import largest_difference
from ddetr_lab.benchmark.cases import Sizes, make_cases
from ddetr_lab.benchmark.detectors import QUICK, build_detector, make_pictures
from ddetr_lab.benchmark.evaluate import make_detections
from ddetr_lab.evaluation import evaluate_detections
from ddetr_lab.ops import ms_deform_attn
from tests.conftest import ROOT

SMALL = Sizes(levels=((5, 7), (3, 4)), heads=2, channels=8, points=2, decoder_queries=6)
NAMES = [peer.distribution for peer in peers.PEERS]
OPERATORS = [peer for peer in peers.PEERS if "op" in peer.benchmarks]


def ours(case: Any, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Our operator with the arguments of a peer's wrapper."""
    return ms_deform_attn(value, case.spatial_shapes, None, locations, weights, backend="grid_sample")


def pretend(monkeypatch: pytest.MonkeyPatch, **installed: bool) -> None:
    """Let peers count as installed or not, by module name; those not named are absent."""
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: types.SimpleNamespace() if installed.get(name) else None
    )


def test_all_that_are_installed_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, transformers=True, pycocotools=True, deformops=True)
    assert [peer.distribution for peer in peers.choose("op")] == ["transformers"]
    assert [peer.distribution for peer in peers.choose("op", device="cuda")] == ["transformers", "deformops"]
    assert [peer.distribution for peer in peers.choose("evaluate")] == ["pycocotools"]


def test_a_choice_is_kept_and_may_be_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, transformers=True, torch_ms_deform_attn=True)
    chosen = peers.choose("op", ["torch-ms-deform-attn", "torch-ms-deform-attn"])
    assert [peer.distribution for peer in chosen] == ["torch-ms-deform-attn"]
    assert peers.choose("op", []) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformers", "is not installed: python -m pip install 'transformers>=5.0'"),
        ("pycocotools", "has no part in `benchmark op` on cpu, expected transformers, torch-ms-deform-attn"),
        ("nobody", "has no part"),
    ],
)
def test_who_cannot_take_part_is_an_error(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(ValueError, match=f"--against {name}") as caught:
        peers.choose("op", [name])
    assert message in str(caught.value)


def test_the_note_names_only_who_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, transformers=True)
    note = peers.missing_note("op")
    assert "torch-ms-deform-attn is not installed: python -m pip install" in note
    assert "transformers is" not in note and "deformops" not in note
    pretend(monkeypatch, **{peer.module: True for peer in peers.PEERS})
    assert peers.missing_note("op") == ""


def test_the_extra_of_pyproject_brings_the_peers_that_every_python_can_have() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extra = text.split("\npeers = [")[1].split("]")[0]
    missing = [name for name in NAMES if f'"{name}>=' not in extra]
    assert missing == ["deformops", "pycocotools"]  # Python 3.12 and a GPU; and it comes with the extra "train"


def test_no_other_file_imports_a_peer() -> None:
    modules = {peer.module for peer in peers.PEERS} - {"pycocotools"}
    for path in sorted((ROOT / "ddetr_lab").rglob("*.py")):
        if path == Path(peers.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.partition(".")[0] for name in names} & modules, path


def test_deformops_gets_flat_weights_and_each_backend_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own functional form, written down from its documentation: no GPU is needed to see what it is handed."""
    (case, *_) = make_cases(SMALL)
    asked: list[str] = []

    class Backend(Enum):
        TRITON, CUDA, EAGER = "triton", "cuda", "eager"

    def msda(
        value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor, *, backend: Backend
    ) -> Tensor:
        asked.append(backend.value)
        assert weights.shape == (*places.shape[:3], places.shape[3] * places.shape[4])
        assert shapes.tolist() == [list(pair) for pair in case.spatial_shapes] and starts.tolist() == [0, 35]
        return ours(case, value, places, weights.view(places.shape[:-1]))

    registry = types.ModuleType("deformops.registry")
    registry.Backend, registry.msda = Backend, msda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deformops", types.ModuleType("deformops"))
    monkeypatch.setitem(sys.modules, "deformops.registry", registry)
    functions = peers.op_functions("deformops", "cuda")
    expected = ours(case, case.value, case.locations, case.weights)
    for function in functions.values():
        assert torch.equal(function(case, case.value, case.locations, case.weights), expected)
    assert asked == ["triton", "cuda"]


def test_a_peer_of_one_dtype_runs_in_float32_where_values_are_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_cases(SMALL, torch.bfloat16)[0]
    dtypes: list[torch.dtype] = []

    def peer(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        dtypes.extend((value.dtype, places.dtype, weights.dtype))
        return ours(case, value, places, weights)

    module = types.ModuleType("torch_ms_deform_attn")
    module.ms_deform_attn = peer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_ms_deform_attn", module)
    (function,) = peers.op_functions("torch-ms-deform-attn").values()
    result = function(case, case.value, case.locations, case.weights)
    assert set(dtypes) == {torch.float32}
    assert result.dtype == torch.bfloat16


def test_what_has_no_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="no operator"):
        peers.op_functions("pycocotools")
    with pytest.raises(ValueError, match="does not evaluate"):
        peers.evaluators("transformers")


# From here on, what is installed is run: `pip install -e '.[test,peers]'`. Peers may warn about what they like.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", [one for one in OPERATORS if "cpu" in one.devices], ids=lambda one: one.distribution)
def test_an_installed_operator_gives_our_numbers(peer: peers.Peer) -> None:
    pytest.importorskip(peer.module)
    for case in make_cases(SMALL):
        for function in peers.op_functions(peer.distribution).values():
            found = function(case, case.value, case.locations, case.weights)
            expected = ours(case, case.value, case.locations, case.weights)
            assert largest_difference(found, expected, relative=True) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_an_installed_detector_gives_our_numbers_with_either_operator() -> None:
    pytest.importorskip("transformers")
    model = build_detector(QUICK).eval()
    theirs = peers.transformers_detector(model)
    exchanged = peers.with_our_operator(theirs)
    kinds = [{type(module).__name__ for module in one.modules()} for one in (theirs, exchanged)]
    assert "MultiScaleDeformableAttention" in kinds[0] and "MultiScaleDeformableAttention" not in kinds[1]
    inputs = make_pictures(1, 64, 96)
    with torch.inference_mode():
        expected = model(**inputs)
        for one in (theirs, exchanged):
            found = one(**inputs)
            pairs = ((found.logits, found.pred_boxes), (expected.logits, expected.pred_boxes))
            assert largest_difference(*pairs) < 1e-4
    trained = [sum(weight.numel() for weight in one.parameters() if weight.requires_grad) for one in (model, theirs)]
    assert trained[0] == trained[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["pycocotools", "faster-coco-eval", "torchmetrics"])
def test_an_installed_evaluation_gives_our_numbers(name: str) -> None:
    pytest.importorskip(name.replace("-", "_"))
    truth, found = make_detections(6)
    expected = list(evaluate_detections(truth, found).stats)
    for function in peers.evaluators(name).values():
        assert list(function(truth, found)) == pytest.approx(expected, abs=1e-6)
