"""Evaluation over two processes: each picture once, and the result of one process alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.evaluation import detect_dataset, evaluate
from ddetr_lab.evaluation_ranks import ALONE, Ranks, gather_detections
from ddetr_lab.image_processing import DeformableDetrImageProcessor
from tests.tiny import generic, tiny_config

PICTURES = (7, 1)  # shares that differ, and a process without any


class Counted(DigitScenes):
    """Scenes that know which of them were drawn."""

    def __init__(self, pictures: int) -> None:
        super().__init__("val", num_scenes=pictures, size=64)
        self.drawn: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.drawn.append(index)
        return super().__getitem__(index)


def detector() -> tuple[Any, DeformableDetrImageProcessor]:
    from ddetr_lab.detector import DeformableDetrForObjectDetection

    side = {"height": 64, "width": 64}
    processor = DeformableDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, pad_size=side)
    return generic(DeformableDetrForObjectDetection(tiny_config(num_feature_levels=3, num_labels=10))), processor


def one_process(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    for pictures in PICTURES:
        scenes = Counted(pictures)
        result = evaluate(*detector(), scenes, batch_size=2, progress=False, over_ranks=True)
        alone = evaluate(*detector(), DigitScenes("val", num_scenes=pictures, size=64), progress=False)
        content = {"drawn": scenes.drawn, "result": result.to_dict(), "alone": alone.to_dict()}
        Path(folder, f"{pictures}-{rank}.json").write_text(json.dumps(content))
    dist.destroy_process_group()


def test_two_processes_share_the_pictures_and_agree_with_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_process, args=(2, str(tmp_path)), nprocs=2)
    for pictures in PICTURES:
        found = [json.loads((tmp_path / f"{pictures}-{rank}.json").read_text()) for rank in range(2)]
        assert sorted(found[0]["drawn"] + found[1]["drawn"]) == list(range(pictures))
        assert len(found[0]["drawn"]) - len(found[1]["drawn"]) == 1
        expected = evaluate(*detector(), DigitScenes("val", num_scenes=pictures, size=64), progress=False).to_dict()
        assert expected["num_detections"] > 0 and expected["num_images"] == pictures
        for content in found:
            assert content["result"] == expected
            assert content["alone"] == expected, "without over_ranks a process evaluates alone, group or not"


def test_every_picture_has_one_process() -> None:
    for size in (1, 2, 3, 5):
        for pictures in (0, 1, 7):
            shares = [list(Ranks(rank, size).share(pictures)) for rank in range(size)]
            assert sorted(sum(shares, [])) == list(range(pictures))
    assert Ranks.present() == ALONE


def test_alone_nothing_is_gathered_and_the_input_is_left_alone() -> None:
    one = {"image_id": 3, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4], "score": 0.5}
    (copy,) = gather_detections([one], ALONE)
    assert copy == one and copy is not one


def test_all_detections_come_back_without_a_group_too() -> None:
    model, processor = detector()
    scenes = DigitScenes("val", num_scenes=3, size=64)
    everything, shared = (
        detect_dataset(model, processor, scenes, progress=False, over_ranks=over) for over in (False, True)
    )
    assert everything == shared and {entry["image_id"] for entry in everything} == {0, 1, 2}
