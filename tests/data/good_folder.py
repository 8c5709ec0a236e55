"""A small good COCO folder, for tests to spoil."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48


def pixels(seed, width=WIDTH, height=HEIGHT):
    return np.random.default_rng(seed).integers(0, 255, size=(height, width, 3), dtype=np.uint8)


def good():
    """Four pictures 11 to 14 with three boxes each, of the classes 3 and 4; box n has the id 100 + n."""
    images = [{"id": 11 + n, "file_name": f"{11 + n}.png", "width": WIDTH, "height": HEIGHT} for n in range(4)]
    annotations = [
        {
            "id": 100 + n,
            "image_id": 11 + n // 3,
            "category_id": 3 + n % 2,
            "bbox": [20 + n, 15 + n, 12 + n, 9],
            "area": 9 * (12 + n),
            "iscrowd": 0,
        }
        for n in range(12)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}],
    }


def write(folder, content, name="annotations.json", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    for n in range(4):
        Image.fromarray(pixels(seed + n)).save(folder / f"{11 + n}.png")
    return folder
