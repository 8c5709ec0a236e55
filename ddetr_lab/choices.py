"""An argument that is one of a few words, such as ``return_tensors`` or ``data_format``.

Built in chapter 2.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Choice"]


class Choice(str, Enum):
    """An enum of strings: members compare equal to their value, and an unknown value is named in the error."""

    @classmethod
    def _missing_(cls, value: object) -> Choice:
        if isinstance(value, Enum):  # the same choice, spelt with another library's enum
            return cls(value.value)
        raise ValueError(f"{value!r} is no {cls.__name__}: choose one of {[member.value for member in cls]}")
