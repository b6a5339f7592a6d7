"""Bytes of tensors by positioned reads. Never memory-mapped: a file cut short under a map kills the process."""

import os
import threading
from collections.abc import Iterable
from stat import S_ISREG
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError, InputError
from engine.records.dtypes import BITS, numel
from engine.records.model import FileInfo, LayerInfo, ModelSummary, TensorInfo
from engine.schemes.grouping import first_axis

Bytes = NDArray[np.uint8]


def from_rows(raw: Bytes, layer: LayerInfo, dtype: str) -> Bytes:
    """Rows of output channels back to the layer's own axis order."""
    to = first_axis(layer)
    if layer.axis == to:
        return raw
    size = BITS[dtype] // 8
    others = [n for axis, n in enumerate(layer.shape) if axis != layer.axis]
    others.insert(to, layer.shape[layer.axis])
    moved = np.moveaxis(raw.view(f"V{size}").reshape(others), to, layer.axis)
    return np.ascontiguousarray(moved).reshape(-1).view(np.uint8)


def file_info(path: str) -> FileInfo:
    """Size and identity of a file as it is now. Raises InputError."""
    try:
        stat = os.stat(path)
        if S_ISREG(stat.st_mode):  # opening a pipe would wait for a writer
            with open(path, "rb"):
                pass
    except OSError as error:
        raise InputError(f"Cannot open {path}: {error.strerror}.") from None
    if not S_ISREG(stat.st_mode):
        raise InputError(f"{path} is not a regular file.")
    return FileInfo(path, stat.st_size, stat.st_ino, stat.st_mtime_ns)


class TensorFiles:
    """Open files of one summary, checked to be the ones that were inspected. Reads are thread-safe."""

    def __init__(self, summary: ModelSummary) -> None:
        self.summary = summary
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def verify(self) -> None:
        """Raise DataError unless every file that was read is still there, as it was when it was inspected."""
        for index in sorted(self._open):
            info = self.summary.files[index]
            try:
                stat = os.stat(info.path)
            except OSError as error:
                raise DataError(f"{info.path} was removed while it was being read ({error.strerror}).") from None
            if (stat.st_size, stat.st_ino, stat.st_mtime_ns) != (info.nbytes, info.inode, info.mtime_ns):
                raise DataError(f"{info.path} changed while it was being read; start again.")

    def read_into(self, tensor: TensorInfo, start: int, buffer: Bytes) -> None:
        """Fill ``buffer`` with the tensor's bytes from byte ``start`` on. Raises DataError if they are gone."""
        info = self.summary.files[tensor.file]
        view = buffer.data
        position, done = tensor.offset + start, 0
        while done < len(view):
            try:
                count = _pread(self._descriptor(tensor.file), view[done:], position + done, self._lock)
            except OSError as error:
                raise DataError(f"{tensor.name}: cannot read {info.path}: {error.strerror}.") from None
            if count == 0:
                raise DataError(f"{tensor.name}: {info.path} ends early; it was cut short after it was opened.")
            done += count

    def read(self, tensor: TensorInfo) -> Bytes:
        """All stored bytes of a tensor, in row-major order of its shape."""
        buffer = np.empty(tensor.nbytes, np.uint8)
        self.read_into(tensor, 0, buffer)
        if tensor.strides is None:
            return buffer
        size = BITS[tensor.dtype] // 8
        view = np.lib.stride_tricks.as_strided(
            buffer.view(f"V{size}"), tensor.shape, tuple(s * size for s in tensor.strides), writeable=False
        )
        return np.ascontiguousarray(view).reshape(-1).view(np.uint8)

    def read_rows(self, layer: LayerInfo) -> Bytes:
        """All bytes of a weight with its output axis moved to the front (of fused experts: right behind them)."""
        raw = self.read(layer.tensor)
        if layer.axis == first_axis(layer):
            return raw
        size = BITS[layer.dtype] // 8
        moved = np.moveaxis(raw.view(f"V{size}").reshape(layer.shape), layer.axis, first_axis(layer))
        return np.ascontiguousarray(moved).reshape(-1).view(np.uint8)

    def _descriptor(self, index: int) -> int:
        with self._lock:
            if index not in self._open:
                self._open[index] = self._open_checked(self.summary.files[index])
            return self._open[index]

    def _open_checked(self, info: FileInfo) -> int:
        try:
            descriptor = os.open(info.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise DataError(f"Cannot open {info.path}: {error.strerror}.") from None
        stat = os.fstat(descriptor)
        if (stat.st_size, stat.st_ino, stat.st_mtime_ns) != (info.nbytes, info.inode, info.mtime_ns):
            os.close(descriptor)
            raise DataError(f"{info.path} changed on disk since it was opened; open it again.")
        return descriptor


def _pread(descriptor: int, view: memoryview, position: int, lock: threading.Lock) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], position)
    with lock:  # Windows has no positioned read
        os.lseek(descriptor, position, os.SEEK_SET)
        data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)


def storage_of(shape: tuple[int, ...], strides: Iterable[int]) -> tuple[bool, int]:
    """Whether strides are row-major for ``shape``, and how many elements of storage they reach over."""
    strides = tuple(strides)
    if numel(shape) == 0:
        return True, 0
    expected, contiguous = 1, True
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        contiguous = contiguous and (size == 1 or stride == expected)
        expected *= size
    return contiguous, 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
