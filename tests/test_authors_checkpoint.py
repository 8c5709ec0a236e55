"""The files of the paper authors' code: names, joint projections, and what their shapes say."""

import argparse
import os
import re
from pathlib import Path

import pytest
import torch

from ddetr_lab.authors_checkpoint import infer_config, read_authors_checkpoint, rename_state
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.model import DeformableDetrModel

# Parameters as the authors' code names them, and as transformers' conversion script renames them.
NAMES = {
    "transformer.level_embed": "model.level_embed",
    "transformer.encoder.layers.3.self_attn.sampling_offsets.weight": (
        "model.encoder.layers.3.self_attn.sampling_offsets.weight"
    ),
    "transformer.encoder.layers.3.norm1.weight": "model.encoder.layers.3.self_attn_layer_norm.weight",
    "transformer.encoder.layers.3.norm2.bias": "model.encoder.layers.3.final_layer_norm.bias",
    "transformer.encoder.layers.3.linear1.weight": "model.encoder.layers.3.fc1.weight",
    "transformer.decoder.layers.11.linear2.bias": "model.decoder.layers.11.fc2.bias",
    "transformer.decoder.layers.11.cross_attn.value_proj.bias": "model.decoder.layers.11.encoder_attn.value_proj.bias",
    "transformer.decoder.layers.11.norm1.weight": "model.decoder.layers.11.encoder_attn_layer_norm.weight",
    "transformer.decoder.layers.11.norm2.weight": "model.decoder.layers.11.self_attn_layer_norm.weight",
    "transformer.decoder.layers.11.norm3.weight": "model.decoder.layers.11.final_layer_norm.weight",
    "transformer.decoder.layers.11.self_attn.out_proj.bias": "model.decoder.layers.11.self_attn.out_proj.bias",
    "transformer.decoder.bbox_embed.2.layers.1.weight": "model.decoder.bbox_embed.2.layers.1.weight",
    "transformer.reference_points.weight": "model.reference_points.weight",
    "transformer.enc_output_norm.weight": "model.enc_output_norm.weight",
    "transformer.pos_trans.weight": "model.pos_trans.weight",
    "query_embed.weight": "model.query_position_embeddings.weight",
    "input_proj.0.1.weight": "model.input_proj.0.1.weight",
    "backbone.0.body.layer1.0.bn1.running_mean": "model.backbone.conv_encoder.model.layer1.0.bn1.running_mean",
    "backbone.1.row_embed.weight": "model.backbone.position_embedding.row_embeddings.weight",
    "backbone.1.col_embed.weight": "model.backbone.position_embedding.column_embeddings.weight",
    "class_embed.5.bias": "class_embed.5.bias",
    "bbox_embed.5.layers.2.bias": "bbox_embed.5.layers.2.bias",
}
VARIANTS = {
    "plain": {},
    "refined": {"with_box_refine": True},
    "two-stage": {"with_box_refine": True, "two_stage": True},
    "one level, learned": {"num_feature_levels": 1, "position_embedding_type": "learned"},
}


class Code:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def authors_name(name: str) -> str:
    """Name one of this package's parameters as the authors do: NAMES from right to left, for any layer number."""
    name = name.replace("model.backbone.conv_encoder.model.", "backbone.0.body.")
    name = name.replace("model.backbone.position_embedding.row_embeddings", "backbone.1.row_embed")
    name = name.replace("model.backbone.position_embedding.column_embeddings", "backbone.1.col_embed")
    name = name.replace("model.query_position_embeddings", "query_embed").replace("model.input_proj", "input_proj")
    name = re.sub(r"^model\.", "transformer.", name).replace(".fc1.", ".linear1.").replace(".fc2.", ".linear2.")
    if ".encoder.layers." in name:
        return name.replace("self_attn_layer_norm", "norm1").replace("final_layer_norm", "norm2")
    name = name.replace("encoder_attn_layer_norm", "norm1").replace("self_attn_layer_norm", "norm2")
    return name.replace("final_layer_norm", "norm3").replace("encoder_attn", "cross_attn")


def authors_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    ours = model.state_dict()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in ours.items():
        match = re.fullmatch(r"(.*decoder\.layers\.\d+\.self_attn\.)([qkv])_proj\.(weight|bias)", name)
        if match is None:
            state[authors_name(name)] = tensor
        else:
            parts = [ours[f"{match[1]}{letter}_proj.{match[3]}"] for letter in "qkv"]
            state[authors_name(f"{match[1]}in_proj_{match[3]}")] = torch.cat(parts)
    return state


