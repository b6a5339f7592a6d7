"""Arrays in files: ``.npy``, ``.npz``, ``.safetensors`` and what torch saved. The first axis counts samples.

Sizes are compared with the file before anything is allocated, and rows are read by position, never through a memory map
(see ``readers.source``); of an ``.npz`` or ``.pt`` only the chosen samples are kept.
"""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.calibration.array_rows import FileRows, HeldRows, Rows, ZippedRows, check_memory, check_size, in_columns, npy_header
from engine.calibration.batches import words
from engine.calibration.samples import LABEL_NAMES, Raw, Reader, Samples, draw
from engine.errors import DataError, InputError
from engine.readers.header import identify, read_header
from engine.readers.source import file_info
from engine.records.calibration import DataSpec, ModelInputs, Skipped

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth")
_SAFE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class ArraySamples(Samples):
    """Arrays by name (or, unnamed, in order), all with the same number of samples; one of them may be labels."""

    def __init__(
        self, arrays: Mapping[str, Rows], labels: Rows | None, found: Sequence[int], skipped: Sequence[Skipped] = (),
        *, named: bool = True,
    ) -> None:  # fmt: skip
        first = next(iter(arrays.values()))
        super().__init__(first.shape[0], found, skipped, labels is not None)
        self._arrays, self._labels, self._named = dict(arrays), labels, named
        for rows in (*self._arrays.values(), *((labels,) if labels else ())):
            rows.keep(self.chosen)
        shapes = [words(rows.shape[1:]) for rows in self._arrays.values()]
        self.detail = shapes[0] if len(shapes) == 1 else ", ".join(f"{n} {s}" for n, s in zip(arrays, shapes, strict=True))

    def load(self, indices: tuple[int, ...]) -> Raw:
        values = {name: rows.take(indices) for name, rows in self._arrays.items()}
        labels = self._labels.take(indices) if self._labels else None
        return Raw(values if self._named else tuple(values.values()), labels)


def _npy(path: str) -> dict[str, Rows]:
    size = file_info(path).nbytes
    with open(path, "rb") as file:
        shape, dtype, fortran, start = npy_header(file, path)
        check_size(path, start, shape, dtype, size)
        if not fortran:
            return {"": FileRows(path, start, shape, dtype)}
        check_memory(path, size)
        return {"": HeldRows(in_columns(file.read(), shape, dtype))}


def _npz(path: str) -> dict[str, Rows]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise InputError(
            f"{path} is not an .npz archive, or is cut short: {identify(path) or 'nothing known'} was found."
        ) from None
    return {member.filename.removesuffix(".npy"): ZippedRows(path, member) for member in members}


def _safetensors(path: str) -> dict[str, Rows]:
    import torch

    arrays: dict[str, Rows] = {}
    for tensor in read_header(path).tensors:
        if tensor.dtype not in _SAFE:
            raise InputError(f"{path}: {tensor.name} is of the type {tensor.dtype}, which no model takes as its input.")
        arrays[tensor.name] = FileRows(path, tensor.offset, tensor.shape, getattr(torch, _SAFE[tensor.dtype]))
    return arrays


def _torch(path: str) -> dict[str, Rows] | list[Rows]:
    import torch

    check_memory(path, file_info(path).nbytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path} holds Python objects besides tensors, which would run code; save tensors alone.") from None
    except Exception as error:  # torch raises whatever a damaged archive leads to
        raise InputError(f"{path} cannot be read as saved tensors; it is damaged or not torch's.", details=str(error)) from None
    if isinstance(loaded, (list, tuple)):
        return [_held(path, f"item {number}", value) for number, value in enumerate(loaded)]
    named = loaded if isinstance(loaded, dict) else {"": loaded}
    return {str(name): _held(path, repr(name), value) for name, value in named.items()}


def _held(path: str, name: str, value: Any) -> HeldRows:
    import torch

    if isinstance(value, list):
        try:
            value = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"{path}: the list {name} is not one array of numbers.") from None
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise InputError(
            f"{path}: {name} is a {type(value).__name__} that no model takes; save plain tensors, first axis samples."
        )
    return HeldRows(value.detach())


_OPENERS = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".pt": _torch, ".pth": _torch}


def open_arrays(spec: DataSpec, inputs: ModelInputs) -> Samples:
    """Arrays of a file. Raises InputError, DataError."""
    path = spec.path
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _OPENERS:
        raise InputError(f"{path} is no file of arrays; give one that ends in {', '.join(SUFFIXES)}.")
    if file_info(path).nbytes == 0:
        raise InputError(f"{path} is empty (0 bytes).")
    arrays = _OPENERS[suffix](path)
    samples = from_arrays(arrays, spec, inputs, path)
    samples.files = (path,)
    return samples


def from_arrays(arrays: dict[str, Rows] | list[Rows], spec: DataSpec, inputs: ModelInputs, path: str) -> ArraySamples:
    """Tell labels from inputs, check that all have the same number of samples, and draw."""
    named = isinstance(arrays, dict)
    everything = arrays if isinstance(arrays, dict) else {f"item {number}": rows for number, rows in enumerate(arrays)}
    if not everything:
        raise InputError(f"{path} holds no arrays.")
    key = _label_key(everything, spec, inputs, path, named=named)
    values = {name: rows for name, rows in everything.items() if name != key}
    if not values:
        raise InputError(f"{path} holds labels ({key}) and nothing else.")
    _check_counts(everything, path)
    found, skipped = draw(next(iter(values.values())).shape[0], spec)
    return ArraySamples(values, None if key is None else everything[key], list(found), skipped, named=named and "" not in values)


def _label_key(arrays: Mapping[str, Rows], spec: DataSpec, inputs: ModelInputs, path: str, *, named: bool) -> str | None:
    if spec.labels and spec.labels in arrays:
        return spec.labels
    if spec.labels and not named and len(arrays) > 1:
        return list(arrays)[-1]
    if spec.labels:
        raise InputError(
            f"{path} has no array {spec.labels!r} for labels; it has {', '.join(filter(None, arrays)) or 'one, unnamed'}."
        )
    taken = {info.name for info in inputs.arguments}
    return next((name for name in LABEL_NAMES if name in arrays and name not in taken and len(arrays) > 1), None)


def _check_counts(arrays: Mapping[str, Rows], path: str) -> None:
    counts: Iterator[tuple[str, int]] = ((name, rows.shape[0] if rows.shape else -1) for name, rows in arrays.items())
    (first, samples), *rest = counts
    for name, count in ((first, samples), *rest):
        if count < 0:
            raise DataError(f"{path}: {name or 'the array'} is a single number; its first axis must count samples.")
        if count != samples:
            raise DataError(f"{path}: {first} has {samples:,} samples and {name} has {count:,}; give each sample one of both.")


READER = Reader("arrays", "Arrays", SUFFIXES, lambda path: path.lower().endswith(SUFFIXES), open_arrays)
