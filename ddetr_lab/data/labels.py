"""The label map: dataset ids, contiguous labels and names, kept together and saved with the weights.

A class head has outputs 0 to K-1, a COCO file numbers its categories as it likes (COCO's own 80 lie between 1 and 90,
with holes), and people want names. Off-by-one between the first two is among the commonest causes of an AP of 0, and
weights whose map is lost can be trained no further. So the map is one object, made once, and travels with the weights.

Built in chapter 18.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ddetr_lab.files import write_atomically

__all__ = ["LABEL_MAP_FILE", "LabelMap"]

LABEL_MAP_FILE = "label_map.json"


@dataclass(frozen=True)
class LabelMap:
    """Which output of the class head stands for which category of the dataset, and what it is called.

    Args:
        names: label to name, in the order of the labels.
        id_of: label to the dataset's own id.

    Raises:
        ValueError: if the two do not have the same labels, or two labels share an id.

    Built in chapter 18.
    """

    names: dict[int, str]
    id_of: dict[int, int]

    def __post_init__(self) -> None:
        if self.names.keys() != self.id_of.keys():
            raise ValueError(
                f"names has the labels {sorted(self.names)} and id_of {sorted(self.id_of)}: expected the same ones"
            )
        if len(set(self.id_of.values())) < len(self.id_of):
            raise ValueError(f"id_of = {self.id_of} gives two labels the same id: expected each id once")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def label_of(self) -> dict[int, int]:
        """The dataset's id to label: the way back of ``id_of``."""
        return {id_: label for label, id_ in self.id_of.items()}

    @property
    def num_labels(self) -> int:
        """How many outputs a class head needs: one more than the largest label."""
        return max(self.names, default=-1) + 1

    @classmethod
    def from_categories(cls, categories: Iterable[Mapping[str, Any]], contiguous: bool = True) -> LabelMap:
        """Number a COCO file's categories 0 to K-1 in the order of their ids.

        Args:
            categories: entries with a whole number ``id`` and perhaps a ``name``.
            contiguous: with False the labels are the ids: for checkpoints whose head is numbered by COCO's ids.

        Raises:
            ValueError: if an entry has no whole number as id, or two have the same.
        """
        found: dict[int, str] = {}
        for position, entry in enumerate(categories):
            id_ = entry.get("id") if isinstance(entry, Mapping) else None
            if not isinstance(id_, int) or isinstance(id_, bool):
                raise ValueError(f"categories[{position}] needs an integer id, got {entry!r}")
            if id_ in found:
                raise ValueError(f"categories[{position}] has the id {id_} of an entry before it")
            found[id_] = str(entry.get("name", id_))
        labels = {id_: label if contiguous else id_ for label, id_ in enumerate(sorted(found))}
        return cls({labels[id_]: found[id_] for id_ in labels}, {label: id_ for id_, label in labels.items()})

    @classmethod
    def from_names(cls, names: Iterable[str]) -> LabelMap:
        """Make the map of a dataset that numbers its categories by their labels already."""
        listed = dict(enumerate(names))
        return cls(listed, {label: label for label in listed})

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; :meth:`from_dict` is the way back."""
        return {
            "labels": [{"label": label, "id": self.id_of[label], "name": name} for label, name in self.names.items()]
        }

    @classmethod
    def from_dict(cls, content: Any) -> LabelMap:
        """Read what :meth:`to_dict` returned.

        Raises:
            ValueError: if it is something else; the message names the entry.
        """
        entries = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError("a label map is a JSON object with a list 'labels'; write it with LabelMap.save")
        kinds = {"label": int, "id": int, "name": str}
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict) or any(type(entry.get(key)) is not kind for key, kind in kinds.items()):
                raise ValueError(f"labels[{position}] is {entry!r}: expected whole numbers label and id, and a name")
        if len({entry["label"] for entry in entries}) < len(entries):
            raise ValueError("labels has the same label twice: expected each once")
        return cls(
            {entry["label"]: entry["name"] for entry in entries}, {entry["label"]: entry["id"] for entry in entries}
        )

    def save(self, folder: str | Path) -> Path:
        """Write ``label_map.json`` into an existing folder, whole or not at all, and return its path."""
        path = Path(folder) / LABEL_MAP_FILE
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))
        return path

    @classmethod
    def load(cls, folder: str | Path) -> LabelMap:
        """Read the ``label_map.json`` of a folder.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is not a label map; the message names the file and the entry.
        """
        path = Path(folder) / LABEL_MAP_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {LABEL_MAP_FILE}: training writes it beside the weights")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:  # of JSON and of from_dict
            raise ValueError(f"{path}: {error}") from error
