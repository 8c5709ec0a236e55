"""A recipe: everything that one training run is, in a short TOML file.

Built in chapter 16.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from ddetr_lab.recipe_settings import (
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    OptimizationSettings,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECORD = "recipe.json"  # what a training run writes beside its weights
_NOUNS = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false,"}

__all__ = [
    "RECORD",
    "CheckpointSettings",
    "DataSettings",
    "EvaluationSettings",
    "ModelSettings",
    "OptimizationSettings",
    "Recipe",
    "available_recipes",
    "load_recipe",
    "recipe_from_dict",
]


@dataclass(frozen=True)
class Recipe:
    """A training run: its name and five sections of settings; see ``ddetr_lab.recipe_settings`` for each."""

    name: str
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as nested dicts, for the run's record."""
        return asdict(self)


def available_recipes() -> list[str]:
    """Name the recipes that come with the package."""
    folder = resources.files("ddetr_lab") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by the name of a shipped one, from a TOML file, or from the folder of a training run.

    A file may say ``extends = "coco"``: what it does not set is then as in that shipped recipe.

    Raises:
        FileNotFoundError: if there is none; the message lists the shipped ones.
        ValueError: if the file is no TOML (in a folder: no JSON), or a setting is unknown, mistyped or out of range.
    """
    try:
        return recipe_from_dict(*_read(Path(name_or_path)))
    except RecursionError as error:
        raise ValueError(
            f"recipe {str(name_or_path)!r} has lists or tables too deep in each other: expected sections of settings"
        ) from error


def recipe_from_dict(name: str, content: dict[str, Any]) -> Recipe:
    """Build a recipe from its sections, as TOML or JSON has them; missing sections and settings take their defaults.

    Raises:
        ValueError: if a section or a setting is unknown, mistyped or out of range.
    """
    groups = {entry.name: entry.default_factory for entry in fields(Recipe) if entry.name != "name"}
    unknown = sorted(set(content) - set(groups))
    if unknown:
        raise ValueError(
            f"recipe {name!r} has the unknown sections {unknown}, expected some of {sorted(groups)}"
            f"{_meant(unknown, groups)}"
        )
    settings = {key: _settings(groups[key], content.get(key, {}), f"{name}: [{key}]") for key in groups}
    return Recipe(name=name, **settings)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Find and parse a recipe: its name and its sections."""
    shipped = available_recipes()
    if path.is_dir():
        record = path / RECORD
        if not record.is_file():
            raise FileNotFoundError(f"{str(path)!r} has no {RECORD}, so it is no folder that `ddetr-lab train` made")
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{str(record)!r} is no valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{str(record)!r} is no recipe: expected an object, got {type(content).__name__}")
        content.pop("seed", None)
        return str(content.pop("name", path.name)), content
    if path.suffix == ".toml":
        if not path.is_file():
            raise FileNotFoundError(f"recipe {str(path)!r} does not exist; shipped recipes: {', '.join(shipped)}")
        try:
            text, name = path.read_text(encoding="utf-8"), path.stem
        except UnicodeDecodeError as error:
            raise ValueError(f"recipe {str(path)!r} is no text in UTF-8: {error}; save it as UTF-8") from error
    else:
        name = str(path)
        if name not in shipped:
            raise FileNotFoundError(
                f"recipe {name!r} is unknown, expected one of {', '.join(shipped)}, a path ending in .toml, "
                "or a folder that is there: of a training run, or for `ddetr-lab train` of pictures with a COCO file"
            )
        text = (resources.files("ddetr_lab") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {name!r} is no valid TOML: {error}") from error
    return name, _extended(name, content)


def _extended(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Lay a recipe's sections over those of the shipped recipe that it extends, if it does."""
    base = content.pop("extends", None)
    if base is None:
        return content
    if base not in available_recipes() or base == name:
        raise ValueError(f"recipe {name!r} extends {base!r}, expected one of {', '.join(available_recipes())}")
    _, below = _read(Path(base))
    for key, section in content.items():
        below[key] = {**below.get(key, {}), **section} if isinstance(section, dict) else section
    return below


def _settings(kind: Any, given: dict[str, Any], where: str) -> Any:
    default = kind()
    if not is_dataclass(default) or not isinstance(given, dict):
        raise ValueError(f"recipe {where} is {given!r}, expected a section of settings")
    known = {entry.name: getattr(default, entry.name) for entry in fields(default)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"recipe {where} has the unknown settings {unknown}, expected some of {sorted(known)}"
            f"{_meant(unknown, known)}"
        )
    checked = {key: _checked(value, known[key], f"{where} {key}") for key, value in given.items()}
    try:
        return kind(**checked)
    except ValueError as error:
        raise ValueError(f"recipe {where.partition(':')[0]}: {error}") from error


def _meant(unknown: list[str], known: Iterable[str]) -> str:
    """Guess what a misspelt name should have been: the end of a message, or nothing."""
    names = list(known)
    close = [(name, get_close_matches(name, names, 1)) for name in unknown]
    return "".join(f"; did you mean {found[0]!r} by {name!r}?" for name, found in close if found)


def _checked(value: Any, example: Any, where: str) -> Any:
    """Hold a setting against its default: same type, no negative number, and 0 only where the default is 0."""
    if isinstance(example, tuple):
        kind = type(example[0]) if example else str
        if not isinstance(value, (list, tuple)) or not all(type(entry) is kind for entry in value):
            noun = "strings" if kind is str else "decimal numbers"
            raise ValueError(f"recipe {where} = {value!r}, expected a list of {noun}")
        return tuple(value)
    if isinstance(example, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(example):
        noun = _NOUNS.get(type(example), type(example).__name__)
        shown = json.dumps(example) if isinstance(example, (str, bool)) else repr(example)  # as TOML has it
        raise ValueError(f"recipe {where} = {value!r}, expected {noun} such as {shown}")
    if (type(value) is int and value < min(example, 1)) or (type(value) is float and not 0 <= value < math.inf):
        raise ValueError(f"recipe {where} = {value!r}, expected a positive number")
    return value
