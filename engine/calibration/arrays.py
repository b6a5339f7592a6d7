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
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from engine.calibration.batches import words
from engine.calibration.samples import LABEL_NAMES, Raw, Reader, Samples, draw
from engine.errors import DataError, InputError
from engine.readers.header import identify, read_header
from engine.readers.source import file_info
from engine.records.calibration import DataSpec, ModelInputs, Skipped
from engine.records.dtypes import numel

if TYPE_CHECKING:
    import torch

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth")
_SAFE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_PLAIN = tuple(np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "u2", "u4", "?"))
CHUNK = 1 << 20


class Rows(Protocol):
    """One array whose first axis counts samples. ``keep`` is told which will be asked for."""

    shape: tuple[int, ...]

    def keep(self, chosen: tuple[int, ...]) -> None: ...

    def take(self, indices: tuple[int, ...]) -> torch.Tensor: ...


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


class FileRows:
    """An array that lies in a file row after row."""

    def __init__(self, path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype | torch.dtype) -> None:
        self.shape, self._path, self._offset, self._dtype = shape, path, offset, dtype
        self._row = numel(shape[1:]) * dtype.itemsize

    def keep(self, chosen: tuple[int, ...]) -> None:
        """Nothing: rows are read when they are asked for."""

    def take(self, indices: tuple[int, ...]) -> torch.Tensor:
        """(len(indices), ...). Raises DataError when the file has become shorter."""
        data = bytearray(self._row * len(indices))
        view = memoryview(data)
        try:
            with open(self._path, "rb") as file:
                for place, index in enumerate(indices):
                    file.seek(self._offset + index * self._row)
                    if file.readinto(view[place * self._row : (place + 1) * self._row]) != self._row:
                        raise DataError(f"{self._path} was cut short after it was opened, at sample {index}; choose it again.")
        except OSError as error:
            raise DataError(f"Cannot read {self._path}: {error.strerror}.") from None
        return _tensor(data, self._dtype, (len(indices), *self.shape[1:]))


class HeldRows:
    """An array in memory, of which the chosen rows are kept."""

    def __init__(self, value: torch.Tensor) -> None:
        self.shape, self._value = tuple(value.shape), value
        self._places: dict[int, int] | None = None

    def keep(self, chosen: tuple[int, ...]) -> None:
        """Copy the chosen rows where that saves memory."""
        if 2 * len(chosen) < self.shape[0]:
            self._value = self._value[list(chosen)]
            self._places = {index: place for place, index in enumerate(chosen)}

    def take(self, indices: tuple[int, ...]) -> torch.Tensor:
        """(len(indices), ...)"""
        return self._value[[self._places[index] if self._places else index for index in indices]]


class ZippedRows:
    """One array of an ``.npz``: read through once, and the chosen rows kept."""

    def __init__(self, path: str, member: zipfile.ZipInfo) -> None:
        self._path, self._member = path, member
        with _zipped(path, member) as file:
            self.shape, self._dtype, self._fortran, start = npy_header(file, f"{path}, {member.filename}")
        _check_size(f"{path}, {member.filename}", start, self.shape, self._dtype, member.file_size)
        self._held: dict[int, torch.Tensor] = {}

    def keep(self, chosen: tuple[int, ...]) -> None:
        """Read the chosen rows. Raises DataError when the archive is damaged."""
        row = numel(self.shape[1:]) * self._dtype.itemsize
        wanted = set(chosen)
        _check_memory(self._path, row * (self.shape[0] if self._fortran else len(wanted)))
        try:
            with _zipped(self._path, self._member) as file:
                npy_header(file, self._path)
                if self._fortran:
                    whole = _fortran(file.read(), self.shape, self._dtype)
                    self._held = {index: whole[index] for index in wanted}
                    return
                for index in range(self.shape[0]):
                    if index in wanted:
                        self._held[index] = _tensor(bytearray(file.read(row)), self._dtype, self.shape[1:])
                    else:
                        file.seek(row, os.SEEK_CUR)
                while file.read(CHUNK):  # to the end, where the check sum is compared
                    pass
        except (zipfile.BadZipFile, EOFError, ValueError, _zlib_error(), OSError) as error:
            raise DataError(f"{self._path}, {self._member.filename} is damaged: {error}.") from None

    def take(self, indices: tuple[int, ...]) -> torch.Tensor:
        """(len(indices), ...)"""
        import torch

        return torch.stack([self._held[index] for index in indices])


def _zlib_error() -> type[Exception]:
    import zlib

    return zlib.error


def _zipped(path: str, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return zipfile.ZipFile(path).open(member)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        raise InputError(f"{path}, {member.filename} cannot be read: {error}.") from None


def _tensor(data: bytearray, dtype: np.dtype | torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    if isinstance(dtype, torch.dtype):
        return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
    return from_numpy(np.frombuffer(data, dtype).reshape(shape))


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """In this machine's byte order; unsigned types that torch does little with become int64."""
    import torch

    wide = array.dtype.kind == "u" and array.dtype.itemsize > 1
    return torch.from_numpy(np.ascontiguousarray(array, np.int64 if wide else array.dtype.newbyteorder("=")).reshape(array.shape))


def _fortran(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
    return from_numpy(np.frombuffer(data, dtype, numel(shape)).reshape(shape, order="F"))


def npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """Shape, type, whether columns come first, and where the numbers start. Raises InputError."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, SyntaxError) as error:
        raise InputError(f"{name} is not a NumPy array, or is damaged.", details=str(error)) from None
    if dtype.newbyteorder("=") not in _PLAIN:
        raise InputError(f"{name} is an array of {dtype}; only plain numbers can be read (floats up to 64 bits, integers).")
    return tuple(int(size) for size in shape), dtype, fortran, file.tell()


def _check_size(name: str, start: int, shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    need = numel(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + need > size:
        raise InputError(f"{name} is cut short: its header claims {need:,} bytes of numbers and there are {max(0, size - start):,}.")


def _check_memory(path: str, need: int) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if need > free:
        raise InputError(f"{path}: the samples need {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; choose fewer.")


# ------------------------------------------------------------------------------------------------------------------


def _npy(path: str) -> dict[str, Rows]:
    size = file_info(path).nbytes
    with open(path, "rb") as file:
        shape, dtype, fortran, start = npy_header(file, path)
        _check_size(path, start, shape, dtype, size)
        if not fortran:
            return {"": FileRows(path, start, shape, dtype)}
        _check_memory(path, size)
        return {"": HeldRows(_fortran(file.read(), shape, dtype))}


def _npz(path: str) -> dict[str, Rows]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise InputError(f"{path} is not an .npz archive, or is cut short: {identify(path) or 'nothing known'} was found.") from None
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

    _check_memory(path, file_info(path).nbytes)
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
        raise InputError(f"{path}: {name} is a {type(value).__name__} that no model takes; save plain tensors, first axis samples.")
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
    if spec.labels in arrays:
        return spec.labels
    if spec.labels and not named and len(arrays) > 1:
        return list(arrays)[-1]
    if spec.labels:
        raise InputError(f"{path} has no array {spec.labels!r} for labels; it has {', '.join(filter(None, arrays)) or 'one, unnamed'}.")
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
