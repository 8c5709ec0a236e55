"""Fitting a file's tensors to a model by name and shape, and the report."""

import pytest
import torch
from torch import nn

from ddetr_lab.loading_report import LoadingReport, Misfit, Resized, fit_state, tied_names


class Bare(nn.Module):
    """A bare model: two layers, and heads of its own if it is given some."""

    def __init__(self, heads: nn.ModuleList | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.decoder = nn.Module()
        self.decoder.bbox_embed = heads


class Detector(nn.Module):
    """A detector around it; tied heads are one module under two names, shared ones are the bare model's too."""

    def __init__(self, tied: bool = True, shared: bool = False) -> None:
        super().__init__()
        head = nn.Linear(3, 4)
        heads = nn.ModuleList([head, head] if tied else [head, nn.Linear(3, 4)])
        self.model = Bare(heads if shared else None)
        self.class_embed = nn.ModuleList([nn.Linear(3, 5)])
        self.bbox_embed = heads


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        if name in state and "num_batches" not in name:
            assert torch.equal(tensor, state[name]), name


def test_tied_names_stand_together() -> None:
    groups = tied_names(Detector())
    assert ["bbox_embed.0.weight", "bbox_embed.1.weight"] in groups
    assert ["model.decoder.bbox_embed.0.bias", "bbox_embed.0.bias"] in tied_names(Detector(tied=False, shared=True))


def test_a_whole_file_is_loaded() -> None:
    state = state_of(Detector())
    module = Detector()
    report = fit_state(module, state, source="file")
    assert_equal(module, state)
    assert report.is_complete and len(report.loaded) == 10
    assert report.summary() == "file: 10 tensors loaded, 0 resized, 0 new, 0 unused"


@pytest.mark.parametrize("kept", ["bbox_embed.0", "bbox_embed.1"])
def test_one_name_of_a_tied_tensor_is_enough(kept: str) -> None:
    state = state_of(Detector())
    dropped = {name: tensor for name, tensor in state.items() if not name.startswith("bbox_embed") or kept in name}
    module = Detector()
    assert fit_state(module, dropped, source="file").is_complete
    assert_equal(module, state)
    assert module.bbox_embed[0].weight is module.bbox_embed[1].weight


def test_names_that_are_tied_here_must_agree_in_the_file() -> None:
    with pytest.raises(ValueError, match="bbox_embed.1.weight are one tensor.*set with_box_refine=True"):
        fit_state(Detector(), state_of(Detector(tied=False)), source="file")


def test_the_dtype_of_the_model_stays() -> None:
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state_of(Bare()).items()}
    module = Bare()
    fit_state(module, state, source="file")
    assert module.layer.weight.dtype == torch.float32
    assert torch.equal(module.layer.weight, state["layer.weight"].float())


def test_gradients_and_hooks_are_left_alone() -> None:
    module = Bare()
    weight = module.layer.weight
    fit_state(module, state_of(Bare()), source="file")
    assert module.layer.weight is weight and weight.requires_grad and weight.grad_fn is None


def test_counters_of_batches_are_neither_missed_nor_over() -> None:
    state = state_of(Bare())
    del state["norm.num_batches_tracked"]
    state["layer.num_batches_tracked"] = torch.tensor(3)
    assert fit_state(Bare(), state, source="file").is_complete


@pytest.mark.parametrize("change", ["missing", "extra", "renamed"])
def test_strictly_nothing_may_be_missing_or_over_and_nothing_is_copied(change: str) -> None:
    state = state_of(Bare())
    if change != "extra":
        state.pop("layer.bias")
    if change != "missing":
        state["layer.gain"] = torch.zeros(3)
    module = Bare()
    before = state_of(module)
    with pytest.raises(ValueError) as caught:
        fit_state(module, state, source="file")
    assert_equal(module, before)
    assert ("1 tensors are missing in the file: layer.bias" in str(caught.value)) == (change != "extra")
    assert ("1 tensors of the file are not in the model: layer.gain" in str(caught.value)) == (change != "missing")
    assert "strict=False loads what fits" in str(caught.value)
    report = fit_state(module, state, source="file", strict=False)
    assert (report.new, report.unused) == (["layer.bias"][change == "extra" :], ["layer.gain"][change == "missing" :])
    assert torch.equal(module.layer.weight, state["layer.weight"])
    assert change == "extra" or torch.equal(module.layer.bias, before["layer.bias"])


