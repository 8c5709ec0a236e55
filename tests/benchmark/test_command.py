"""Each subcommand from the command line, on small sizes and without peers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddetr_lab.benchmark import cases, detectors, evaluate, op, peers, timing
from ddetr_lab.benchmark.command import BENCHMARKS
from ddetr_lab.benchmark.memory import _c_library
from ddetr_lab.benchmark.report import read_report
from ddetr_lab.cli import main
from tests.benchmark.samples import a_report


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No peers, tiny sizes, and samples of one call: what is tested is the course of things, not the times."""
    absent = tuple(peers.Peer(peer.distribution, "no_such_module", peer.benchmarks, peer.hint) for peer in peers.PEERS)
    monkeypatch.setattr(peers, "PEERS", absent)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)
    tiny = cases.Sizes(levels=((5, 7), (3, 4)), heads=2, channels=4, points=2, decoder_queries=6)
    monkeypatch.setattr(op, "QUICK", tiny)
    monkeypatch.setattr(evaluate, "QUICK_PICTURES", 2)
    monkeypatch.setattr(evaluate, "CLASSES", 3)


def test_op(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "op.json"
    arguments = ["benchmark", "op", "--quick", "--repeats", "2", "--json", str(path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    report = read_report(path)
    names = [case.name for case in report.cases]
    for kind in ("encoder", "decoder", "scattered"):
        assert f"{kind}, forward" in names and f"{kind}, forward + backward" in names
    for case in report.cases:
        assert case.name in printed
        assert all(row.timed and len(row.seconds) == 2 for row in case.rows)
        assert case.rows[0].contender.startswith("ours")
    plain = report.cases[0]
    assert "ours (grid_sample)" in [row.contender for row in plain.rows]
    assert plain.work is not None and set(report.ceilings) == {
        "memory_bytes_per_second",
        "cache_bytes_per_second",
        "flops_per_second",
    }
    assert report.command == "ddetr-lab " + " ".join(arguments)
    assert report.settings == {"repeats": 2, "quick": True, "device": "cpu", "keep_memory": False}
    assert "% of the memory bandwidth" in printed
    assert "transformers is not installed: python -m pip install 'transformers>=5.0'" in printed


def test_op_in_half_precision(tmp_path: Path) -> None:
    path = tmp_path / "op.json"
    assert main(["benchmark", "op", "--quick", "--repeats", "1", "--dtype", "bfloat16", "--json", str(path)]) == 0
    assert "bfloat16" in read_report(path).cases[0].what


@pytest.mark.skipif(_c_library("mallopt") is None, reason="needs glibc")
def test_op_with_freed_memory_kept(tmp_path: Path) -> None:
    path = tmp_path / "op.json"
    assert main(["benchmark", "op", "--quick", "--repeats", "1", "--keep-memory", "--json", str(path)]) == 0
    assert read_report(path).settings["keep_memory"] is True


@pytest.mark.parametrize("name", ["model", "train-step", "processor", "evaluate"])
def test_the_other_subcommands(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert main(["benchmark", name, "--quick", "--repeats", "1", "--json", str(path)]) == 0
    report = read_report(path)
    assert report.benchmark == name
    for case in report.cases:
        assert case.rows[0].contender.startswith("ours")
        assert all(row.timed for row in case.rows)
        assert case.what in capsys.readouterr().out or len(report.cases) > 1


def test_model_and_training_run_on_both_operators_where_there_are_two(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    assert main(["benchmark", "model", "--quick", "--repeats", "1", "--json", str(path)]) == 0
    rows = read_report(path).cases[0].rows
    assert rows[-1].contender == "ours (grid_sample)"
    assert rows[-1].difference is not None and rows[-1].difference < 1e-4


def test_threads_are_set_and_restored(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    path = tmp_path / "report.json"
    assert main(["benchmark", "evaluate", "--quick", "--threads", "2", "--repeats", "1", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["machine"]["threads"] == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["op", "--against", "transformers"], "--against transformers is not installed: python -m pip install"),
        (["model", "--against", "pycocotools"], "has no part in `benchmark model` on cpu, expected transformers"),
        (["op", "--device", "cuda:77"], "--device cuda:77"),
        (["page", "no_such.json"], "no_such.json"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("ddetr-lab benchmark: ") and message in captured.err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["op", "--repeats", "0"], ["op", "--threads", "-1"], ["page"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", *arguments])
    assert stopped.value.code == 2


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_says_how_times_are_taken(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "medians, quartiles, ratios and peak memory" in text
    assert f"(default {BENCHMARKS[name][1]})" in text


def test_page_goes_to_a_file_or_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "op.json", tmp_path / "page.md"
    path.write_text(json.dumps(a_report().to_dict()))
    assert main(["benchmark", "page", str(path), "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["benchmark", "page", str(path)]) == 0
    assert capsys.readouterr().out == out.read_text(encoding="utf-8")


def test_a_detector_that_is_timed_has_no_idle_weights() -> None:
    model = detectors.build_detector(detectors.QUICK)
    idle = [
        name
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and not weight.any() and "bbox_embed" not in name
    ]
    assert idle == []
