"""SmoothQuant: moves outliers from activations into weights, so that both quantize well.

Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", equation 4:
``s_j = max|X_j|^strength / max|W_j|^(1 - strength)``; inputs are divided by s, weights multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.algorithms.base import Algorithm, Scaling
from engine.algorithms.options import option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SmoothQuantOptions:
    strength: float = option(0.5, "share of the difficulty that goes into the weights (alpha)", low=0.0, high=1.0)


def scale(scaling: Scaling, options: SmoothQuantOptions) -> torch.Tensor:
    """The scale (channels,); 1 where a channel's inputs or weights are all zero."""
    import torch

    if scaling.inputs is None:
        raise TypeError("SmoothQuant needs to know the inputs")
    inputs = scaling.inputs.reach[0]
    rounded = [w for w, rounding in zip(scaling.weights, scaling.roundings, strict=True) if rounding is not None]
    weights = torch.stack([weight.abs().amax(0) for weight in rounded or scaling.weights]).amax(0)
    found = inputs**options.strength / weights.clamp(min=1e-30) ** (1 - options.strength)
    usable = (inputs > 0) & (weights > 0) & torch.isfinite(found)
    return torch.where(usable, found.clamp(min=1e-5, max=1e5), torch.ones_like(found))


SMOOTHQUANT = Algorithm(
    "smoothquant",
    "SmoothQuant",
    "Moves outliers from activations into weights; for quantized activations. Needs calibration.",
    options=SmoothQuantOptions,
    stage="transform",
    data=True,
    scale=scale,
)
