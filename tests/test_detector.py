"""The detector: heads on the model, labels, losses, tuples, and new heads for new classes."""

import re
from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor

from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.heads import refine_boxes
from ddetr_lab.losses import DetectionLoss
from ddetr_lab.model import DeformableDetrModel
from ddetr_lab.outputs import DeformableDetrModelOutput, DeformableDetrObjectDetectionOutput
from tests.tiny import generic, labels, pictures, tiny_config

REFINED = {"with_box_refine": True}
TWO_STAGES = {"with_box_refine": True, "two_stage": True}
LOSSES = ["loss_ce", "loss_bbox", "loss_giou", "cardinality_error"]


def build(**fields: Any) -> DeformableDetrForObjectDetection:
    return generic(DeformableDetrForObjectDetection(tiny_config(**fields)))


@pytest.fixture(scope="module")
def detector() -> DeformableDetrForObjectDetection:
    torch.manual_seed(0)
    return build()


def run(model: DeformableDetrForObjectDetection, **arguments: Any) -> Any:
    pixel_values, pixel_mask = pictures()
    return model(**({"pixel_values": pixel_values, "pixel_mask": pixel_mask} | arguments))


def test_outputs_and_their_shapes(detector: DeformableDetrForObjectDetection) -> None:
    output = run(detector)
    assert isinstance(output, DeformableDetrObjectDetectionOutput)
    assert list(output)[:2] == ["logits", "pred_boxes"]
    assert output.logits.shape == (2, 7, 3) and output.pred_boxes.shape == (2, 7, 4)
    assert ((output.pred_boxes > 0) & (output.pred_boxes < 1)).all()
    assert output.loss is None and output.loss_dict is None and output.auxiliary_outputs is None


def test_the_other_fields_are_the_models(detector: DeformableDetrForObjectDetection) -> None:
    flags = {"output_attentions": True, "output_hidden_states": True}
    output, inner = run(detector, **flags), run(detector.model, **flags)
    assert isinstance(inner, DeformableDetrModelOutput)
    assert list(output)[2:] == list(inner)
    for name in inner:
        torch.testing.assert_close(output[name], inner[name], rtol=0, atol=0)


@pytest.mark.parametrize("fields", [{}, REFINED, TWO_STAGES], ids=["plain", "refined", "two stages"])
def test_each_layer_moves_the_reference_that_it_looked_from(fields: dict[str, bool]) -> None:
    model = build(**fields, decoder_layers=3)
    outputs = run(model.model)
    layers = model.predictions(outputs)
    reference = outputs.init_reference_points
    for index, layer in enumerate(layers):
        hidden = outputs.intermediate_hidden_states[:, index]
        torch.testing.assert_close(layer["logits"], model.class_embed[index](hidden))
        torch.testing.assert_close(layer["pred_boxes"], refine_boxes(model.bbox_embed[index](hidden), reference))
        if fields:
            torch.testing.assert_close(layer["pred_boxes"], outputs.intermediate_reference_points[:, index])
        reference = outputs.intermediate_reference_points[:, index]
    full = run(model)
    torch.testing.assert_close(full.pred_boxes, layers[-1]["pred_boxes"], rtol=0, atol=0)
    torch.testing.assert_close(full.logits, layers[-1]["logits"], rtol=0, atol=0)


def test_predictions_want_a_models_output(detector: DeformableDetrForObjectDetection) -> None:
    with pytest.raises(ValueError, match="lack intermediate states"):
        detector.predictions(DeformableDetrModelOutput())


@pytest.mark.parametrize(
    ("fields", "suffixes"),
    [
        ({}, [""]),
        ({"auxiliary_loss": True}, ["", "_0", "_1"]),
        ({"auxiliary_loss": True, "decoder_layers": 1}, [""]),
        (TWO_STAGES, ["", "_enc"]),
        (TWO_STAGES | {"auxiliary_loss": True}, ["", "_0", "_1", "_enc"]),
    ],
)
def test_losses_by_name_and_their_sum(fields: dict[str, Any], suffixes: list[str]) -> None:
    model = build(**({"decoder_layers": 3} | fields))
    output = run(model, labels=labels())
    assert list(output.loss_dict) == [name + suffix for suffix in suffixes for name in LOSSES]
    expected = sum(
        output.loss_dict["loss_ce" + s] + 5 * output.loss_dict["loss_bbox" + s] + 2 * output.loss_dict["loss_giou" + s]
        for s in suffixes
    )
    torch.testing.assert_close(output.loss, expected)
    assert output.loss.shape == ()
    layers = model.config.decoder_layers
    assert (output.auxiliary_outputs is None) == (not model.config.auxiliary_loss)
    if model.config.auxiliary_loss:
        assert [sorted(layer) for layer in output.auxiliary_outputs] == [["logits", "pred_boxes"]] * (layers - 1)


