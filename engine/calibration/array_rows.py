"""One array whose first axis counts samples: in a file, in memory, or in an ``.npz``. Sizes are checked before allocating."""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np

from engine.errors import DataError, InputError
from engine.records.dtypes import numel

if TYPE_CHECKING:
    import torch

_PLAIN = tuple(np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "u2", "u4", "?"))


class Rows(Protocol):
    """One array whose first axis counts samples. ``keep`` is told which will be asked for."""

    shape: tuple[int, ...]

    def keep(self, chosen: tuple[int, ...]) -> None: ...

    def take(self, indices: tuple[int, ...]) -> torch.Tensor: ...


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
        check_size(f"{path}, {member.filename}", start, self.shape, self._dtype, member.file_size)
        self._held: dict[int, torch.Tensor] = {}

    def keep(self, chosen: tuple[int, ...]) -> None:
        """Go through all rows, to the check sum at the end, and hold the chosen ones. Raises DataError when it is damaged."""
        row = numel(self.shape[1:]) * self._dtype.itemsize
        wanted = set(chosen)
        check_memory(self._path, row * (self.shape[0] if self._fortran else len(wanted)))
        try:
            with _zipped(self._path, self._member) as file:
                npy_header(file, self._path)
                if self._fortran:
                    whole = in_columns(file.read(), self.shape, self._dtype)
                    self._held = {index: whole[index] for index in wanted}
                    return
                for index in range(self.shape[0]):
                    if index in wanted:
                        self._held[index] = _tensor(bytearray(file.read(row)), self._dtype, self.shape[1:])
                    else:
                        file.seek(row, os.SEEK_CUR)
        except (zipfile.BadZipFile, EOFError, ValueError, zlib.error, OSError) as error:
            raise DataError(f"{self._path}, {self._member.filename} is damaged: {error}.") from None

    def take(self, indices: tuple[int, ...]) -> torch.Tensor:
        """(len(indices), ...)"""
        import torch

        return torch.stack([self._held[index] for index in indices])


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


def in_columns(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
    return from_numpy(np.frombuffer(data, dtype, numel(shape)).reshape(shape, order="F"))


def npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """Shape, type, whether columns come first, and where the numbers start. Raises InputError."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error, SyntaxError, RecursionError, MemoryError):
        # NumPy's words advise to read the header in a less careful way.
        raise InputError(f"{name} is not a NumPy array, or is damaged.") from None
    if dtype.newbyteorder("=") not in _PLAIN:
        raise InputError(f"{name} is an array of {dtype}; only plain numbers can be read (floats up to 64 bits, integers).")
    return tuple(int(size) for size in shape), dtype, fortran, file.tell()


def check_size(name: str, start: int, shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    need = numel(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + need > size:
        raise InputError(
            f"{name} is cut short: its header claims {need:,} bytes of numbers and there are {max(0, size - start):,}."
        )


def check_memory(path: str, need: int) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"{path}: the samples need {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; choose fewer."
        )
