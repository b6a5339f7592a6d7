"""Codes of solved layers in files of a run's private folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from engine.quantizing.rounding import Solved


class SavedSolutions(Mapping[str, Solved]):
    """Codes of solved layers in files of the private folder, one read at a time.

    What a killed process solved is there already (``has``): its files tell their layers, and zip's own sums that they are whole.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.known: dict[str, tuple[str, Solved]] = {}
        for entry in os.listdir(folder):
            path = os.path.join(folder, entry)
            if not entry.startswith(("solved-", "moved-")):
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
                if entry.startswith("solved-"):
                    name, solved = _stored_solution(path)
                    self.known[name] = (path, replace(solved, levels=np.empty(0, np.float32)))
                    continue
            os.unlink(path)  # torn, or found again in a moment
        self.earlier = frozenset(self.known)

    def put(self, name: str, levels: np.ndarray, solved: Solved) -> None:
        path = os.path.join(self._folder, f"solved-{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz")
        whole = np.array_equal(levels, levels.astype(np.int8))
        told = {"name": name} | {key: getattr(solved, key) for key in _TOLD}
        with open(f"{path}.tmp", "wb") as file:
            np.savez(
                file, levels=levels.astype(np.int8) if whole else levels, scale=solved.scale, zero=solved.zero,
                told=np.frombuffer(json.dumps(told).encode(), np.uint8),
            )  # fmt: skip
        os.replace(f"{path}.tmp", path)
        self.known[name] = (path, solved)

    def __getitem__(self, name: str) -> Solved:
        path, _ = self.known[name]
        return _stored_solution(path)[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


_TOLD = ("limit", "algorithm", "note", "before", "after")


def _stored_solution(path: str) -> tuple[str, Solved]:
    with np.load(path, allow_pickle=False) as found:
        told = json.loads(found["told"].tobytes())
        name = told.pop("name")
        return name, Solved(found["levels"], found["scale"], found["zero"], **told)
