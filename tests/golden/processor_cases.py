"""Pictures, annotations and arguments for the image processor. Imports neither implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.golden.generic_weights import uniform

__all__ = [
    "PROCESSOR_CASES",
    "PostProcessCase",
    "POST_PROCESS_CASES",
    "ProcessorCase",
    "make_images",
    "make_raw_outputs",
    "make_target_sizes",
    "picture",
    "record_processor",
    "write_panoptic_masks",
]


def picture(key: str, height: int, width: int) -> np.ndarray:
    """Return an RGB picture (H, W, 3) uint8: blocks of 5 pixels and noise, so that every filter leaves its mark."""
    coarse = uniform(f"blocks {key}", (-(-height // 5), -(-width // 5), 3), 20, 235)
    blocks = np.kron(coarse, np.ones((5, 5, 1), np.float32))[:height, :width]
    return np.clip(blocks + uniform(f"noise {key}", (height, width, 3), -20, 20), 0, 255).astype(np.uint8)


def _as_pil(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array)


def _as_channels_last(array: np.ndarray) -> np.ndarray:
    return array


def _as_channels_first(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _as_unit_floats(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / 255


def _as_unit_floats_first(array: np.ndarray) -> np.ndarray:
    return _as_channels_first(_as_unit_floats(array))


def _as_wide_floats(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(_as_channels_first(array))


def _as_float_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(_as_unit_floats_first(array))


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "pil": _as_pil,
    "last": _as_channels_last,
    "first": _as_channels_first,
    "unit": _as_unit_floats,
    "unit_first": _as_unit_floats_first,
    "wide": _as_wide_floats,
    "tensor": _as_tensor,
    "float_tensor": _as_float_tensor,
}


@dataclass(frozen=True)
class ProcessorCase:
    """One call of the processor.

    Attributes:
        name: a key in the golden file; pictures depend on it.
        sizes: (height, width) of each picture.
        init: constructor arguments.
        call: arguments of the call; ``return_tensors`` is "np" unless given.
        kind: how pictures come, a key of ``KINDS``.
        annotations: one dict for each picture, or None.
        single: pass the first picture (and annotation) itself instead of a list.
        method: "preprocess", or "pad".
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    init: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    kind: str = "pil"
    annotations: tuple[dict[str, Any], ...] | None = None
    single: bool = False
    method: str = "preprocess"


def _object(x: float, y: float, w: float, h: float, category: int, **more: Any) -> dict[str, Any]:
    return {"bbox": [x, y, w, h], "category_id": category, "area": round(w * h * 0.8, 2), "iscrowd": 0, **more}


