"""Frozen norms: batch norm in evaluation, for good; and folded into the convolutions before them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ddetr_lab.backbone import Backbone
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.frozen_norm import FrozenBatchNorm2d, find_pairs, folded, freeze_batch_norms
from tests.tiny import randomised


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_frozen_norm_is_the_batch_norm_in_evaluation(eps: float) -> None:
    norm = randomised(nn.BatchNorm2d(3, eps=eps))
    frozen = FrozenBatchNorm2d.from_batch_norm(norm)
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(frozen.train()(x), norm(x))


def test_frozen_norm_has_nothing_to_train_and_copies_its_numbers() -> None:
    norm = randomised(nn.BatchNorm2d(3))
    frozen = FrozenBatchNorm2d.from_batch_norm(norm)
    assert list(frozen.parameters()) == []
    assert sorted(frozen.state_dict()) == ["bias", "running_mean", "running_var", "weight"]
    with torch.no_grad():
        norm.weight.zero_()
    assert frozen.weight.min() >= 0.5


def test_frozen_norm_of_a_norm_without_scale() -> None:
    norm = nn.BatchNorm2d(3, affine=False).eval()
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(FrozenBatchNorm2d.from_batch_norm(norm)(x), norm(x))


def test_frozen_norm_loads_the_file_of_a_batch_norm() -> None:
    norm = randomised(nn.BatchNorm2d(3))
    frozen = FrozenBatchNorm2d(3)
    frozen.load_state_dict(norm.state_dict())  # strict: num_batches_tracked is known and dropped
    assert torch.equal(frozen.running_mean, norm.running_mean)


def test_freezing_reaches_every_depth_and_keeps_names() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), nn.GroupNorm(1, 2))
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    freeze_batch_norms(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in network.modules()) == 2
    assert sorted(network.state_dict()) == sorted(names)


def timm_backbone(name: str) -> Backbone:
    return Backbone(DeformableDetrConfig(backbone=name, use_pretrained_backbone=False, d_model=32)).eval().double()


class Block(nn.Module):
    """A convolution and its norm, one whose norm reads something else, and one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.bn3(self.conv3(self.bn2(x + self.conv2(x))))


def frozen_block() -> Block:
    block = Block()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomised(module)
    with torch.no_grad():
        freeze_batch_norms(block)
    return block.double()


def test_only_norms_that_read_exactly_what_a_plain_convolution_gave_are_folded() -> None:
    block = frozen_block()
    assert find_pairs(block) == ((block.conv1, block.bn1),)


def test_folding_changes_neither_results_nor_gradients_nor_the_network() -> None:
    block = frozen_block()
    before = copy.deepcopy(block.state_dict())
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    gradients = []
    for network in (block, folded(block, find_pairs(block))):
        result = network(x)
        torch.testing.assert_close(result, block(x))
        block.zero_grad()
        result.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in block.parameters()])  # type: ignore[union-attr]
    for plain, of_folded in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, of_folded)
    assert list(block.state_dict()) == list(before)
    assert type(block.conv1) is nn.Conv2d and type(block.bn1) is FrozenBatchNorm2d


def test_a_folded_view_follows_its_network() -> None:
    block, x = frozen_block(), torch.randn(1, 3, 9, 8, dtype=torch.float64)
    pairs = find_pairs(block)
    with torch.no_grad():
        block.conv1.weight.mul_(2)
        block.bn1.bias.add_(1)
    torch.testing.assert_close(folded(block, pairs)(x), block(x))
    block.bn1 = FrozenBatchNorm2d(4).double()  # no longer the norm that was found: left out
    torch.testing.assert_close(folded(block, pairs)(x), block(x))
    calls: list[str] = []
    block.conv1.register_forward_hook(lambda *_: calls.append("conv1"))
    folded(block, pairs)(x)
    assert calls == ["conv1"]


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "tf_efficientnet_lite0", "mobilenetv3_small_050", "densenet121", "regnetx_002"]
)
def test_every_kind_of_network_gives_the_same_maps_folded(name: str) -> None:
    model = timm_backbone(name).model
    pairs = find_pairs(model)
    assert pairs
    for norm in (module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        for plain, of_folded in zip(model(x), folded(model, pairs)(x), strict=True):
            torch.testing.assert_close(plain, of_folded)


def test_large_pictures_give_the_maps_of_the_plain_network() -> None:
    backbone = timm_backbone("resnet18")
    x = torch.randn(1, 3, 224, 192, dtype=torch.float64)
    with torch.no_grad():
        for (got, _), wanted in zip(backbone(x, torch.ones(1, 224, 192)), backbone.model(x), strict=True):
            torch.testing.assert_close(got, wanted)
    assert list(copy.deepcopy(backbone).state_dict()) == list(backbone.state_dict())
