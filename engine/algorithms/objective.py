"""The layer's objective, ``‖(W - W')X‖²``, from the second moment of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.numerics.products import halves_are_fast

if TYPE_CHECKING:
    import torch

TILE = 256
"""Columns multiplied at once: narrow tiles waste less on the diagonal, and their products stay in the cache."""
MANY = 1 << 20
"""Errors whose roundings to bfloat16 cancel."""


def rows_of(weight: torch.Tensor, groups: int, group: int) -> slice:
    """The rows of a weight that multiply inputs of one group."""
    size = len(weight) // groups
    return slice(group * size, (group + 1) * size)


def squared_output_error(error: torch.Tensor, second: torch.Tensor, *, roughly: bool = False) -> float:
    """``sum over rows of e H eᵀ`` with ``H = XᵀX``: error (rows, size), second (groups, size, size), symmetric.

    Tiles above the diagonal stand for those below it, which halves the work. ``roughly``: to a part in a thousand, in half the
    time, where errors do not cancel each other (a solver's do) and there are enough of them for their roundings to cancel.
    """
    import torch

    total = 0.0
    halves = roughly and error.numel() >= MANY and halves_are_fast()
    for group, matrix in enumerate(second):
        rows = error[rows_of(error, len(second), group)]
        if halves:
            rows, matrix = rows.bfloat16(), matrix.bfloat16()
        for first in range(0, len(matrix), TILE):
            last = min(first + TILE, len(matrix))
            own, after = rows[:, first:last], rows[:, last:]
            product = (own @ matrix[first:last, first:last]).addmm_(after, matrix[last:, first:last], alpha=2)
            total += float(product.mul_(own).sum(1, dtype=torch.float32).sum(dtype=torch.float64))
    return max(total, 0.0)
