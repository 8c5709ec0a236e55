"""What every configuration shares: labels, JSON in the layout of transformers 4.34, loading and saving.

Built in chapter 12.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from ddetr_lab.config_fields import BASE_FIELDS
from ddetr_lab.files import HubOptions, find_file, read_object, refuse_push, write_together

__all__ = ["FORMAT_VERSION", "ConfigBase"]

# The release whose JSON layout is written; its readers compare this string with their own version and nothing else.
FORMAT_VERSION = "4.34.0"

# No data set comes near; a slip that does would fill the memory with names before anything can say so.
_MOST_LABELS = 1_000_000

# Where a configuration came from is no part of what it says.
_ORIGIN = ("_name_or_path", "_commit_hash", "transformers_version")

# How a text says yes and no.
_TRUTH = dict.fromkeys(("true", "1", "y", "yes"), True) | dict.fromkeys(("false", "0", "n", "no"), False)

_Self = TypeVar("_Self", bound="ConfigBase")


class ConfigBase:
    """A bag of fields that goes to ``config.json`` and back without loss (transformers 4.34, ``PretrainedConfig``).

    Two configurations are equal when every field is, wherever they were loaded from. Built in chapter 12.

    Attributes:
        attribute_map: second names of fields, as ``{alias: field}``.
        is_composition: False, as none of these is made of several models' configurations.
    """

    model_type: str = ""
    attribute_map: ClassVar[Mapping[str, str]] = {}
    is_composition = False

    id2label: dict[int, str]
    label2id: dict[str, int]
    architectures: list[str] | None
    return_dict: bool
    output_attentions: bool
    output_hidden_states: bool
    torchscript: bool
    torch_dtype: torch.dtype | None
    pruned_heads: dict[Any, Any]

    def __init__(self, **kwargs: Any) -> None:
        """Set the shared fields; whatever is left in ``kwargs`` becomes an attribute and is written to the file too.

        Args:
            **kwargs: any of ``BASE_FIELDS``, ``num_labels``, ``id2label`` (label -> name), ``label2id``, and others.

        Raises:
            TypeError: for a field of the wrong type.
            ValueError: for labels that do not fit each other, or for another model's configuration.
        """
        model_type = kwargs.pop("model_type", None) or self.model_type
        if model_type != self.model_type:
            raise ValueError(
                f"model_type = {model_type!r}, expected {self.model_type!r}: this configuration is another model's"
            )
        for key, default in BASE_FIELDS.items():
            setattr(self, key, kwargs.pop(key, copy.deepcopy(default)))
        self._name_or_path = str(kwargs.pop("_name_or_path", kwargs.pop("name_or_path", "")))
        self._commit_hash = kwargs.pop("_commit_hash", None)
        kwargs.pop("transformers_version", None)
        self._set_labels(kwargs.pop("num_labels", None), kwargs.pop("id2label", None), kwargs.pop("label2id", None))
        for key, value in kwargs.items():
            if callable(getattr(type(self), key, None)):
                raise ValueError(f"{key!r} is a method of {type(self).__name__}, so it cannot be a field: rename it")
            self._warn_about_a_slip(key)
            setattr(self, key, value)

    def _warn_about_a_slip(self, key: str) -> None:
        # Unknown fields are legal, as newer files have some; one letter beside a known field is hardly meant so.
        fields = [*vars(self), "num_labels", *self.attribute_map]
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.85)
        if near and key not in fields:
            warnings.warn(f"{key!r} is no field of {type(self).__name__}: did you mean {near[0]!r}?", stacklevel=4)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "torch_dtype":
            value = _as_dtype(value)
        elif name == "id2label":
            value = _as_id2label(value)
        object.__setattr__(self, name, value)

    # ------------------------------------------------------------------------------------------------ labels

    def _set_labels(
        self, num_labels: int | None, id2label: Mapping[Any, str] | None, label2id: Mapping[str, int] | None
    ) -> None:
        if label2id is not None and not isinstance(label2id, Mapping):
            raise TypeError(f"label2id is a {type(label2id).__name__}, expected a dict from name to label")
        if id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
            if label2id is not None and label2id != self.label2id:
                warnings.warn(
                    f"label2id = {label2id} changes nothing without id2label, and the labels are called "
                    f"{', '.join(list(self.label2id)[:3])} …: pass id2label={{0: name, 1: name, …}}",
                    stacklevel=5,
                )
            return
        self.id2label = _as_id2label(id2label)
        if num_labels is not None and num_labels != len(self.id2label):
            raise ValueError(
                f"num_labels = {num_labels}, but id2label names {len(self.id2label)} labels: leave num_labels out"
            )
        pairs = ((name, label) for label, name in self.id2label.items()) if label2id is None else label2id.items()
        self.label2id = {name: int(label) for name, label in pairs}

    @property
    def num_labels(self) -> int:
        """How many classes there are: ``len(id2label)``. Setting another number names them LABEL_0, LABEL_1 …"""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"num_labels = {number!r}, expected an int")
        if number < 1:
            raise ValueError(f"num_labels = {number}, expected at least 1")
        if number > _MOST_LABELS:
            raise ValueError(f"num_labels = {number}, expected at most {_MOST_LABELS}: give the number of classes")
        if len(getattr(self, "id2label", ())) != number:
            self.id2label = {label: f"LABEL_{label}" for label in range(number)}
            self.label2id = {name: label for label, name in self.id2label.items()}

    def set_labels(self, names: Iterable[str] | Mapping[int, str]) -> None:
        """Rename the classes, changing their number if need be, and keep ``label2id`` in step.

        Args:
            names: one name a label in order, or a dict from label (0, 1, …) to name.

        Raises:
            ValueError: if the labels are not 0, 1, …, K - 1.
        """
        id2label = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
        self._set_labels(None, id2label, None)

    @property
    def name_or_path(self) -> str:
        """Where the configuration was loaded from, or an empty string."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str | os.PathLike[str]) -> None:
        self._name_or_path = str(value)

    @property
    def use_return_dict(self) -> bool:
        """Whether a model returns its output class instead of a tuple when the call does not say."""
        return self.return_dict and not self.torchscript

    # ------------------------------------------------------------------------------------------------ dict and JSON

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain values, nested configurations as dicts, dtypes as names."""
        output: dict[str, Any] = {key: value for key, value in vars(self).items() if key != "_commit_hash"}
        for key, value in output.items():
            if hasattr(value, "to_dict"):
                nested = value.to_dict()
                nested.pop("transformers_version", None)
                output[key] = nested
            else:
                output[key] = copy.deepcopy(value)
        output["torch_dtype"] = None if self.torch_dtype is None else str(self.torch_dtype).removeprefix("torch.")
        return output | {"model_type": self.model_type, "transformers_version": FORMAT_VERSION}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields that a file needs: this model's own, and those shared ones that differ from the default."""
        shared = ConfigBase().to_dict() | {"model_type": "", "transformers_version": ""}
        own = type(self)().to_dict()
        return {
            key: value
            for key, value in self.to_dict().items()
            # A file does not carry the path that its writer happened to load from.
            if (key not in shared or value != shared[key] or (key in own and value != own[key]))
            and key != "_name_or_path"
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the text of ``config.json``: sorted keys, two blanks of indent; all fields if not ``use_diff``."""
        fields = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write ``to_json_string`` to a file, whole or not at all."""
        text = self.to_json_string(use_diff)
        write_together({Path(json_file_path): lambda path: path.write_text(text, encoding="utf-8")})

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False) -> None:
        """Write ``config.json`` into a folder, which is made if need be.

        Raises:
            NotADirectoryError: if ``save_directory`` is a file.
            ValueError: if ``push_to_hub`` is asked for, which needs an account.
        """
        refuse_push(push_to_hub)
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"save_directory = {str(folder)!r} is a file, expected a folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / "config.json")

    @classmethod
    def from_dict(
        cls: type[_Self], config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """Build a configuration from a dict; ``overrides`` that are fields of it replace the dict's values.

        Args:
            config_dict: as from ``to_dict`` or a ``config.json``; it is not changed.
            return_unused_kwargs: return ``(configuration, rest)``, where ``rest`` holds the overrides that are no
                fields. Without it they are dropped, with a warning.
            **overrides: new values. ``num_labels`` or ``id2label`` replace the dict's labels altogether.

        Raises:
            TypeError, ValueError: as the constructor, after the overrides are in.
        """
        fields = copy.deepcopy(dict(config_dict))
        if "num_labels" in overrides or "id2label" in overrides:
            old = fields.pop("id2label", None)
            old_label2id = fields.pop("label2id", None)
            fields.pop("num_labels", None)
            if "id2label" not in overrides and old is not None and len(old) == overrides["num_labels"]:
                fields |= {"id2label": old, "label2id": old_label2id}  # the same number: the names stay
        known = set(vars(cls())) | set(fields) | {"num_labels", "name_or_path", *cls.attribute_map}
        fields |= {key: value for key, value in overrides.items() if key in known}
        # An alias and its field may both be there now; the override is the one that counts.
        for alias, field in cls.attribute_map.items():
            if alias in fields:
                value = fields.pop(alias)
                if alias in overrides or field not in fields:
                    fields[field] = value
        label2id = fields.pop("label2id") if "label2id" in overrides and fields.get("id2label") is None else None
        config = cls(**fields)
        if label2id is not None:
            config.label2id = dict(label2id)
        config.pruned_heads = {int(key): heads for key, heads in config.pruned_heads.items()}  # JSON made them strings
        unused = {key: value for key, value in overrides.items() if key not in known}
        if unused and not return_unused_kwargs:
            warnings.warn(f"{', '.join(unused)}: no field of {cls.__name__}, so it changes nothing", stacklevel=2)
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_json_file(cls: type[_Self], json_file: str | os.PathLike[str]) -> _Self:
        """Read a configuration from a JSON file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not JSON or not a JSON object.
        """
        return cls(**read_object(Path(json_file), "config"))

    @classmethod
    def from_pretrained(
        cls: type[_Self], pretrained_model_name_or_path: str | os.PathLike[str], **overrides: Any
    ) -> Any:
        """Load a configuration from a folder, a JSON file, a shipped model's name or a hub name.

        Args:
            pretrained_model_name_or_path: see ``ddetr_lab.files.find_file``; a ``.json`` file is read as it is.
            **overrides: fields to replace, as in ``from_dict``, and options of ``find_file`` such as ``revision``.

        Raises:
            FileNotFoundError: if there is no such file, or the hub cannot be reached; the message has the remedy.
            ValueError: for a broken file or fields that are out of range.
        """
        fields, overrides = cls.get_config_dict(pretrained_model_name_or_path, **overrides)
        return cls.from_dict(fields, **overrides)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the fields that :meth:`from_pretrained` builds from; return them, and those of ``kwargs`` left over."""
        options = {key: kwargs.pop(key) for key in HubOptions if key in kwargs}
        path = Path(os.path.expanduser(pretrained_model_name_or_path))
        if not path.is_file():
            path = find_file(pretrained_model_name_or_path, "config.json", **options)
        return read_object(path, "config"), kwargs

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several attributes at once."""
        for key, value in config_dict.items():
            setattr(self, key, value)

    def update_from_string(self, update_str: str) -> None:
        """Set fields from a text such as ``"dropout=0.2,with_box_refine=true"``; each keeps its type.

        Raises:
            TypeError: for a field that is neither a number, a truth value nor a text, and so has no short form.
            ValueError: for a name that is no field, or a value that does not fit the field.
        """
        for pair in update_str.split(","):
            name, equals, text = pair.partition("=")
            if not equals or not hasattr(self, name):
                raise ValueError(f"{pair!r} sets no field of {type(self).__name__}: expected field=value, …")
            old = getattr(self, name)
            if isinstance(old, bool):
                if text.lower() not in _TRUTH:
                    raise ValueError(f"{name} = {text!r}, expected true or false")
                setattr(self, name, _TRUTH[text.lower()])
            elif isinstance(old, (int, float, str)):
                setattr(self, name, type(old)(text))
            else:
                raise TypeError(f"{name} is a {type(old).__name__}, which a text cannot change: set config.{name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConfigBase):
            return NotImplemented
        mine, theirs = self.to_dict(), other.to_dict()
        for key in _ORIGIN:
            mine.pop(key, None)
            theirs.pop(key, None)
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]  # it can change, so it must not be a key

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _as_dtype(value: Any) -> torch.dtype | None:
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if value is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch_dtype = {value!r}, expected None, a torch.dtype or the name of one such as 'float16'")
    return dtype


def _as_id2label(value: Any) -> dict[int, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"id2label is a {type(value).__name__}, expected a dict from label to name")
    try:
        id2label = {int(label): name for label, name in value.items()}  # JSON turns the labels into strings
    except (TypeError, ValueError) as error:
        raise ValueError(f"id2label has the labels {list(value)[:5]} …, expected integers") from error
    if not id2label or sorted(id2label) != list(range(len(id2label))):
        raise ValueError(
            f"id2label has the labels {sorted(id2label)[:5]} …, expected 0, 1, …, {max(len(id2label) - 1, 0)} without "
            "holes, as label k is column k of the logits. Pass id2label={0: name, 1: name, …} to replace it; "
            "COCO ids start at 1 and have holes: see ddetr_lab.data.validate"
        )
    return id2label