def test_another_shape_is_refused_or_starts_fresh() -> None:
    state = state_of(Bare()) | {"layer.weight": torch.zeros(7, 2)}
    module = Bare()
    before = module.layer.weight.clone()
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"layer.weight \(file \(7, 2\), model \(3, 2\)\)[\s\S]*ignore_mismatched"):
            fit_state(module, state, source="file", strict=strict)
    report = fit_state(module, state, source="file", ignore_mismatched_sizes=True)
    assert report.resized == [Resized("layer.weight", (7, 2), (3, 2))] and not report.is_complete
    assert torch.equal(module.layer.weight, before) and torch.equal(module.layer.bias, state["layer.bias"])
    assert report["mismatched_keys"] == [("layer.weight", (7, 2), (3, 2))]


def test_integers_in_the_place_of_floats_are_damage() -> None:
    with pytest.raises(ValueError, match=r"layer.bias is torch.int64, expected torch.float32"):
        fit_state(Bare(), state_of(Bare()) | {"layer.bias": torch.zeros(3, dtype=torch.int64)}, source="file")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    state = state_of(Bare()) | {"layer.bias": torch.tensor([0.0, value, 0.0])}
    with pytest.raises(ValueError, match=r"1 tensors hold NaN or infinity: layer.bias"):
        fit_state(Bare(), state, source="file")
    assert fit_state(Bare(), state, source="file", strict=False).is_complete


def test_a_bare_model_takes_a_detector_s_file_and_reports_the_heads() -> None:
    for shared in (False, True):
        state = state_of(Detector(shared=shared))
        module = Bare()
        report = fit_state(module, state, source="file")
        assert torch.equal(module.layer.weight, state["model.layer.weight"])
        assert report.new == [] and "class_embed.0.bias" in report.unused


def test_a_bare_model_with_heads_takes_them_under_the_detector_s_name() -> None:
    state = {name: tensor for name, tensor in state_of(Detector(tied=False)).items() if "decoder" not in name}
    module = Bare(nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)]))
    report = fit_state(module, state, source="file")
    assert report.new == []
    assert torch.equal(module.decoder.bbox_embed[1].weight, state["bbox_embed.1.weight"])


def test_a_detector_takes_a_bare_model_s_file_and_reports_new_heads() -> None:
    state = state_of(Bare())
    module = Detector()
    report = fit_state(module, state, source="file")
    assert torch.equal(module.model.layer.weight, state["layer.weight"])
    assert report.new == ["class_embed.0.weight", "class_embed.0.bias", "bbox_embed.0.weight", "bbox_embed.0.bias"]
    assert report["missing_keys"] == report.new and report["unexpected_keys"] == report["error_msgs"] == []


def test_a_detector_s_file_without_heads_is_refused_by_a_detector() -> None:
    state = {name: tensor for name, tensor in state_of(Detector()).items() if "class_embed" not in name}
    with pytest.raises(ValueError, match="2 tensors are missing in the file: class_embed.0.weight"):
        fit_state(Detector(), state, source="file")


def test_a_wrong_file_for_a_bare_model_is_refused_even_though_heads_may_differ() -> None:
    with pytest.raises(ValueError, match="are missing in the file: layer.weight"):
        fit_state(Bare(), {"class_embed.0.bias": torch.zeros(5)}, source="file")


def test_the_summary_names_every_kind() -> None:
    report = LoadingReport("file", ["a"], [Resized("b", (2,), (3,))], ["c"], ["d"])
    assert report.summary().splitlines() == [
        "file: 1 tensors loaded, 1 resized, 1 new, 1 unused",
        "  resized, so they start fresh: b (file (2,), model (3,))",
        "  new, not in the file, so they start fresh: c",
        "  unused, not in the model: d",
    ]


def test_a_long_list_is_cut_short() -> None:
    report = LoadingReport("file", new=[f"w{number}" for number in range(20)])
    assert report.summary().endswith("w7 … and 12 more")


def test_the_report_reads_like_the_references_dict() -> None:
    report = LoadingReport("file", new=["a"], unused=["b"], resized=[Resized("c", (2,), (3,))])
    assert dict(report) == {
        "missing_keys": ["a"],
        "unexpected_keys": ["b"],
        "mismatched_keys": [("c", (2,), (3,))],
        "error_msgs": [],
    }
    assert "missing_keys" in report and "loaded" not in report and len(report) == 4
    assert report.get("unexpected_keys") == ["b"] and [*report] == list(report.keys())


def test_a_misfit_is_both_errors_that_code_looks_for() -> None:
    for expected in (Misfit, ValueError, RuntimeError):
        with pytest.raises(expected, match="have another shape"):
            fit_state(nn.Linear(2, 3), {"weight": torch.zeros(4, 2), "bias": torch.zeros(4)}, source="file")
