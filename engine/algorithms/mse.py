"""Range search: each group's range is shrunk to where ``sum |w - w'|**norm`` is least; norm 2 is the mean squared error.

Clipping a few large weights makes the steps of all others finer (Banner et al. 2019, "Post training 4-bit quantization").
"""

from dataclasses import dataclass

import numpy as np

from engine.algorithms.base import Algorithm, Groups, Parameters, Ranges
from engine.algorithms.options import option

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class MseOptions:
    search: str = option("grid", "try equally spaced ratios, or close in on one minimum", choices=("grid", "golden"))
    steps: int = option(32, "ratios tried (grid) or narrowings (golden)", low=2, high=1000)
    smallest: float = option(0.3, "least ratio of a searched range to the full one", low=0.01, high=0.99)
    norm: float = option(2.0, "power of the error that is summed", low=0.1, high=8.0)


class _Best:
    """The best parameters seen so far, group by group. The first are those of round to nearest, so nothing gets worse."""

    def __init__(self, groups: Groups, norm: float) -> None:
        self._groups, self._norm = groups, norm
        self.scale, self.zero = groups.first()
        self._errors = groups.errors((self.scale, self.zero), norm)

    def attempt(self, ratio: Ranges | np.float32) -> np.ndarray:
        """Errors at these ratios of the full range."""
        chosen = self._groups.covering(self._groups.low * ratio, self._groups.high * ratio)
        errors = self._groups.errors(chosen, self._norm)
        wins = errors < self._errors
        self.scale, self.zero = np.where(wins, chosen[0], self.scale), np.where(wins, chosen[1], self.zero)
        self._errors = np.where(wins, errors, self._errors)
        return errors


def fit(groups: Groups, options: MseOptions) -> Parameters:
    """The best of the ratios tried and of round to nearest."""
    best = _Best(groups, options.norm)
    if options.search == "grid":
        for ratio in np.linspace(options.smallest, 1, options.steps, dtype=np.float32):
            best.attempt(ratio)
    else:
        _golden_section(best, groups.low.size, options)
    return best.scale, best.zero


def _golden_section(best: _Best, count: int, options: MseOptions) -> None:
    """Golden-section search (Kiefer 1953), all groups at once; exact where the error has one minimum."""
    left, right = np.full(count, options.smallest, np.float32), np.ones(count, np.float32)
    inner, outer = right - (right - left) * np.float32(GOLDEN), left + (right - left) * np.float32(GOLDEN)
    at_inner, at_outer = best.attempt(inner), best.attempt(outer)
    for _ in range(options.steps - 2):
        keeps_left = at_inner < at_outer
        left, right = np.where(keeps_left, left, inner), np.where(keeps_left, outer, right)
        probe = np.where(keeps_left, right - (right - left) * np.float32(GOLDEN), left + (right - left) * np.float32(GOLDEN))
        errors = best.attempt(probe.astype(np.float32))
        inner, outer = np.where(keeps_left, probe, outer), np.where(keeps_left, inner, probe)
        at_inner, at_outer = np.where(keeps_left, errors, at_outer), np.where(keeps_left, at_inner, errors)


MSE = Algorithm(
    "mse", "MSE range search", "Shrinks each range to where the error is least; never worse than RTN.", fit, MseOptions
)
