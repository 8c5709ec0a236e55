"""One update: pieces equal the whole, half precision, clipping, and what is not finite changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from ddetr_lab import DeformableDetrForObjectDetection
from ddetr_lab.recipe import OptimizationSettings
from ddetr_lab.training.engine import Engine, NonFiniteError
from tests.tiny import labels, pictures, tiny_config


def batch(count=2):
    """Two pictures, of which the second has no object; the ids are theirs."""
    values, mask = pictures()
    wanted = [{**label, "image_id": torch.tensor([number + 40])} for number, label in enumerate(labels())]
    return {"pixel_values": values[:count], "pixel_mask": mask[:count], "labels": wanted[:count]}


def one(whole, number):
    return {key: value[number : number + 1] for key, value in whole.items()}


def engine(settings=None, **fields):
    torch.manual_seed(0)
    model = DeformableDetrForObjectDetection(tiny_config(**fields)).train()
    return Engine(model, settings or OptimizationSettings(learning_rate=1e-3))


def test_an_update_is_what_plain_pytorch_does():
    ours, other = engine(), engine().model
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in group["params"]], "lr": group["lr"]} for group in Engine(other, ours.settings).groups],
        weight_decay=1e-4,
    )
    for _ in range(3):
        update = ours.update([batch()])
        optimizer.zero_grad()
        outputs = other(**{key: value for key, value in batch().items()})
        outputs.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for p in other.parameters() if p.requires_grad], 0.1)
        optimizer.step()
        torch.testing.assert_close(update.loss, outputs.loss.detach())
        torch.testing.assert_close(update.grad_norm, norm)
        assert update.losses.keys() == outputs.loss_dict.keys()
    for (name, mine), theirs in zip(ours.model.named_parameters(), other.parameters(), strict=True):
        # A bias that a norm of one channel a group takes away again has rounding for a gradient, which AdamW enlarges.
        if not ("input_proj" in name and name.endswith("0.bias")):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_two_pieces_are_the_whole_batch_although_one_has_no_object():
    whole = batch()
    at_once, in_pieces = engine(), engine()
    expected = at_once.update([whole])
    found = in_pieces.update([one(whole, 0), one(whole, 1)])
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.grad_norm, expected.grad_norm)
    for name, value in expected.losses.items():
        if "cardinality" not in name:  # a mean over pictures, logged for the reference's sake alone
            torch.testing.assert_close(found.losses[name], value, msg=name)
    for (name, mine), theirs in zip(in_pieces.model.named_parameters(), at_once.model.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_pieces_with_unlike_numbers_of_objects_count_by_their_objects():
    whole = batch()
    whole["labels"][1] = {
        "class_labels": torch.tensor([0, 1, 2]),
        "boxes": torch.tensor([[0.2, 0.2, 0.1, 0.2], [0.6, 0.3, 0.2, 0.2], [0.5, 0.7, 0.3, 0.1]]),
    }
    expected = engine().update([whole])
    found = engine().update([one(whole, 0), one(whole, 1)])
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.grad_norm, expected.grad_norm)


def test_gradients_are_clipped_only_where_a_norm_is_given():
    clipped = engine(OptimizationSettings(clip_norm=0.01))
    free = engine(OptimizationSettings(clip_norm=0.0))
    for one_engine, limit in ((clipped, 0.01), (free, None)):
        norm = one_engine.update([batch()]).grad_norm
        left = torch.nn.utils.get_total_norm([p.grad for p in one_engine.model.parameters() if p.grad is not None])
        torch.testing.assert_close(left, norm if limit is None else torch.tensor(limit), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_and_keeps_float32_weights(precision):
    half = engine(OptimizationSettings(learning_rate=1e-3, precision=precision, clip_norm=1.0))
    full = engine(OptimizationSettings(learning_rate=1e-3, clip_norm=1.0))
    losses = [half.update([batch()]).loss.item() for _ in range(8)]
    first = full.update([batch()]).loss.item()
    assert losses[0] == pytest.approx(first, rel=0.05)
    assert losses[0] != first, "nothing was computed in half precision"
    assert min(losses[4:]) < losses[0]
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}


def test_rates_are_each_group_s_own_times_the_factor():
    one_engine = engine()
    full = [group["lr"] for group in one_engine.groups]
    one_engine.set_rate(0.5)
    (adamw,) = one_engine.optimizers
    assert [group["lr"] for group in adamw.param_groups] == pytest.approx([0.5 * lr for lr in full])
    one_engine.set_rate(1.0)
    assert one_engine.rate == pytest.approx(1e-3)


def test_the_moving_average_follows_the_updates():
    one_engine = engine(OptimizationSettings(ema_decay=0.9))
    before = copy.deepcopy(one_engine.average.values)
    one_engine.update([batch()])
    assert one_engine.average.updates == 1
    name = "class_embed.0.weight"
    weight = dict(one_engine.model.named_parameters())[name]
    torch.testing.assert_close(one_engine.average.values[name], 0.1 * before[name] + 0.9 * weight.detach())


def weights_of(one_engine):
    return {name: value.detach().clone() for name, value in one_engine.model.named_parameters()}


def test_a_loss_that_is_not_finite_is_named_with_its_pictures_and_changes_nothing(monkeypatch):
    from ddetr_lab import losses

    one_engine = engine()
    before = weights_of(one_engine)
    monkeypatch.setattr(losses, "sigmoid_focal_loss", lambda logits, *rest: logits.sum() * float("inf"))
    with pytest.raises(NonFiniteError, match=r"loss is (-?inf|nan) through .*loss_ce.* pictures \[40, 41\]") as stopped:
        one_engine.update([batch()])
    assert stopped.value.pictures == [40, 41]
    assert all(torch.equal(value, before[name]) for name, value in weights_of(one_engine).items())


def test_gradients_that_are_not_finite_are_named_and_change_nothing():
    class Spoiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    one_engine = engine()
    before = weights_of(one_engine)
    head = one_engine.model.class_embed[0]
    head.register_forward_hook(lambda module, inputs, result: Spoiled.apply(result))
    with pytest.raises(NonFiniteError, match=r"the loss is \d.*gradients are not finite, first that of \w+"):
        one_engine.update([batch()])
    assert all(torch.equal(value, before[name]) for name, value in weights_of(one_engine).items())


def test_logits_that_are_not_finite_stop_in_the_matcher_and_are_named_too():
    one_engine = engine()
    with torch.no_grad():
        one_engine.model.class_embed[0].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"no loss: the matcher .*logits.* pictures \[40, 41\]"):
        one_engine.update([batch()])


def test_wrong_labels_keep_their_message_and_get_their_pictures():
    wrong = batch()
    wrong["labels"][0]["class_labels"] = torch.tensor([1, 3])
    with pytest.raises(ValueError, match=r"pictures \[40, 41\]: class_labels\[1\] = 3 in image 0"):
        engine().update([wrong])


def test_a_parameter_that_gets_no_gradient_is_named():
    one_engine = engine(with_box_refine=True, auxiliary_loss=False)
    with pytest.raises(ValueError, match="no gradient reaches 8 trained parameters, first .*embed.*auxiliary_loss"):
        one_engine.update([batch()])
