"""`ddetr-lab validate`: its lines, its JSON, its exit codes."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from ddetr_lab.cli import main
from tests.data.corrupt_files import put
from tests.data.good_folder import good, write


def test_the_command(tmp_path, capsys):
    folder = write(tmp_path / "set", good())
    assert main(["validate", str(folder)]) == 0
    assert "0 errors, 0 warnings, 0 notes in 4 pictures and 12 boxes" in capsys.readouterr().out
    write(folder, put("annotations", 4, "bbox", [30, 20, 0, 5])(good()))
    assert main(["validate", str(folder), "--figures", str(tmp_path / "figures")]) == 1
    out = capsys.readouterr().out
    assert "error box-empty (1): remove it" in out and "picture 12, annotation 104: bbox is [30, 20, 0, 5]" in out
    for name in ("contact_sheet", "class_counts", "box_sizes"):
        with Image.open(tmp_path / "figures" / f"{name}.png") as figure:
            assert min(figure.size) > 150 and len(figure.convert("RGB").getcolors(2**20)) > 3
    assert main(["validate", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["annotation_id"] == 104
    write(folder, put("annotations", 4, "bbox", [30, 20, 0.5, 5])(good()))
    assert main(["validate", str(folder)]) == 0
    assert main(["validate", str(tmp_path / "nowhere")]) == 1


def test_pictures_elsewhere_and_one_thread(tmp_path, capsys):
    folder = write(tmp_path / "set", good())
    (folder / "annotations.json").rename(tmp_path / "away.json")
    assert main(["validate", str(tmp_path / "away.json")]) == 1
    assert "picture-missing (4)" in capsys.readouterr().out
    assert main(["validate", str(tmp_path / "away.json"), "--images", str(folder), "--workers", "1"]) == 0


def test_figures_that_cannot_be_written_are_told_before_the_work(tmp_path, capsys, monkeypatch):
    folder = write(tmp_path / "set", good())
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("ddetr_lab.data.validate.validate_dataset", lambda *_: pytest.fail("the work began"))
    assert main(["validate", str(folder), "--figures", str(tmp_path / "file")]) == 1
    assert f"--figures {tmp_path / 'file'}" in capsys.readouterr().err
