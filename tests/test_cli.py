"""The command line: what it prints, its exit codes, and errors without tracebacks."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.cli import main


@pytest.fixture
def photograph(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "picture.png"
    Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def scene(tmp_path):
    from ddetr_lab.data import DigitScenes

    scenes = DigitScenes("val", seed=9)
    index = next(i for i in range(50) if len(scenes.annotation(i)["annotations"]) >= 3)
    picture, annotation = scenes[index]
    path = tmp_path / "scene.png"
    picture.save(path)
    return path, picture, annotation


def test_detect_prints_json_that_a_program_can_read(scene, capsys):
    path, picture, annotation = scene
    assert main(["detect", str(path), "--json", "--threshold", "0.4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found, "the shipped detector sees nothing in a scene with digits"
    for one in found:
        assert set(one) == {"label", "score", "box"}
        assert 0.4 < one["score"] <= 1
        x0, y0, x1, y1 = one["box"]
        assert -20 <= x0 < x1 <= picture.width + 20
        assert -20 <= y0 < y1 <= picture.height + 20
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    wanted = {str(entry["category_id"]) for entry in annotation["annotations"]}
    assert wanted & {one["label"] for one in found}


def test_detect_draws_the_picture_enlarged_until_labels_can_be_read(scene, tmp_path, capsys):
    path, picture, _ = scene
    out = tmp_path / "out.png"
    assert main(["detect", str(path), "--out", str(out)]) == 0
    with Image.open(out) as drawn:
        factor = drawn.width // picture.width
        assert drawn.size == (picture.width * factor, picture.height * factor)
        enlarged = picture.resize(drawn.size, Image.Resampling.NEAREST)
        assert not np.array_equal(np.asarray(drawn.convert("RGB")), np.asarray(enlarged))
    assert "found above 0.5; see" in capsys.readouterr().out


def test_a_threshold_of_one_finds_nothing(photograph, capsys):
    assert main(["detect", str(photograph), "--threshold", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["detect", str(photograph), "--threshold", "1"]) == 0
    assert re.fullmatch(
        r"0 found above 1\.0 \(the best score is 0\.\d\d: --threshold shows more\)\n", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect", "no_such.png"], "no_such.png"),
        (["train", "no_such_recipe"], "unknown, expected one of"),
        (["evaluate", "no_such_recipe"], "unknown, expected one of"),
    ],
)
def test_what_is_not_there_is_named_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"ddetr-lab {arguments[0]}: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_file_that_is_no_picture_is_an_error(tmp_path, capsys):
    path = tmp_path / "text.png"
    path.write_text("not a picture")
    assert main(["detect", str(path)]) == 1
    assert "text.png" in capsys.readouterr().err


def test_a_truncated_picture_is_an_error(photograph, capsys):
    photograph.write_bytes(photograph.read_bytes()[:-2000])
    assert main(["detect", str(photograph)]) == 1
    assert "picture.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["detekt"],
        ["detect"],
        ["detect", "x.png", "--threshold", "2"],
        ["train", "digits", "--steps", "0"],
        ["train", "digits", "--minutes", "-1"],
        ["train", "digits", "--seed", "-1"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: ddetr-lab" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["detect", "x.png", "--threshold", "half"], "'half' is not a number"),
        (["train", "digits", "--minutes", "five"], "'five' is not a number"),
        (["train", "digits", "--steps", "1.5"], "'1.5' is not a whole number"),
        (["train", "digits", "--seed", str(2**63)], "9223372036854775808, expected 0 to 2^63 - 1"),
    ],
)
def test_what_is_no_number_is_told_without_a_name_of_ours(arguments, told, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert told in capsys.readouterr().err


def test_detect_never_writes_over_its_picture(photograph, capsys):
    before = photograph.read_bytes()
    assert main(["detect", str(photograph), "--out", str(photograph.parent / "." / photograph.name)]) == 1
    assert "is the picture itself" in capsys.readouterr().err
    assert photograph.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "digits", "--report"],
        ["diagnose", "overfit", "--json"],
        ["benchmark", "model", "--quick", "--json"],
        ["benchmark", "learning", "--json"],
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(words, photograph, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("the work began"))
    assert main([*words, str(photograph / "below.json")]) == 1  # below a file, where nothing can be
    assert f"{words[-1]} {photograph}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["boxes.xyz", "boxes"])
def test_a_picture_s_ending_is_asked_for_before_the_work(name, photograph, monkeypatch, capsys):
    monkeypatch.setattr("ddetr_lab.cli._detections", lambda *_: pytest.fail("the work began"))
    assert main(["detect", str(photograph), "--out", str(photograph.parent / name)]) == 1
    assert f"{name} has no ending of a picture: name a file that ends in .png or .jpg" in capsys.readouterr().err


def test_an_unusable_device_is_named(photograph, capsys):
    assert main(["evaluate", "digits", "--device", "cuda:77"]) == 1
    assert "--device cuda:77" in capsys.readouterr().err


def test_train_then_evaluate_a_folder(tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        '[data]\nsize = 64\n[model]\npreset = "digits"\n[optimization]\nsteps = 1\nbatch_size = 2\n'
        "[evaluation]\nscenes = 2\nbatch_size = 2\n"
    )
    out = tmp_path / "run"
    assert main(["train", str(recipe), "--out", str(out), "--seed", "3"]) == 0
    trained = capsys.readouterr().out.splitlines()
    assert trained[-1].startswith("AP ") and " AP50 " in trained[-1]
    assert main(["evaluate", str(out), "--report", str(tmp_path / "report")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == trained[-1] and told[0].startswith("above a score of 0.5: ")
    assert (tmp_path / "report" / "report.json").is_file() and (tmp_path / "report" / "confusion.png").is_file()


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("ddetr_lab.doctor.report", interrupted)
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err
