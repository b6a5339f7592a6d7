"""A histogram of all values that came by, in bounded memory, and the ranges that percentile, error and entropy choose from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

    from engine.numerics.activations import ActivationFormat

BINS = 4096
"""So that at least 2048 of them cover the range (with zero), however it grew."""
CHUNK = 1 << 20
"""Values that are put into bins at once."""
_LEAST_EXPONENT = -120
"""Of a bin's width: float32 can still divide by it."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Target:
    """The numbers that a range will be divided among: int8's 256 (127.5 steps on a side where symmetric), or E4M3's."""

    kind: Literal["int8", "fp8"] = "int8"
    symmetric: bool = True

    @classmethod
    def of(cls, form: ActivationFormat) -> Target:
        """What a range is divided among under an activation format; NVFP4's global scale bounds E4M3 scales."""
        return cls("int8" if form.codes == "int8" else "fp8", form.symmetric)

    def codes(self, low: float, high: float) -> np.ndarray:
        """All values that this range can decode to, ascending, float64. The range must hold zero and more."""
        if self.kind == "fp8":
            return _float8_numbers() * (max(-low, high) / 448)
        if self.symmetric:
            return np.arange(-128, 128) * (max(-low, high) / 127.5)
        scale = (high - low) / 255
        zero = np.clip(np.rint(-128 - low / scale), -128, 127)
        return (np.arange(-128, 128) - zero) * scale


def _float8_numbers() -> np.ndarray:
    """E4M3's finite numbers (OCP 8-bit floating point, 2023): ``m * 2**-9`` below ``2**-6``, then ``(8 + m) * 2**(e - 10)``."""
    halves = [m * 2.0**-9 for m in range(1, 8)] + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)]
    positive = np.array(halves[:-1])  # the last is NaN's code
    return np.concatenate([-positive[::-1], [0.0], positive])


class Histogram:
    """Counts of values in bins whose width is a power of two and whose edges are whole multiples of it.

    When a value falls outside, bins are merged in pairs until everything fits: exact, whatever the order of the data.
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.exponent, self.first = _LEAST_EXPONENT, 0
        self.counts = np.zeros(BINS, np.int64)

    @property
    def width(self) -> float:
        return 2.0**self.exponent

    def add(self, x: torch.Tensor, low: float, high: float) -> None:
        """Take in values whose least and greatest are ``low`` and ``high``, both finite."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._make_room()
        values = x.reshape(-1)
        for start in range(0, values.numel(), CHUNK):
            self.counts += self._binned(values[start : start + CHUNK])

    def _binned(self, values: torch.Tensor) -> np.ndarray:
        import torch

        places = values.to(torch.float32, copy=True).mul_(2.0**-self.exponent).sub_(self.first).to(torch.int32)
        counts = torch.bincount(places, minlength=BINS + 1).cpu().numpy()
        counts[BINS - 1] += counts[BINS]  # rounded up by the subtraction
        return counts[:BINS]

    def _make_room(self) -> None:
        """Widen bins until one grid holds the range and zero; move the counts there."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        exponent = self.exponent if self.counts.any() else _LEAST_EXPONENT
        if high > low:
            exponent = max(exponent, math.frexp((high - low) / BINS)[1] - 1)
        while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
            exponent += 1
        first = math.floor(math.ldexp(low, -exponent))
        if (exponent, first) == (self.exponent, self.first):
            return
        used = np.flatnonzero(self.counts)
        counts = np.zeros(BINS, np.int64)
        np.add.at(counts, ((used + self.first) >> min(exponent - self.exponent, 60)) - first, self.counts[used])
        self.exponent, self.first, self.counts = exponent, first, counts

    def bins(self) -> tuple[np.ndarray, np.ndarray]:
        """(edges, counts) of the bins from the first to the last that is not empty; the outer edges are the range itself."""
        used = np.flatnonzero(self.counts)
        start, stop = int(used[0]), int(used[-1]) + 1
        edges = np.arange(self.first + start, self.first + stop + 1) * self.width
        # Rounding may have put an extreme into the next bin; the edges must stay in order.
        edges[0], edges[-1] = min(self.low, edges[1]), max(self.high, edges[-2])
        return edges, self.counts[start:stop]


def percentile(histogram: Histogram, target: Target, share: float) -> Range:
    """The middle ``share`` (0 to 1) of the values, or where symmetric the range of that share of the magnitudes."""
    edges, counts = histogram.bins()
    if not target.symmetric:
        low, high = (_quantile(edges, counts, at) for at in ((1 - share) / 2, (1 + share) / 2))
        return (low, high) if low < high else (histogram.low, histogram.high)
    reach = _quantile(*_magnitudes(edges, counts), share)
    return _within(histogram, reach or math.inf)  # a percentile of zero would throw all others away


def _quantile(edges: np.ndarray, counts: np.ndarray, share: float) -> float:
    """Where the cumulative count passes that share, linear within a bin."""
    below = np.concatenate([[0], np.cumsum(counts)])
    place = share * below[-1]
    index = min(int(np.searchsorted(below, place, side="left")), len(counts))
    if index == 0:
        return float(edges[0])
    inside = (place - below[index - 1]) / counts[index - 1]
    return float(edges[index - 1] + inside * (edges[index] - edges[index - 1]))


def _magnitudes(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The histogram of |x|: cumulative counts of both sides, at the edges of both."""
    below = np.concatenate([[0], np.cumsum(counts)])
    points = np.unique(np.abs(edges))
    if edges[0] < 0 < edges[-1]:
        points = np.unique(np.concatenate([[0.0], points]))
    held = np.interp(points, edges, below) - np.interp(-points, edges, below)
    return points, np.diff(held)


