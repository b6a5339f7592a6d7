"""Cross-layer equalization: channels between two layers are scaled so that both weights have like ranges.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", equation 11:
``s_i = sqrt(r1_i r2_i) / r2_i`` with ``r`` the range of the channel in each weight; rows of the first are divided by s, columns
of the second multiplied. It holds for everything between them that commutes with a positive scale: ReLU, pooling, a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.algorithms.base import Algorithm, Scaling
from engine.algorithms.options import option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class EqualizationOptions:
    rounds: int = option(20, "most times that all pairs are gone through; it ends when nothing moves", low=1, high=100)


def scale(scaling: Scaling, options: EqualizationOptions) -> torch.Tensor:
    """What the consumers' columns (channels,) are multiplied by; 1 for channels that are dead on either side."""
    import torch

    if scaling.source is None:
        raise TypeError("equalization is between two layers")
    first = scaling.source.abs().amax(1)
    second = torch.stack([weight.abs().amax(0) for weight in scaling.weights]).amax(0)
    found = (first * second).sqrt() / second.clamp(min=1e-30)
    usable = (first > 0) & (second > 0) & torch.isfinite(found) & (found > 0)
    return torch.where(usable, found.clamp(min=1e-4, max=1e4), torch.ones_like(found))


EQUALIZATION = Algorithm(
    "equalize",
    "Cross-layer equalization",
    "Gives neighbouring layers like channel ranges; needs a model that runs, to see which layers are neighbours.",
    options=EqualizationOptions,
    stage="transform",
    data=True,
    scale=scale,
)
