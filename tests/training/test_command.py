"""``ddetr-lab train`` and ``evaluate``: recipes, folders of pictures, folders of runs, and what they print."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.cli import main
from ddetr_lab.data import DigitScenes, write_coco
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.recipe import load_recipe
from ddetr_lab.training.command import choose_recipe


@pytest.fixture(scope="module")
def own_pictures(tmp_path_factory):
    """A folder of one's own: ten scenes whose categories are numbered 10, 20 ... and named."""
    folder = tmp_path_factory.mktemp("own") / "my_digits"
    path = write_coco(DigitScenes("val", num_scenes=10, size=96), folder)
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry["category_id"] = 10 * (entry["category_id"] + 1)
    for entry in content["categories"]:
        entry["id"], entry["name"] = 10 * (entry["id"] + 1), f"digit {entry['name']}"
    path.write_text(json.dumps(content))
    return folder


def test_a_word_stands_for_a_recipe_a_run_or_a_folder_of_pictures(own_pictures, tmp_path):
    assert choose_recipe("digits") == load_recipe("digits")
    recipe = choose_recipe(str(own_pictures))
    assert (recipe.name, recipe.data.dataset, recipe.data.folder) == ("my_digits", "coco", str(own_pictures))
    assert recipe.optimization == load_recipe("classroom").optimization
    assert choose_recipe("coco", own_pictures).data.folder == str(own_pictures)
    (tmp_path / "recipe.json").write_text(json.dumps({**load_recipe("digits").to_dict(), "seed": 0}))
    assert choose_recipe(str(tmp_path)) == load_recipe("digits")


def test_a_folder_of_pictures_is_trained_on_and_scored(own_pictures, tiny_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(
        '[data]\ndataset = "coco"\nsize = 96\ntransform = "jitter"\n[optimization]\nbatch_size = 2\n'
    )
    monkeypatch.setattr("ddetr_lab.training.command.FOLDER_RECIPE", str(tmp_path / "small.toml"))
    device = ["--device", "cpu"]
    assert main(["train", str(own_pictures), "--steps", "2", "--weights", str(tiny_weights), *device]) == 0
    printed = capsys.readouterr().out.splitlines()
    run = tmp_path / "runs" / "my_digits"
    assert any(line.startswith("group") for line in printed) and printed[-1].startswith("AP ")
    assert f"saved in {run.relative_to(tmp_path)}" in printed[-2]
    model = DeformableDetrForObjectDetection.from_pretrained(run)
    labels = LabelMap.load(run)
    assert model.config.id2label == labels.names == {digit: f"digit {digit}" for digit in range(10)}
    assert labels.id_of[3] == 40
    for folder in (run, run / "best"):
        assert main(["evaluate", str(folder), *device]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == printed[-1]
    # The run is not lost to a second one, and its folder is enough to go on with it.
    assert main(["train", str(own_pictures), *device]) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train", str(run), "--resume", *device]) == 0
    assert "going on after step 2 of 2" in capsys.readouterr().out
    # Other categories are told, not scored.
    content = json.loads((run / "label_map.json").read_text())
    content["labels"][0]["name"] = "zero"
    (run / "label_map.json").write_text(json.dumps(content))
    assert main(["evaluate", str(run), *device]) == 1
    assert "evaluate on data with the same categories" in capsys.readouterr().err


def test_a_folder_without_weights_is_not_scored(own_pictures, capsys):
    assert main(["evaluate", str(own_pictures), "--device", "cpu"]) == 1
    told = capsys.readouterr().err
    assert "holds no weights to score: name the folder of a run, such as runs/my_digits; --data names" in told


def test_a_folder_without_pictures_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["train", "empty"]) == 1
    assert "empty has errors: mend them (`ddetr-lab validate empty` lists all)" in capsys.readouterr().err
    assert main(["train", "empty", "--no-validate"]) == 1
    assert "has no train part: expected annotations/instances_train" in capsys.readouterr().err
    assert main(["train", "coco"]) == 1
    assert "[data] folder is empty" in capsys.readouterr().err


def test_a_folder_with_faults_is_not_trained_on(own_pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own_pictures, tmp_path / "spoilt")
    content = json.loads((tmp_path / "spoilt" / "annotations.json").read_text())
    content["annotations"][0]["bbox"] = [10, 10, -5, 20]
    (tmp_path / "spoilt" / "annotations.json").write_text(json.dumps(content))
    assert main(["train", "spoilt"]) == 1
    captured = capsys.readouterr()
    assert str(content["annotations"][0]["image_id"]) in captured.out
    assert "spoilt has errors" in captured.err
    assert not (tmp_path / "runs").exists()


def test_resume_and_overwrite_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "digits", "--resume", "--overwrite"])
    assert stopped.value.code == 2


def test_the_command_s_parser_loads_nothing_heavy():
    code = "import sys; import ddetr_lab.cli; print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_says_what_it_has():
    import ddetr_lab.training

    for name in ddetr_lab.training.__all__:
        assert getattr(ddetr_lab.training, name) is not None
    assert sorted(ddetr_lab.training._HOME) == ddetr_lab.training.__all__ == dir(ddetr_lab.training)
    with pytest.raises(AttributeError, match="has no attribute 'trian'; it has TrainingRun"):
        print(ddetr_lab.training.trian)


def test_data_that_would_not_be_used_are_refused(own_pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({**load_recipe("digits").to_dict(), "seed": 0}))
    for words, told in (
        (["evaluate", str(tmp_path), "--data", "/nonexistent"], "has its own pictures, 'digits': leave --data out"),
        (["train", "digits", "--data", str(own_pictures)], "has its own pictures, 'digits': leave --data out"),
        (["train", "trees", "--data", str(own_pictures)], "has its own pictures, 'trees': leave --data out"),
        (
            ["train", str(own_pictures), "--data", str(own_pictures)],
            "is a folder of pictures itself: leave",
        ),
        (["train", "coco", "--data", "/nonexistent"], "--data /nonexistent is no folder"),
    ):
        assert main(words) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_is_not_trained_into_itself(own_pictures, tmp_path, capsys):
    folder = tmp_path / "label_studio"
    shutil.copytree(own_pictures, folder)
    (folder / "annotations.json").rename(folder / "result.json")
    before = (folder / "result.json").read_bytes()
    for how in ([], ["--overwrite"], ["--resume"]):
        assert main(["train", str(folder), "--out", str(folder), "--steps", "1", "--device", "cpu", *how]) == 1
        assert "is the folder of the data set: choose another --out" in capsys.readouterr().err
    assert (folder / "result.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["images", "result.json"]


def test_a_picture_too_thin_is_named_before_training(own_pictures, tmp_path, capsys):
    folder = tmp_path / "thin"
    shutil.copytree(own_pictures, folder)
    content = json.loads((folder / "annotations.json").read_text())
    entry = content["images"][3]
    Image.new("RGB", (5000, 1)).save(folder / entry["file_name"])
    entry["width"], entry["height"] = 5000, 1
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] != entry["id"]]
    (folder / "annotations.json").write_text(json.dumps(content))
    assert main(["train", str(folder), "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert f"training picture {entry['id']} ({entry['file_name']}): " in told
    assert "makes a 1 x 5000 picture 0 x 0: no pixels left. It is too thin: leave it out" in told
    assert not (tmp_path / "run").exists()