def detector(**fields: object) -> DeformableDetrForObjectDetection:
    torch.manual_seed(0)
    small = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 40}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_n_points": 3, "decoder_n_points": 2}
    rest = {"backbone": "resnet18", "use_pretrained_backbone": False, "num_queries": 7, "num_labels": 5}
    model = DeformableDetrForObjectDetection(DeformableDetrConfig(**(small | heads | rest | fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_translated_as_the_reference_does(name: str) -> None:
    assert list(rename_state({name: torch.zeros(1)})) == [NAMES[name]]


def test_the_translation_is_one_to_one() -> None:
    assert len(rename_state({name: torch.zeros(1) for name in NAMES})) == len(NAMES)


def test_a_joint_projection_is_cut_into_query_key_and_value() -> None:
    prefix = "transformer.decoder.layers.0.self_attn."
    state = rename_state(
        {f"{prefix}in_proj_weight": torch.arange(12.0).view(6, 2), f"{prefix}in_proj_bias": torch.arange(6.0)}
    )
    ours = "model.decoder.layers.0.self_attn."
    assert len(state) == 6
    assert state[f"{ours}q_proj.bias"].tolist() == [0, 1]
    assert state[f"{ours}k_proj.weight"].tolist() == [[4, 5], [6, 7]]
    assert state[f"{ours}v_proj.bias"].tolist() == [4, 5]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_whole_detector_is_recognised_and_loaded(variant: str, tmp_path: Path) -> None:
    model = detector(**VARIANTS[variant])
    state = authors_state(model)
    options = argparse.Namespace(nheads=4, dropout=0.25, num_queries=7, set_cost_class=2.0, dilation=False, lr=2e-4)
    extras = {"epoch": 49, "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1}]}}
    torch.save({"model": state, "args": options} | extras, tmp_path / "run.pth")
    loaded = DeformableDetrForObjectDetection.from_authors(tmp_path / "run.pth", class_cost=3)
    assert loaded.loading_report is not None and loaded.loading_report.is_complete and not loaded.training
    expected = model.state_dict()
    assert [name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, expected[name])] == []
    assert loaded.config.dropout == 0.25 and loaded.config.class_cost == 3
    unread = {"dropout": 0.1, "class_cost": 1, "two_stage_num_proposals": 300, "use_pretrained_backbone": False}
    assert DeformableDetrConfig.from_dict(loaded.config.to_dict(), **unread) == model.config


def test_a_bare_model_and_other_labels_load_too(tmp_path: Path) -> None:
    model = detector()
    torch.save(authors_state(model), tmp_path / "run.pth")
    config = DeformableDetrConfig.from_dict(model.config.to_dict(), num_labels=9)
    bare = DeformableDetrModel.from_authors(tmp_path / "run.pth", config)
    assert torch.equal(bare.level_embed, model.model.level_embed)
    with pytest.raises(ValueError, match="class_embed.0.weight"):
        DeformableDetrForObjectDetection.from_authors(tmp_path / "run.pth", config)
    loaded = DeformableDetrForObjectDetection.from_authors(tmp_path / "run.pth", config, ignore_mismatched_sizes=True)
    assert loaded.config.num_labels == 9
    with pytest.raises(TypeError, match="colour: neither a field"):
        DeformableDetrForObjectDetection.from_authors(tmp_path / "run.pth", config, colour=1)


def test_heads_are_eight_where_the_file_does_not_say() -> None:
    state = rename_state(authors_state(detector(encoder_attention_heads=8, decoder_attention_heads=8)))
    config = infer_config(state)
    assert (config.encoder_attention_heads, config.encoder_n_points, config.decoder_n_points) == (8, 3, 2)


def test_weights_of_another_network_are_named() -> None:
    state = rename_state(authors_state(detector()))
    lacking = {name: tensor for name, tensor in state.items() if "class_embed" not in name}
    with pytest.raises(ValueError, match="the weights lack 'class_embed.0.bias'"):
        infer_config(lacking)
    shallow = {name: tensor for name, tensor in state.items() if ".layer4." not in name}
    with pytest.raises(ValueError, match=r"the backbone has \(2, 2, 2, 0\) blocks in its stages"):
        infer_config(shallow)


@pytest.mark.parametrize("content", [{"model": {"conv1.weight": torch.zeros(1)}}, [1], {"model": 3}])
def test_a_file_of_something_else_is_named(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "run.pth")
    with pytest.raises(ValueError, match="no checkpoint of the paper authors' Deformable DETR"):
        read_authors_checkpoint(tmp_path / "run.pth")


def test_code_beside_the_options_is_not_run(tmp_path: Path) -> None:
    options = argparse.Namespace(callback=Code(str(tmp_path / "witness")))
    torch.save({"model": {}, "args": options}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match="never run"):
        read_authors_checkpoint(tmp_path / "run.pth")
    assert not (tmp_path / "witness").exists()
