"""AWQ: input channels with large activations get finer steps, by scaling weights up and inputs down.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration": ``s = mean|x|^ratio``, the
ratio searched for the least ``‖(W - W')X‖²`` of round to nearest, where ``W' = Q(W s) / s``. The scale is taken out of the layer
before, so the float model computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.algorithms.base import Algorithm, Scaling
from engine.algorithms.objective import squared_output_error
from engine.algorithms.options import option
from engine.records.scheme import Scheme

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class AwqOptions:
    steps: int = option(20, "ratios tried between 0 and 1", low=1, high=200)
    scales: str = option("rtn", "how the quantizer's own scales are chosen while searching", choices=("rtn", "mse"))


def scale(scaling: Scaling, options: AwqOptions) -> torch.Tensor:
    """The scale (channels,) with the least summed objective; ones where nothing is better than round to nearest."""
    import torch

    if scaling.inputs is None:
        raise TypeError("AWQ needs to know the inputs")
    magnitude = scaling.inputs.magnitude[0].clamp(min=1e-8)
    best, least = torch.ones_like(magnitude), _objective(scaling, torch.ones_like(magnitude), options.scales)
    for step in range(1, options.steps + 1):
        found = magnitude ** (step / options.steps)
        found = (found / (found.max() * found.min()).sqrt()).clamp(min=1e-4, max=1e4)
        error = _objective(scaling, found, options.scales)
        if error < least:
            best, least = found, error
    return best


def _objective(scaling: Scaling, factor: torch.Tensor, scales: str) -> float:
    second = scaling.inputs.second if scaling.inputs else None
    if second is None:
        raise TypeError("AWQ needs the second moment")
    total = 0.0
    for weight, rounding in zip(scaling.weights, scaling.roundings, strict=True):
        if rounding is None:  # a layer that stays float is none the worse
            continue
        rounding.check()
        scaled = weight * factor
        _, decoded = rounding.nearest(scaled, rounding.fitted(scaled, scales))
        total += squared_output_error(weight - decoded / factor, second)
    return total


def obstacle(scheme: Scheme) -> str:
    return ""


AWQ = Algorithm(
    "awq",
    "AWQ",
    "Finer steps for the channels with large activations; needs calibration, and a norm or layer before to take the scale from.",
    options=AwqOptions,
    obstacle=obstacle,
    stage="transform",
    data=True,
    second=True,
    scale=scale,
    memory=lambda rows, cols: 4 * (5 * rows * cols + cols * cols),
)
