"""What the algorithms must know of a layer's input: means, ranges and the second moment ``XᵀX`` (GPTQ's Hessian, halved).

Layers that multiply the same tensor (q, k and v; gate and up) share one record.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.algorithms.base import Inputs
from engine.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

TILE = 512
"""Columns of a tile of the second moment; only tiles on and above the diagonal are computed."""
CACHED = 256
"""Input vectors whose ranges are found at once."""
ROWS = 8192
"""Input vectors that are multiplied at once."""


class Moments(Inputs):
    """Sums over the input vectors of one layer, or of several that share their input.

    ``groups`` inputs of ``size`` values each (convolution groups, experts; 1 for an ordinary layer). ``second``: (groups, size,
    size) float32, or None when not wanted. ``low``, ``high``, ``mean`` and ``magnitude`` are (groups, size).
    """

    def __init__(self, groups: int, size: int, *, second: bool) -> None:
        import torch

        self.groups, self.size = groups, size
        self.counts = [0] * groups
        self.kept = {}
        self._second = torch.zeros(groups, size, size) if second else None
        self._whole = True
        self._sum = torch.zeros(groups, size, dtype=torch.float64)
        self._magnitude = torch.zeros(groups, size, dtype=torch.float64)
        self.low = torch.zeros(groups, size)
        self.high = torch.zeros(groups, size)

    @property
    def count(self) -> int:
        """Input vectors seen (by the group that saw most)."""
        return max(self.counts)

    def add(self, x: torch.Tensor, group: int = 0, *, halves: bool = False) -> None:
        """Take in vectors (n, size); ``halves``: float32 ones that are exact in bfloat16.

        Raises DataError for NaN or Inf, without saying where: the caller knows the layer.
        """
        import torch

        for rows in x.split(ROWS):
            values = rows.float()
            self._take(values, group)
            if self._second is not None:
                _add_product(self._second[group], values, torch.bfloat16 if halves else x.dtype)
                self._whole = False

    def _take(self, values: torch.Tensor, group: int) -> None:
        """Ranges and sums, of so few vectors at once that they stay in the processor's cache."""
        import torch

        for part in values.split(CACHED):
            low, high = part.amin(0), part.amax(0)
            if not bool(torch.isfinite(low + high).all()):
                raise DataError("NaN or Inf")
            first = not self.counts[group]
            self.low[group] = low if first else torch.minimum(self.low[group], low)
            self.high[group] = high if first else torch.maximum(self.high[group], high)
            self._sum[group] += part.sum(0)
            self._magnitude[group] += part.abs().sum(0)
            self.counts[group] += len(part)

    @property
    def second(self) -> torch.Tensor | None:
        """``XᵀX`` of every group, both triangles."""
        if self._second is not None and not self._whole:
            for matrix in self._second:
                _mirror(matrix)
            self._whole = True
        return self._second

    @property
    def mean(self) -> torch.Tensor:
        return self._per_vector(self._sum)

    @property
    def magnitude(self) -> torch.Tensor:
        """Mean of |x| per channel."""
        return self._per_vector(self._magnitude)

    @property
    def reach(self) -> torch.Tensor:
        """Largest |x| per channel."""
        import torch

        return torch.maximum(-self.low, self.high).clamp(min=0)

    def _per_vector(self, sums: torch.Tensor) -> torch.Tensor:
        import torch

        counts = torch.tensor(self.counts, dtype=torch.float64).clamp(min=1)
        return (sums / counts[:, None]).float()

    def divided(self, scale: torch.Tensor) -> Moments:
        """The moments of inputs divided by ``scale``, (size,) or (groups, size), as after smoothing; this record stays as it
        was."""
        other = Moments(self.groups, self.size, second=False)
        other.counts = list(self.counts)
        other.low, other.high = self.low / scale, self.high / scale
        other._sum, other._magnitude = self._sum / scale, self._magnitude / scale
        second = self.second
        if second is not None:
            wide = scale.expand(self.groups, self.size)
            other._second = second / wide[:, None, :] / wide[:, :, None]
        return other

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything, for a file; ``from_tensors`` reads it back."""
        import torch

        found = {
            "counts": torch.tensor(self.counts), "sum": self._sum, "magnitude": self._magnitude,
            "low": self.low, "high": self.high,
        }  # fmt: skip
        second = self.second
        return found if second is None else found | {"second": second}

    @classmethod
    def from_tensors(cls, found: dict[str, torch.Tensor]) -> Moments:
        groups, size = found["low"].shape
        made = cls(groups, size, second=False)
        made.counts = [int(n) for n in found["counts"]]
        made.low, made.high = found["low"], found["high"]
        made._sum, made._magnitude = found["sum"], found["magnitude"]
        made._second = found.get("second")
        return made


def _add_product(total: torch.Tensor, x: torch.Tensor, dtype: torch.dtype) -> None:
    """``total += xᵀx`` in the tiles on and above the diagonal."""
    import torch

    with exact_half_products(dtype):
        for first in range(0, x.shape[1], TILE):
            last = min(first + TILE, x.shape[1])
            torch.addmm(total[first:last, first:], x[:, first:last].T, x[:, first:], out=total[first:last, first:])


def _mirror(matrix: torch.Tensor) -> None:
    for first in range(0, len(matrix), TILE):
        last = min(first + TILE, len(matrix))
        matrix[last:, first:last] = matrix[first:last, last:].T


@contextmanager
def exact_half_products(dtype: torch.dtype) -> Iterator[None]:
    """Within it float32 products of numbers that are exact in bfloat16 may use its matrix units, where there are such.

    Products are summed in float32 either way; without matrix units (AMX) bfloat16 is slower than float32.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 and has_matrix_units() else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def has_matrix_units() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (AMX)."""
    import torch

    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())
