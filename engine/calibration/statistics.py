"""What a float model's layers were given, in one file: a second recipe on the same data starts at once.

A safetensors file: moments of every layer (shared ones once), ranges by observer and number format, and in the header's metadata
the report, the layers that share a record, and the places from which scale can be moved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import DataError, InputError, OutputError
from engine.records.calibration import CalibrationReport
from engine.records.codec import from_data, to_data

if TYPE_CHECKING:
    import torch

    from engine.calibration.moments import Moments
    from engine.calibration.structure import Movable

VERSION = "1"
KEY = "mono_quant.calibration"


@dataclass(slots=True)
class Statistics:
    """``moments`` leads from layers to records in the file; ``ranges`` from layers to (low, high) by observer and format."""

    path: str
    report: CalibrationReport
    moments: dict[str, str]
    ranges: dict[str, dict[str, tuple[float, float]]]
    pairs: list[Movable] = field(default_factory=list)
    second: bool = False

    def moments_of(self, name: str) -> Moments:
        """The record of one layer, read from the file. Raises InputError."""
        from safetensors import safe_open

        from engine.calibration.moments import Moments

        record = self.moments[name]
        try:
            with safe_open(self.path, "pt") as file:
                keys = [key for key in file.keys() if key.startswith(f"{record}.")]  # noqa: SIM118
                return Moments.from_tensors({key.rsplit(".", 1)[-1]: file.get_tensor(key) for key in keys})
        except Exception as error:
            raise InputError(f"The statistics {self.path} cannot be read: {error}.") from None

    def range_of(self, name: str, observer: str, activations: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The range of one layer's input, as an observer found it for a number format; None for a layer never reached.

        Raises DataError when these statistics were gathered with other observers.
        """
        import torch

        if name not in self.ranges:
            return None
        known = self.ranges[name]
        key = f"{observer}/{_target(activations)}"
        if key not in known:
            have = ", ".join(sorted({text.split("/")[0] for text in known}))
            raise DataError(
                f"The statistics {self.path} have no ranges by {observer} (but by {have}); calibrate with --observer {observer}."
            )
        low, high = known[key]
        return torch.tensor(low), torch.tensor(high)


def targets() -> dict[str, Any]:
    """Number formats that observers choose ranges for, by the key they have in a file."""
    from engine.calibration.observers import Target

    return {"int8": Target("int8", True), "int8:asym": Target("int8", False), "fp8": Target("fp8", True)}


def _target(activations: str) -> str:
    if activations.startswith("int8"):
        return "int8:asym" if activations.endswith(":asym") else "int8"
    return "fp8"


def check_place(path: str, files: Iterable[str], *, overwrite: bool) -> None:
    """Raise OutputError, before long work, for a place where statistics cannot go; ``files`` are the model's."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise OutputError(f"The folder {folder} does not exist; create it first.")
    if os.path.isdir(path):
        raise OutputError(f"{path} is a folder; name a file for the statistics.")
    if os.path.realpath(path) in {os.path.realpath(file) for file in files}:
        raise OutputError(f"{path} is the model itself; name another file for the statistics.")
    if os.path.exists(path) and not overwrite:
        raise OutputError(f"{path} already exists; choose another name or allow overwriting (--overwrite).")


def save(
    path: str,
    report: CalibrationReport,
    moments: Mapping[str, Moments],
    ranges: Mapping[str, Mapping[str, tuple[float, float]]],
    pairs: list[Movable],
) -> None:
    """Write everything; the file has its name only when it is complete. Raises OutputError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    records: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    for name, record in moments.items():
        if id(record) not in records:
            records[id(record)] = f"moments.{len(records)}"
            tensors |= {f"{records[id(record)]}.{key}": value.contiguous() for key, value in record.tensors().items()}
        names[name] = records[id(record)]
    described = {
        "version": VERSION, "report": to_data(report), "moments": names, "ranges": ranges, "pairs": [to_data(p) for p in pairs],
        "second": any(key.endswith(".second") for key in tensors),
    }  # fmt: skip
    temporary = os.path.join(os.path.dirname(path) or ".", f".{os.path.basename(path)}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, {KEY: json.dumps(described), "format": "pt"})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Cannot write the statistics {path}: {getattr(error, 'strerror', None) or error}.") from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def load(path: str) -> Statistics:
    """Open a file of statistics; moments are read when they are asked for. Raises InputError."""
    from engine.calibration.structure import Movable
    from engine.readers.header import read_header

    header = read_header(path)
    try:
        found = json.loads(header.metadata[KEY])
        if found["version"] != VERSION:
            raise InputError(f"The statistics {path} were written by another version; calibrate again.")
        report = from_data(CalibrationReport, found["report"])
        pairs = [from_data(Movable, pair) for pair in found["pairs"]]
        ranges = {name: {key: (low, high) for key, (low, high) in known.items()} for name, known in found["ranges"].items()}
        return Statistics(path, report, found["moments"], ranges, pairs, found["second"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InputError(f"{path} holds no calibration statistics; make them with `mono-quant calibrate`.") from None
