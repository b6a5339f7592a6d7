"""Bias correction: takes away the mean error that rounding gives each output.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2: the expected error of an
output is ``(W' - W) E[x]``, which the bias can absorb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.algorithms.base import Algorithm, Inputs
from engine.algorithms.objective import rows_of

if TYPE_CHECKING:
    import torch


def correction(weight: torch.Tensor, decoded: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """What to add to the bias (rows,): ``(W - W') E[x]``."""
    import torch

    error = weight - decoded
    found = torch.empty(len(weight))
    for group, mean in enumerate(inputs.mean):
        rows = rows_of(weight, inputs.groups, group)
        found[rows] = error[rows] @ mean
    return found


BIAS = Algorithm(
    "bias",
    "Bias correction",
    "Takes the mean error out of layers that have a bias; needs calibration.",
    stage="correction",
    data=True,
    correct=correction,
)
