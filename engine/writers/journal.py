"""Which layers of an artifact are finished: a line of JSON each, appended when its last byte was written.

A line is believed only if the bytes in the file have the checksums that it names: so it need not be made durable, and a crash of
the machine costs at most the layers whose bytes were lost.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Finished:
    """Checksums of a layer's output tensors by name, its report as JSON (None for kept layers), and its weight's checksum."""

    sums: dict[str, int]
    report: dict[str, Any] | None
    inputs: dict[str, int]


class Journal:
    """Appends; what an earlier process wrote is in ``finished`` by layer."""

    def __init__(self, path: Path) -> None:
        self.finished: dict[str, Finished] = {}
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    row = json.loads(line)
                    sums = {str(name): int(value) for name, value in row["sums"].items()}
                    inputs = {str(name): int(value) for name, value in row["inputs"].items()}
                    self.finished[row["layer"]] = Finished(sums, row["report"], inputs)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def put(self, layer: str, sums: Mapping[str, int], report: Any, inputs: Mapping[str, int]) -> None:
        """A journal that cannot be written is no reason to stop."""
        line = json.dumps({"layer": layer, "sums": sums, "report": report, "inputs": inputs}, separators=(",", ":"))
        with contextlib.suppress(OSError):
            os.write(self._descriptor, f"\n{line}\n".encode())  # what a killed process left torn ends here

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
