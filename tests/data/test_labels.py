"""The label map: both ways, through a file, and refused by name where it contradicts itself."""

from __future__ import annotations

import json
import pickle

import pytest

from ddetr_lab.data.labels import LABEL_MAP_FILE, LabelMap

COCO = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13}]


def test_ids_with_holes_become_labels_in_their_order():
    labels = LabelMap.from_categories(COCO)
    assert labels.names == {0: "person", 1: "13", 2: "toothbrush"}
    assert labels.id_of == {0: 1, 1: 13, 2: 90} and labels.label_of == {1: 0, 13: 1, 90: 2}
    assert len(labels) == labels.num_labels == 3


def test_ids_can_stay_labels():
    labels = LabelMap.from_categories(COCO, contiguous=False)
    assert labels.names[90] == "toothbrush" and labels.label_of == {1: 1, 13: 13, 90: 90}
    assert len(labels) == 3 and labels.num_labels == 91


def test_names_alone_number_themselves():
    assert LabelMap.from_names(["Tree"]) == LabelMap({0: "Tree"}, {0: 0})
    assert LabelMap.from_names([]).num_labels == 0


def test_it_survives_a_file_and_a_worker(tmp_path):
    labels = LabelMap.from_categories([*COCO, {"id": 7, "name": "Größe"}])
    path = labels.save(tmp_path)
    assert path.name == LABEL_MAP_FILE and [entry.name for entry in tmp_path.iterdir()] == [LABEL_MAP_FILE]
    assert LabelMap.load(tmp_path) == labels
    assert list(LabelMap.load(tmp_path).names) == list(labels.names)
    assert pickle.loads(pickle.dumps(labels)) == labels


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1}, {"id": 1}], r"categories\[1\] has the id 1 of an entry before it"),
        ([{"id": "1"}], r"categories\[0\] needs an integer id"),
        ([{"id": True}], r"categories\[0\] needs an integer id"),
        ([{"name": "car"}], r"categories\[0\] needs an integer id"),
        (["car"], r"categories\[0\] needs an integer id, got 'car'"),
    ],
)
def test_bad_categories_are_named(categories, message):
    with pytest.raises(ValueError, match=message):
        LabelMap.from_categories(categories)


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="expected the same ones"):
        LabelMap({0: "a"}, {1: 1})
    with pytest.raises(ValueError, match="two labels the same id"):
        LabelMap({0: "a", 1: "b"}, {0: 5, 1: 5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "label_map.json: "),
        ("[]", "a list 'labels'"),
        ('{"labels": [{"label": 0, "id": 1}]}', r"labels\[0\] is .* and a name"),
        ('{"labels": [{"label": "0", "id": 1, "name": "a"}]}', r"labels\[0\]"),
        (json.dumps({"labels": [{"label": 0, "id": 1, "name": "a"}] * 2}), "same label twice"),
    ],
)
def test_a_spoilt_file_is_named(tmp_path, text, message):
    (tmp_path / LABEL_MAP_FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        LabelMap.load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=LABEL_MAP_FILE):
        LabelMap.load(tmp_path)
