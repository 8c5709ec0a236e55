"""Save a model to a folder and load it from a folder, a shipped name, the hub or the paper authors' files.

Built in chapter 12.
"""

from __future__ import annotations

import copy
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddetr_lab.authors_checkpoint import read_authors_checkpoint
from ddetr_lab.checkpoint_files import WEIGHT_FILES, contiguous_copy, read_weights, write_pickle, write_safetensors
from ddetr_lab.checkpoint_memory import check_memory
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.files import HubOptions, refuse_push, shipped, shipped_names, write_together
from ddetr_lab.loading_report import LoadingReport, fit_state, tied_names

__all__ = ["LoadingReport", "PretrainedMixin", "from_pretrained", "save_pretrained", "shipped", "shipped_names"]

# What larger models' files are cut into; an earlier save may have left some.
_PART = re.compile(r"(model-\d{5}-of-\d{5}\.safetensors|pytorch_model-\d{5}-of-\d{5}\.bin)")

# Keywords of the reference that say how weights get into memory or into a file, and whether code may be run, which is
# never the case here.
_WITHOUT_EFFECT = (
    "_fast_init",
    "_from_auto",
    "low_cpu_mem_usage",
    "resume_download",
    "save_function",
    "token",
    "trust_remote_code",
)
# Those that would have to change something; they may be given as None or False.
_OFF = (
    "device_map",
    "from_flax",
    "from_tf",
    "load_in_4bit",
    "load_in_8bit",
    "max_memory",
    "mirror",
    "offload_folder",
    "offload_state_dict",
    "proxies",
    "quantization_config",
    "use_auth_token",
    "variant",
)

_Model = TypeVar("_Model", bound="PretrainedMixin")


