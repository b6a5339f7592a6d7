"""Inputs. To add one: a file here with its ``READER`` and its line in ``READERS``."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import InputError
from engine.readers import folder, safetensors_file, state_dict
from engine.readers.base import Reader
from engine.readers.header import identify
from engine.readers.source import file_info
from engine.records.model import ModelSummary

READERS: tuple[Reader, ...] = (folder.READER, safetensors_file.READER, state_dict.READER)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hundreds of thousands of small records, none in a cycle: the collector would look at them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def open_path(path: str | os.PathLike[str]) -> ModelSummary:
    """Whatever the path holds, from headers alone. Raises InputError with one sentence."""
    path = os.path.expanduser(os.fspath(path))
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist.")
    for reader in READERS:
        if reader.accepts(path):
            with _no_collection():
                return reader.open(path)
    known = ", ".join(suffix for reader in READERS for suffix in reader.suffixes)
    file_info(path)  # a pipe would keep its reader waiting
    try:
        kind = identify(path)
    except OSError as error:
        raise InputError(f"Cannot open {path}: {error.strerror}.") from None
    is_a = f"it looks like {kind}" if kind else "its name has none of the known endings"
    raise InputError(f"{path} is not a model that can be opened ({is_a}); open a folder, or a {known} file.")