def test_losses_are_those_of_the_predictions(detector: DeformableDetrForObjectDetection) -> None:
    output = run(detector, labels=labels())
    total, losses = DetectionLoss(detector.config)({"logits": output.logits, "pred_boxes": output.pred_boxes}, labels())
    torch.testing.assert_close(output.loss, total)
    torch.testing.assert_close(output.loss_dict, losses)


def test_labels_do_not_change_the_predictions(detector: DeformableDetrForObjectDetection) -> None:
    assert torch.equal(run(detector).logits, run(detector, labels=labels()).logits)


def test_a_processors_labels_are_taken_as_they_are(detector: DeformableDetrForObjectDetection) -> None:
    extra = {
        "area": torch.tensor([1.0, 2.0]),
        "iscrowd": torch.zeros(2, dtype=torch.long),
        "image_id": torch.tensor([3]),
        "orig_size": torch.tensor([64, 96]),
        "size": torch.tensor([64, 96]),
    }
    rich = [UserDict(labels()[0] | extra), UserDict(labels()[1])]
    plain = run(detector, labels=labels())
    torch.testing.assert_close(run(detector, labels=rich).loss, plain.loss, rtol=0, atol=0)
    torch.testing.assert_close(run(detector, labels=tuple(rich)).loss, plain.loss, rtol=0, atol=0)


@pytest.mark.parametrize("fields", [{"auxiliary_loss": True}, TWO_STAGES | {"auxiliary_loss": True}])
def test_a_batch_without_objects_has_a_loss_and_gradients(fields: dict[str, bool]) -> None:
    model = build(**fields)
    output = run(model, labels=[labels()[1]] * 2)
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.loss > 0
    assert output.loss_dict["loss_bbox"] == output.loss_dict["loss_giou"] == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert model.class_embed[0].weight.grad.abs().max() > 0


def test_more_objects_than_queries_train(detector: DeformableDetrForObjectDetection) -> None:
    many = {"class_labels": torch.arange(20) % 3, "boxes": torch.rand(20, 4) * 0.3 + 0.3}
    output = run(detector, labels=[many, labels()[1]])
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize(
    "fields",
    [
        {"auxiliary_loss": True},
        REFINED | {"auxiliary_loss": True},
        TWO_STAGES | {"auxiliary_loss": True},
        REFINED | {"num_feature_levels": 1, "auxiliary_loss": True, "position_embedding_type": "learned"},
    ],
    ids=["plain", "refined", "two stages", "one level"],
)
def test_every_trained_parameter_gets_a_gradient(fields: dict[str, Any]) -> None:
    # Anything less would stop training over several processes, which waits for every gradient.
    model = build(**fields)
    wide = {"class_labels": torch.tensor([0, 1, 2]), "boxes": torch.rand(3, 4) * 0.3 + 0.3}
    run(model, labels=[wide, wide]).loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    silent = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("fields", [{}, REFINED, TWO_STAGES], ids=["plain", "refined", "two stages"])
def test_without_auxiliary_losses_earlier_heads_have_gradients_of_zero(fields: dict[str, Any]) -> None:
    model = build(**fields)
    run(model, labels=labels()).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    if fields:
        assert not model.bbox_embed[0].layers[0].weight.grad.any() and not model.class_embed[0].weight.grad.any()


def tensors_of(record: Any) -> list[Tensor]:
    if isinstance(record, Tensor):
        return [record]
    values = record.values() if hasattr(record, "values") else record
    return [tensor for value in values for tensor in tensors_of(value)]


