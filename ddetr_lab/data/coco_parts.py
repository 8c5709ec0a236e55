"""Which COCO files a folder holds: one for everything, one a split, or COCO's own layout.

Built in chapter 18.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddetr_lab.data.coco import ANNOTATION_FILES, picture_folders

__all__ = ["CocoPart", "coco_parts"]

# A split's folder, as annotation tools name it, and the split.
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class CocoPart:
    """A COCO file and where its pictures are looked for.

    Args:
        name: of the file, from the data set's folder.
        file: its path.
        folders: looked into in this order.
        split: "train", "val" or "test"; "" for a file of everything.
    """

    name: str
    file: Path
    folders: tuple[Path, ...]
    split: str = ""


def coco_parts(path: str | Path, image_folder: str | Path | None = None) -> list[CocoPart]:
    """List the COCO files of a data set.

    Args:
        path: a COCO file; or a folder with one of ``ANNOTATION_FILES``, with such folders for its splits, or with
            ``annotations/instances_*.json`` and a folder of pictures for each.
        image_folder: where all pictures are, instead.

    Returns:
        The files that there are, possibly none.
    """
    path = Path(path)
    given = None if image_folder is None else (Path(image_folder),)
    if path.is_file():
        return [CocoPart(path.name, path, given or picture_folders(path))]
    found = []
    for file in sorted(path.glob("annotations/instances_*.json")):
        folder = path / file.stem.removeprefix("instances_")
        folders = given or (folder, *picture_folders(path / file.name))
        split = next((split for name, split in _SPLITS.items() if folder.name.startswith(name)), "")
        found.append(CocoPart(f"annotations/{file.name}", file, folders, split))
    for folder, split in ((path, ""), *((path / name, split) for name, split in _SPLITS.items())):
        names = [name for name in ANNOTATION_FILES if (folder / name).is_file()]
        if names:
            file = folder / names[0]
            name = file.relative_to(path).as_posix()
            found.append(CocoPart(name, file, given or picture_folders(file), split))
    return found
