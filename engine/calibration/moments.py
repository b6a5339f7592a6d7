"""What the algorithms must know of a layer's input: means, ranges and the second moment ``XᵀX`` (GPTQ's Hessian, halved).

Layers that multiply the same tensor (q, k and v; gate and up) share one record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import numerics
from engine.algorithms.base import Inputs
from engine.errors import DataError
from engine.numerics.products import halves_are_fast

if TYPE_CHECKING:
    import torch

TILE = 256
"""Columns of a tile of the second moment; only tiles on and above the diagonal are computed, so narrow ones waste less there."""
ROWS = 4096
"""Input vectors multiplied at once; fewer wait for others, since every product costs a trip through the second moment."""


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
        self._waiting: torch.Tensor | None = None
        self._waits = 0
        self._sum = torch.zeros(groups, size, dtype=torch.float64)
        self._magnitude = torch.zeros(groups, size, dtype=torch.float64)
        self.low = torch.zeros(groups, size)
        self.high = torch.zeros(groups, size)

    @property
    def count(self) -> int:
        """Input vectors seen (by the group that saw most)."""
        return max(self.counts)

    def add(self, x: torch.Tensor, group: int = 0) -> None:
        """Take in vectors (n, size).

        Raises DataError for NaN or Inf, without saying where: the caller knows the layer.
        """
        x = x.detach().contiguous()
        self._take(x, group)
        if self._second is None:
            return
        self._whole = False
        for rows in x.split(ROWS):
            if len(rows) == ROWS or self.groups > 1:  # waiting room for hundreds of experts would be dear
                self._multiply(rows, group)
            else:
                self._wait(rows)

    def _take(self, x: torch.Tensor, group: int) -> None:
        """Ranges and sums of vectors."""
        import torch

        kind = numerics.KINDS_OF_TORCH.get(str(x.dtype))
        if kind is None:
            return self._take(x.float(), group)
        if not self.counts[group]:
            self.low[group], self.high[group] = torch.inf, -torch.inf
        sums = [values[group].numpy() for values in (self.low, self.high, self._sum, self._magnitude)]
        self.counts[group] += len(x)
        if not numerics.backend().column_sums(x.view(-1).view(torch.uint8).numpy(), *x.shape, kind, *sums):
            raise DataError("NaN or Inf")

    def _wait(self, rows: torch.Tensor) -> None:
        import torch

        if self._waiting is None or self._waiting.dtype != rows.dtype:
            self._flush()
            self._waiting = torch.empty(ROWS, self.size, dtype=rows.dtype)
        while len(rows):
            room = ROWS - self._waits
            self._waiting[self._waits : self._waits + len(rows)] = rows[:room]
            self._waits += min(len(rows), room)
            rows = rows[room:]
            if self._waits == ROWS:
                self._flush()

    def _flush(self) -> None:
        if self._waiting is not None and self._waits:
            self._multiply(self._waiting[: self._waits], 0)
            self._waits = 0

    def _multiply(self, x: torch.Tensor, group: int) -> None:
        assert self._second is not None
        if str(x.dtype) == "torch.bfloat16" and halves_are_fast():
            _add_half_product(self._second[group], x)
        else:
            _add_product(self._second[group], x.float())

    def settle(self) -> None:
        """Multiply the vectors that wait, and let go of the room for them."""
        self._flush()
        self._waiting = None

    @property
    def second(self) -> torch.Tensor | None:
        """``XᵀX`` of every group, both triangles."""
        if self._second is not None and not self._whole:
            self.settle()
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


def _add_product(total: torch.Tensor, x: torch.Tensor) -> None:
    """``total += xᵀx`` of float32 vectors, in the tiles on and above the diagonal."""
    import torch

    for first in range(0, x.shape[1], TILE):
        tile = slice(first, first + TILE)
        torch.addmm(total[tile, first:], x[:, tile].T, x[:, first:], out=total[tile, first:])


def _add_half_product(total: torch.Tensor, x: torch.Tensor) -> None:
    """The same of bfloat16 vectors. Torch gives the product of ``ROWS`` vectors, summed in float32, rounded to bfloat16; those
    are summed in float32 here, so that their errors, of a part in 500 each, mostly cancel: far below what damping adds."""
    import torch

    size = x.shape[1]
    narrow, wide = (torch.empty(min(TILE, size) * size, dtype=dtype) for dtype in (x.dtype, total.dtype))
    for first in range(0, size, TILE):
        sums = total[first : first + TILE, first:]
        product, widened = (buffer[: sums.numel()].view(sums.shape) for buffer in (narrow, wide))
        torch.mm(x[:, first : first + TILE].T, x[:, first:], out=product)
        sums += widened.copy_(product)


def _mirror(matrix: torch.Tensor) -> None:
    for first in range(0, len(matrix), TILE):
        last = min(first + TILE, len(matrix))
        matrix[last:, first:last] = matrix[first:last, last:].T
