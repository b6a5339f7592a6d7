"""Where the error of one layer lies: by channel, as an image, at its largest weights, and below half a step.

Weights and what they decode to are compared chunk by chunk; memory grows with neither.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import numpy as np
import torch

from engine.chunks import Hold, Source
from engine.decoding import from_bytes
from engine.measure.moments import Moments
from engine.measure.tally import bin_scale, channel_ranges, sqnr_db
from engine.numerics import BINS
from engine.readers.source import TensorFiles
from engine.records.look import LayerDetail, Outlier, WeightFigures
from engine.records.model import LayerInfo
from engine.records.progress import Monitor
from engine.schemes import family_of, parse_scheme
from engine.schemes.grouping import Grouping, Matrix, first_axis

SIDE = 192
"""Cells of the image in each direction, at most."""
OUTLIERS = 24
CHUNK = 1 << 22
"""Bytes of weights looked at in one piece."""

PIECE = 1 << 19
"""Bytes looked at in one piece where nothing is decoded: its float32 values stay in the cache."""

Decode = Callable[[int, int], torch.Tensor]
"""Decoded rows, float32, of (first row, rows)."""


def decoder_of(layer: LayerInfo, stored: Mapping[str, np.ndarray]) -> Decode:
    """Rows of a stored layer; ``stored``: bytes of its parts by role."""
    matrix = Matrix.of(layer)
    if layer.scheme is None:  # rounded to another float type
        whole = from_bytes(stored["codes"], layer.dtype, layer.shape, layer.name).movedim(layer.axis, first_axis(layer))
        rows_of = whole.reshape(matrix.rows, matrix.cols)
        return lambda row, rows: rows_of[row : row + rows].float()
    scheme = parse_scheme(layer.scheme)
    decoder = family_of(scheme).decoder(scheme, layer, stored)
    codes = stored["codes"]

    def decode(row: int, rows: int) -> torch.Tensor:
        size = decoder.codes_row_bytes
        raw = decoder.decode(codes[row * size : (row + rows) * size], row, rows)
        return from_bytes(raw, decoder.dtype, (rows, matrix.cols), layer.name).float()

    return decode


def detail(
    files: TensorFiles,
    layer: LayerInfo,
    decode: Decode | None,
    limit: float,
    monitor: Monitor,
    hold: Hold | None = None,
    note: str = "",
) -> LayerDetail:
    """Look through a float layer; ``decode`` gives what its rows became, ``limit`` is that of its histogram.

    Raises DataError, Cancelled.
    """
    source = Source(files, layer, hold or Hold(0))
    matrix = source.matrix
    sums = _Sums(matrix, limit)
    for row, rows in Grouping(matrix, parse_scheme("int8:channel")).chunks(max(layer.nbytes // matrix.rows, 1), CHUNK):
        monitor.check()
        raw = source.first(row, rows)
        values = from_bytes(raw, layer.dtype, (rows, matrix.cols), layer.name).float()
        sums.add(row, values, decode(row, rows) if decode else None)
    return sums.record(layer, decode is not None, note)


def describe(files: TensorFiles, layer: LayerInfo, monitor: Monitor) -> WeightFigures:
    """The figures of a float layer's weights, in one pass. Raises DataError for weights that cannot be read, Cancelled."""
    source, moments = Source(files, layer, Hold(0)), Moments()
    matrix = source.matrix
    for row, rows in Grouping(matrix, parse_scheme("int8:channel")).chunks(max(layer.nbytes // matrix.rows, 1), PIECE):
        monitor.check()
        moments.add(from_bytes(source.first(row, rows), layer.dtype, (rows * matrix.cols,), layer.name).float())
    if not moments.finite:
        return WeightFigures(layer.name, note="It holds NaN or Inf, or values too large to be squared.")
    mean, std, kurtosis = moments.figures()
    return WeightFigures(layer.name, moments.low, moments.high, mean, std, kurtosis, moments.sigmas())


class _Sums:
    """Running sums over chunks of rows."""

    def __init__(self, matrix: Matrix, limit: float) -> None:
        rows, cols = matrix.rows, matrix.cols
        self._matrix, self._limit, self._scale = matrix, limit, float(bin_scale(limit))
        self._cell_rows, self._cell_cols = -(-rows // SIDE), -(-cols // SIDE)
        self._low, self._high = torch.empty(rows), torch.empty(rows)
        self._signal, self._noise = torch.zeros(rows), torch.zeros(rows)
        self._image = torch.zeros(-(-rows // self._cell_rows), -(-cols // self._cell_cols))
        self._below = torch.zeros(BINS, dtype=torch.int64)
        self._moments = Moments()
        self._largest: list[tuple[float, int, float, float | None]] = []

    def add(self, row: int, values: torch.Tensor, decoded: torch.Tensor | None) -> None:
        span = slice(row, row + values.shape[0])
        self._low[span], self._high[span] = torch.aminmax(values, dim=1)
        self._moments.add(values)
        self._remember_largest(row, values, decoded)
        if decoded is not None:
            self._compare(row, values, decoded)

    def _compare(self, row: int, values: torch.Tensor, decoded: torch.Tensor) -> None:
        span = slice(row, row + values.shape[0])
        error = values - decoded
        self._signal[span] = (values * values).sum(1)
        self._noise[span] = (error * error).sum(1)
        cells = torch.nn.functional.pad(error.abs_(), (0, -values.shape[1] % self._cell_cols))
        across = cells.reshape(values.shape[0], -1, self._cell_cols).sum(2)
        self._image.index_add_(0, torch.arange(span.start, span.stop) // self._cell_rows, across)
        lost = values[(decoded == 0) & (values != 0)]
        bins = (lost * self._scale + BINS / 2).long().clamp_(0, BINS - 1)
        self._below += torch.bincount(bins, minlength=BINS)

    def _remember_largest(self, row: int, values: torch.Tensor, decoded: torch.Tensor | None) -> None:
        flat = values.reshape(-1)
        found = torch.topk(flat.abs(), min(OUTLIERS, flat.numel())).indices
        after = decoded.reshape(-1)[found].tolist() if decoded is not None else [None] * len(found)
        at = row * self._matrix.cols
        self._largest += [(v, at + i, v, d) for v, i, d in zip(flat[found].tolist(), found.tolist(), after, strict=True)]
        self._largest = sorted(self._largest, key=lambda item: -abs(item[0]))[:OUTLIERS]

    def record(self, layer: LayerInfo, compared: bool, note: str) -> LayerDetail:
        matrix, count = self._matrix, self._matrix.rows * self._matrix.cols
        mean, std, kurtosis = self._moments.figures()
        lost = int(self._below.sum())
        image, high = self._cells() if compared else ("", 0.0)
        outliers = tuple(
            Outlier(_index(layer, matrix, place), value, after, abs(value - mean) / std if std else 0.0)
            for _, place, value, after in self._largest
        )
        return LayerDetail(
            layer=layer.name,
            rows=matrix.rows,
            cols=matrix.cols,
            ranges=channel_ranges(self._low.numpy(), self._high.numpy(), matrix.rows),
            sqnr_db=self._by_band() if compared else (),
            image=image,
            image_shape=(self._image.shape[0], self._image.shape[1]),
            cell_rows=self._cell_rows,
            cell_cols=self._cell_cols,
            image_high=high,
            outliers=outliers,
            limit=self._limit,
            underflow_counts=tuple(self._below.tolist()),
            underflow=lost / count,
            mean=mean,
            std=std,
            kurtosis=kurtosis,
            note=note,
        )

    def _by_band(self) -> tuple[float | None, ...]:
        width = channel_ranges(self._low.numpy(), self._high.numpy(), self._matrix.rows).channels_per_band
        starts = np.arange(0, self._matrix.rows, width)
        signal, noise = (np.add.reduceat(x.double().numpy(), starts) for x in (self._signal, self._noise))
        return tuple(sqnr_db(float(s), float(n)) for s, n in zip(signal, noise, strict=True))

    def _cells(self) -> tuple[str, float]:
        """Means of cells (those at the edges are smaller), as bytes of the largest."""
        heights, widths = (
            torch.full((number,), float(size)).clamp_(max=total)
            for number, size, total in (
                (self._image.shape[0], self._cell_rows, self._matrix.rows),
                (self._image.shape[1], self._cell_cols, self._matrix.cols),
            )
        )
        heights[-1] = self._matrix.rows - self._cell_rows * (len(heights) - 1)
        widths[-1] = self._matrix.cols - self._cell_cols * (len(widths) - 1)
        means = self._image / heights[:, None] / widths
        high = float(means.max())
        shown = (means * (255 / high if high else 0)).round().to(torch.uint8)
        return base64.b64encode(shown.numpy().tobytes()).decode(), high


def _index(layer: LayerInfo, matrix: Matrix, place: int) -> tuple[int, ...]:
    """Where in the layer's own shape a place in its rows of output channels lies."""
    to = first_axis(layer)
    sizes = [size for axis, size in enumerate(layer.shape) if axis != layer.axis]
    sizes.insert(to, layer.shape[layer.axis])
    at = [int(i) for i in np.unravel_index(place, sizes)]
    moved = at.pop(to)
    at.insert(layer.axis, moved)
    return tuple(at)
