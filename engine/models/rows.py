"""Rows of all parameters with the same number of columns, found by a key over a few of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.models.samples import Stored, bits, same

if TYPE_CHECKING:
    import torch

KEYED = 4
"""Values of a row that go into its key."""
FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)
MOST = 256
"""Candidates that are verified for one tensor."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A parameter seen as a matrix."""

    name: str
    value: torch.Tensor
    columns: int
    transposed: bool

    @property
    def rows(self) -> int:
        return self.value.numel() // self.columns

    def row(self, number: int) -> torch.Tensor:
        if not self.transposed:
            return self.value.reshape(-1, self.columns)[number]
        outputs = self.value.shape[-1]
        if self.value.ndim == 2:
            return self.value[:, number]
        return self.value[number // outputs, :, number % outputs]

    def column_bits(self, columns: list[int]) -> NDArray[np.uint64]:
        """Shape (rows, len(columns))."""
        if self.transposed:
            picked = self.value[..., columns, :].transpose(-1, -2)
        else:
            picked = self.value.reshape(-1, self.columns)[:, columns]
        return _unsigned(picked.reshape(self.rows, len(columns)))


def candidates(parameters: dict[str, torch.Tensor]) -> dict[int, list[Candidate]]:
    """Every way in which parameters are matrices, by their number of columns."""
    found: dict[int, list[Candidate]] = {}
    for name, value in parameters.items():
        if value.ndim < 2 or not value.numel() or value.is_complex():
            continue
        widths = {value.shape[-1], value.numel() // value.shape[0]}
        ways = [(width, False) for width in sorted(widths)]
        if value.ndim in (2, 3):
            ways.append((value.shape[-2], True))
        for width, transposed in ways:
            found.setdefault(width, []).append(Candidate(name, value, width, transposed))
    return found


class RowIndex:
    """Keys of all rows of candidates that have the same number of columns and the same type."""

    def __init__(self, found: list[Candidate]) -> None:
        width = found[0].columns
        self.found = found
        self._columns = sorted({round(place) for place in np.linspace(0, width - 1, min(KEYED, width))})
        self._starts = np.cumsum([0, *(item.rows for item in found)])
        keys = np.concatenate([_keys(item.column_bits(self._columns)) for item in found])
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def holding(self, stored: Stored) -> list[tuple[Candidate, int]]:
        """Candidates and the first rows at which all of the stored tensor is found, as far as samples tell."""
        anchor, places = self._rarest(stored)
        verified = []
        for place in places[:MOST]:
            number = int(np.searchsorted(self._starts, place, "right")) - 1
            item, first = self.found[number], int(place - self._starts[number]) - anchor
            if first >= 0 and first + stored.rows <= item.rows and _agrees(stored, item, first):
                verified.append((item, first))
        return verified

    def _rarest(self, stored: Stored) -> tuple[int, NDArray[np.int64]]:
        """A row of the stored tensor that few others look like, and where rows like it are. A row of zeros says nothing."""
        best: tuple[int, NDArray[np.int64]] | None = None
        for anchor in dict.fromkeys((0, stored.rows // 2, stored.rows - 1, stored.rows // 4, 3 * stored.rows // 4)):
            row = stored.row(anchor).to(self.found[0].value.dtype)
            key = _keys(_unsigned(row[self._columns][None]))[0]
            low, high = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
            places = np.sort(self._order[low:high])
            if best is None or len(places) < len(best[1]):
                best = anchor, places
            if len(places) <= 1:
                break
        assert best is not None
        return best


def _agrees(stored: Stored, item: Candidate, first: int) -> bool:
    numbers = sorted({0, stored.rows // 3, 2 * stored.rows // 3, stored.rows - 1})
    return all(same(stored.row(number), item.row(first + number)) for number in numbers)


def _unsigned(value: torch.Tensor) -> NDArray[np.uint64]:
    return bits(value.contiguous()).numpy().astype(np.int64).view(np.uint64)


def _keys(columns: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number per row; different rows may share one, so what is found by it is verified."""
    mixed = columns * FACTORS[: columns.shape[1]]
    mixed ^= mixed >> np.uint64(29)
    return mixed.sum(axis=1, dtype=np.uint64)
