"""Rows of earlier passes, in the user's cache folder: one line of JSON a layer, appended as it is found.

A line is written at once, so that a killed process leaves at most its last one torn, which is then not read; two processes may
append to the same file.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import platformdirs

from engine.version import VERSION

MOST_FILES = 256


class RowCache:
    """What is known of layers under one key. ``known``: by layer, the ``put`` records merged, later ones over earlier ones."""

    def __init__(self, *key: object) -> None:
        words = json.dumps([VERSION, *map(str, key)])
        self._path = os.path.join(folder(), f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.jsonl")
        self.known: dict[str, dict[str, Any]] = {}
        self._read()

    def put(self, layer: str, found: Mapping[str, Any]) -> None:
        """Remember what was found of a layer. A cache that cannot be written is no reason to stop."""
        self._merge(layer, found)
        line = json.dumps({"layer": layer, "found": found}, separators=(",", ":"))
        with contextlib.suppress(OSError):
            os.makedirs(folder(), exist_ok=True)
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                # A line that a killed process left torn ends here.
                os.write(handle, f"\n{line}\n".encode())
            finally:
                os.close(handle)

    def _read(self) -> None:
        with contextlib.suppress(OSError), open(self._path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    row = json.loads(line)
                    self._merge(row["layer"], row["found"])
            os.utime(self._path)

    def _merge(self, layer: str, found: Mapping[str, Any]) -> None:
        own = self.known.setdefault(layer, {})
        for key, value in found.items():
            own[key] = {**own.get(key, {}), **value} if isinstance(value, Mapping) else value


def folder() -> str:
    """Where rows are kept."""
    return os.path.join(platformdirs.user_cache_dir("mono-quant"), "sensitivity")


def prune() -> None:
    """Remove the files that were not used for longest, until ``MOST_FILES`` are left."""
    with contextlib.suppress(OSError):
        files = sorted((entry for entry in os.scandir(folder()) if entry.is_file()), key=lambda entry: -entry.stat().st_mtime)
        for entry in files[MOST_FILES:]:
            with contextlib.suppress(OSError):  # another process may have been here first
                os.unlink(entry.path)
