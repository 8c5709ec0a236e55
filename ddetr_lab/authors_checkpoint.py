"""Read the files of the paper authors' code: rename its parameters, and infer the configuration from them.

Source of the names: github.com/fundamentalvision/Deformable-DETR, models/deformable_detr.py and its transformer.
Built in chapter 12.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ddetr_lab.checkpoint_files import read_pickle
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.config_fields import as_integer

__all__ = ["infer_config", "read_authors_checkpoint", "rename_state"]

# Tried in order, each at most once a name. The authors number the norms in the order of the code, where a decoder layer
# looks at the queries first and then at the picture, but calls the picture's norm 1.
_RULES: tuple[tuple[str, str], ...] = (
    (r"^transformer\.", "model."),
    (r"^backbone\.0\.body\.", "model.backbone.conv_encoder.model."),
    (r"^backbone\.1\.row_embed\.", "model.backbone.position_embedding.row_embeddings."),
    (r"^backbone\.1\.col_embed\.", "model.backbone.position_embedding.column_embeddings."),
    (r"^query_embed\.", "model.query_position_embeddings."),
    (r"^input_proj\.", "model.input_proj."),
    (r"(?<=encoder\.layers\.)(\d+)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(?<=encoder\.layers\.)(\d+)\.norm2\.", r"\1.final_layer_norm."),
    (r"(?<=decoder\.layers\.)(\d+)\.norm1\.", r"\1.encoder_attn_layer_norm."),
    (r"(?<=decoder\.layers\.)(\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"(?<=decoder\.layers\.)(\d+)\.norm3\.", r"\1.final_layer_norm."),
    (r"(?<=decoder\.layers\.)(\d+)\.cross_attn\.", r"\1.encoder_attn."),
    (r"\.linear1\.", ".fc1."),
    (r"\.linear2\.", ".fc2."),
)

# Blocks a stage and whether they are bottlenecks -> the ResNet's name.
_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}

# Our field -> their option, for what shapes do not tell.
_OPTIONS = {
    "encoder_attention_heads": "nheads",
    "decoder_attention_heads": "nheads",
    "dropout": "dropout",
    "dilation": "dilation",
    "auxiliary_loss": "aux_loss",
    "num_queries": "num_queries",
    "two_stage_num_proposals": "num_queries",
    "class_cost": "set_cost_class",
    "bbox_cost": "set_cost_bbox",
    "giou_cost": "set_cost_giou",
    "bbox_loss_coefficient": "bbox_loss_coef",
    "giou_loss_coefficient": "giou_loss_coef",
    "focal_alpha": "focal_alpha",
}


def read_authors_checkpoint(path: str | os.PathLike[str]) -> tuple[DeformableDetrConfig, dict[str, Tensor]]:
    """Read a ``.pth`` of the paper authors' code.

    Args:
        path: ``{"model": state_dict, "args": Namespace, …}`` or a bare state_dict; tensors and options are read,
            nothing is run.

    Returns:
        The configuration of the weights (classes are LABEL_0 …), and the weights under this package's names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, needs code to be read, or is not a Deformable DETR.

    Built in chapter 12.
    """
    content = read_pickle(path)
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or "transformer.level_embed" not in state:
        raise ValueError(
            f"{path} is no checkpoint of the paper authors' Deformable DETR: expected 'transformer.level_embed' in it "
            "or in its 'model'; a folder with config.json goes to from_pretrained"
        )
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    options = vars(content["args"]) if hasattr(content.get("args"), "__dict__") else {}
    renamed = rename_state(tensors)
    return infer_config(renamed, options), renamed


def rename_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the authors' parameters this package's names, and cut joint projections into query, key and value.

    Args:
        state: name -> tensor, of the authors' detector.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name, count=1)
        if "in_proj_" in name:
            # torch's MultiheadAttention stacks the three projections; here they are three layers.
            for letter, part in zip("qkv", tensor.chunk(3, dim=0), strict=True):
                renamed[name.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            renamed[name] = tensor
    return renamed


def infer_config(state: Mapping[str, Tensor], options: Mapping[str, Any] | None = None) -> DeformableDetrConfig:
    """Read off a configuration from the shapes of a detector's weights.

    Args:
        state: name -> tensor under this package's names.
        options: the authors' training options, for what shapes do not tell (heads, dropout, costs); their defaults
            (8 heads, dropout 0.1) where they are missing.

    Raises:
        ValueError: if the weights are not a ResNet Deformable DETR.
    """
    options = options or {}
    fields = {ours: options[theirs] for ours, theirs in _OPTIONS.items() if options.get(theirs) is not None}
    try:
        levels, d_model = state["model.level_embed"].shape
        heads = as_integer("nheads", fields.get("encoder_attention_heads", 8), 1)
        two_stage = "model.enc_output.weight" in state
        encoder, decoder = "model.encoder.layers.0", "model.decoder.layers.0"
        fields |= {
            "backbone": _resnet_name(state),
            "num_feature_levels": levels,
            "d_model": d_model,
            "encoder_layers": _count(state, r"^model\.encoder\.layers\.(\d+)\."),
            "decoder_layers": _count(state, r"^model\.decoder\.layers\.(\d+)\."),
            "encoder_ffn_dim": len(state[f"{encoder}.fc1.weight"]),
            "decoder_ffn_dim": len(state[f"{decoder}.fc1.weight"]),
            "encoder_n_points": len(state[f"{encoder}.self_attn.attention_weights.bias"]) // (heads * levels),
            "decoder_n_points": len(state[f"{decoder}.encoder_attn.attention_weights.bias"]) // (heads * levels),
            "num_labels": len(state["class_embed.0.bias"]),
            "two_stage": two_stage,
            "with_box_refine": any(name.startswith("model.decoder.bbox_embed.") for name in state),
            "position_embedding_type": "learned" if _has(state, "position_embedding.row_embeddings") else "sine",
        }
        if not two_stage:
            fields["num_queries"] = len(state["model.query_position_embeddings.weight"])
    except KeyError as error:
        raise ValueError(f"the weights lack {error}: they are no ResNet Deformable DETR") from error
    return DeformableDetrConfig(**fields)


def _has(state: Mapping[str, Tensor], part: str) -> bool:
    return any(part in name for name in state)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, state) if match})


def _resnet_name(state: Mapping[str, Tensor]) -> str:
    stem = r"^model\.backbone\.conv_encoder\.model\."
    blocks = tuple(_count(state, rf"{stem}layer{stage}\.(\d+)\.") for stage in range(1, 5))
    kind = (blocks, _has(state, "layer1.0.conv3."))
    if kind not in _RESNETS:
        raise ValueError(
            f"the backbone has {blocks} blocks in its stages, expected those of {', '.join(_RESNETS.values())}"
        )
    return _RESNETS[kind]
