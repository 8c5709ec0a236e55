"""The models against the numbers of transformers 4.34.0: outputs, losses, gradients, names, orders, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ddetr_lab import DeformableDetrConfig
from tests.golden.cases import MODEL_CASES, ModelCase, make_pictures
from tests.golden.comparison import build, run_losses, run_model
from tests.golden.fingerprints import summary
from tests.golden.loss_cases import LOSS_CASES, LossCase
from tests.golden.recording import describe_run, flatten_outputs, prepare
from tests.golden.storage import read_arrays, read_facts, shape_text

# Far above the rounding of float32 in a network this deep, far below any mistake; the bar of the project is 1e-4.
TOLERANCE = 2e-5

every_case = pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)
labelled_case = pytest.mark.parametrize(
    "case", [case for case in MODEL_CASES if case.targets is not None], ids=lambda case: case.name
)


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float, atol: float) -> None:
    """Compare all arrays: the same names, dtypes and shapes, and numbers within the tolerance."""
    assert sorted(actual) == sorted(expected)
    for name, wanted in expected.items():
        assert actual[name].dtype == wanted.dtype, f"{name}: {actual[name].dtype}, the reference has {wanted.dtype}"
        assert actual[name].shape == wanted.shape, f"{name}: {actual[name].shape}, the reference has {wanted.shape}"
        np.testing.assert_allclose(actual[name], wanted, rtol=rtol, atol=atol, err_msg=name)


def group(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays.items() if key.startswith(f"{name}/")}


def test_there_are_enough_cases() -> None:
    assert len(MODEL_CASES) >= 18
    assert {case.full_config.get("num_feature_levels", 4) for case in MODEL_CASES} == {1, 3, 4, 5, 6}


@every_case
def test_inputs_are_those_of_the_golden_file(case: ModelCase) -> None:
    pixels, _ = make_pictures(case)
    stored = read_facts(f"model_{case.name}")["input_print"]
    np.testing.assert_allclose(summary(pixels.numpy()), stored, rtol=1e-9, err_msg="numpy draws other numbers here")


@every_case
def test_outputs(case: ModelCase) -> None:
    expected = group(read_arrays(f"model_{case.name}"), "outputs")
    assert_same(group(run_model(case.name).arrays(), "outputs"), expected, TOLERANCE, TOLERANCE)


@labelled_case
def test_losses(case: ModelCase) -> None:
    expected = group(read_arrays(f"model_{case.name}"), "losses")
    assert_same(group(run_model(case.name).arrays(), "losses"), expected, TOLERANCE, 0)


@labelled_case
def test_total_differs_from_the_reference_by_the_losses_of_the_first_stage_only(case: ModelCase) -> None:
    recording, facts = run_model(case.name), read_facts(f"model_{case.name}")
    config = DeformableDetrConfig(**case.full_config)
    weights = {"loss_ce": 1, "loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
    first_stage = sum(
        weight * recording.losses[f"loss_dict.{name}_enc"].item()
        for name, weight in weights.items()
        if f"loss_dict.{name}_enc" in recording.losses
    )
    assert (first_stage > 0) == bool(case.full_config.get("two_stage"))
    assert recording.losses["loss"].item() - first_stage == pytest.approx(facts["reported_loss"], rel=TOLERANCE)


@labelled_case
def test_gradients(case: ModelCase) -> None:
    expected = group(read_arrays(f"model_{case.name}"), "gradients")
    actual = group(run_model(case.name).arrays(), "gradients")
    rows = "gradients/fingerprints"
    found, wanted = actual.pop(rows), expected.pop(rows)
    assert_same(actual, expected, TOLERANCE, 5e-5)
    # Gradients are small deep in the backbone: measure each parameter's by its own length. Rounding moves them further
    # than outputs, differently with the vector instructions of each processor; the cases in float64 have the digits.
    lengths = wanted[:, 1:2]
    far = np.abs(found - wanted) > 2e-3 * lengths + 2e-6
    names = np.array(read_facts(f"model_{case.name}")["trained"])[far.any(1)]
    assert names.size == 0, f"gradients of {', '.join(names)} differ"
    if sum(case.targets) > 0 and not case.own_encoder_state:
        assert (lengths > 0).mean() > 0.85  # the case does train nearly everything


@pytest.mark.parametrize("case", [case for case in MODEL_CASES if case.float64], ids=lambda case: case.name)
def test_double_precision_leaves_rounding_only(case: ModelCase) -> None:
    expected = read_arrays(f"model_{case.name}.float64")
    tolerance = case.float64_tolerance
    assert_same(run_model(case.name, torch.float64).arrays(), expected, tolerance, tolerance)


@every_case
def test_names(case: ModelCase) -> None:
    recording, facts = run_model(case.name), read_facts(f"model_{case.name}")
    found = {name: shape_text(shape) for name, shape in recording.facts["state_dict"].items()}
    assert found == facts["state_dict"]
    assert recording.facts["trained"] == facts["trained"]
    assert recording.facts["output_keys"] == facts["output_keys"]
    assert recording.facts.get("loss_keys") == facts.get("loss_keys")


# Those with the small ResNet take a tenth of the time, and every kind of tuple is among them.
@pytest.mark.parametrize(
    "case", [case for case in MODEL_CASES if "backbone_config" in case.config], ids=lambda case: case.name
)
def test_tuples_have_the_order_of_the_reference(case: ModelCase) -> None:
    model = build(case)
    inputs = prepare(model, case, torch.float32)
    for name, layout in read_facts(f"model_{case.name}")["tuples"].items():
        with_labels, everything = next(
            (a, b) for a in (False, True) for b in (False, True) if describe_run(a, b) == name
        )
        kwargs = {key: value for key, value in inputs.items() if with_labels or key != "labels"}
        kwargs |= {"output_attentions": everything, "output_hidden_states": everything}
        with torch.no_grad():
            named, plain = model(**kwargs), model(**kwargs, return_dict=False)
        assert isinstance(plain, tuple)
        assert "?" not in layout and len(plain) == len(layout)
        by_order = flatten_outputs(dict(zip(layout, plain, strict=True)))
        by_name = flatten_outputs({key: named[key] for key in layout})
        assert list(by_order) == list(by_name)
        for key, tensor in by_order.items():
            torch.testing.assert_close(tensor, by_name[key], msg=f"{name}: entry {key}")


@pytest.mark.parametrize("case", [case for case in MODEL_CASES if case.saved], ids=lambda case: case.name)
def test_saved_files_are_those_of_the_reference(case: ModelCase, tmp_path) -> None:
    from safetensors import safe_open

    facts = read_facts(f"model_{case.name}")["saved"]
    build(case).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == facts["keys"]
        assert file.metadata() == facts["metadata"]
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(facts["config"])


@pytest.mark.parametrize("case", LOSS_CASES, ids=lambda case: case.name)
def test_matching_and_losses(case: LossCase) -> None:
    stored = read_arrays("losses")
    expected = {key.partition("/")[2]: value for key, value in stored.items() if key.startswith(f"{case.name}/")}
    assert expected
    assert_same(run_losses(case), expected, TOLERANCE, 1e-6)