def _within(histogram: Histogram, reach: float) -> Range:
    """Zero, and no more than what was seen."""
    return max(min(histogram.low, 0.0), -reach), min(max(histogram.high, 0.0), reach)


def least_error(histogram: Histogram, target: Target) -> Range:
    """The range with the least sum of squared errors, values being spread evenly within their bins.

    One factor for both ends is searched first, then each end alone where there is a zero point (Banner et al. 2019, "Post
    training 4-bit quantization"; torch.ao's HistogramObserver narrows by quantiles instead, and stops at the first minimum).
    """
    edges, counts = histogram.bins()
    full = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if full[0] == full[1]:
        return full

    def error(low: float, high: float) -> float:
        return squared_error(edges, counts, target.codes(low, high))

    ratio = _search(lambda r: error(full[0] * r, full[1] * r))
    low, high = full[0] * ratio, full[1] * ratio
    if target.symmetric:
        return _within(histogram, max(-low, high))
    for ratios in (_RATIOS, ()):
        if full[0] < 0:
            low = full[0] * _search(partial(lambda end, r: error(full[0] * r, end), high), low / full[0], ratios)
        if full[1] > 0:
            high = full[1] * _search(partial(lambda end, r: error(end, full[1] * r), low), high / full[1], ratios)
    return low, high


def squared_error(edges: np.ndarray, counts: np.ndarray, codes: np.ndarray) -> float:
    """``sum (x - Q(x))**2`` of values spread over bins: by a code ``c`` the integral is ``(x - c)**3 / 3``; joined midway."""
    middles = (codes[1:] + codes[:-1]) / 2
    joints = np.concatenate([[0.0], np.cumsum((middles - codes[:-1]) ** 3 - (middles - codes[1:]) ** 3)])
    at = np.searchsorted(middles, edges)
    integral = (joints[at] + (edges - codes[at]) ** 3) / 3
    width = np.diff(edges)
    # A bin without width (its extreme is its edge) holds one value many times.
    lone = (edges[:-1] - codes[at[:-1]]) ** 2
    return float(np.sum(counts * np.where(width > 0, np.diff(integral) / np.where(width > 0, width, 1), lone)))


_RATIOS = 2.0 ** -np.arange(0.125, 12, 0.125)
"""Of a searched range to the full one: down to 1/4096, where bins end."""


def _search(error: Callable[[float], float], start: float = 1.0, ratios: Iterable[float] = _RATIOS) -> float:
    """The best of 1, ``start``, ``ratios`` (descending) and then ever closer neighbours; 1 where nothing is better."""
    best, least = 1.0, error(1.0)
    for ratio in itertools.chain([start], ratios):
        found = error(float(ratio))
        if found < least:
            best, least = float(ratio), found
        elif found > 4 * least and ratio < start:
            break  # finer steps could win back a part of ``least`` only; what is clipped grows
    for step in (2**0.0625, 2**0.03125, 2**0.015625, 2**0.0078125):
        for ratio in (best / step, min(best * step, 1.0)):
            found = error(ratio)
            if found < least:
                best, least = ratio, found
    return best


def least_divergence(histogram: Histogram, target: Target) -> Range:
    """The clipping at which codes lose the least information: the KL divergence of clipped values from their codes is least.

    Migacz 2017, "8-bit inference with TensorRT" (GTC): what is clipped counts as the outermost values; the mass of each code
    is spread evenly over the bins in it that are not empty. Exact zeros would drown all else after a ReLU, so their bin
    counts no more than its neighbour (as in NVIDIA's pytorch-quantization).
    """
    edges, counts = histogram.bins()
    centres = (edges[1:] + edges[:-1]) / 2
    counts = counts.astype(np.float64)
    zero = int(np.searchsorted(edges, 0.0, side="right")) - 1
    if 0 <= zero < len(counts) and len(counts) > 1:
        counts[zero] = min(counts[zero], counts[zero + 1 if zero + 1 < len(counts) else zero - 1])
    most = max(-histogram.low, histogram.high)
    finest = target.codes(-1.0 if histogram.low < 0 else 0.0, 1.0)
    # A code must be as wide as a bin at least, or nothing is seen of what it loses.
    least = histogram.width / np.diff(finest).max()
    if least >= most or not counts.any():
        return histogram.low, histogram.high
    best, fewest = most, math.inf
    for reach in np.geomspace(most, least, 256):
        found = _divergence(centres, counts, *_within(histogram, reach), target)
        if found < fewest:
            best, fewest = float(reach), found
    return _within(histogram, best)


def _divergence(centres: np.ndarray, counts: np.ndarray, low: float, high: float, target: Target) -> float:
    """``sum p ln(p / q)`` in nats, over the bins within the range."""
    first, last = np.searchsorted(centres, (low, high))
    inside = counts[first:last]
    used = np.flatnonzero(inside)
    if not len(used):
        return math.inf
    codes = target.codes(low, high)
    code = np.searchsorted((codes[1:] + codes[:-1]) / 2, centres[first:last][used])
    spread = np.bincount(code, inside[used], len(codes)) / np.maximum(np.bincount(code, minlength=len(codes)), 1)
    held = inside[used].copy()
    held[0] += counts[:first].sum()
    held[-1] += counts[last:].sum()
    p, q = held / held.sum(), spread[code] / inside.sum()
    return float(np.sum(p * np.log(p / q)))
