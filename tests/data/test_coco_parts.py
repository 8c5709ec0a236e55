"""Which COCO files a folder holds, and where their pictures are looked for."""

from __future__ import annotations

from ddetr_lab.data.coco_parts import CocoPart, coco_parts


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def test_a_file_stands_for_itself(tmp_path):
    file = tmp_path / "odd name.json"
    touch(file)
    assert coco_parts(file) == [CocoPart("odd name.json", file, (tmp_path, tmp_path / "images"))]
    assert coco_parts(file, tmp_path / "away")[0].folders == (tmp_path / "away",)


def test_one_file_for_everything(tmp_path):
    touch(tmp_path / "instances.json", tmp_path / "annotations.json")
    (part,) = coco_parts(str(tmp_path))
    assert (part.name, part.split) == ("annotations.json", ""), "the first of the usual names"


def test_a_folder_for_each_split(tmp_path):
    for name in ("train", "valid", "test", "elsewhere"):
        touch(tmp_path / name / "_annotations.coco.json")
    assert [(part.name, part.split) for part in coco_parts(tmp_path)] == [
        ("train/_annotations.coco.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("test/_annotations.coco.json", "test"),
    ]


def test_coco_s_own_layout(tmp_path):
    for name in ("instances_train2017", "instances_val2017", "instances_extra", "captions_val2017"):
        touch(tmp_path / "annotations" / f"{name}.json")
    parts = coco_parts(tmp_path)
    assert [(part.name.split("_")[1], part.split) for part in parts] == [
        ("extra.json", ""),
        ("train2017.json", "train"),
        ("val2017.json", "val"),
    ]
    assert parts[1].folders == (tmp_path / "train2017", tmp_path, tmp_path / "images")


def test_nothing_there_is_an_empty_list(tmp_path):
    assert coco_parts(tmp_path) == coco_parts(tmp_path / "nowhere") == []
