"""HQQ: half-quadratic quantization of zero points or scales (Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine
Learning Models"). Robust to outliers, since it minimizes ``sum |w - w'|**norm`` with a norm below 1."""

from dataclasses import dataclass

from engine.algorithms.base import Algorithm, Groups, Parameters, better
from engine.algorithms.options import option
from engine.records.scheme import Scheme


@dataclass(frozen=True, slots=True)
class HqqOptions:
    iterations: int = option(20, "most iterations; each group stops when it gets no better", low=1, high=200)
    norm: float = option(0.7, "power of the error that is summed", low=0.1, high=1.0)
    beta: float = option(10.0, "weight of the quadratic penalty at the start", low=0.01, high=1e6)
    kappa: float = option(1.01, "growth of the penalty in each iteration", low=1.0, high=2.0)


def fit(groups: Groups, options: HqqOptions) -> Parameters:
    """What the solver finds where it is better than round to nearest, in the solver's own objective."""
    first = groups.first()
    found = groups.half_quadratic(
        first, iterations=options.iterations, power=options.norm, beta=options.beta, kappa=options.kappa
    )
    return better(groups, first, found, options.norm)


def obstacle(scheme: Scheme) -> str:
    if scheme.family != "int":
        return "hqq fits integers; use an integer scheme, best with floatzero, or the algorithm mse"
    if scheme.granularity not in ("channel", "group"):
        return "hqq works on channels and groups; use channel or g<size>"
    return ""


HQQ = Algorithm(
    "hqq",
    "HQQ",
    "Half-quadratic search of zero points (floatzero) or scales; robust to outliers.",
    fit,
    HqqOptions,
    obstacle,
)
