"""The peer's mends: their names, and, where transformers is installed, that each mends what it says and no more."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from ddetr_lab.benchmark.learning_peer import ALL, MENDS, build_peer, peer_name, read_mends
from ddetr_lab.config import preset
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.groups import parameter_groups


def test_names_say_what_is_mended() -> None:
    assert read_mends("deformable") is None
    assert read_mends("transformers") == frozenset()
    assert read_mends("transformers+eps+heads") == {"eps", "heads"}
    assert read_mends("transformers+all") == ALL == set(MENDS)
    assert read_mends("transformers+all-heads") == set(MENDS) - {"heads"}


def test_every_set_of_mends_has_one_name_that_reads_back() -> None:
    names = set()
    for count in range(len(MENDS) + 1):
        for chosen in itertools.combinations(MENDS, count):
            name = peer_name(frozenset(chosen))
            assert read_mends(name) == set(chosen)
            names.add(name)
    assert len(names) == 2 ** len(MENDS)
    assert peer_name(ALL) == "transformers+all"
    assert peer_name(frozenset({"heads", "eps"})) == "transformers+eps+heads"


@pytest.mark.parametrize("name", ["transformers+wings", "transformers+all-wings"])
def test_an_unknown_mend_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="no mend is called 'wings', expected all or activations, eps"):
        read_mends(name)


@pytest.fixture(scope="module")
def ours() -> DeformableDetrForObjectDetection:
    pytest.importorskip("transformers")
    torch.manual_seed(3)
    weights = {"class_cost": 2, "bbox_loss_coefficient": 2.5, "giou_loss_coefficient": 1}  # not the peer's defaults
    size = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 9}
    model = DeformableDetrForObjectDetection(preset("digits", **size, **weights))
    model.model.backbone.conv_encoder.model.get_submodule("conv_stem").requires_grad_(False)
    return model.train()


def loss_of(model: Any) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    pictures = torch.randn(2, 3, 96, 128, generator=draw)
    mask = torch.ones(2, 96, 128, dtype=torch.long)
    mask[1, 64:] = 0
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.5, 0.4, 0.5]])
    labels = [
        {"class_labels": torch.tensor([1, 2]), "boxes": boxes},
        {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},
    ]
    return model(pictures, mask, labels=labels).loss


def gradient_of(model: Any) -> Tensor:
    model.zero_grad()
    loss_of(model).backward()
    return torch.nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])


def test_with_all_mends_loss_and_gradient_are_ours(ours: DeformableDetrForObjectDetection) -> None:
    peer = build_peer(ours, ALL, seed=0)
    torch.testing.assert_close(loss_of(peer), loss_of(ours), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient_of(peer), gradient_of(ours), rtol=1e-4, atol=0)


@pytest.mark.parametrize("left_out", MENDS)
def test_each_mend_makes_a_difference(ours: DeformableDetrForObjectDetection, left_out: str) -> None:
    peer = build_peer(ours, ALL - {left_out}, seed=0)
    assert (gradient_of(peer) / gradient_of(ours) - 1).abs() > 1e-4


def test_as_shipped_it_has_its_own_weights_and_mended_ours(ours: DeformableDetrForObjectDetection) -> None:
    shipped, mended = (build_peer(ours, mends, seed=0) for mends in (ALL - {"weights"}, ALL))
    fields = ("class_cost", "bbox_cost", "giou_cost", "bbox_loss_coefficient", "giou_loss_coefficient")
    assert [getattr(shipped.config, field) for field in fields] == [1, 5, 2, 5, 2]
    assert shipped.weights is None
    assert (mended.config.class_cost, mended.config.bbox_cost, mended.config.giou_cost) == (2, 5, 2)
    assert mended.weights == {"loss_ce": 1.0, "loss_bbox": 2.5, "loss_giou": 1}
    assert ours.config.class_cost == 2, "ours is left as it was"


def test_learning_rates_are_sorted_as_ours_are(ours: DeformableDetrForObjectDetection) -> None:
    groups, expected = (parameter_groups(model, OptimizationSettings()) for model in (build_peer(ours, ALL, 0), ours))
    for mine, theirs in zip(groups, expected, strict=True):
        assert (mine["name"], mine["lr"], len(mine["params"])) == (theirs["name"], theirs["lr"], len(theirs["params"]))


def test_as_shipped_class_heads_are_one_and_the_backbone_is_ours(ours: DeformableDetrForObjectDetection) -> None:
    peer = build_peer(ours, frozenset(), seed=0)
    heads = peer.detector.class_embed
    assert heads[0].weight is heads[1].weight
    theirs = peer.detector.model.backbone.model
    for name, weight in ours.model.backbone.conv_encoder.model.named_parameters():
        torch.testing.assert_close(theirs.get_parameter(name), weight)
        assert theirs.get_parameter(name).requires_grad == weight.requires_grad
    apart = build_peer(ours, frozenset({"heads"}), seed=0).detector.class_embed
    assert apart[0].weight is not apart[1].weight
