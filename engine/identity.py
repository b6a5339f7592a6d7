"""Which model this is: three answers, from the cheapest to the one that knows the contents.

``headers``   what the headers say: names, types, shapes, places, sizes of files. Instant. The same for two checkpoints of one
              architecture, so it names a kind of checkpoint and not its weights.
``files``     the same and when the files were changed last. Instant, and what a cache asks on one machine: weights that were
              written anew have another time. Contents are read only where the files are private copies with no time of their own.
``contents``  the weights themselves: SHA-256 over one checksum a tensor (``numerics.checksum``, 64 bits, any one changed byte
              changes it). A run finds them while it reads the weights anyway, so they cost no second reading. It tells a changed
              model from an unchanged one, on any machine and under any name; it is no defence against somebody who forges one.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping

from engine.records.model import ModelSummary

ON_DISK = ("safetensors", "folder", "state_dict")
"""Sources whose files are the user's own."""


def headers(summary: ModelSummary) -> str:
    """SHA-256 over names, types, shapes and places of all tensors and the files' sizes."""
    digest = hashlib.sha256()
    for file in summary.files:
        digest.update(f"{os.path.basename(file.path)} {file.nbytes}\n".encode())
    for layer in summary.layers:
        for part in layer.parts:
            digest.update(f"{part.name} {part.dtype} {part.shape} {part.file} {part.offset}\n".encode())
    return digest.hexdigest()


def files(summary: ModelSummary) -> str:
    """SHA-256 over layers' names, types and shapes and the files' sizes and times of change."""
    found = hashlib.sha256()
    snapshot = summary.source not in ON_DISK
    for file in summary.files:
        found.update(f"{os.path.basename(file.path)} {file.nbytes} {0 if snapshot else file.mtime_ns}\n".encode())
        if snapshot:
            with open(file.path, "rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
    for layer in summary.layers:
        found.update(f"{layer.tensor.name} {layer.dtype} {layer.shape}\n".encode())
    return found.hexdigest()


def contents(summary: ModelSummary, checksums: Mapping[str, int]) -> str:
    """SHA-256 over every tensor's name, type, shape and checksum; empty where one is not known."""
    found = hashlib.sha256()
    for layer in summary.layers:
        for part in layer.parts:
            if part.name not in checksums:
                return ""
            found.update(f"{part.name} {part.dtype} {part.shape} {checksums[part.name]:016x}\n".encode())
    return found.hexdigest()


def stamps(summary: ModelSummary) -> list[list[object]]:
    """Path, size, number and time of change of every file: equal stamps mean that nobody wrote to them since."""
    return [[os.path.abspath(file.path), file.nbytes, file.inode, file.mtime_ns] for file in summary.files]


def bytes_of(paths: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 over the contents of files, in the order given. Raises OSError."""
    found = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()
