"""AdaRound: learns for each weight whether to round up or down.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization": weights are ``s (floor(w/s) + h(V))`` with the
rectified sigmoid ``h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)``; ``‖(W - W')X‖²`` and a penalty ``sum 1 - |2 h(V) - 1|^beta``, beta
falling, are made small by gradient descent (Adam). The objective is taken from ``XᵀX``, so every step sees all data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.algorithms.base import Algorithm, Inputs, Rounding, Solution
from engine.algorithms.objective import rows_of, squared_output_error
from engine.algorithms.options import option
from engine.records.scheme import Scheme

if TYPE_CHECKING:
    import torch

ZETA, GAMMA = 1.1, -0.1
WARM_UP = 0.2
"""Share of the steps without the penalty."""


@dataclass(frozen=True, slots=True)
class AdaRoundOptions:
    steps: int = option(500, "steps of gradient descent", low=10, high=20_000)
    rate: float = option(0.01, "learning rate of Adam", low=1e-5, high=1.0)
    penalty: float = option(
        100.0, "weight of the penalty, as a share of the objective of round to nearest per weight", low=0.0, high=1e6
    )
    scales: str = option("mse", "how scales are chosen", choices=("mse", "rtn"))


def solve(rounding: Rounding, weight: torch.Tensor, inputs: Inputs, options: AdaRoundOptions) -> Solution:
    """Levels rounded up or down; never worse than round to nearest in ``‖(W - W')X‖²``."""
    import torch

    second = inputs.second
    if second is None:
        raise TypeError("AdaRound needs the second moment")
    plain = rounding.fitted(weight, "rtn")
    parameters = rounding.fitted(weight, options.scales) if options.scales != "rtn" else plain
    levels = torch.empty_like(weight)
    for group in range(inputs.groups):
        rows = rows_of(weight, inputs.groups, group)
        levels[rows] = _learn(rounding, weight[rows], second[group], (parameters[0][rows], parameters[1][rows]), options)
    tries = [(levels, parameters)] + [(rounding.nearest(weight, p)[0], p) for p in (parameters, plain)]
    solutions = []
    for found, used in tries:
        decoded = rounding.decoded(found, used)
        solutions.append(Solution(found, used, decoded, after=squared_output_error(weight - decoded, second)))
    best = min(solutions, key=lambda solution: solution.after or 0.0)
    best.before = solutions[2].after
    return best


def _learn(
    rounding: Rounding, weight: torch.Tensor, second: torch.Tensor, parameters: tuple, options: AdaRoundOptions
) -> torch.Tensor:
    import torch

    cols = weight.shape[1]
    scale, zero = (torch.from_numpy(np.repeat(p, rounding.columns, axis=1)[:, :cols].copy()) for p in parameters)
    low, high = rounding.limits
    exact = (weight / scale + zero).clamp(low, high)
    floor = exact.floor().clamp(low, high - 1)
    start = (exact - floor).clamp(0.01, 0.99)
    value = torch.logit((start - GAMMA) / (ZETA - GAMMA))
    count = float(second.diagonal().mean()) or 1.0
    matrix = second / count  # so that rate and penalty mean the same in every layer
    nearest = (exact.round() - zero) * scale
    strength = options.penalty * squared_output_error(weight - nearest, matrix[None]) / weight.numel()
    moments = torch.zeros_like(value), torch.zeros_like(value)
    for step in range(options.steps):
        rounding.check()
        sigmoid = torch.sigmoid(value)
        soft = sigmoid * (ZETA - GAMMA) + GAMMA
        inside = (soft > 0) & (soft < 1)
        soft = soft.clamp(0, 1)
        error = (floor + soft - zero) * scale - weight
        gradient = 2 * (error @ matrix) * scale
        done = step / options.steps
        if done >= WARM_UP and strength:
            beta = 2 + 18 * (1 - (done - WARM_UP) / (1 - WARM_UP))
            middle = 2 * soft - 1
            gradient -= strength * beta * 2 * middle.sign() * middle.abs() ** (beta - 1)
        gradient *= inside * (ZETA - GAMMA) * sigmoid * (1 - sigmoid)
        _adam(value, gradient, moments, step + 1, options.rate)
    up = torch.sigmoid(value) * (ZETA - GAMMA) + GAMMA >= 0.5
    return floor + up


def _adam(value: torch.Tensor, gradient: torch.Tensor, moments: tuple, step: int, rate: float) -> None:
    """Kingma and Ba 2014, with the usual constants."""
    first, second = moments
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    value.addcdiv_(first / (1 - 0.9**step), (second / (1 - 0.999**step)).sqrt_().add_(1e-12), value=-rate)


def obstacle(scheme: Scheme) -> str:
    if scheme.family != "int" or scheme.variant == "floatzero":
        return "adaround rounds integers up or down; use an integer scheme, or gptq"
    return ""


ADAROUND = Algorithm(
    "adaround",
    "AdaRound",
    "Learns whether to round each weight up or down; slow. Needs calibration.",
    options=AdaRoundOptions,
    obstacle=obstacle,
    data=True,
    second=True,
    solve=solve,
    memory=lambda rows, cols: 4 * (14 * rows * cols + cols * cols),
)
