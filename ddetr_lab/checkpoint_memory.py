"""How much memory a configuration asks for, beside the weights that it came with.

A number with a digit too many in ``config.json`` would fill the machine before a shape could be compared.

Built in chapter 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from torch import Tensor

from ddetr_lab.config import DeformableDetrConfig

__all__ = ["check_memory"]

# A model may be four times as large as the file that it is loaded from, and always as large as this; both in bytes.
_TIMES_THE_FILE, _ALWAYS_FINE = 4, 4 * 2**30


def check_memory(config: DeformableDetrConfig, state: Mapping[str, Tensor], source: str) -> None:
    """Refuse a configuration whose tables dwarf the file, before they are allocated.

    Raises:
        ValueError: names the fields that ask for the most, and how much that is.
    """
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    fields, asked = max(_table_bytes(config).items(), key=lambda part: part[1])
    if asked > max(_ALWAYS_FINE, _TIMES_THE_FILE * held):
        values = ", ".join(f"{field} = {attrgetter(field)(config)}" for field in fields)
        raise ValueError(
            f"the configuration asks for {asked // 10**9} GB of weights by {values}, but the weights of {source} have "
            f"{held / 1e9:.2g} GB: one of these numbers is wrong, take the config.json that was saved with the weights"
        )


def _table_bytes(config: DeformableDetrConfig) -> dict[tuple[str, ...], int]:
    """Return about how many bytes the largest tables take in float32, by the fields that decide it."""
    width, levels = config.d_model, config.num_feature_levels
    class_heads = config.decoder_layers if config.with_box_refine else 1
    numbers: dict[tuple[str, ...], int] = {
        ("num_queries", "d_model"): 0 if config.two_stage else config.num_queries * 2 * width,
        ("num_labels", "d_model"): config.num_labels * width * class_heads,
        ("num_feature_levels", "d_model"): max(levels - 3, 0) * 9 * width**2,
    }
    for part, squares in (("encoder", 2), ("decoder", 6)):
        names = [f"{part}_{name}" for name in ("layers", "ffn_dim", "attention_heads", "n_points")]
        layers, inner, heads, points = (getattr(config, name) for name in names)
        numbers[names[0], "d_model", names[1]] = layers * (squares * width**2 + 2 * width * inner)
        # Two offsets and one weight a sampling point.
        samples = 3 * heads * levels * points
        numbers[names[0], "d_model", "num_feature_levels", names[2], names[3]] = layers * width * samples
    if config.backbone_config is None:
        numbers["num_channels",] = config.num_channels * 16 * 9  # of a narrow stem
    else:
        stages = config.backbone_config
        squares = sum(depth * size**2 for size, depth in zip(stages.hidden_sizes, stages.depths, strict=True))
        numbers["backbone_config.hidden_sizes", "backbone_config.depths"] = squares
        stem = stages.num_channels * stages.embedding_size * 49
        numbers["backbone_config.num_channels", "backbone_config.embedding_size"] = stem
    return {fields: 4 * number for fields, number in numbers.items()}
