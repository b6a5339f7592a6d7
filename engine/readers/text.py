"""Text files that are read as a whole, none of them believed: size and kind are bounded before, and errors said in our words."""

import json
from collections.abc import Callable
from typing import Any

from engine.errors import InputError
from engine.readers.source import file_info

MAX_CONFIGURATION = 16_000_000
"""Bytes of a configuration; the largest known have a few hundred thousand."""
MAX_INDEX = 100_000_000
"""Bytes of an index of shards: as many as a header may have."""


def read_whole(path: str, most: int) -> bytes:
    """A regular file of at most ``most`` bytes; never waits for a pipe or reads a device. Raises InputError."""
    info = file_info(path)
    if info.nbytes > most:
        raise InputError(f"{path} has {info.nbytes:,} bytes; of such a file at most {most:,} are read.")
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None


def number_words(error: ValueError) -> str:
    """Python's words, but without its advice to lift the limit on digits."""
    return "a number has thousands of digits" if "integer string conversion" in str(error) else str(error)


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What JSON says. Raises ValueError with a few words, whatever is wrong."""
    try:
        # Not left to json, which would take UTF-16 and UTF-32 too.
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos:,}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text at byte {error.start:,}") from None
    except ValueError as error:
        raise ValueError(number_words(error)) from None


def read_json(path: str, most: int = MAX_CONFIGURATION) -> dict[str, Any]:
    """The object in a JSON file of at most ``most`` bytes. Raises InputError."""
    try:
        data = parse_json(read_whole(path, most))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a JSON object.")
    return data
