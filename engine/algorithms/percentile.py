"""Percentile clipping: a group's range leaves out its rarest, largest weights."""

from dataclasses import dataclass

import numpy as np

from engine.algorithms.base import Algorithm, Groups, Parameters
from engine.algorithms.options import option
from engine.records.scheme import Scheme


@dataclass(frozen=True, slots=True)
class PercentileOptions:
    share: float = option(99.9, "share of the weights inside the range", low=50.0, high=100.0, unit="%")


def fit(groups: Groups, options: PercentileOptions) -> Parameters:
    """Symmetric: the percentile of the magnitudes; with a zero point: the middle share of the weights."""
    share = options.share / 100
    if groups.scheme.symmetric:
        _, reach = groups.quantiles(share, share, magnitude=True)
        # A percentile of zero, where most weights are zero, would throw all others away.
        reach = np.where(reach > 0, reach, np.maximum(-groups.low, groups.high))
        return groups.covering(-reach, reach)
    low, high = groups.quantiles((1 - share) / 2, (1 + share) / 2, magnitude=False)
    empty = (low >= 0) & (high <= 0)
    return groups.covering(np.where(empty, groups.low, low), np.where(empty, groups.high, high))


def obstacle(scheme: Scheme) -> str:
    if scheme.family in ("ternary", "binary"):
        return f"percentile clips ranges, and {scheme.family} weights have none; use rtn or mse"
    return ""


PERCENTILE = Algorithm(
    "percentile", "Percentile", "Clips the rarest, largest weights of each group.", fit, PercentileOptions, obstacle
)
