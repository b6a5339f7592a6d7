"""Inputs. To add one: a file here with its ``READER`` and its line in ``READERS``."""

import os

from engine.allocator import no_collection
from engine.errors import InputError
from engine.readers import folder, safetensors_file, state_dict
from engine.readers.base import Reader
from engine.readers.header import identify
from engine.readers.source import file_info
from engine.records.model import ModelSummary

READERS: tuple[Reader, ...] = (folder.READER, safetensors_file.READER, state_dict.READER)


def open_path(path: str | os.PathLike[str]) -> ModelSummary:
    """Whatever the path holds, from headers alone. Raises InputError with one sentence."""
    path = os.path.expanduser(os.fspath(path))
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist.")
    for reader in READERS:
        if reader.accepts(path):
            with no_collection():
                return reader.open(path)
    known = ", ".join(suffix for reader in READERS for suffix in reader.suffixes)
    file_info(path)  # a pipe would keep its reader waiting
    try:
        kind = identify(path)
    except OSError as error:
        raise InputError(f"Cannot open {path}: {error.strerror}.") from None
    is_a = f"it looks like {kind}" if kind else "its name has none of the known endings"
    raise InputError(f"{path} is not a model that can be opened ({is_a}); open a folder, or a {known} file.")
