"""Rows of one weight in chunks: read, held between two passes, and shared out to threads.

Rows are cut into chunks that stay in the cache; buffers are used again and again, so memory does not grow with the model.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol, runtime_checkable

import numpy as np

from engine.readers.source import Bytes, TensorFiles
from engine.records.dtypes import BITS
from engine.records.model import LayerInfo, TensorInfo
from engine.schemes.grouping import Grouping, Matrix, first_axis

CHUNK = 1 << 21
"""Bytes of input per chunk: a few times the second-level cache, small enough to cancel at once."""
HELD = 64 << 20
"""Weights up to this size are read once; larger ones once in each pass."""


def threads() -> int:
    """Worker threads: the processors this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Workers:
    """A thread pool whose first failure stops the rest; each thread has its own tally."""

    def __init__(self, count: int | None = None) -> None:
        self._count = count or threads()

    def __enter__(self) -> "Workers":
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="chunk")
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def each(self, task: Callable[[int, int], None], chunks: Iterable[tuple[int, int]]) -> None:
        """Run ``task(row, rows)`` for all chunks; raises what the first failing one raised."""
        items = list(chunks)
        if len(items) == 1:  # small layers are not worth a thread
            task(*items[0])
            return
        failed = threading.Event()

        def guarded(item: tuple[int, int]) -> None:
            if failed.is_set():
                return
            try:
                task(*item)
            except BaseException:
                failed.set()
                raise

        futures = [self._pool.submit(guarded, item) for item in items]
        wait(futures)
        for future in futures:
            future.result()


@runtime_checkable
class Rows(Protocol):
    """Rows of one weight, wherever they are: stored bytes, row by row."""

    layer: LayerInfo
    matrix: Matrix

    def chunks(self, grouping: Grouping) -> list[tuple[int, int]]: ...
    def first(self, row: int, rows: int) -> Bytes: ...
    def again(self, row: int, rows: int) -> Bytes: ...


class Source:
    """Rows of one weight in chunks. A weight small enough is read once and held for the second pass."""

    def __init__(self, files: TensorFiles, layer: LayerInfo, hold: "Hold") -> None:
        self._files, self.layer, self.matrix = files, layer, Matrix.of(layer)
        self._row_bytes = self.matrix.cols * BITS[layer.dtype] // 8
        scattered = layer.axis != first_axis(layer) or layer.tensor.strides is not None
        self._whole = files.read_rows(layer) if scattered else None
        self._held = None if scattered else hold.room(layer.nbytes)
        if hold.complete != layer.tensor:
            hold.complete = None  # its place is taken
        self._complete = self._held is not None and hold.complete is not None
        self._buffers = hold.buffers

    def chunks(self, grouping: Grouping) -> list[tuple[int, int]]:
        """(first row, rows) of every chunk."""
        return grouping.chunks(self._row_bytes, CHUNK)

    def first(self, row: int, rows: int) -> Bytes:
        """Bytes of some rows, read from the file; valid until the same thread asks again."""
        start, size = row * self._row_bytes, rows * self._row_bytes
        if self._whole is not None:
            return self._whole[start : start + size]
        buffer = self._held[start : start + size] if self._held is not None else self._buffers.get("input", size)
        if self._complete:
            return buffer
        self._files.read_into(self.layer.tensor, start, buffer)
        return buffer

    def again(self, row: int, rows: int) -> Bytes:
        """The same rows in a second pass: from memory where they are held."""
        start, size = row * self._row_bytes, rows * self._row_bytes
        return self._held[start : start + size] if self._held is not None else self.first(row, rows)


class Buffers(threading.local):
    """Memory that each thread uses again and again: the first touch of fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self._made: dict[str, Bytes] = {}

    def get(self, name: str, size: int) -> Bytes:
        if name not in self._made or self._made[name].size < size:
            self._made[name] = np.empty(size, np.uint8)
        return self._made[name][:size]


class Hold:
    """One weight at a time, up to ``HELD`` bytes, kept between the passes; and the threads' buffers.

    ``complete`` names the weight that is known to be here as a whole, so that it is not read again.
    """

    def __init__(self, most: int = HELD) -> None:
        self.complete: TensorInfo | None = None
        self._memory = np.empty(0, np.uint8)
        self._most = most
        self.buffers = Buffers()

    def room(self, size: int) -> Bytes | None:
        if size > self._most:
            return None
        if self._memory.size < size:
            self._memory, self.complete = np.empty(size, np.uint8), None
        return self._memory[:size]


def bad_value(source: Source, position: int, raw: Bytes, index: int) -> str:
    layer, matrix = source.layer, source.matrix
    front = layer.shape[: first_axis(layer)]
    others = tuple(size for axis, size in enumerate(layer.shape) if axis != layer.axis and axis >= len(front))
    at = [int(i) for i in np.unravel_index(position % matrix.cols, others or (1,))]
    at.insert(layer.axis - len(front), position // matrix.cols % matrix.slice_rows)
    at[:0] = [position // matrix.cols // matrix.slice_rows] if front else []
    size = BITS[layer.dtype] // 8
    word = _word_for(raw[index * size : (index + 1) * size], layer.dtype)
    return f"{layer.tensor.name} holds {word} at index {at[: len(layer.shape)]}; repair the checkpoint or keep this layer."


def _word_for(stored: Bytes, dtype: str) -> str:
    """NaN, Inf, or the float64 number that float32 cannot hold."""
    if dtype == "F64" and np.isfinite(value := stored.view(np.float64)[0]):
        return f"{value:.3g} (beyond float32)"
    mantissa_bits = {"BF16": 7, "F16": 10, "F32": 23, "F64": 52}[dtype]
    bits = int.from_bytes(stored.tobytes(), "little")
    return "NaN" if bits & ((1 << mantissa_bits) - 1) else "Inf"
