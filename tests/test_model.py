"""The model without heads: every forward argument, every output, and what it refuses."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddetr_lab.model import DeformableDetrModel
from ddetr_lab.outputs import DeformableDetrModelOutput, EncoderOutput
from tests.tiny import HEIGHT, WIDTH, generic, labels, pictures, tiny_config

PLAIN = [
    "init_reference_points",
    "last_hidden_state",
    "intermediate_hidden_states",
    "intermediate_reference_points",
    "encoder_last_hidden_state",
]
CELLS = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2


@pytest.fixture(scope="module")
def model() -> DeformableDetrModel:
    torch.manual_seed(0)
    return generic(DeformableDetrModel(tiny_config()))


def run(model: nn.Module, **arguments: Any) -> Any:
    pixel_values, pixel_mask = pictures()
    with torch.no_grad():
        return model(**({"pixel_values": pixel_values, "pixel_mask": pixel_mask} | arguments))


def assert_same(one: Any, two: Any) -> None:
    assert list(one.keys()) == list(two.keys())
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0, msg=name)


def test_outputs_and_their_shapes(model: DeformableDetrModel) -> None:
    output = run(model)
    assert isinstance(output, DeformableDetrModelOutput) and list(output) == PLAIN
    assert output.init_reference_points.shape == (2, 7, 2)
    assert output.last_hidden_state.shape == (2, 7, 32)
    assert output.intermediate_hidden_states.shape == (2, 2, 7, 32)
    assert output.intermediate_reference_points.shape == (2, 2, 7, 2)
    assert output.encoder_last_hidden_state.shape == (2, CELLS, 32)
    assert all(torch.isfinite(tensor).all() for tensor in output.values())


@pytest.mark.parametrize("levels", [1, 3, 4, 5, 6])
def test_every_number_of_levels(levels: int) -> None:
    model = generic(DeformableDetrModel(tiny_config(num_feature_levels=levels)))
    output = run(model, output_attentions=True)
    sizes = {1: [(2, 3)], 3: [(8, 12), (4, 6), (2, 3)]}.get(levels, [(8, 12), (4, 6), (2, 3), (1, 2)])
    sizes = sizes + [(1, 1)] * (levels - len(sizes))
    assert len(model.input_proj) == levels == len(sizes)
    assert output.encoder_last_hidden_state.shape[1] == sum(h * w for h, w in sizes)
    assert output.cross_attentions[0].shape == (2, 7, 4, levels, 2)


def test_the_fourth_level_comes_from_the_raw_last_map_and_the_fifth_from_the_fourth() -> None:
    model = DeformableDetrModel(tiny_config(num_feature_levels=5))
    convolutions = [projection[0] for projection in model.input_proj]
    assert [c.in_channels for c in convolutions] == [16, 24, 32, 32, 32]
    assert [c.kernel_size[0] for c in convolutions] == [1, 1, 1, 3, 3]
    generic(model)
    pixel_values, pixel_mask = pictures()
    sources, masks = model.feature_levels(pixel_values, pixel_mask)
    raw = model.backbone(pixel_values, pixel_mask)[-1][0]
    torch.testing.assert_close(sources[3], model.input_proj[3](raw))
    torch.testing.assert_close(sources[4], model.input_proj[4](sources[3]))
    assert [mask.shape for mask in masks] == [source[:, 0].shape for source in sources]


def test_a_backbone_config_may_give_fewer_maps_than_levels() -> None:
    model = generic(DeformableDetrModel(tiny_config(2, backbone={"out_features": ["stage4"]})))
    assert run(model).encoder_last_hidden_state.shape[1] == 2 * 3 + 1 * 2


def test_more_maps_than_levels_are_refused() -> None:
    config = tiny_config()
    object.__setattr__(config, "validate", lambda: None)
    config.num_feature_levels = 2
    with pytest.raises(ValueError, match="backbone gives 3 feature maps, but num_feature_levels = 2"):
        DeformableDetrModel(config)


def test_without_a_mask_nothing_is_padding(model: DeformableDetrModel) -> None:
    pixel_values, _ = pictures()
    assert_same(run(model, pixel_mask=None), run(model, pixel_mask=torch.ones(2, HEIGHT, WIDTH)))
    difference = run(model).last_hidden_state - run(model, pixel_mask=None).last_hidden_state
    assert not difference[0].any() and difference[1].abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_a_mask_may_have_any_dtype(model: DeformableDetrModel, dtype: torch.dtype) -> None:
    assert_same(run(model, pixel_mask=pictures()[1].to(dtype)), run(model))


def test_pictures_of_a_batch_do_not_meet(model: DeformableDetrModel) -> None:
    pixel_values, pixel_mask = pictures()
    together = run(model)
    for index in range(2):
        alone = run(model, pixel_values=pixel_values[index : index + 1], pixel_mask=pixel_mask[index : index + 1])
        torch.testing.assert_close(alone.last_hidden_state[0], together.last_hidden_state[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by_config", [False, True])
def test_attentions_and_states_on_request(model: DeformableDetrModel, by_config: bool) -> None:
    flags = {"output_attentions": True, "output_hidden_states": True}
    if by_config:
        other = generic(DeformableDetrModel(tiny_config(**flags)))
        output = run(other)
        assert list(run(other, output_attentions=False, output_hidden_states=False)) == PLAIN
    else:
        output = run(model, **flags)
    assert [tuple(t.shape) for t in output.decoder_hidden_states] == [(2, 7, 32)] * 3
    assert [tuple(t.shape) for t in output.decoder_attentions] == [(2, 4, 7, 7)] * 2
    assert [tuple(t.shape) for t in output.cross_attentions] == [(2, 7, 4, 4, 2)] * 2
    assert [tuple(t.shape) for t in output.encoder_hidden_states] == [(2, CELLS, 32)] * 2
    assert [tuple(t.shape) for t in output.encoder_attentions] == [(2, CELLS, 4, 4, 3)]
    torch.testing.assert_close(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)
    torch.testing.assert_close(output.last_hidden_state, run(model).last_hidden_state)


@pytest.mark.parametrize("field", ["return_dict", "torchscript"])
def test_a_tuple_has_the_set_fields_in_order(model: DeformableDetrModel, field: str) -> None:
    record = run(model, output_hidden_states=True)
    as_tuple = run(model, output_hidden_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(record)
    for got, expected in zip(as_tuple, record.to_tuple(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    other = generic(DeformableDetrModel(tiny_config(**{field: field == "torchscript"})))
    assert isinstance(run(other), tuple)
    assert isinstance(run(other, return_dict=True), DeformableDetrModelOutput)


def encoder_results(output: DeformableDetrModelOutput) -> dict[str, Any]:
    return {
        "last_hidden_state": output.encoder_last_hidden_state,
        "hidden_states": output.encoder_hidden_states,
        "attentions": output.encoder_attentions,
    }


@pytest.mark.parametrize(
    "form", [lambda d: EncoderOutput(**d), lambda d: tuple(d.values()), lambda d: [*d.values()], dict]
)
def test_encoder_outputs_can_be_handed_back(model: DeformableDetrModel, form: Any) -> None:
    full = run(model, output_attentions=True, output_hidden_states=True)
    again = run(model, encoder_outputs=form(encoder_results(full)), output_attentions=True, output_hidden_states=True)
    assert_same(again, full)


def test_encoder_outputs_are_used_and_read_by_name(model: DeformableDetrModel) -> None:
    full = run(model, output_attentions=True)
    given = encoder_results(full) | {"last_hidden_state": full.encoder_last_hidden_state.flip(1)}
    del given["hidden_states"]
    changed = run(model, encoder_outputs=given)
    assert (changed.last_hidden_state - full.last_hidden_state).abs().max() > 1e-3
    assert changed.encoder_attentions is full.encoder_attentions and changed.encoder_hidden_states is None
    short = run(model, encoder_outputs=(given["last_hidden_state"],))
    torch.testing.assert_close(short.last_hidden_state, changed.last_hidden_state, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, CELLS - 1, 32), (1, CELLS, 32), (2, CELLS, 16)])
def test_encoder_outputs_of_other_pictures_are_refused(model: DeformableDetrModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"encoder_outputs has .*\({shape[0]}, .*need \(2, {CELLS}, 32\) \(B, S, C\)"):
        run(model, encoder_outputs=(torch.zeros(shape),))
    with pytest.raises(ValueError, match="encoder_outputs has a last_hidden_state of shape None"):
        run(model, encoder_outputs={})


@pytest.mark.parametrize("name", ["decoder_attention_mask", "inputs_embeds", "decoder_inputs_embeds"])
def test_arguments_that_change_nothing_say_so(model: DeformableDetrModel, name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} changes nothing"):
        output = run(model, **{name: torch.ones(2, 7)})
    assert_same(output, run(model))


def test_a_plain_call_warns_of_nothing(model: DeformableDetrModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixel_values": torch.zeros(3, 64, 96)}, r"pixel_values has shape \(3, 64, 96\), expected \(B, 3, H, W\)"),
        ({"pixel_values": torch.zeros(2, 64, 96, 3)}, r"pixel_values has shape .* expected \(B, 3, H, W\)"),
        ({"pixel_values": torch.zeros(2, 1, 64, 96)}, r"pixel_values has shape .* expected \(B, 3, H, W\)"),
        ({"pixel_values": torch.zeros(2, 3, 64, 0)}, r"pixel_values has shape \(2, 3, 64, 0\).*at least one pixel"),
        ({"pixel_values": torch.zeros(0, 3, 0, 96)}, r"pixel_values has shape \(0, 3, 0, 96\).*at least one pixel"),
        (
            {"pixel_values": torch.zeros(2, 3, 64, 96, dtype=torch.uint8)},
            r"dtype torch.uint8, expected a float tensor.*DeformableDetrImageProcessor",
        ),
        ({"pixel_mask": torch.ones(2, 96, 64)}, r"pixel_mask has shape \(2, 96, 64\), expected \(2, 64, 96\)"),
        ({"pixel_mask": torch.ones(1, 64, 96)}, r"pixel_mask has shape \(1, 64, 96\), expected \(2, 64, 96\)"),
        ({"pixel_mask": torch.ones(2, 1, 64, 96)}, r"pixel_mask has shape .*expected \(2, 64, 96\) \(B, H, W\)"),
        ({"pixel_mask": 1 - pictures()[1]}, r"pixel_mask\[0\] is 0 at its top left.*inverted mask.*1 - mask"),
    ],
)
def test_bad_pictures_and_masks_are_named(
    model: DeformableDetrModel, arguments: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(model, **arguments)


@pytest.mark.parametrize("name", ["pixel_values", "pixel_mask"])
@pytest.mark.parametrize("kind", [lambda t: t.numpy(), lambda t: [*t]], ids=["array", "list"])
def test_pictures_that_are_no_tensors_are_named(model: DeformableDetrModel, name: str, kind: Any) -> None:
    given = dict(zip(("pixel_values", "pixel_mask"), pictures(), strict=True))
    with pytest.raises(TypeError, match=rf'{name} is a (ndarray|list), expected a torch.Tensor.*return_tensors="pt"'):
        run(model, **{name: kind(given[name])})


def test_no_pictures_at_all_are_named(model: DeformableDetrModel) -> None:
    with pytest.raises(TypeError, match=r"pixel_values is a NoneType, expected a torch.Tensor"):
        run(model, pixel_values=None)


def test_grey_pictures_where_the_backbone_takes_them() -> None:
    model = generic(DeformableDetrModel(tiny_config(backbone={"num_channels": 1})))
    assert torch.isfinite(run(model, pixel_values=pictures(1)[0]).last_hidden_state).all()
    with pytest.raises(ValueError, match=r"expected \(B, 1, H, W\)"):
        run(model)


def test_float64_pictures_are_taken_by_a_float32_model_and_the_other_way_round(model: DeformableDetrModel) -> None:
    assert_same(run(model, pixel_values=pictures()[0].double()), run(model))
    exact = run(generic(DeformableDetrModel(tiny_config())).double())
    assert exact.last_hidden_state.dtype == torch.float64
    torch.testing.assert_close(exact.last_hidden_state.float(), run(model).last_hidden_state, rtol=1e-3, atol=1e-4)


def test_only_a_configuration_builds_a_model() -> None:
    with pytest.raises(TypeError, match="config is a str, expected a DeformableDetrConfig.*from_pretrained"):
        DeformableDetrModel("SenseTime/deformable-detr")  # type: ignore[arg-type]


def test_learned_positions_end_at_50_cells() -> None:
    model = generic(DeformableDetrModel(tiny_config(position_embedding_type="learned")))
    assert torch.isfinite(run(model).last_hidden_state).all()
    with pytest.raises(ValueError, match=r"feature map of 2x51 cells meets learned positions for 50"):
        model(torch.zeros(1, 3, 16, 408))


def test_fresh_queries_are_spread_over_the_picture() -> None:
    model = DeformableDetrModel(tiny_config(num_queries=300)).eval()
    assert model.query_position_embeddings.weight.std().item() == pytest.approx(1, rel=0.05)
    points = run(model).init_reference_points[0]
    assert points.std(0).min() > 0.15
    assert not model.reference_points.bias.any()
    assert model.level_embed.std().item() == pytest.approx(1, rel=0.3)


def test_freezing_and_unfreezing_the_backbone() -> None:
    model = DeformableDetrModel(tiny_config())
    inside = dict(model.backbone.conv_encoder.model.named_parameters())
    model.freeze_backbone()
    assert not any(parameter.requires_grad for parameter in inside.values())
    model.unfreeze_backbone()
    assert all(parameter.requires_grad for parameter in inside.values())
    outside = [p for name, p in model.named_parameters() if "conv_encoder" not in name]
    assert all(parameter.requires_grad for parameter in outside)


def test_getters_and_properties(model: DeformableDetrModel) -> None:
    assert model.get_encoder() is model.encoder and model.get_decoder() is model.decoder
    assert model.device == torch.device("cpu") and model.dtype == torch.float32
    assert model.base_model is model and model.name_or_path == "" and model.framework == "pt"
    assert not (model.can_generate() or model.supports_gradient_checkpointing or model.is_gradient_checkpointing)


def test_counting_parameters_and_bytes() -> None:
    model = DeformableDetrModel(tiny_config(position_embedding_type="learned"))
    numbers = {name: p.numel() for name, p in model.named_parameters()}
    assert model.num_parameters() == sum(numbers.values())
    tables = 7 * 64 + 2 * 50 * 16
    assert model.num_parameters(exclude_embeddings=True) == sum(numbers.values()) - tables
    model.freeze_backbone()
    outside = sum(number for name, number in numbers.items() if "conv_encoder" not in name)
    assert model.num_parameters(only_trainable=True) == outside
    assert model.num_parameters(True, exclude_embeddings=True) == outside - tables
    assert model.get_memory_footprint(return_buffers=False) == 4 * sum(numbers.values())
    buffers = sum(buffer.numel() for buffer in model.buffers())
    assert model.half().get_memory_footprint() == 2 * (sum(numbers.values()) + buffers)


def test_large_pictures_in_a_narrow_network_are_answered_as_exactly_as_small_ones() -> None:
    # From LARGE pixels on the backbone's maps have their channels side by side; each group here is a single channel,
    # and this network's channels hardly vary over the picture.
    model = generic(DeformableDetrModel(tiny_config()))
    torch.manual_seed(0)
    pixel_values = 0.05 * torch.rand(1, 3, 208, 224) + 1
    with torch.no_grad():
        single = model(pixel_values).encoder_last_hidden_state
        double = model.double()(pixel_values.double()).encoder_last_hidden_state
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


TWO_STAGES = {"with_box_refine": True, "two_stage": True}


def test_two_stages_start_from_their_best_proposals() -> None:
    model = generic(DeformableDetrModel(tiny_config(**TWO_STAGES)))
    output = run(model)
    assert list(output) == [*PLAIN, "enc_outputs_class", "enc_outputs_coord_logits"]
    assert output.enc_outputs_class.shape == (2, CELLS, 3)
    assert output.enc_outputs_coord_logits.shape == (2, CELLS, 4)
    best = output.enc_outputs_class[..., 0].topk(6, dim=1).indices
    boxes = output.enc_outputs_coord_logits.sigmoid()
    expected = torch.stack([boxes[index, best[index]] for index in range(2)])
    torch.testing.assert_close(output.init_reference_points, expected)
    assert not hasattr(model, "query_position_embeddings") and not hasattr(model, "reference_points")


def test_cells_that_propose_nothing_all_look_alike() -> None:
    model = generic(DeformableDetrModel(tiny_config(**TWO_STAGES)))
    output = run(model)
    nothing = torch.isinf(output.enc_outputs_coord_logits).any(-1)
    assert nothing[1].sum() > nothing[0].sum()
    scores = output.enc_outputs_class[1][nothing[1]]
    torch.testing.assert_close(scores, scores[:1].expand_as(scores))


def test_too_few_cells_for_the_proposals() -> None:
    model = DeformableDetrModel(tiny_config(**TWO_STAGES, two_stage_num_proposals=300)).eval()
    with pytest.raises(ValueError, match=rf"two_stage_num_proposals = 300, but the picture has {CELLS} cells"):
        run(model)


def test_a_bare_model_refines_only_where_it_must() -> None:
    assert DeformableDetrModel(tiny_config(with_box_refine=True)).decoder.bbox_embed is None
    two = DeformableDetrModel(tiny_config(**TWO_STAGES))
    assert two.decoder.bbox_embed is not None and len(two.decoder.bbox_embed) == 3


def test_the_smallest_model_and_the_smallest_pictures() -> None:
    one = {"encoder_layers": 0, "decoder_layers": 1, "num_queries": 1, "encoder_n_points": 1, "decoder_n_points": 1}
    model = generic(DeformableDetrModel(tiny_config(1, d_model=64, **one)))
    for size in (32, 33, 1):
        output = model(torch.zeros(1, 3, size, size))
        assert torch.isfinite(output.last_hidden_state).all()


def test_an_empty_batch_gives_an_empty_answer(model: DeformableDetrModel) -> None:
    output = model(torch.zeros(0, 3, HEIGHT, WIDTH))
    assert output.last_hidden_state.shape == (0, 7, 32)


def test_labels_are_not_for_the_bare_model(model: DeformableDetrModel) -> None:
    with pytest.raises(TypeError, match="labels"):
        run(model, labels=labels())
