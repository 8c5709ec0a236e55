"""``ddetr-lab diagnose``: what it prints, what it records, and what it refuses."""

import json
from pathlib import Path

import pytest

from ddetr_lab.cli import main
from ddetr_lab.data.coco import write_coco
from ddetr_lab.data.digits import DigitScenes


def test_overfit_prints_the_scores_and_records_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "deep" / "overfit.json"
    assert main(["diagnose", "overfit", "--steps", "1", "--json", str(record)]) == 0
    told = capsys.readouterr().out
    assert "8 pictures, 1 steps" in told
    assert "if every class counts as right" in told
    assert "look:" not in told, "nothing is wrong with the shipped pictures"
    content = json.loads(record.read_text())
    assert len(content["run"]["curve"]) == 1
    assert {"command", "date", "machine", "versions"} <= set(content)


def test_overfit_names_what_is_wrong_with_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_coco(DigitScenes("train", num_scenes=8, seed=0, size=96), tmp_path)
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    path.write_text(json.dumps(content))
    assert main(["diagnose", "overfit", str(tmp_path), "--steps", "1"]) == 0
    assert "look: boxes in the wrong format?" in capsys.readouterr().out


def test_one_fault_is_added_to_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "faults.json"
    record.write_text(json.dumps({"runs": {"healthy": {"ap50": 1.0}}}))
    arguments = ["diagnose", "faults", "--steps", "1", "--only", "prior_wiped", "--json", str(record)]
    assert main(arguments) == 0
    assert "the class loss begins at" in capsys.readouterr().out
    assert list(json.loads(record.read_text())["runs"]) == ["healthy", "prior_wiped"]


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "faults", "--only", "gremlins"]) == 1
    assert "--only gremlins: unknown" in capsys.readouterr().err


def test_a_run_is_recorded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 10, "loss": 2.0}\n')
    (run / "result.json").write_text('{"steps": 10, "ap": 0.5}')
    (run / "recipe.json").write_text('{"name": "digits"}')
    record = tmp_path / "record.json"
    assert main(["diagnose", "record", str(run), "--json", str(record)]) == 0
    content = json.loads(record.read_text())
    assert content["metrics"] == [{"step": 10, "loss": 2.0}]
    assert content["evaluations"] == [{"step": 10, "steps": 10, "ap": 0.5}]
    assert "threads" not in content["machine"], "those of this process, not of the training"


def test_an_unfinished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "record", str(tmp_path), "--json", str(tmp_path / "record.json")]) == 1
    assert "has no result.json" in capsys.readouterr().err