class PretrainedMixin(nn.Module):
    """Saving and loading for a model that has a ``config``. Built in chapter 12."""

    config_class: type[DeformableDetrConfig] = DeformableDetrConfig
    base_model_prefix = "model"
    config: DeformableDetrConfig
    loading_report: LoadingReport | None = None  # of the last from_pretrained

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        torch_dtype: torch.dtype | None = None,
        max_shard_size: int | str | None = None,
        **options: Any,
    ) -> None:
        """Write ``config.json`` and the weights into a folder; see :func:`save_pretrained`."""
        save_pretrained(self, save_directory, safe_serialization, state_dict, torch_dtype, max_shard_size, **options)

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *,
        config: DeformableDetrConfig | str | os.PathLike[str] | None = None,
        state_dict: dict[str, Tensor] | None = None,
        strict: bool = True,
        ignore_mismatched_sizes: bool = False,
        torch_dtype: torch.dtype | str | None = None,
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Build a model and load its weights; see :func:`from_pretrained`."""
        return from_pretrained(
            cls,
            pretrained_model_name_or_path,
            config=config,
            state_dict=state_dict,
            strict=strict,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            torch_dtype=torch_dtype,
            output_loading_info=output_loading_info,
            use_safetensors=use_safetensors,
            **kwargs,
        )

    @classmethod
    def from_authors(
        cls: type[_Model],
        path: str | os.PathLike[str],
        config: DeformableDetrConfig | None = None,
        *,
        strict: bool = True,
        ignore_mismatched_sizes: bool = False,
        **config_overrides: Any,
    ) -> _Model:
        """Load a ``.pth`` of the paper authors' code (github.com/fundamentalvision/Deformable-DETR).

        Args:
            path: the file; it may hold optimiser state and options besides the model.
            config: what to build; read off the file's options and shapes where it is None.
            strict: as in :func:`from_pretrained`.
            ignore_mismatched_sizes: as in :func:`from_pretrained`.
            **config_overrides: fields to replace, such as ``id2label``.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, needs code to be read, or does not fit.
        """
        guessed, state = read_authors_checkpoint(path)
        config = _with_overrides(guessed if config is None else config, config_overrides)
        check_memory(config, state, str(path))
        model = _build(cls, config)
        model.loading_report = fit_state(
            model,
            state,
            source=str(path),
            strict=strict,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            base_prefix=cls.base_model_prefix,
        )
        return model.eval()


def save_pretrained(
    model: PretrainedMixin,
    save_directory: str | os.PathLike[str],
    safe_serialization: bool = True,
    state_dict: dict[str, Tensor] | None = None,
    torch_dtype: torch.dtype | None = None,
    max_shard_size: int | str | None = None,
    is_main_process: bool = True,
    push_to_hub: bool = False,
    **options: Any,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` into a folder, both whole or neither.

    A tensor with several names is written once, under its first one, as the reference does: refined models keep
    ``model.decoder.bbox_embed.*``, two-stage ones ``model.decoder.class_embed.*`` too. Weights of another format or in
    parts that an earlier save left in the folder are removed, lest they be read instead.

    Args:
        model: the model; it is not changed.
        save_directory: made if need be.
        safe_serialization: False writes ``pytorch_model.bin`` instead, under all names.
        state_dict: what to write instead of ``model.state_dict()``, for example averaged weights.
        torch_dtype: cast floats to it in the file, for example ``torch.float16`` for half the size.
        max_shard_size: changes nothing: a model of this kind is always one file.
        is_main_process: False writes nothing: of several processes, one should.
        push_to_hub: must be False.
        **options: other keywords of the reference, as in :func:`from_pretrained`.

    Raises:
        NotADirectoryError: if ``save_directory`` is a file.
        OSError: if writing fails, for example on a full disk; files of an earlier save are as they were.
        TypeError: for an option that would have to change something.
        ValueError: if ``state_dict`` has names that the model lacks, values do not fit ``torch_dtype``, or
            ``push_to_hub`` is asked for.

    Built in chapter 12.
    """
    refuse_push(push_to_hub)
    _refuse_options(options, "save_pretrained")
    if not is_main_process:
        return
    folder = Path(save_directory)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"save_directory = {str(folder)!r} is a file, expected a folder")
    state = model.state_dict() if state_dict is None else state_dict
    groups = tied_names(model)
    unknown = sorted(set(state) - {name for names in groups for name in names})
    if unknown:
        raise ValueError(
            f"state_dict has {unknown[0]!r}, which {type(model).__name__} lacks (a wrapped model's names start with "
            "'module.': save the inner model)"
        )
    if safe_serialization:
        names = [next((name for name in names if name in state), None) for names in groups]
        tensors = {name: contiguous_copy(name, state[name], torch_dtype) for name in names if name is not None}
    else:
        tensors = {name: contiguous_copy(name, tensor, torch_dtype) for name, tensor in state.items()}
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.torch_dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), None)
    config_text = config.to_json_string()
    weights = folder / (WEIGHT_FILES[0] if safe_serialization else WEIGHT_FILES[2])
    folder.mkdir(parents=True, exist_ok=True)
    write_together(
        {
            weights: lambda path: (
                write_safetensors(tensors, path) if safe_serialization else write_pickle(tensors, path)
            ),
            folder / "config.json": lambda path: path.write_text(config_text, encoding="utf-8"),
        }
    )
    for entry in folder.iterdir():
        if entry != weights and (entry.name in WEIGHT_FILES or _PART.fullmatch(entry.name)):
            entry.unlink()


