"""One small picture that is all formula, and annotations for it, shared by the tests of the processor."""

from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 9
SIZE = {"shortest_edge": 4, "longest_edge": 7}  # 6 x 9 becomes 4 x 6

# red + 256 green + 65536 blue of the panoptic picture
SEGMENTS = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
SEGMENTS[:3] = 70000
SEGMENTS[3:, :4] = 300
SEGMENTS[3:, 4:] = 7
SEGMENTS[0, 8] = 7


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return (height, width, 3) uint8 with every channel, row and column different."""
    y, x, channel = np.mgrid[:height, :width, :3]
    return ((x * x * 7 + y * 13 + channel * 50 + x * y * 3) % 256).astype(np.uint8)


def detection(image_id: int = 17) -> dict[str, Any]:
    """Two good objects, of which one leaves the picture; a crowd; and one wholly outside."""
    return {
        "image_id": image_id,
        "annotations": [
            {
                "bbox": [1, 1, 4, 3],
                "category_id": 3,
                "area": 12.0,
                "iscrowd": 0,
                "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]],
                "keypoints": [2, 2, 2],
            },
            {
                "bbox": [-2, 3, 5, 9],
                "category_id": 0,
                "area": 9.5,
                "segmentation": [[0, 3, 3, 3, 3, 6]],
                "keypoints": [1, 4, 1],
            },
            {"bbox": [2, 2, 3, 3], "category_id": 5, "area": 9.0, "iscrowd": 1},
            {
                "bbox": [9, 0, 3, 3],
                "category_id": 6,
                "area": 9.0,
                "segmentation": [[0, 3, 3, 3, 3, 6]],
                "keypoints": [1, 4, 1],
            },
        ],
    }


def panoptic(folder: Any) -> dict[str, Any]:
    """Write the PNG of ``SEGMENTS`` into ``folder`` and return its annotation."""
    colours = np.stack([SEGMENTS % 256, SEGMENTS // 256 % 256, SEGMENTS // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "segments.png")
    return {
        "image_id": 4,
        "file_name": "segments.png",
        "segments_info": [
            {"id": 70000, "category_id": 9, "iscrowd": 0, "area": 26},
            {"id": 300, "category_id": 2, "iscrowd": 1, "area": 12},
            {"id": 7, "category_id": 1, "iscrowd": 0, "area": 16},
        ],
    }
