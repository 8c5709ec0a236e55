"""Small pictures first: the same objects, fewer pixels, and a run that goes on where it stopped."""

import pytest
import torch

from ddetr_lab.training.shrink import shrunk


def batch(height: int = 40, width: int = 60) -> dict[str, object]:
    mask = torch.zeros(2, height, width, dtype=torch.int64)
    mask[0], mask[1, : height // 2, : width // 2] = 1, 1
    pixels = torch.rand(2, 3, height, width) * mask[:, None]
    return {"pixel_values": pixels, "pixel_mask": mask, "labels": ["kept"]}


def test_pictures_shrink_masks_follow_and_labels_stay() -> None:
    given = batch()
    small = shrunk(given, 0.5)
    assert small["pixel_values"].shape == (2, 3, 20, 30) and small["pixel_mask"].shape == (2, 20, 30)
    assert small["pixel_mask"].dtype == torch.int64 and small["labels"] is given["labels"]
    assert small["pixel_mask"].sum((1, 2)).tolist() == [600, 150], "the same share of each picture is real"
    assert (small["pixel_mask"][:, 0, 0] == 1).all()
    assert given["pixel_values"].shape == (2, 3, 40, 60), "the batch given is not touched"


def test_a_picture_s_mean_stays() -> None:
    # Every pixel counts, so that fine texture does not turn into a coarse one that is not there.
    given = {"pixel_values": torch.zeros(1, 3, 64, 64), "pixel_mask": torch.ones(1, 64, 64)}
    given["pixel_values"][..., ::4] = 1.0
    small = shrunk(given, 0.25)["pixel_values"]
    torch.testing.assert_close(small.mean(), torch.tensor(0.25), atol=0.02, rtol=0)
    assert small[..., 2:-2].std() < 0.05


@pytest.mark.parametrize(("factor", "size"), [(0.7, (28, 42)), (0.33, (13, 20)), (0.001, (1, 1))])
def test_sides_are_whole_pixels(factor: float, size: tuple[int, int]) -> None:
    assert shrunk(batch(), factor)["pixel_values"].shape[-2:] == size


def test_nothing_changes_by_a_factor_of_one() -> None:
    given = batch()
    assert all(value is given[key] for key, value in shrunk(given, 1.0).items())
