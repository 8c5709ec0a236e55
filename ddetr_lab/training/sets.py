"""Which pictures a recipe trains on, and which it is scored on.

Built in chapters 16 and 18.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddetr_lab.data.coco import ANNOTATION_FILES, CocoDataset
from ddetr_lab.data.coco_parts import coco_parts
from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.data.sampling import picture_sizes
from ddetr_lab.recipe import Recipe

__all__ = ["HELD_OUT", "PictureSubset", "coco_split", "common_labels", "label_map_of", "training_set", "validation_set"]

HELD_OUT = 5  # without a split of its own, every fifth picture of a folder is for validation


class PictureSubset:
    """Some pictures of a dataset, as a dataset.

    Args:
        dataset: any of ``ddetr_lab.data``; what is not pictures (``categories``, ``label_map``) stays its own.
        indices: which pictures, in this order.

    Built in chapter 18.
    """

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.categories: dict[int, str] = dataset.categories
        self.label_map = label_map_of(dataset)

    def __repr__(self) -> str:
        return f"PictureSubset({self.dataset!r}, {len(self)} pictures)"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def picture_sizes(self) -> NDArray[np.float64]:
        """Return the (N, 2) width and height in _px."""
        return picture_sizes(self.dataset)[self.indices]

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the COCO dictionary of these pictures alone."""
        truth = self.dataset.coco_ground_truth()
        images = [truth["images"][index] for index in self.indices]
        kept = {image["id"] for image in images}
        return {
            **truth,
            "images": images,
            "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in kept],
        }


def coco_split(folder: str | Path, split: str) -> Any:
    """Open the training or the validation part of a COCO folder.

    Looked for, in this order:

    * COCO's own layout: ``annotations/instances_train2017.json`` with its pictures in ``train2017``;
    * a folder a split, as annotation tools export them: ``train`` and ``val`` (or ``valid``, ``validation``);
    * one file for everything: then every fifth picture is for validation.

    Args:
        folder: the folder.
        split: "train" or "val".

    Raises:
        FileNotFoundError: if there is no such data; the message says what was looked for.
        ValueError: if a file is no COCO file, or the one for everything has too few pictures to hold some out.
    """
    folder = Path(folder)
    if split not in ("train", "val"):
        raise ValueError(f"split = {split!r}, expected train or val")
    if not folder.is_dir():
        raise FileNotFoundError(f"folder = {str(folder)!r} is no folder: expected one with pictures and a COCO file")
    parts = coco_parts(folder)
    for part in parts:
        if part.split == split:
            # In COCO's own layout the pictures lie elsewhere than the file.
            return CocoDataset(part.file, part.folders[0] if part.file.parent.name == "annotations" else None)
    whole = next((part for part in parts if not part.split and part.file.parent == folder), None)
    if whole is None:
        raise FileNotFoundError(
            f"{folder} has no {split} part: expected annotations/instances_{split}*.json, or a folder {split} with one "
            f"of {', '.join(ANNOTATION_FILES)}, or such a file for everything"
        )
    everything = CocoDataset(whole.file)
    held_out = split == "val"
    if held_out and len(everything) < HELD_OUT:
        raise ValueError(
            f"{len(everything)} pictures in {whole.file} leave none for validation: expected at least {HELD_OUT}, or a "
            "folder val of its own beside a folder train"
        )
    return PictureSubset(
        everything, [index for index in range(len(everything)) if (index % HELD_OUT == HELD_OUT - 1) == held_out]
    )


def training_set(recipe: Recipe, steps: int, seed: int) -> Any:
    """Return the recipe's training pictures.

    Args:
        recipe: see ``[data]``.
        steps: of the run; scenes drawn on the fly last for all of them, so that none is seen twice. 0: not known.
        seed: of scenes drawn on the fly.

    Raises:
        FileNotFoundError: if there are no such data.
        ValueError: if there is no picture, or the number of scenes cannot be known.
    """
    data = recipe.data
    if data.dataset == "digits":
        count = data.pictures or steps * recipe.optimization.batch_size
        if not count:
            raise ValueError("[optimization] epochs need a number of scenes to go through: set [data] pictures too")
        return DigitScenes("train", num_scenes=count, seed=seed, size=data.size, crowded=data.crowded)
    dataset = _split(recipe, "train")
    if len(dataset) == 0:
        raise ValueError(f"the training part of {data.folder or data.dataset} has no picture")
    return PictureSubset(dataset, list(range(min(data.pictures, len(dataset))))) if data.pictures else dataset


def validation_set(recipe: Recipe, split: str = "val") -> Any:
    """Return the recipe's validation pictures: the same for every run, whatever its seed.

    Args:
        recipe: see ``[data]``.
        split: another part of the data to score on, such as the sites "OSBS" and "SOAP" of "trees".

    Raises:
        FileNotFoundError: if there are no such data.
        ValueError: if the data have no such part, or it has no picture.
    """
    data = recipe.data
    if data.dataset == "digits":
        return DigitScenes(split, num_scenes=recipe.evaluation.scenes, seed=0, size=data.size)
    dataset = _split(recipe, split)
    if len(dataset) == 0:
        raise ValueError(f"the {split} part of {data.folder or data.dataset} has no picture: nothing can be scored")
    return dataset


def common_labels(training: Any, validation: Any) -> LabelMap:
    """Return the labels of a training set, and see to it that the validation set's are the same.

    Raises:
        ValueError: if they are not.
    """
    first, second = label_map_of(training), label_map_of(validation)
    if first != second:
        raise ValueError(
            f"the training pictures have the categories {first.to_dict()['labels']} and the validation pictures "
            f"{second.to_dict()['labels']}: give both files the same list of categories"
        )
    return first


def label_map_of(dataset: Any) -> LabelMap:
    """Return a dataset's label map; one that has none numbers its categories by their labels."""
    found: LabelMap | None = getattr(dataset, "label_map", None)
    return LabelMap.from_names(dataset.categories.values()) if found is None else found


def _split(recipe: Recipe, split: str) -> Any:
    data = recipe.data
    if data.dataset == "trees":
        from ddetr_lab.data.trees import TreeCrowns

        return TreeCrowns(split, tile=data.tile)
    if not data.folder:
        raise ValueError(
            "[data] folder is empty: say where the COCO data set lies, in a recipe of your own or with "
            "`ddetr-lab train DIR`"
        )
    return coco_split(data.folder, split)
