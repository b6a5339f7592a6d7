"""Running sums of one layer, filled by the kernels chunk by chunk, and what is read off them."""

import math

import numpy as np
from numpy.typing import NDArray

from engine import numerics
from engine.numerics import BINS, TABLES
from engine.records.report import ChannelRanges, Histogram

MAX_BANDS = 256


JOINT_FROM = 1 << 20
"""Weights from which one table of bin pairs is faster than two tables of bins."""


class Tally:
    """Sums and histograms of one layer of so many weights. Each thread fills its own; ``add`` merges them."""

    def __init__(self, weights: int = 0) -> None:
        self.sums = np.zeros(4, np.float64)
        self.counts = np.zeros((3, TABLES, BINS), np.int64)
        self.joint = np.zeros(BINS * BINS if weights >= JOINT_FROM else 0, np.uint32)
        self._joint_count = 0

    def counted(self, weights: int) -> None:
        """So many more weights were counted; 32-bit counts are moved on before they could overflow."""
        self._joint_count += weights
        if self._joint_count >= 1 << 31:
            self._fold()

    def _fold(self) -> None:
        """Pairs of bins to bins."""
        if self.joint.size:
            pairs = self.joint.reshape(BINS, BINS)
            self.counts[0, 0] += pairs.sum(1, dtype=np.int64)
            self.counts[1, 0] += pairs.sum(0, dtype=np.int64)
            self.joint[:] = 0
        self._joint_count = 0

    def compare(
        self, values: NDArray[np.float32], decoded: NDArray[np.float32], clipped: NDArray[np.bool_], scale: np.float32
    ) -> None:
        """Measure decoded values against the weights they stand for."""
        kernels, outside = numerics.backend(), values[clipped]
        signal, noise, largest = kernels.compare(values.reshape(-1), decoded.reshape(-1))
        self.sums += signal, noise, 0.0, outside.size
        self.sums[2] = max(self.sums[2], largest)
        for counts, shown in zip(self.counts, (values, decoded, outside), strict=True):
            flat = np.ascontiguousarray(shown).reshape(-1)
            kernels.count_rows(flat.view(np.uint8), 1, flat.size, numerics.KINDS["F32"], scale, counts)

    def add(self, other: "Tally") -> None:
        other._fold()
        worst = max(self.sums[2], other.sums[2])
        self.sums += other.sums
        self.sums[2] = worst
        self.counts += other.counts

    @property
    def signal(self) -> float:
        return float(self.sums[0])

    @property
    def noise(self) -> float:
        return float(self.sums[1])

    @property
    def max_error(self) -> float:
        return float(self.sums[2])

    @property
    def clipped(self) -> int:
        return int(self.sums[3])

    def histogram(self, limit: float) -> Histogram:
        """Counts over [-limit, limit] of float, quantized and clipped weights."""
        floats, quantized, clipped = (tuple(row.tolist()) for row in self.counts.sum(axis=1))
        return Histogram(limit, floats, quantized, clipped)


def sqnr_db(signal: float, noise: float) -> float | None:
    """Signal to quantization noise, ``10 log10(signal / noise)`` in dB; None when either sum is zero."""
    if noise <= 0 or signal <= 0:
        return None
    return 10 * math.log10(signal / noise)


def bin_scale(limit: float) -> np.float32:
    """Bins per unit of weight when 256 of them cover [-limit, limit]; finite for any finite limit."""
    return np.float32(min(BINS / 2 / limit, 3e38)) if limit > 0 else np.float32(1)


def channel_ranges(low: NDArray[np.float32], high: NDArray[np.float32], rows: int) -> ChannelRanges:
    """Range of each output channel from the ranges of its groups; at most 256 bands of equal width."""
    if rows == 0:
        return ChannelRanges(1, (), ())
    width = -(-rows // MAX_BANDS)
    starts = np.arange(0, rows, width)
    lows = np.minimum.reduceat(low.reshape(rows, -1).min(1), starts)
    highs = np.maximum.reduceat(high.reshape(rows, -1).max(1), starts)
    return ChannelRanges(width, tuple(lows.tolist()), tuple(highs.tolist()))
