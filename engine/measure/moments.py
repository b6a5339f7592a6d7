"""Moments of one weight, chunk by chunk: mean, deviation, excess kurtosis, and how far the furthest value lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Moments:
    """Power sums about the first chunk's mean, which keeps them small; memory does not grow."""

    def __init__(self) -> None:
        self.count = 0
        self.low, self.high = np.inf, -np.inf
        self._pivot: float | None = None
        self._powers = np.zeros(4)

    def add(self, values: torch.Tensor) -> None:
        """Float32 values of any shape."""
        if not values.numel():
            return
        low, high = values.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        if self._pivot is None:
            self._pivot = float(values.mean())
        centred = values - self._pivot
        squares = centred * centred
        self._powers += [float(x.sum()) for x in (centred, squares, squares * centred, squares * squares)]
        self.count += values.numel()

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self._powers).all())

    def figures(self) -> tuple[float, float, float]:
        """Mean, standard deviation, and excess kurtosis (a Gaussian's is 0)."""
        first, second, third, fourth = (float(power) / max(self.count, 1) for power in self._powers)
        variance = max(second - first**2, 0.0)
        about_mean = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
        return (self._pivot or 0.0) + first, variance**0.5, about_mean / variance**2 - 3 if variance else 0.0

    def sigmas(self) -> float:
        """How many standard deviations the furthest value lies from the mean; 0 where all are equal."""
        mean, std, _ = self.figures()
        return max(self.high - mean, mean - self.low) / std if std else 0.0
