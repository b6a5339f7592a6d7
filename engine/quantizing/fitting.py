"""Where algorithms meet weights: the groups of a chunk of rows, or of a whole matrix, on which parameters are tried.

Channels, groups and blocks belong to one chunk, so they are fitted there, with the weights at hand. A tensor's single scale
is fitted on all chunks at once.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from engine import numerics
from engine.algorithms import Chosen, algorithm
from engine.algorithms.base import Groups, Parameters
from engine.chunks import Rows, Workers
from engine.readers.source import Bytes

if TYPE_CHECKING:
    from engine.schemes.scaled import ScaledCodec


class LayerFit:
    """The parameters of one layer, chunk by chunk, as an algorithm chooses them.

    ``low``, ``high``: range of every row. ``check`` raises when the user wants to stop; ``advance`` is told bytes gone through.
    ``reason`` says why a short list's winner won.
    """

    def __init__(
        self,
        encoder: "ScaledCodec",
        source: Rows,
        text: str,
        ranges: tuple[np.ndarray, np.ndarray],
        workers: Workers,
        check: Callable[[], None],
        advance: Callable[[int], None],
    ) -> None:
        self._encoder, self._source, self._workers = encoder, source, workers
        self._low, self._high = ranges
        self._check, self._advance = check, advance
        self._kernels, self._kind = numerics.backend(), encoder.kind
        self._chunks = source.chunks(encoder.grouping)
        self.reason = ""
        self._chosen = algorithm(text)
        if self._chosen.algorithm.shortlist:
            self._chosen, self.reason = self._best(self._chosen.algorithm.shortlist)
        self._known: Parameters | None = self._all() if encoder.settles or self._is_tensor else None

    @property
    def text(self) -> str:
        """The algorithm that chooses, with its options."""
        return str(self._chosen)

    @property
    def known(self) -> Parameters | None:
        """The parameters of the whole layer, where they had to be found before the first chunk."""
        return self._known

    def of_chunk(self, raw: Bytes, row: int, rows: int) -> Parameters:
        """Scale and zero point of each group of some rows."""
        if self._known is not None:
            span = self._encoder.grouping.span(row, rows)
            return self._known[0][span], self._known[1][span]
        return self._fit(self._chosen, self._groups(raw, row, rows))

    @property
    def _is_tensor(self) -> bool:
        return self._encoder.scheme.granularity == "tensor"

    @staticmethod
    def _fit(chosen: Chosen, groups: Groups) -> Parameters:
        if chosen.algorithm.fit is None:
            raise TypeError(f"{chosen} chooses codes from data, not scales from weights")
        return chosen.algorithm.fit(groups, chosen.options)

    def _groups(self, raw: Bytes, row: int, rows: int) -> "ChunkGroups":
        grouping = self._encoder.grouping
        if grouping.columns == grouping.matrix.cols:
            low, high = self._low[row : row + rows], self._high[row : row + rows]
        else:
            low, high = np.empty(rows * grouping.per_row, np.float32), np.empty(rows * grouping.per_row, np.float32)
            self._kernels.row_ranges(raw, rows, grouping.matrix.cols, self._kind, grouping.columns, low, high)
        low, high = grouping.reduce(np.minimum, low, rows), grouping.reduce(np.maximum, high, rows)
        return ChunkGroups(self._encoder, raw, rows, low, high, self._check)

    def _tensors(self) -> "list[TensorGroups]":
        """One for the whole weight, or for each fused expert."""
        size, found = self._encoder.grouping.matrix.slice_rows, []
        for first in range(0, self._encoder.grouping.matrix.rows, size):
            chunks = [(row, rows) for row, rows in self._chunks if first <= row < first + size]
            low, high = self._low[first : first + size].min(keepdims=True), self._high[first : first + size].max(keepdims=True)
            found.append(TensorGroups(self._encoder, self._source, self._workers, chunks, low, high, self._check))
        return found

    def _each_groups(self, task: Callable[[int, Groups], None]) -> None:
        """Call ``task`` with the first group's number and the groups of every chunk (in threads), or of every tensor."""
        if self._is_tensor:
            for number, tensor in enumerate(self._tensors()):
                task(number, tensor)
            return

        def chunk(row: int, rows: int) -> None:
            raw = self._source.again(row, rows)
            task(self._encoder.grouping.span(row, rows).start, self._groups(raw, row, rows))
            self._advance(raw.size)

        self._workers.each(chunk, self._chunks)

    def _all(self) -> Parameters:
        scale, zero = np.empty(self._encoder.grouping.count, np.float32), np.empty(self._encoder.grouping.count, np.float32)

        def keep(first: int, groups: Groups) -> None:
            chosen = self._fit(self._chosen, groups)
            span = slice(first, first + groups.low.size)
            scale[span], zero[span] = chosen

        self._each_groups(keep)
        return self._encoder.settle(scale), zero

    def _best(self, shortlist: tuple[str, ...]) -> tuple[Chosen, str]:
        """The one of a short list with the least squared error over the layer."""
        candidates = [c for c in map(algorithm, shortlist) if not c.algorithm.obstacle(self._encoder.scheme)]
        errors = np.zeros(len(candidates))
        lock = threading.Lock()

        def attempt(_: int, groups: Groups) -> None:
            found = [float(groups.errors(self._fit(c, groups), 2.0).sum()) for c in candidates]
            with lock:
                errors[:] += found

        self._each_groups(attempt)
        best = int(np.argmin(errors))
        return candidates[best], _reason([str(c) for c in candidates], errors, best)


