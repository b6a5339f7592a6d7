"""Consent to run code: what a user pointed at, never what a file says of itself."""

from dataclasses import dataclass, field
from typing import Any

from engine.errors import InputError


@dataclass(frozen=True, slots=True)
class Factory:
    """A Python function that builds a network whose weights are in another file.

    path       the ``.py`` file
    name       function or class in it
    arguments  keyword arguments it is called with (numbers, strings, lists and the like)
    """

    path: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, arguments: dict[str, Any] | None = None) -> "Factory":
        """From ``file.py:function``. Raises InputError."""
        path, colon, name = text.rpartition(":")
        if not colon or not path.endswith(".py") or not name.isidentifier():
            raise InputError(f"{text!r} names no factory; write it as file.py:function.")
        return cls(path, name, dict(arguments or {}))
