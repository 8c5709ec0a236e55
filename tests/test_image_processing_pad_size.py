"""``pad_size``, which later versions of the reference brought: one size for every batch."""

import numpy as np
import pytest
import torch

from ddetr_lab.image_processing import DeformableDetrImageProcessor


def test_pad_size_gives_every_batch_one_size_and_survives_the_file(tmp_path) -> None:
    processor = DeformableDetrImageProcessor(
        size={"shortest_edge": 32, "longest_edge": 32}, pad_size={"height": 40, "width": 48}
    )
    processor.save_pretrained(tmp_path)
    loaded = DeformableDetrImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    small, wide = np.full((16, 32, 3), 200, np.uint8), np.full((32, 20, 3), 90, np.uint8)
    alone, both = (loaded(pictures, return_tensors="pt") for pictures in (small, [small, wide]))
    assert alone["pixel_values"].shape == (1, 3, 40, 48) and both["pixel_values"].shape == (2, 3, 40, 48)
    assert torch.equal(alone["pixel_values"][0], both["pixel_values"][0])
    assert both["pixel_mask"].sum((1, 2)).tolist() == [16 * 32, 32 * 20]
    assert not alone["pixel_values"][0, :, 16:].any()
    per_call = loaded(small, return_tensors="pt", pad_size={"height": 64, "width": 64})
    assert per_call["pixel_values"].shape == (1, 3, 64, 64)


def test_without_pad_size_the_file_is_the_reference_s() -> None:
    assert "pad_size" not in DeformableDetrImageProcessor().to_dict()


@pytest.mark.parametrize(
    "wrong", [40, {"height": 40}, {"height": 0, "width": 4}, {"shortest_edge": 3, "longest_edge": 4}]
)
def test_a_pad_size_of_another_form_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="pad_size is"):
        DeformableDetrImageProcessor(pad_size=wrong)


def test_a_picture_larger_than_pad_size_is_refused() -> None:
    processor = DeformableDetrImageProcessor(do_resize=False, pad_size={"height": 8, "width": 8})
    with pytest.raises(ValueError, match="9 x 5 .* does not fit into pad_size 8 x 8"):
        processor(np.zeros((9, 5, 3), np.uint8))