def _reason(names: list[str], errors: np.ndarray, best: int) -> str:
    if not errors[best]:
        return f"{names[best]} loses nothing"
    others = (f"{name} {10 * np.log10(errors[best] / error):+.2f} dB" for name, error in zip(names, errors, strict=True) if error)
    words = [words for words in others if not words.startswith(f"{names[best]} ")]
    return f"{names[best]} is best: " + ", ".join(words)


class ChunkGroups(Groups):
    """The groups of one chunk of rows."""

    def __init__(
        self, encoder: "ScaledCodec", raw: Bytes, rows: int, low: np.ndarray, high: np.ndarray, check: Callable[[], None]
    ) -> None:
        self.low, self.high, self.scheme = low, high, encoder.scheme
        self._check = check
        self._encoder, self._raw, self._rows = encoder, raw, rows
        self._kernels = numerics.backend()
        matrix = encoder.grouping.matrix
        self._chunk = (raw, rows, matrix.cols, encoder.kind, encoder.grouping.columns)

    def first(self) -> Parameters:
        return self._encoder.first_parameters(self.low, self.high, self._means)

    def covering(self, low: np.ndarray, high: np.ndarray) -> Parameters:
        return self._encoder.parameters(low, high)

    def errors(self, parameters: Parameters, power: float) -> Float64[np.ndarray, " groups"]:
        self._check()
        return self._encoder.errors(self._raw, self._rows, parameters, power)

    def quantiles(self, first: float, last: float, *, magnitude: bool) -> Parameters:
        low, high = np.empty(self.low.size, np.float32), np.empty(self.low.size, np.float32)
        if self._encoder.grouping.height == 1:
            self._kernels.quantile_rows(*self._chunk, magnitude, first, last, low, high)
        else:
            self._block_quantiles(first, last, magnitude, low, high)
        return low, high

    def half_quadratic(self, parameters: Parameters, *, iterations: int, power: float, beta: float, kappa: float) -> Parameters:
        scale, zero = (np.ascontiguousarray(p, np.float32).copy() for p in parameters)
        whole = self.scheme.variant != "floatzero"  # then it is the scale that moves
        self._kernels.half_quadratic_rows(
            *self._chunk, scale, zero, self._encoder.grid, whole, iterations, float(power), float(beta), float(kappa)
        )
        return self._encoder.rounded(scale), self._encoder.rounded(zero)

    def _means(self) -> Float32[np.ndarray, " groups"]:
        means = np.empty(self.low.size, np.float32)
        self._kernels.mean_rows(*self._chunk, means)
        return means

    def _block_quantiles(self, first: float, last: float, magnitude: bool, low: np.ndarray, high: np.ndarray) -> None:
        """Blocks laid out as rows; those at the lower and right edge are smaller."""
        grouping, (raw, rows, cols, _, _) = self._encoder.grouping, self._chunk
        values = self._encoder.floats(raw).reshape(rows, cols)
        height, width = grouping.height, grouping.columns
        lows, highs = low.reshape(-1, grouping.per_row), high.reshape(-1, grouping.per_row)
        for r, h in _pieces(rows, height):
            for c, w in _pieces(cols, width):
                area = values[r, c].reshape(-1, h, (c.stop - c.start) // w, w).transpose(0, 2, 1, 3)
                blocks = np.ascontiguousarray(area).reshape(-1)
                at = slice(r.start // height, -(-r.stop // height)), slice(c.start // width, -(-c.stop // width))
                shape = lows[at].shape
                found = np.empty(lows[at].size, np.float32), np.empty(lows[at].size, np.float32)
                f32 = numerics.KINDS["F32"]
                self._kernels.quantile_rows(
                    blocks.view(np.uint8), found[0].size, h * w, f32, h * w, magnitude, first, last, *found
                )
                lows[at], highs[at] = found[0].reshape(shape), found[1].reshape(shape)


def _pieces(total: int, size: int) -> list[tuple[slice, int]]:
    """The part of ``total`` that whole blocks fill, and the rest, each with its block size."""
    whole = total // size * size
    return [(slice(a, b), step) for a, b, step in ((0, whole, size), (whole, total, total - whole)) if b > a]


class TensorGroups(Groups):
    """The one group of a whole matrix, which lies in several chunks."""

    def __init__(
        self,
        encoder: "ScaledCodec",
        source: Rows,
        workers: Workers,
        chunks: list[tuple[int, int]],
        low: np.ndarray,
        high: np.ndarray,
        check: Callable[[], None],
    ) -> None:
        self.low, self.high, self.scheme = low, high, encoder.scheme
        self._check = check
        self._encoder, self._source, self._workers, self._chunks = encoder, source, workers, chunks
        self._kernels, self._kind = numerics.backend(), encoder.kind
        self._count = sum(rows for _, rows in chunks) * encoder.grouping.matrix.cols

    def first(self) -> Parameters:
        return self._encoder.first_parameters(self.low, self.high, self._mean)

    def covering(self, low: np.ndarray, high: np.ndarray) -> Parameters:
        return self._encoder.parameters(low, high)

    def errors(self, parameters: Parameters, power: float) -> Float64[np.ndarray, " groups"]:
        self._check()
        return self._sum(lambda raw, rows: self._encoder.errors(raw, rows, parameters, power))

    def quantiles(self, first: float, last: float, *, magnitude: bool) -> Parameters:
        select = partial(self._order_statistics, magnitude)
        found = [_interpolated(share * (self._count - 1), select) for share in (first, last)]
        return np.array([found[0]], np.float32), np.array([found[1]], np.float32)

    def half_quadratic(self, parameters: Parameters, *, iterations: int, power: float, beta: float, kappa: float) -> Parameters:
        raise TypeError("half-quadratic search works on channels and groups")

    def _sum(self, of: Callable[[Bytes, int], np.ndarray]) -> np.ndarray:
        parts: list[np.ndarray] = []
        self._workers.each(lambda row, rows: parts.append(of(self._source.again(row, rows), rows)), self._chunks)
        return np.sum(sorted(parts, key=lambda part: float(part.sum())), axis=0)  # the same sum however threads went

    def _mean(self) -> Float32[np.ndarray, " one"]:
        cols = self._encoder.grouping.matrix.cols

        def total(raw: Bytes, rows: int) -> np.ndarray:
            means = np.empty(rows, np.float32)
            self._kernels.mean_rows(raw, rows, cols, self._kind, cols, means)
            return np.array([means.sum(dtype=np.float64) * cols])

        return (self._sum(total) / self._count).astype(np.float32)

    def _order_statistics(self, magnitude: bool, ranks: list[int]) -> list[np.float32]:
        """Exact order statistics without sorting: count the upper halves of keys, then the lower halves where a rank falls."""
        upper = np.cumsum(self._key_counts(magnitude, -1))
        found: list[np.float32] = []
        for rank in ranks:
            prefix = int(np.searchsorted(upper, rank, side="right"))
            lower = np.cumsum(self._key_counts(magnitude, prefix))
            rest = rank - (int(upper[prefix - 1]) if prefix else 0)
            key = (prefix << 16 | int(np.searchsorted(lower, rest, side="right"))) ^ 0x80000000
            bits = np.array([key], np.uint32).view(np.int32)
            bits = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int32)
            found.append(bits.view(np.float32)[0])
        return found

    def _key_counts(self, magnitude: bool, prefix: int) -> np.ndarray:
        def count(raw: Bytes, rows: int) -> np.ndarray:
            counts = np.zeros(65536, np.int64)
            self._kernels.key_rows(raw, rows, self._encoder.grouping.matrix.cols, self._kind, magnitude, prefix, counts)
            return counts

        return self._sum(count)


def _interpolated(place: float, select: Callable[[list[int]], list[np.float32]]) -> float:
    rank = int(place)
    if place == rank:
        return float(select([rank])[0])
    here, after = (float(v) for v in select([rank, rank + 1]))
    return here + (after - here) * (place - rank)
