"""One weight in memory and how it is rounded: what solvers with data work with.

Scales come from the weight-only algorithms, codes from the same kernels that encode files, and decoded values are those that a
reader of the file will see, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from engine import numerics
from engine.algorithms.base import Parameters, Rounding
from engine.chunks import CHUNK, Workers
from engine.numerics.grids import INTEGER
from engine.quantizing.fitting import LayerFit
from engine.records.model import LayerInfo
from engine.records.plan import LayerPlan
from engine.schemes import family_of
from engine.schemes.grouping import Grouping, Matrix
from engine.schemes.scaled import ScaledCodec

SPAN = 512
"""Rows that one thread solves at once."""
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


class MemorySource:
    """A float32 matrix as ``chunks.Rows``."""

    def __init__(self, weight: torch.Tensor, layer: LayerInfo) -> None:
        self.layer, self.matrix = layer, Matrix.of(layer)
        self._rows = weight.contiguous().numpy().view(np.uint8)
        self._row_bytes = self.matrix.cols * 4

    def chunks(self, grouping: Grouping) -> list[tuple[int, int]]:
        return grouping.chunks(self._row_bytes, CHUNK)

    def again(self, row: int, rows: int) -> np.ndarray:
        return self._rows[row : row + rows].reshape(-1)

    def first(self, row: int, rows: int) -> np.ndarray:
        return self.again(row, rows)


class WeightRounding(Rounding):
    """The rounding that a plan asks of one layer. ``limit``: its largest magnitude, or that of the layers it is fused with."""

    def __init__(self, line: LayerPlan, limit: float, workers: Workers, check: Callable[[], None]) -> None:
        encoder = family_of(line.scheme).encoder(line.scheme, line.layer, line.parts)
        if not isinstance(encoder, ScaledCodec):
            raise TypeError(f"{line.scheme_name} has no scales to choose")
        self.encoder = encoder
        encoder.take_floats()
        encoder.begin(limit)
        self.limit = limit
        self._line, self._workers, self._check = line, workers, check
        matrix = encoder.grouping.matrix
        self.rows, self.cols, self.columns = matrix.rows, matrix.cols, encoder.grouping.columns
        self.scheme = line.scheme
        self.by_columns = encoder.grouping.height == 1 and not encoder.settles
        self._dtype = next(_DTYPES[name] for name, kind in numerics.KINDS.items() if kind == encoder.decode_in)

    def check(self) -> None:
        self._check()

    @property
    def limits(self) -> tuple[float, float]:
        return float(self.encoder.grid.low), float(self.encoder.grid.high)

    def fitted(self, weight: torch.Tensor, text: str) -> Parameters:
        source = MemorySource(weight, self._line.layer)
        ranges = weight.amin(1).numpy(), weight.amax(1).numpy()
        fit = LayerFit(self.encoder, source, text, ranges, self._workers, self._check, lambda n: None)
        grouping = self.encoder.grouping
        found = tuple(np.empty((self.rows, grouping.per_row), np.float32) for _ in range(2))

        def chunk(row: int, rows: int) -> None:
            chosen = fit.of_chunk(source.again(row, rows), row, rows)
            for values, wide in zip(chosen, found, strict=True):
                wide[row : row + rows] = grouping.spread(values, rows).reshape(rows, -1)

        self._workers.each(chunk, source.chunks(grouping))
        return found[0], found[1]

    def covering(self, low: np.ndarray, high: np.ndarray) -> Parameters:
        return self.encoder.parameters(np.ascontiguousarray(low), np.ascontiguousarray(high))

    def nearest(self, weight: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        levels, decoded = torch.empty_like(weight), torch.empty_like(weight)

        def chunk(row: int, rows: int) -> None:
            part = slice(row, row + rows)
            scale, zero = (self._wide(p[part]) for p in parameters)
            values = weight[part] / scale + zero
            levels[part] = self._on_grid(values)
            decoded[part] = ((levels[part] - zero) * scale).to(self._dtype).float()

        span = max(CHUNK // (4 * weight.shape[1]), 1)
        self._workers.each(chunk, [(r, min(span, len(weight) - r)) for r in range(0, len(weight), span)])
        return levels, decoded

    def decoded(self, levels: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        scale, zero = (self._wide(p) for p in parameters)
        return ((levels - zero) * scale).to(self._dtype).float()

    def _wide(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.repeat(values, self.columns, axis=1)[:, : self.cols])

    def _on_grid(self, values: torch.Tensor) -> torch.Tensor:
        grid = self.encoder.grid
        if grid.form == INTEGER:
            return values.clamp_(float(grid.low), float(grid.high)).round_()
        flat = values.contiguous().numpy().reshape(-1)
        numerics.backend().to_grid(flat, grid, np.empty(flat.size, np.uint8))
        return torch.from_numpy(flat).view(values.shape)

    def solve_columns(
        self, weight: np.ndarray, original: np.ndarray, factor: np.ndarray, parameters: Parameters, group_of: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        levels, errors = np.empty_like(weight), np.empty_like(weight)
        starts = range(0, weight.shape[1], SPAN)
        losses = np.zeros((len(starts), len(weight)))
        kernels, f32 = numerics.backend(), numerics.KINDS["F32"]

        def chunk(row: int, rows: int) -> None:
            part = slice(row, row + rows)
            work, first, scale, zero = (np.ascontiguousarray(values[:, part]) for values in (weight, original, *parameters))
            own = np.empty_like(work), np.empty_like(work)
            kernels.solve_columns(
                work, first, factor, scale, zero, group_of, self.encoder.grid, f32, self.encoder.decode_in, *own,
                losses[row // SPAN],
            )  # fmt: skip
            weight[:, part], levels[:, part], errors[:, part] = work, *own

        count = weight.shape[1]
        self._workers.each(chunk, [(r, min(SPAN, count - r)) for r in starts])
        return levels, errors, losses.sum(0)


@dataclass(frozen=True, slots=True)
class Solved:
    """The codes of one layer as a solver chose them: numbers of the grid (rows, cols) and parameters (rows, groups of a row).

    ``limit``: what the encoder began with. ``note``, ``before`` and ``after`` are for the report.
    """

    levels: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    limit: float
    algorithm: str
    note: str = ""
    before: float | None = None
    after: float | None = None
