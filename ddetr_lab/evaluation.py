"""From a detector and a dataset to its detections, and from those to its average precision.

With several processes each runs its share of the pictures, and every one has all detections in the end.

Built in chapter 15.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ddetr_lab.evaluation_ranks import ALONE, Ranks, gather_detections
from ddetr_lab.evaluation_scores import EvaluationResult, evaluate_detections

if TYPE_CHECKING:
    from ddetr_lab.data.coco import DetectionDataset

__all__ = ["EvaluationResult", "detect_dataset", "evaluate", "evaluate_detections", "score_dataset"]


def evaluate(
    model: Any,
    processor: Any,
    dataset: DetectionDataset,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    score_threshold: float = 0.0,
    top_k: int = 100,
    progress: bool = True,
    over_ranks: bool = False,
) -> EvaluationResult:
    """Score a detector on a dataset with COCO's protocol: :func:`detect_dataset`, then :func:`score_dataset`.

    Args:
        model: a ``DeformableDetrForObjectDetection``; it comes back in the mode it had.
        processor: its image processor. Pictures are scored in the frames that it makes: with a stored ``pad_size``
            every picture is padded to that size, as in training, and the score does not depend on the batch.
        dataset: items ``(picture, annotation)``, ``categories``, ``coco_ground_truth()``.
        batch_size: pictures at a time.
        device: where to run; by default where the model is.
        score_threshold: detections at or below it are dropped. 0 for AP: every dropped true one costs recall.
        top_k: detections a picture, over all labels, best first; above 100 the protocol is widened to as many (and AR
            says so).
        progress: show a progress bar on stderr.
        over_ranks: share the pictures among the processes of ``torch.distributed``, each of which must call this; all
            get the same result. Without a process group it changes nothing.

    Returns:
        The result. A detection with a label that the dataset does not have is left out, and ``notes`` says how many.

    Raises:
        ValueError: if the model's head is too narrow for the dataset's labels, or its outputs are NaN.

    Built in chapter 15.
    """
    detections = detect_dataset(
        model,
        processor,
        dataset,
        batch_size=batch_size,
        device=device,
        score_threshold=score_threshold,
        top_k=top_k,
        progress=progress,
        over_ranks=over_ranks,
    )
    return score_dataset(dataset, detections, top_k)


def detect_dataset(
    model: Any,
    processor: Any,
    dataset: DetectionDataset,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    score_threshold: float = 0.0,
    top_k: int = 100,
    progress: bool = True,
    over_ranks: bool = False,
) -> list[dict[str, Any]]:
    """Run a detector over a dataset and return its detections in COCO's result form.

    The model runs in evaluation mode under ``inference_mode`` and is handed back in the mode, and on the device, it
    came in. See :func:`evaluate` for the arguments.

    Raises:
        ValueError: if the model's head is too narrow for the dataset's labels, or ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}, expected at least 1")
    _check_head(model, dataset)
    ranks = Ranks.present() if over_ranks else ALONE
    mine = ranks.share(len(dataset))
    parameter = next(model.parameters())
    home, training = parameter.device, model.training
    device = home if device is None else torch.device(device)
    detections: list[dict[str, Any]] = []
    model.to(device).eval()
    try:
        with torch.inference_mode():
            for start in _progress(range(0, len(mine), batch_size), progress and ranks.rank == 0):
                items = [dataset[index] for index in mine[start : start + batch_size]]
                features = processor(images=[picture for picture, _ in items], return_tensors="pt")
                outputs = model(
                    # A half-precision model takes half-precision pictures; the mask stays as it is.
                    pixel_values=features["pixel_values"].to(device, parameter.dtype),
                    pixel_mask=features["pixel_mask"].to(device),
                )
                sizes = [(picture.height, picture.width) for picture, _ in items]
                found = processor.post_process_object_detection(
                    outputs, threshold=score_threshold, target_sizes=sizes, top_k=top_k
                )
                for (_, annotation), result in zip(items, found, strict=True):
                    detections += _coco_results(annotation["image_id"], result)
    finally:
        model.to(home).train(training)
    return gather_detections(detections, ranks)


def score_dataset(
    dataset: DetectionDataset, detections: Sequence[Mapping[str, Any]], top_k: int = 100
) -> EvaluationResult:
    """Score what :func:`detect_dataset` returned; see :func:`evaluate`."""
    known = [detection for detection in detections if detection["category_id"] in dataset.categories]
    result = evaluate_detections(dataset.coco_ground_truth(), known, max_detections=max(100, top_k))
    foreign = len(detections) - len(known)
    if foreign:
        note = f"{foreign} of {len(detections)} detections have a label that the dataset does not have: left out"
        result = dataclasses.replace(result, notes=(*result.notes, note))
    return result


def _check_head(model: Any, dataset: DetectionDataset) -> None:
    width = getattr(getattr(model, "config", None), "num_labels", None)
    if width is not None and dataset.categories and max(dataset.categories) >= width:
        raise ValueError(
            f"the dataset has labels up to {max(dataset.categories)}, but the model's head has {width} labels "
            f"(0 to {width - 1}): replace the head, or load the dataset that the model was trained for"
        )


def _coco_results(image_id: int, result: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Turn one picture's scores, labels and boxes (n, 4) xyxy in pixels into COCO results."""
    scores, labels, boxes = (result[key].cpu().tolist() for key in ("scores", "labels", "boxes"))
    return [
        {"image_id": image_id, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for score, label, (x0, y0, x1, y1) in zip(scores, labels, boxes, strict=True)
    ]


def _progress(steps: range, show: bool) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(steps, desc="evaluating", unit="batch", disable=not show)