def from_pretrained(
    cls: type[_Model],
    name_or_path: str | os.PathLike[str] | None,
    *,
    config: DeformableDetrConfig | str | os.PathLike[str] | None = None,
    state_dict: dict[str, Tensor] | None = None,
    strict: bool = True,
    ignore_mismatched_sizes: bool = False,
    torch_dtype: torch.dtype | str | None = None,
    output_loading_info: bool = False,
    use_safetensors: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Build a model of class ``cls`` and load its weights; in evaluation mode, on the CPU, nothing in a file is run.

    The backbone's ImageNet weights are not fetched, whatever ``use_pretrained_backbone`` says: the file has its own.

    Args:
        cls: the model class. A detector's file loads into the bare model and the other way round.
        name_or_path: a folder that ``save_pretrained`` (or transformers) wrote, a shipped name such as ``"digits"``, or
            a hub name such as ``"SenseTime/deformable-detr"``; None if ``config`` and ``state_dict`` are given.
        config: a configuration, or where to load one from, instead of the file's own; it is copied.
        state_dict: weights to load instead of the file's.
        strict: refuse a file that lacks a tensor, has one too many, or holds NaN or infinity.
        ignore_mismatched_sizes: let tensors of another shape start fresh, as for another number of labels.
        torch_dtype: dtype of the model; float32 where it is None, whatever the file has; ``"auto"`` takes the file's.
        output_loading_info: return ``(model, report)``.
        use_safetensors: True reads only safetensors, False only ``.bin``, None takes safetensors if they are there.
        **kwargs: fields of the configuration to replace (``num_labels``, ``id2label`` …) and options of the hub
            (``ddetr_lab.files.HubOptions``). Other keywords of the reference are taken if they change nothing here.

    Returns:
        The model, whose ``loading_report`` says what became of every tensor.

    Raises:
        FileNotFoundError: if a file is missing or the hub cannot be reached.
        TypeError: for a keyword that is neither a field nor an option.
        ValueError: if a file is damaged, needs code to be read, or does not fit the model, or if the configuration asks
            for tables that dwarf the file.

    Built in chapter 12.
    """
    hub_options = {key: kwargs.pop(key) for key in HubOptions if key in kwargs}
    _refuse_options({key: kwargs.pop(key) for key in (*_WITHOUT_EFFECT, *_OFF) if key in kwargs}, "from_pretrained")
    if name_or_path is None and (state_dict is None or config is None):
        raise TypeError("name_or_path is None: expected a folder or a name, unless config and state_dict are given")
    source = "state_dict" if name_or_path is None else str(name_or_path)
    if name_or_path is not None and Path(name_or_path).is_file():
        raise ValueError(
            f"{str(name_or_path)!r} is a file, expected the folder it lies in; "
            f"a .pth of the paper authors' code goes to {cls.__name__}.from_authors(path)"
        )
    if isinstance(config, DeformableDetrConfig):
        built = _with_overrides(config, kwargs)
    else:
        there = source if config is None else config
        built = _with_overrides(cls.config_class.from_pretrained(there, **hub_options), kwargs)
    built.name_or_path = name_or_path or ""
    state = state_dict
    if state is None:
        state = read_weights(source, use_safetensors, **hub_options)
    check_memory(built, state, source)
    model = _build(cls, built)
    dtype = _model_dtype(torch_dtype, built, state)
    if dtype is not None:
        model.to(dtype)
    report = fit_state(
        model,
        state,
        source=source,
        strict=strict,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
        base_prefix=cls.base_model_prefix,
    )
    if report.new and strict:
        warnings.warn(f"{report.summary()}\nTrain the new tensors before you use the model.", stacklevel=3)
    model.loading_report = report
    model.eval()
    return (model, report) if output_loading_info else model


def _with_overrides(config: DeformableDetrConfig, overrides: dict[str, Any]) -> DeformableDetrConfig:
    updated, unused = type(config).from_dict(config.to_dict(), return_unused_kwargs=True, **overrides)
    if unused:
        raise TypeError(f"{', '.join(unused)}: neither a field of the configuration nor an option of from_pretrained")
    return updated


def _refuse_options(options: Mapping[str, Any], method: str) -> None:
    """Refuse options of the reference that would have to change something, and those that are none.

    Raises:
        TypeError: names them.
    """
    if unknown := [name for name in options if name not in (*_WITHOUT_EFFECT, *_OFF)]:
        raise TypeError(f"{', '.join(unknown)}: no option of {method}")
    if asked := [name for name, value in options.items() if name in _OFF and value not in (None, False)]:
        raise TypeError(f"{', '.join(asked)}: an option of the reference that {method} has no use for: leave it out")


def _build(cls: type[_Model], config: DeformableDetrConfig) -> _Model:
    """Build the model without fetching ImageNet weights; its configuration says afterwards what it said before."""
    wanted = config.use_pretrained_backbone
    config.use_pretrained_backbone = False
    try:
        return cls(config)
    finally:
        config.use_pretrained_backbone = wanted


def _model_dtype(
    torch_dtype: torch.dtype | str | None, config: DeformableDetrConfig, state: dict[str, Tensor]
) -> torch.dtype | None:
    if torch_dtype == "auto":
        return config.torch_dtype or next((value.dtype for value in state.values() if value.is_floating_point()), None)
    if isinstance(torch_dtype, str):
        torch_dtype = getattr(torch, torch_dtype.removeprefix("torch."), torch_dtype)
    if torch_dtype is not None and (not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point):
        raise ValueError(f"torch_dtype = {torch_dtype!r}, expected a float dtype such as torch.float16, or 'auto'")
    return torch_dtype
