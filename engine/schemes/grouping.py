"""Which weights share a scale: a weight seen as rows and columns, and its groups."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.records.dtypes import numel
from engine.records.model import LayerInfo
from engine.records.scheme import Scheme

if TYPE_CHECKING:
    import numpy as np

ROW_MULTIPLE = 32
"""Chunks start at multiples of this row, so that words packed along the rows never straddle two chunks."""


def first_axis(layer: LayerInfo) -> int:
    """The output axis for which a weight's elements are stored row by row."""
    return 1 if layer.kind == "experts" else 0


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight as rows (output channels) of columns, the shape every encoder works on.

    ``slices``: fused experts are so many matrices, one under the other.
    """

    rows: int
    cols: int
    slices: int = 1

    @classmethod
    def of(cls, layer: LayerInfo) -> "Matrix":
        shape = layer.shape
        slices = shape[0] if layer.kind == "experts" else 1
        rows = slices * (shape[layer.axis] if shape else 1)
        return cls(rows, numel(shape) // rows if rows else 0, slices)

    @property
    def slice_rows(self) -> int:
        return self.rows // self.slices


@dataclass(frozen=True, slots=True)
class Grouping:
    """The groups of one matrix, in the order their scales are stored."""

    matrix: Matrix
    scheme: Scheme

    @property
    def columns(self) -> int:
        """Values of one row that share a scale."""
        return min(self.scheme.group or self.matrix.cols, max(self.matrix.cols, 1))

    @property
    def per_row(self) -> int:
        return -(-self.matrix.cols // self.columns)

    @property
    def height(self) -> int:
        """Rows that share a scale."""
        if self.scheme.granularity == "tensor":
            return self.matrix.slice_rows
        return max(min(self.scheme.block_rows or 1, self.matrix.slice_rows), 1)

    @property
    def by_slice(self) -> bool:
        """Whether groups span rows, which must then belong to one slice."""
        return self.scheme.granularity in ("tensor", "block")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored scales."""
        if self.scheme.granularity == "tensor":
            return (self.matrix.slices,)
        return (self.matrix.slices * -(-self.matrix.slice_rows // self.height), self.per_row)

    @property
    def count(self) -> int:
        return numel(self.shape)

    def chunks(self, row_bytes: int, chunk_bytes: int) -> list[tuple[int, int]]:
        """(first row, rows) of pieces that no group but a whole tensor's straddles."""
        whole_tensor = self.scheme.granularity == "tensor"
        multiple = ROW_MULTIPLE if whole_tensor else math.lcm(ROW_MULTIPLE, self.height)
        step = max(chunk_bytes // max(row_bytes, 1) // multiple, 1) * multiple
        size = self.matrix.slice_rows if self.by_slice else self.matrix.rows
        return [
            (first + row, min(step, size - row))
            for first in range(0, self.matrix.rows, max(size, 1))
            for row in range(0, size, step)
        ]

    def span(self, row: int, rows: int) -> slice:
        """The groups that some rows (a chunk) belong to."""
        if self.scheme.granularity == "tensor":
            piece = row // max(self.matrix.slice_rows, 1)
            return slice(piece, piece + 1)
        inside, piece = row % self.matrix.slice_rows, row // self.matrix.slice_rows
        if self.height == 1:
            inside, piece = row, 0
        first = piece * -(-self.matrix.slice_rows // self.height) + inside // self.height
        return slice(first * self.per_row, (first + -(-rows // self.height)) * self.per_row)

    def reduce(self, ufunc: "np.ufunc", values: "np.ndarray", rows: int) -> "np.ndarray":
        """One value per group of a chunk from one value per row and group of columns."""
        import numpy as np

        if self.height == 1:
            return values
        grid = values.reshape(rows, self.per_row)
        return ufunc.reduceat(grid, np.arange(0, rows, self.height), axis=0).reshape(-1)

    def spread(self, values: "np.ndarray", rows: int) -> "np.ndarray":
        """The inverse: one value per row and group of columns, for the rows of a chunk."""
        import numpy as np

        # Copies: a read-only view would be another type to numba, and every kernel would be loaded twice.
        if self.height == 1:
            return np.ascontiguousarray(values, np.float32)
        tall = np.repeat(values.reshape(-1, self.per_row), self.height, axis=0)[:rows]
        return np.ascontiguousarray(tall, np.float32).reshape(-1)


def divisors(cols: int, wanted: int) -> str:
    """The three divisors of ``cols`` nearest to the wanted group, as a phrase."""
    found = [d for d in range(1, min(cols, 65536) + 1) if cols % d == 0 and d >= 8] or [cols]
    nearest = sorted(sorted(found, key=lambda d: abs(d - wanted))[:3])
    return " or ".join(f"g{d}" for d in nearest)
