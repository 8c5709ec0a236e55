"""Ways to spoil the good folder's COCO file, and what must come of each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from ddetr_lab.data.coco import CocoDataset
from ddetr_lab.data.findings import KINDS
from ddetr_lab.data.validate import validate_dataset
from tests.data.good_folder import good, write

# what is done to the good file, kind of finding, picture's id, annotation's id
Case = tuple[Callable[[Any], Any], str, int | str | None, int | str | None]


def put(*path_and_value):
    """Return a change: walk the path, and set (or, with no value, remove) what stands there."""
    *path, value = path_and_value

    def change(content):
        entry = content
        for key in path[:-1]:
            entry = entry[key]
        if value is ...:
            del entry[path[-1]]
        else:
            entry[path[-1]] = copy.deepcopy(value)
        return content

    return change


def all_boxes(convert):
    def change(content):
        for n, entry in enumerate(content["annotations"]):
            entry["bbox"] = convert(n)
            entry.pop("area")
        return content

    return change


def text(change):
    return lambda content: change(json.dumps(content))


def check_told(folder, case: Case) -> None:
    """Spoil the good folder, and see it told with its ids; if without an error, then training can read it."""
    change, kind, image_id, annotation_id = case
    report = validate_dataset(write(folder, change(good())))
    found = [(finding.image_id, finding.annotation_id) for finding in report.of(kind)]
    assert (image_id, annotation_id) in found, [finding.line() for finding in report.findings]
    text = "\n".join(report.lines())
    assert KINDS[kind][1] in text and text.encode()
    assert report.ok is not any(KINDS[finding.kind][0] == "error" for finding in report.findings)
    json.dumps(report.to_dict())
    if report.ok:
        dataset = CocoDataset(folder)
        assert len([dataset[index] for index in range(len(dataset))]) == report.pictures
