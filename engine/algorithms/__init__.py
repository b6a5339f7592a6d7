"""How codes are chosen. To add an algorithm: a file here and its line in ``ALGORITHMS``."""

import functools

from engine.algorithms.adaround import ADAROUND
from engine.algorithms.auto import AUTO
from engine.algorithms.awq import AWQ
from engine.algorithms.base import Algorithm
from engine.algorithms.bias import BIAS
from engine.algorithms.equalization import EQUALIZATION
from engine.algorithms.gptq import GPTQ
from engine.algorithms.hqq import HQQ
from engine.algorithms.mse import MSE
from engine.algorithms.options import Chain, Chosen, describe, parse, parse_chain
from engine.algorithms.percentile import PERCENTILE
from engine.algorithms.rtn import RTN
from engine.algorithms.smoothquant import SMOOTHQUANT

ALGORITHMS: tuple[Algorithm, ...] = (
    RTN, MSE, PERCENTILE, HQQ, AUTO, GPTQ, ADAROUND, SMOOTHQUANT, AWQ, EQUALIZATION, BIAS,
)  # fmt: skip


def algorithm(text: str) -> Chosen:
    """The algorithm and options of a text such as ``mse:norm=2.4``. Raises RecipeError."""
    return parse(text, ALGORITHMS)


@functools.lru_cache(1000)
def chain(text: str) -> Chain:
    """The transforms, solver and corrections of a text such as ``smoothquant+gptq+bias``. Raises RecipeError."""
    return parse_chain(text, ALGORITHMS)


__all__ = ["ALGORITHMS", "Algorithm", "Chain", "Chosen", "algorithm", "chain", "describe"]
