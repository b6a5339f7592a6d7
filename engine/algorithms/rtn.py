"""Round to nearest: the range of each group is its least and greatest weight; nothing is searched."""

import numpy as np

from engine.algorithms.base import Algorithm
from engine.numerics.affine import parameters
from engine.records.scheme import Scheme


def fit(low: np.ndarray, high: np.ndarray, scheme: Scheme, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point that cover [low, high]."""
    return parameters(low, high, scheme.bits, scheme.symmetric, dtype)


RTN = Algorithm("rtn", "RTN", "Round to nearest: fast, needs no data, the baseline.", fit)
