"""How codes are chosen. To add an algorithm: a file here and its line in ``ALGORITHMS``."""

from engine.algorithms.base import Algorithm
from engine.algorithms.rtn import RTN

ALGORITHMS: tuple[Algorithm, ...] = (RTN,)


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name. Recipes are checked against ``ALGORITHM_NAMES`` before."""
    return next(a for a in ALGORITHMS if a.name == name)
