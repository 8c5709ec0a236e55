"""What each field of a configuration may be, and the checks that say so in words.

Built in chapter 12.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

from ddetr_lab.activations import ACTIVATIONS

__all__ = ["BASE_FIELDS", "BOOLEANS", "CHOICES", "INTEGERS", "REALS", "as_integer", "check_choice", "check_field"]

# Fields that every configuration file of that release may carry, with the defaults that it leaves out of the file.
# Deformable DETR reads the first five. The others belong to text models; they are kept, so that a file survives.
BASE_FIELDS: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "torch_dtype": None,
    "use_bfloat16": False,
    "tf_legacy_loss": False,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "chunk_size_feed_forward": 0,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "architectures": None,
    "finetuning_task": None,
    "tokenizer_class": None,
    "prefix": None,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "task_specific_params": None,
    "problem_type": None,
}

# Field -> (smallest, largest); None is unbounded. Every field of the constructor stands in exactly one of these.
INTEGERS: dict[str, tuple[int, int | None]] = {
    "num_channels": (1, None),
    "num_queries": (1, None),
    "max_position_embeddings": (1, None),
    "encoder_layers": (0, None),
    "encoder_ffn_dim": (1, None),
    "encoder_attention_heads": (1, None),
    "decoder_layers": (1, None),
    "decoder_ffn_dim": (1, None),
    "decoder_attention_heads": (1, None),
    "d_model": (32, None),
    "num_feature_levels": (1, None),
    "encoder_n_points": (1, None),
    "decoder_n_points": (1, None),
    "two_stage_num_proposals": (1, None),
}
REALS: dict[str, tuple[float, float | None]] = {
    "encoder_layerdrop": (0, 1),
    "dropout": (0, 1),
    "attention_dropout": (0, 1),
    "activation_dropout": (0, 1),
    "init_std": (0, None),
    "init_xavier_std": (0, None),
    "class_cost": (0, None),
    "bbox_cost": (0, None),
    "giou_cost": (0, None),
    "mask_loss_coefficient": (0, None),
    "dice_loss_coefficient": (0, None),
    "bbox_loss_coefficient": (0, None),
    "giou_loss_coefficient": (0, None),
    "eos_coefficient": (0, None),
    "focal_alpha": (-1, 1),
}
BOOLEANS = (
    "use_timm_backbone",
    "is_encoder_decoder",
    "return_intermediate",
    "auxiliary_loss",
    "use_pretrained_backbone",
    "dilation",
    "two_stage",
    "with_box_refine",
    "disable_custom_kernels",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "torchscript",
)
CHOICES = {"position_embedding_type": ("sine", "learned"), "activation_function": tuple(sorted(ACTIVATIONS))}


def check_field(name: str, value: Any) -> Any:
    """Check one field by its name and return it as a plain value; a name without a rule passes through.

    Args:
        name: a field of ``DeformableDetrConfig``.
        value: what it shall be. NumPy scalars become Python's, so that the configuration can be written as JSON.

    Raises:
        TypeError: for the wrong type.
        ValueError: for a value out of its range; the message has the field, what came and what was expected.
    """
    if name in INTEGERS:
        return as_integer(name, value, *INTEGERS[name])
    if name in REALS:
        return _as_real(name, value, *REALS[name])
    if name in BOOLEANS and not isinstance(value, bool):
        raise TypeError(f"{name} = {value!r} is a {type(value).__name__}, expected True or False")
    if name in CHOICES:
        check_choice(name, value, CHOICES[name])
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} = {value!r}, expected one of {', '.join(choices)}")


def as_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return an integer within bounds, or raise a TypeError or ValueError that names it."""
    # True is an int to Python, but a number of layers to nobody.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} = {value!r} is a {type(value).__name__}, expected an int")
    _check_range(name, int(value), least, most)
    return int(value)


def _as_real(name: str, value: Any, least: float, most: float | None) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} = {value!r} is a {type(value).__name__}, expected a number")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)  # 5 stays 5 in the file, not 5.0
    if not math.isfinite(number):
        raise ValueError(f"{name} = {value!r}, expected a finite number")
    _check_range(name, number, least, most)
    return number


def _check_range(name: str, value: float, least: float, most: float | None) -> None:
    if value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} = {value}, expected {expected}")
