"""``preprocessor_config.json`` both ways: what a processor is made of, as a dict, a string, a file or a hub name.

Built in chapter 2.
"""

from __future__ import annotations

import copy
import json
import numbers
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ddetr_lab.files import HubOptions, find_file, read_object, refuse_push, write_atomically

__all__ = ["PROCESSOR_FILE", "ProcessorConfigMixin", "check_switches"]

PROCESSOR_FILE = "preprocessor_config.json"

# Settings that are on or off.
_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_pad")

_Self = TypeVar("_Self", bound="ProcessorConfigMixin")

# Hub options of the reference that today's hub client has no use for.
_OLD_HUB_OPTIONS = ("proxies", "resume_download", "_from_pipeline", "_from_auto")


def check_switches(**settings: Any) -> None:
    """Check those of the settings that are on or off; 1 and 0 count, and None, which means off or unsaid.

    Raises:
        TypeError: for anything else: the text "no" would count as on.
    """
    for name, value in settings.items():
        number = isinstance(value, (numbers.Number, np.bool_)) and value in (0, 1)
        if name in _SWITCHES and not (value is None or number):
            raise TypeError(f"{name} = {value!r} is a {type(value).__name__}, expected True or False")


class ProcessorConfigMixin:
    """Save and load for a class whose instance attributes are its configuration.

    Keywords that the class does not know are kept as attributes and written back, so that a file of another version
    loses nothing. Source: the reference's ``ImageProcessingMixin``. Built in chapter 2.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._processor_class = kwargs.pop("processor_class", None)
        for key, value in kwargs.items():
            if callable(getattr(type(self), key, None)):
                raise ValueError(f"{key}={value!r} would hide the method of that name: remove it from {PROCESSOR_FILE}")
            setattr(self, key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        check_switches(**{name: value})
        super().__setattr__(name, value)

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the configuration of a processor.

        Args:
            pretrained_model_name_or_path: a folder, a JSON file, a shipped name such as "digits", or a hub name.
            **kwargs: hub options (``cache_dir``, ``force_download``, ``local_files_only``, ``token``, ``revision``,
                ``subfolder``) are used, all others handed back.

        Returns:
            the configuration and the keywords that were not hub options.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a JSON object.
        """
        if kwargs.pop("use_auth_token", None) is not None:
            warnings.warn("use_auth_token is deprecated: pass token", FutureWarning, stacklevel=2)
        for key in _OLD_HUB_OPTIONS:
            kwargs.pop(key, None)
        hub_options = {key: kwargs.pop(key) for key in HubOptions if key in kwargs}
        path = Path(pretrained_model_name_or_path)
        if not path.is_file():
            path = find_file(pretrained_model_name_or_path, PROCESSOR_FILE, **hub_options)
        return _read(path), kwargs

    @classmethod
    def from_pretrained(
        cls: type[_Self], pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> _Self | tuple[_Self, dict[str, Any]]:
        """Load a processor; arguments and errors as in :meth:`get_image_processor_dict` and :meth:`from_dict`."""
        config, kwargs = cls.get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config, **kwargs)

    @classmethod
    def from_dict(
        cls: type[_Self], image_processor_dict: Mapping[str, Any], **kwargs: Any
    ) -> _Self | tuple[_Self, dict[str, Any]]:
        """Make a processor of a configuration.

        Args:
            image_processor_dict: what :meth:`to_dict` returns, of this version or an older one.
            **kwargs: values that replace those of the configuration; ``size``, ``max_size`` and
                ``pad_and_return_pixel_mask`` in any form that the constructor takes. With
                ``return_unused_kwargs=True`` the rest is returned too, otherwise it is ignored.

        Returns:
            the processor, or (processor, unused keywords).

        Raises:
            TypeError, ValueError: as the constructor.
        """
        config = dict(image_processor_dict)
        return_unused = kwargs.pop("return_unused_kwargs", False)
        for key in ("size", "max_size", "pad_and_return_pixel_mask"):
            if key in kwargs:
                config[key] = kwargs.pop(key)
        processor = cls(**config)
        for key in [key for key in kwargs if key in vars(processor)]:
            setattr(processor, key, kwargs.pop(key))
        return (processor, kwargs) if return_unused else processor

    @classmethod
    def from_json_file(cls: type[_Self], json_file: str | os.PathLike[str]) -> _Self:
        """Make a processor of a JSON file, which :meth:`to_json_file` or the reference wrote."""
        return cls(**_read(Path(json_file)))

    def to_dict(self) -> dict[str, Any]:
        """Return a deep copy of the configuration, with the class's name under ``image_processor_type``."""
        return copy.deepcopy(vars(self)) | {"image_processor_type": type(self).__name__}

    def to_json_string(self) -> str:
        """Return the configuration as JSON with sorted keys, as the reference writes it."""
        config = {
            key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in self.to_dict().items()
        }
        processor_class = config.pop("_processor_class", None)
        if processor_class is not None:
            config["processor_class"] = processor_class
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json_string` to a file, whole or not at all."""
        text = self.to_json_string()
        write_atomically(json_file_path, lambda path: path.write_text(text, encoding="utf-8"))

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False) -> list[str]:
        """Write ``preprocessor_config.json`` into a folder, which is made if needed.

        Returns:
            the path of the file, in a list.

        Raises:
            ValueError: if ``save_directory`` is a file, or ``push_to_hub`` is asked for, which needs an account.
        """
        refuse_push(push_to_hub)
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"save_directory {folder} is a file: give a folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / PROCESSOR_FILE)
        return [os.path.join(save_directory, PROCESSOR_FILE)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected a {PROCESSOR_FILE} that save_pretrained wrote")
    return read_object(path, "processor's config")
