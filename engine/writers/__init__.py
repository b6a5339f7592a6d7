"""Outputs. To add one: a file here and its line in ``FORMATS``."""

from engine.errors import RecipeError
from engine.writers.base import Format
from engine.writers.compressed_tensors import CompressedTensors
from engine.writers.safetensors_file import SafetensorsFile

FORMATS: tuple[Format, ...] = (CompressedTensors(), SafetensorsFile())


def format_named(name: str) -> Format:
    """The format of that name. Raises RecipeError."""
    for form in FORMATS:
        if form.name == name:
            return form
    raise RecipeError(f"{name!r} is not an output format; choose {' or '.join(form.name for form in FORMATS)}.")


__all__ = ["FORMATS", "Format", "format_named"]