@pytest.mark.parametrize("by_config", [False, True])
def test_the_tuple_is_the_record_without_names(by_config: bool) -> None:
    fields = {"auxiliary_loss": True, "output_hidden_states": True}
    record = run(build(**fields), labels=labels())
    if by_config:
        as_tuple = run(build(**fields, return_dict=False), labels=labels())
    else:
        as_tuple = run(build(**fields), labels=labels(), return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(record)
    torch.testing.assert_close(as_tuple[0], record.loss)
    torch.testing.assert_close(tensors_of(as_tuple), tensors_of(record))


@pytest.mark.parametrize("classes", [1, 2, 91])
def test_any_number_of_classes(classes: int) -> None:
    model = build(num_labels=classes)
    one = {"class_labels": torch.tensor([classes - 1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    output = run(model, labels=[one, labels()[1]])
    assert output.logits.shape == (2, 7, classes) and torch.isfinite(output.loss)


def test_a_class_id_past_the_last_label_is_named(detector: DeformableDetrForObjectDetection) -> None:
    wrong = labels()
    wrong[0]["class_labels"] = torch.tensor([1, 3])
    with pytest.raises(ValueError, match=r"class_labels\[1\] = 3 in image 0, but the config has 3 labels \(0 to 2\)"):
        run(detector, labels=wrong)


def test_nan_in_the_weights_is_named_by_the_matcher() -> None:
    model = build()
    with torch.no_grad():
        model.class_embed[0].weight[1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"cannot weigh logits .* picture 0, query 0: .*and in the weights"):
        run(model, labels=labels())


def test_nan_in_the_pictures_is_named_by_the_matcher(detector: DeformableDetrForObjectDetection) -> None:
    pixel_values, _ = pictures()
    pixel_values[1, 0, 5, 5] = float("nan")
    with pytest.raises(ValueError, match=r"cannot weigh logits .*first picture 1, query \d: .*NaN in the pictures"):
        run(detector, pixel_values=pixel_values, labels=labels())


def test_corner_boxes_are_refused_in_predictions_and_pixels_in_labels(
    detector: DeformableDetrForObjectDetection,
) -> None:
    pixels = labels()
    pixels[0]["boxes"] = pixels[0]["boxes"] * 96
    with pytest.raises(ValueError, match=r'labels\[0\]\["boxes"\]\[0\] = .*looks like pixels'):
        run(detector, labels=pixels)


def test_training_and_evaluation_differ_by_dropout_only() -> None:
    model = build()
    evaluated = run(model).logits
    assert torch.equal(run(model.train()).logits, evaluated)
    dropping = build(dropout=0.3)
    torch.testing.assert_close(run(dropping).logits, evaluated)
    assert not torch.equal(run(dropping.train()).logits, evaluated)


def test_freezing_reaches_the_backbone() -> None:
    model = build()
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    model.freeze_backbone()
    assert not any(p.requires_grad for p in model.model.backbone.parameters())
    assert all(p.requires_grad for name, p in model.named_parameters() if "backbone" not in name)
    model.unfreeze_backbone()
    after = {name for name, p in model.named_parameters() if p.requires_grad}
    assert before < after and all("backbone" in name for name in after - before)


NAMES = {
    "plain": ({}, {"class_embed": 2, "bbox_embed": 2}),
    "refined": (REFINED, {"class_embed": 2, "bbox_embed": 2, "model.decoder.bbox_embed": 2}),
    "two stages": (
        TWO_STAGES,
        {"class_embed": 3, "bbox_embed": 3, "model.decoder.class_embed": 3, "model.decoder.bbox_embed": 3},
    ),
}


@pytest.mark.parametrize("kind", NAMES)
def test_heads_have_the_references_names(kind: str) -> None:
    fields, counts = NAMES[kind]
    names = build(**fields).state_dict()
    heads = {re.split(r"\.\d+\.", name)[0] for name in names if "_embed." in name and "level" not in name}
    assert heads == set(counts)
    for prefix, count in counts.items():
        leaf = "weight" if prefix.endswith("class_embed") else "layers.2.weight"
        assert sum(name.startswith(f"{prefix}.") and name.endswith(leaf) for name in names) == count


def test_the_tensors_of_a_plain_detector_in_the_references_order() -> None:
    names = [name for name in build(encoder_layers=1, decoder_layers=1).state_dict() if "backbone" not in name]
    linear = ["weight", "bias"]
    deformable = ["sampling_offsets", "attention_weights", "value_proj", "output_proj"]
    rest = ["fc1", "fc2", "final_layer_norm"]
    encoder = [f"self_attn.{part}" for part in deformable] + ["self_attn_layer_norm", *rest]
    decoder = [f"self_attn.{part}" for part in ("k_proj", "v_proj", "q_proj", "out_proj")] + ["self_attn_layer_norm"]
    decoder += [f"encoder_attn.{part}" for part in deformable] + ["encoder_attn_layer_norm", *rest]
    modules = [f"model.input_proj.{level}.{part}" for level in range(4) for part in (0, 1)]
    expected = ["model.level_embed"]
    expected += [f"{module}.{leaf}" for module in modules for leaf in linear]
    expected += ["model.query_position_embeddings.weight"]
    expected += [f"model.encoder.layers.0.{part}.{leaf}" for part in encoder for leaf in linear]
    expected += [f"model.decoder.layers.0.{part}.{leaf}" for part in decoder for leaf in linear]
    expected += [f"model.reference_points.{leaf}" for leaf in linear]
    expected += [f"class_embed.0.{leaf}" for leaf in linear]
    expected += [f"bbox_embed.0.layers.{layer}.{leaf}" for layer in range(3) for leaf in linear]
    assert names == expected


def test_refinement_shares_its_heads_with_the_decoder() -> None:
    model = build(**TWO_STAGES)
    assert model.model.decoder.bbox_embed is model.bbox_embed
    assert model.model.decoder.class_embed is model.class_embed
    assert build().model.decoder.bbox_embed is None


@pytest.mark.parametrize("fields", [{}, TWO_STAGES], ids=["plain", "two stages"])
def test_replacing_the_head_changes_classes_and_nothing_else(fields: dict[str, bool]) -> None:
    model = build(**fields)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items() if "class_embed" not in name}
    model.replace_head(5, {index: f"kind {index}" for index in range(5)})
    assert model.config.num_labels == 5
    assert model.config.id2label[4] == "kind 4" and model.config.label2id["kind 4"] == 4
    assert len(model.class_embed) == len(model.bbox_embed)
    torch.testing.assert_close(model.class_embed[0].bias.sigmoid(), torch.full((5,), 0.01))
    for name, tensor in model.state_dict().items():
        assert "class_embed" in name or torch.equal(tensor, kept[name]), name
    if fields:
        assert model.model.decoder.class_embed is model.class_embed
    one = {"class_labels": torch.tensor([4]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    output = run(model, labels=[one, labels()[1]])
    assert output.logits.shape == (2, 7 if not fields else 6, 5) and torch.isfinite(output.loss)


def test_a_new_head_has_the_models_dtype_and_plain_names() -> None:
    model = build().double()
    model.replace_head(2)
    assert model.class_embed[0].weight.dtype == torch.float64
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_labels = 0, expected at least 1"),
        ((2, {0: "a"}), r"id2label has the ids \[0\], expected 0 to 1"),
        ((2, {1: "a", 2: "b"}), r"id2label has the ids \[1, 2\], expected 0 to 1"),
    ],
)
def test_a_head_that_fits_no_labels_is_refused(
    detector: DeformableDetrForObjectDetection, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detector.replace_head(*arguments)


def test_two_models_with_the_same_weights_agree() -> None:
    bare = DeformableDetrModel(tiny_config())
    detector = DeformableDetrForObjectDetection(tiny_config())
    bare.load_state_dict(detector.model.state_dict())
    torch.testing.assert_close(run(bare.eval()).last_hidden_state, run(detector.eval()).last_hidden_state)


def test_a_real_backbone_of_timm_trains_end_to_end() -> None:
    config = DeformableDetrConfig.from_dict(
        tiny_config().to_dict(),
        use_timm_backbone=True,
        backbone_config=None,
        backbone="resnet18",
        use_pretrained_backbone=False,
    )
    model = DeformableDetrForObjectDetection(config).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        loss = run(model, labels=labels()).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
