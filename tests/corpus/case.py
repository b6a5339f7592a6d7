"""What a hostile file is: how it is made, where it is given, and what must come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Door = Literal["model", "data", "recipe"]
"""What a path is given as: a model to open, data to calibrate on, a recipe."""

MARKER = "code-was-run"
"""Payloads create a file of this name beside the hostile one; it must never be there."""


@dataclass(frozen=True, slots=True)
class Case:
    """``make(folder)`` writes the hostile thing below an empty folder and returns the path to give.

    says  words of the sentence that refuses it; None where it must open, and its names be shown as plain text
    """

    name: str
    make: Callable[[Path], Path]
    says: str | None
    door: Door = "model"


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    """A maker of one file."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def payload(folder: Path) -> tuple[str, tuple[str]]:
    """A function and arguments that leave a trace when they are called: ``os.mkdir`` of the marker."""
    return "mkdir", (str(folder / MARKER),)
