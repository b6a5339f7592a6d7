"""The layer's objective, ``‖(W - W')X‖²``, from the second moment of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SLICE = 1024
"""Rows multiplied at once."""


def rows_of(weight: torch.Tensor, groups: int, group: int) -> slice:
    """The rows of a weight that multiply inputs of one group."""
    size = len(weight) // groups
    return slice(group * size, (group + 1) * size)


def squared_output_error(error: torch.Tensor, second: torch.Tensor) -> float:
    """``sum over rows of e H eᵀ`` with ``H = XᵀX``: error (rows, size), second (groups, size, size)."""
    total = 0.0
    for group, matrix in enumerate(second):
        part = error[rows_of(error, len(second), group)]
        for rows in part.split(SLICE):
            total += float(((rows @ matrix) * rows).sum(dtype=rows.double().dtype))
    return max(total, 0.0)
