"""How codes are chosen. To add an algorithm: a file here and its line in ``ALGORITHMS``."""

from engine.algorithms.auto import AUTO
from engine.algorithms.base import Algorithm
from engine.algorithms.hqq import HQQ
from engine.algorithms.mse import MSE
from engine.algorithms.options import Chosen, describe, parse
from engine.algorithms.percentile import PERCENTILE
from engine.algorithms.rtn import RTN

ALGORITHMS: tuple[Algorithm, ...] = (RTN, MSE, PERCENTILE, HQQ, AUTO)


def algorithm(text: str) -> Chosen:
    """The algorithm and options of a text such as ``mse:norm=2.4``. Raises RecipeError."""
    return parse(text, ALGORITHMS)


__all__ = ["ALGORITHMS", "Algorithm", "Chosen", "algorithm", "describe"]
