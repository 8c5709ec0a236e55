"""The first stage: boxes on a grid, which of them are kept, and their embedding."""

import math

import pytest
import torch

from ddetr_lab.proposals import grid_proposals, proposal_position_embedding, select_proposals


def test_every_real_cell_proposes_a_square_at_its_place() -> None:
    first = torch.zeros(1, 4, 6, dtype=torch.bool)
    first[:, :3, :4] = True
    second = torch.ones(1, 2, 3, dtype=torch.bool)
    logits, proposed = grid_proposals([first, second])
    assert logits.shape == (1, 30, 4) and proposed.shape == (1, 30)
    boxes = logits.sigmoid()[0].view(30, 4)
    # Row 2, column 3 of the first level: the grid spans the real cells, not the padded map.
    torch.testing.assert_close(boxes[2 * 6 + 3], torch.tensor([3.5 / 4, 2.5 / 3, 0.05, 0.05]))
    torch.testing.assert_close(boxes[24 + 1 * 3 + 2], torch.tensor([2.5 / 3, 1.5 / 2, 0.1, 0.1]))
    assert torch.equal(proposed[0, :24].view(4, 6), first[0])
    assert proposed[0, 24:].all()


def test_padding_and_the_rim_propose_nothing() -> None:
    mask = torch.zeros(1, 2, 80, dtype=torch.bool)
    mask[:, :1, :64] = True  # cells of 1/64: the first and last centre lie 1/128 < 0.01 from the rim
    logits, proposed = grid_proposals([mask])
    expected = torch.zeros(2, 80, dtype=torch.bool)
    expected[0, 1:63] = True
    assert torch.equal(proposed[0].view(2, 80), expected)
    assert torch.isinf(logits[~proposed]).all() and (logits[~proposed] > 0).all()
    assert torch.isfinite(logits[proposed]).all()


def test_coarse_levels_propose_nothing_once_their_squares_outgrow_the_picture() -> None:
    logits, proposed = grid_proposals([torch.ones(1, 2, 2, dtype=torch.bool)] * 6)
    sizes = logits.sigmoid()[0, ::4, 2]
    torch.testing.assert_close(sizes, torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8, 1.0]))  # 1.6 does not fit
    assert proposed[0].view(6, 4).all(1).tolist() == [True] * 5 + [False]


def test_each_picture_has_its_own_grid() -> None:
    mask = torch.ones(2, 2, 4, dtype=torch.bool)
    mask[1, :, 2:] = False
    logits, _ = grid_proposals([mask])
    x = logits.sigmoid()[..., 0]
    torch.testing.assert_close(x[0, :4], torch.tensor([1, 3, 5, 7]) / 8)
    torch.testing.assert_close(x[1, :2], torch.tensor([1, 3]) / 4)


def test_the_best_of_class_0_are_kept_in_order_and_detached() -> None:
    scores = torch.tensor([[[0.1, 9.0], [3.0, 0.0], [2.0, 0.0], [-1.0, 5.0]]])
    boxes = torch.arange(16.0).view(1, 4, 4).requires_grad_()
    best = select_proposals(scores, boxes, 2)
    assert best.tolist() == [[[4, 5, 6, 7], [8, 9, 10, 11]]]
    assert not best.requires_grad


def test_more_proposals_than_cells_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"two_stage_num_proposals = 5, but the picture has 4 cells.*larger picture"):
        select_proposals(torch.zeros(1, 4, 2), torch.zeros(1, 4, 4), 5)
    assert select_proposals(torch.zeros(1, 4, 2), torch.zeros(1, 4, 4), 4).shape == (1, 4, 4)


def test_embedding_writes_each_coordinate_as_sines() -> None:
    box_logits = torch.tensor([[[0.0, 1.0, -1.0, math.inf]]])
    embedded = proposal_position_embedding(box_logits, d_model=8)
    assert embedded.shape == (1, 1, 16)
    expected = []
    for coordinate in box_logits.sigmoid().flatten().tolist():
        for frequency in (1, 100):  # 10,000 ** (2i / 4)
            angle = coordinate * 2 * math.pi / frequency
            expected += [math.sin(angle), math.cos(angle)]
    torch.testing.assert_close(embedded.flatten(), torch.tensor(expected), rtol=0, atol=1e-6)
