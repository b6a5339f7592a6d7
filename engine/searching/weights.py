"""Squared errors of all candidate schemes on a weight, which is read once.

Each chunk is encoded under every scheme while it is in the cache.
"""

import math
from collections.abc import Mapping

import numpy as np

from engine.algorithms import chain
from engine.chunks import CHUNK, Hold, Source, Workers
from engine.measure.tally import Tally
from engine.numerics.affine import from_bytes
from engine.quantizing.clock import Clock
from engine.quantizing.encoding import row_ranges
from engine.quantizing.fitting import LayerFit
from engine.readers.source import TensorFiles
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import LayerPlan
from engine.schemes import family_of
from engine.schemes.base import Encoder
from engine.schemes.grouping import ROW_MULTIPLE, Grouping, first_axis
from engine.schemes.scaled import ScaledCodec


class WeightErrors:
    """Goes through layers one by one; files are open and threads wait while it is entered."""

    def __init__(self, summary: ModelSummary, clock: Clock) -> None:
        self._layers = {layer.name: layer for layer in summary.layers}
        self._files, self._clock, self._hold = TensorFiles(summary), clock, Hold()
        self._workers, self._limits = Workers(), dict[str, float]()

    def __enter__(self) -> "WeightErrors":
        self._workers.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._workers.__exit__(*exc)
        self._files.close()

    @staticmethod
    def cost(layer: LayerInfo, schemes: int) -> int:
        """Bytes that the clock is told of: one pass for the ranges, and one for each scheme."""
        return layer.nbytes * (1 + schemes)

    def of(self, layer: LayerInfo, lines: Mapping[str, LayerPlan]) -> tuple[float, dict[str, float]]:
        """Sum of w², and by scheme the sum of (w - w')² with w' as a reader of the file decodes it.

        Raises DataError for NaN or Inf (tensor and index named), Cancelled.
        """
        self._clock.layer = layer.name
        source = Source(self._files, layer, self._hold)
        limit, low, high = row_ranges(source, self._workers, self._clock.advance)
        self._limits[layer.name] = limit
        if layer.axis == first_axis(layer) and layer.tensor.strides is None:
            self._hold.complete = layer.tensor
        encoders = {name: family_of(line.scheme).encoder(line.scheme, layer, line.parts) for name, line in lines.items()}
        scaled = {name: encoder for name, encoder in encoders.items() if isinstance(encoder, ScaledCodec)}
        for name, encoder in scaled.items():
            encoder.begin(max([limit, *(self._limit(other) for other in lines[name].fused)]))
        fits = {name: self._fit(encoder, source, lines[name], (low, high)) for name, encoder in scaled.items()}
        signal, found = self._scaled(source, scaled, fits)
        for name, encoder in encoders.items():
            if name not in scaled:
                found[name] = self._cast(encoder, lines[name])
        return signal, found

    def _fit(self, encoder: ScaledCodec, source: Source, line: LayerPlan, ranges: tuple[np.ndarray, np.ndarray]) -> LayerFit:
        text = str(chain(line.algorithm).solver)
        return LayerFit(encoder, source, text, ranges, self._workers, self._clock.check, lambda n: self._clock.check())

    def _limit(self, name: str) -> float:
        """Largest magnitude of a layer that shares a scale with another."""
        if name not in self._limits:
            source = Source(self._files, self._layers[name], Hold(0))  # its own memory: another weight is being held
            self._limits[name] = row_ranges(source, self._workers, lambda n: self._clock.check())[0]
        return self._limits[name]

    def _scaled(
        self, source: Source, encoders: Mapping[str, ScaledCodec], fits: Mapping[str, LayerFit]
    ) -> tuple[float, dict[str, float]]:
        """One pass over all chunks; sums are added in the order of the rows, so that they are the same every time."""
        sums: dict[int, np.ndarray] = {}

        def chunk(row: int, rows: int) -> None:
            raw = source.again(row, rows)
            own = np.zeros(1 + len(encoders))
            values = from_bytes(raw, source.layer.dtype).astype(np.float64)
            own[0] = values @ values
            for place, (name, encoder) in enumerate(encoders.items(), 1):
                own[place] = encoder.errors(raw, rows, fits[name].of_chunk(raw, row, rows), 2.0).sum()
                self._clock.advance(raw.size)
            sums[row] = own

        pieces = common_chunks(source, [encoder.grouping for encoder in encoders.values()])
        self._workers.each(chunk, pieces)
        total = np.sum([sums[row] for row, _ in pieces], axis=0)
        return float(total[0]), dict(zip(encoders, total[1:].tolist(), strict=True))

    def _cast(self, encoder: Encoder, line: LayerPlan) -> float:
        """The error of rounding to another float type."""
        source = Source(self._files, encoder.layer, self._hold)
        codes = next(part for part in line.parts if part.role == "codes")
        row_bytes = codes.nbytes // source.matrix.rows
        sums: dict[int, float] = {}

        def chunk(row: int, rows: int) -> None:
            raw, tally = source.first(row, rows), Tally()
            encoder.encode(raw, rows, None, np.float32(1), self._hold.buffers.get("output", rows * row_bytes), tally)
            sums[row] = tally.noise
            self._clock.advance(raw.size)

        self._workers.each(chunk, source.chunks(encoder.grouping))
        return math.fsum(sums.values())


def common_chunks(source: Source, groupings: list[Grouping]) -> list[tuple[int, int]]:
    """(first row, rows) of pieces that no group of any scheme straddles, but a whole tensor's."""
    matrix = source.matrix
    heights = [g.height for g in groupings if g.scheme.granularity != "tensor"]
    multiple = math.lcm(ROW_MULTIPLE, *heights)
    row_bytes = max(source.layer.nbytes // max(matrix.rows, 1), 1)
    step = max(CHUNK // row_bytes // multiple, 1) * multiple
    size = matrix.slice_rows if any(g.by_slice for g in groupings) else matrix.rows
    return [(first + row, min(step, size - row)) for first in range(0, matrix.rows, max(size, 1)) for row in range(0, size, step)]