def _detection(image_id: int, *objects: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": image_id, "annotations": list(objects)}


_TRIANGLE = [[10.0, 8.0, 50.5, 12.0, 30.0, 40.25]]
_TWO_PARTS = [[5.0, 5.0, 20.0, 5.0, 20.0, 20.0, 5.0, 20.0], [30.5, 30.5, 44.0, 31.0, 36.0, 44.0]]
_NO_ISCROWD = {"bbox": [3, 4, 20, 10], "category_id": 6, "area": 160}

_OBJECTS = _detection(
    17, _object(4.5, 6.25, 30, 22, 3, segmentation=_TRIANGLE), _object(20, 10, 25.5, 31, 0, segmentation=_TWO_PARTS)
)
_MESSY = _detection(
    18,
    _object(-5, -7, 30, 22, 1, segmentation=_TRIANGLE),  # begins outside: clipped
    _object(50, 30, 900, 900, 2, segmentation=_TWO_PARTS),  # ends outside: clipped
    _object(10, 10, 0, 12, 3, segmentation=_TRIANGLE),  # no width: dropped
    _object(300, 300, 5, 5, 4, segmentation=_TRIANGLE),  # all outside: dropped
    {**_object(1, 1, 30, 30, 5, segmentation=_TWO_PARTS), "iscrowd": 1},  # a crowd: dropped
)
_POINTS = _detection(
    19,
    _object(4, 6, 30, 22, 3, keypoints=[12, 14, 2]),
    _object(2, 2, 0, 5, 1, keypoints=[3, 3, 1]),
    _object(20, 10, 25, 31, 0, keypoints=[30.5, 20.25, 1]),
)
_EMPTY = _detection(20)

# Segment ids reach over all three bytes of the picture's colours.
PANOPTIC_IDS = (7, 300, 70_001)


def _segment(index: int, category: int, area: float, iscrowd: int = 0) -> dict[str, Any]:
    return {"id": PANOPTIC_IDS[index], "category_id": category, "area": area, "iscrowd": iscrowd}


_PANOPTIC = {
    "image_id": 31,
    "file_name": "panoptic.png",
    "segments_info": [_segment(0, 4, 700), _segment(1, 2, 500.5), _segment(2, 9, 90, iscrowd=1)],
}
_PANOPTIC_BY_ID = {"id": 32, "image_id": 32, "file_name": "panoptic.png", "segments_info": [_segment(2, 1, 90)]}

_SMALL = {"shortest_edge": 48, "longest_edge": 80}
_TWO = ((50, 70), (64, 45))

PROCESSOR_CASES: tuple[ProcessorCase, ...] = (
    # Sizes and aspect ratios.
    ProcessorCase("default_size", ((37, 61),)),
    ProcessorCase("shortest_and_longest", _TWO, {"size": _SMALL}),
    ProcessorCase("rounding_653x958", ((653, 958),), {"size": {"shortest_edge": 640, "longest_edge": 640}},
                  annotations=(_OBJECTS,)),
    ProcessorCase("rounding_portrait", ((958, 653),), {"size": {"shortest_edge": 333, "longest_edge": 401}}),
    ProcessorCase("int_size", ((50, 70),), {"size": 64}),
    ProcessorCase("int_size_with_max", ((50, 170),), {"size": 64, "max_size": 111}),
    ProcessorCase("fixed_height_and_width", _TWO, {"size": {"height": 40, "width": 72}},
                  annotations=(_OBJECTS, _EMPTY)),
    ProcessorCase("very_wide", ((9, 131),), {"size": _SMALL}),
    ProcessorCase("very_tall", ((131, 9),), {"size": _SMALL}),
    ProcessorCase("already_that_size", ((48, 63),), {"size": _SMALL}, annotations=(_OBJECTS,)),
    ProcessorCase("longest_edge_met_exactly", ((30, 50),), {"size": _SMALL}),
    ProcessorCase("size_of_the_call", ((50, 70),), call={"size": {"shortest_edge": 30, "longest_edge": 90}}),
    ProcessorCase("four_pixels", ((2, 2),), {"size": {"shortest_edge": 8, "longest_edge": 8}}),
    # Filters.
    ProcessorCase("nearest", ((50, 70),), {"size": _SMALL, "resample": 0}),
    ProcessorCase("lanczos", ((50, 70),), {"size": _SMALL}, {"resample": 1}),
    ProcessorCase("bicubic", ((50, 70),), {"size": _SMALL, "resample": 3}),
    # Kinds of pictures.
    ProcessorCase("numpy_channels_last", _TWO, {"size": _SMALL}, kind="last"),
    ProcessorCase("numpy_channels_first", _TWO, {"size": _SMALL}, kind="first"),
    ProcessorCase("tensor", _TWO, {"size": _SMALL}, {"return_tensors": "pt"}, kind="tensor"),
    ProcessorCase("unit_floats_resized", ((50, 70),), {"size": _SMALL, "do_rescale": False}, kind="unit"),
    ProcessorCase("unit_floats_first_resized", ((50, 70),), {"size": _SMALL, "do_rescale": False}, kind="unit_first"),
    ProcessorCase("unit_floats_as_they_are", _TWO, {"do_resize": False, "do_rescale": False}, kind="unit"),
    ProcessorCase("float_tensor", ((50, 70),), {"do_resize": False, "do_rescale": False}, kind="float_tensor"),
    ProcessorCase("wide_floats", ((50, 70),), {"do_resize": False}, kind="wide"),
    ProcessorCase("single_picture", ((50, 70),), {"size": _SMALL}, annotations=(_OBJECTS,), single=True),
    ProcessorCase("ambiguous_channels", ((3, 20),), {"do_resize": False}, {"input_data_format": "channels_last"},
                  kind="last"),
    ProcessorCase("channels_last_out", _TWO, {"size": _SMALL}, {"data_format": "channels_last"}),
    # Steps left out.
    ProcessorCase("no_resize", _TWO, {"do_resize": False}, annotations=(_OBJECTS, _MESSY)),
    ProcessorCase("no_rescale_no_normalize", ((50, 70),), {"size": _SMALL, "do_rescale": False, "do_normalize": False}),
    ProcessorCase("no_normalize", _TWO, {"size": _SMALL, "do_normalize": False}, annotations=(_OBJECTS, _MESSY)),
    ProcessorCase("no_pad", _TWO, {"size": _SMALL, "do_pad": False}, {"return_tensors": None},
                  annotations=(_OBJECTS, _MESSY)),
    ProcessorCase("no_pad_tensors", ((50, 70),), {"size": _SMALL}, {"do_pad": False, "return_tensors": "pt"}),
    ProcessorCase("nothing_at_all", _TWO, {
        "do_resize": False, "do_rescale": False, "do_normalize": False, "do_pad": False}, {"return_tensors": None},
        annotations=(_OBJECTS, _EMPTY)),
    ProcessorCase("pad_alias", _TWO, {"size": _SMALL, "pad_and_return_pixel_mask": False}, {"return_tensors": None}),
    # Numbers of the colours.
    ProcessorCase("other_mean_and_std", ((50, 70),), {
        "size": _SMALL, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 127.5}),
    ProcessorCase("one_mean_for_all", ((50, 70),), {"size": _SMALL}, {"image_mean": 0.5, "image_std": 0.25}),
    # Annotations.
    ProcessorCase("detection", _TWO, {"size": _SMALL}, {"return_tensors": "pt"}, annotations=(_OBJECTS, _MESSY)),
    ProcessorCase("detection_empty", _TWO, {"size": _SMALL}, {"return_tensors": "pt"}, annotations=(_EMPTY, _OBJECTS)),
    ProcessorCase("without_iscrowd", ((50, 70),), {"size": _SMALL},
                  annotations=(_detection(21, _NO_ISCROWD, _object(1, 2, 3, 4, 5)),)),
    ProcessorCase("masks", _TWO, {"size": _SMALL}, {"return_segmentation_masks": True},
                  annotations=(_OBJECTS, _MESSY)),
    ProcessorCase("masks_enlarged", ((50, 70),), {"size": {"shortest_edge": 73, "longest_edge": 140}},
                  {"return_segmentation_masks": True}, annotations=(_OBJECTS,)),
    ProcessorCase("masks_not_resized", ((50, 70),), {"do_resize": False}, {"return_segmentation_masks": True},
                  annotations=(_OBJECTS,)),
    ProcessorCase("keypoints", ((50, 70),), {"size": _SMALL}, annotations=(_POINTS,)),
    ProcessorCase("panoptic", ((50, 70),), {"size": _SMALL, "format": "coco_panoptic"}, annotations=(_PANOPTIC,)),
    ProcessorCase("panoptic_two", ((50, 70), (50, 70)), {"size": _SMALL}, {
        "format": "coco_panoptic", "return_tensors": "pt"}, annotations=(_PANOPTIC, _PANOPTIC_BY_ID)),
    ProcessorCase("panoptic_without_masks", ((50, 70),), {"format": "coco_panoptic", "do_resize": False},
                  {"return_segmentation_masks": False}, annotations=(_PANOPTIC,)),
    ProcessorCase("panoptic_no_normalize", ((50, 70),), {
        "size": _SMALL, "format": "coco_panoptic", "do_normalize": False}, annotations=(_PANOPTIC,)),
    # The method that collate functions call.
    ProcessorCase("pad_method", ((20, 30), (26, 17)), call={"return_tensors": "pt"}, kind="unit_first", method="pad"),
    ProcessorCase("pad_method_value", ((20, 30), (26, 17)), call={"constant_values": 0.5, "return_pixel_mask": False},
                  kind="unit_first", method="pad"),
)  # fmt: skip


@dataclass(frozen=True)
class PostProcessCase:
    """One call of ``post_process_object_detection``; sizes are (height, width)."""

    name: str
    call: dict[str, Any]
    queries: int = 14
    labels: int = 6
    sizes: tuple[tuple[int, int], ...] = ((480, 640), (333, 500))
    sizes_as_list: bool = False
    method: str = "post_process_object_detection"


POST_PROCESS_CASES: tuple[PostProcessCase, ...] = (
    PostProcessCase("default", {}),
    PostProcessCase("everything", {"threshold": 0.0}),
    PostProcessCase("sizes_as_list", {"threshold": 0.3}, sizes_as_list=True),
    PostProcessCase("few", {"threshold": 0.1, "top_k": 5}),
    PostProcessCase("more_than_there_are", {"threshold": 0.0, "top_k": 1000}, queries=3, labels=4),
    PostProcessCase("one_label", {"threshold": 0.2}, labels=1),
    PostProcessCase("nothing_left", {"threshold": 0.999}),
    PostProcessCase("deprecated", {}, queries=40, method="post_process"),
)


def make_images(case: ProcessorCase) -> list[Any]:
    """Return the case's pictures in the kind it asks for."""
    return [
        KINDS[case.kind](picture(f"{index} of {case.name}", height, width))
        for index, (height, width) in enumerate(case.sizes)
    ]


def make_raw_outputs(case: PostProcessCase) -> dict[str, torch.Tensor]:
    """Return logits (B, Q, K) and cxcywh boxes (B, Q, 4) as a model might."""
    batch = len(case.sizes)
    logits = uniform(f"logits {case.name}", (batch, case.queries, case.labels), -5, 3)
    boxes = uniform(f"boxes {case.name}", (batch, case.queries, 4), 0.05, 0.95)
    return {"logits": torch.from_numpy(logits), "pred_boxes": torch.from_numpy(boxes)}


def make_target_sizes(case: PostProcessCase) -> torch.Tensor | list[tuple[int, int]]:
    """Return the (height, width) of each picture."""
    return list(case.sizes) if case.sizes_as_list else torch.tensor(case.sizes)


def write_panoptic_masks(folder: Path) -> None:
    """Write ``panoptic.png`` (50 x 70): three segments and background, ids in three bytes, the red one lowest."""
    ids = np.zeros((50, 70), dtype=np.int64)
    ids[5:30, 8:40] = PANOPTIC_IDS[0]
    ids[20:45, 30:66] = PANOPTIC_IDS[1]
    ids[35:50, 0:6] = PANOPTIC_IDS[2]
    colours = np.stack((ids % 256, ids // 256 % 256, ids // 65536), axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "panoptic.png")


def record_processor(
    processor: Any, case: ProcessorCase, masks_path: Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Run a case and return all arrays by flat name, and the facts about keys and types."""
    images = make_images(case)
    arguments = {"return_tensors": "np", **case.call}
    if case.method == "pad":
        batch = processor.pad(images, **arguments)
    else:
        if case.annotations is not None:
            arguments["annotations"] = case.annotations[0] if case.single else list(case.annotations)
            if any("segments_info" in annotation for annotation in case.annotations):
                arguments["masks_path"] = masks_path
        batch = processor(images[0] if case.single else images, **arguments)
    arrays: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}
    _flatten(batch, "", arrays, kinds)
    return arrays, {"kinds": kinds}


def _flatten(value: Any, name: str, arrays: dict[str, np.ndarray], kinds: dict[str, str]) -> None:
    """Collect arrays by dotted name, and what each was: ``tensor float32``, ``array int64`` or ``tuple``."""
    if hasattr(value, "items"):
        for key, item in value.items():
            _flatten(item, f"{name}.{key}" if name else key, arrays, kinds)
        return
    if isinstance(value, torch.Tensor):
        arrays[name], family = value.numpy(), "tensor"
    elif isinstance(value, np.ndarray):
        arrays[name], family = value, "array"
    elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
        for index, item in enumerate(value):
            _flatten(item, f"{name}.{index}", arrays, kinds)
        return
    else:
        arrays[name], family = np.asarray(value), type(value).__name__
    kinds[name] = f"{family} {arrays[name].dtype} {'x'.join(map(str, arrays[name].shape))}".strip()
