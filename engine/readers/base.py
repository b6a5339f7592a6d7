"""What a reader must say about itself."""

from collections.abc import Callable
from dataclasses import dataclass

from engine.records.model import ModelSummary


@dataclass(frozen=True, slots=True)
class Reader:
    """One input. ``accepts`` looks at the path alone (no content); ``open`` reads headers and raises InputError."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    accepts: Callable[[str], bool]
    open: Callable[[str], ModelSummary]
