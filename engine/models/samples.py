"""A few values of stored tensors, to compare with what is in a module without reading everything again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from engine.decoding import from_bytes, stored_name
from engine.readers.source import TensorFiles
from engine.records.dtypes import BITS, numel
from engine.records.model import LayerInfo

if TYPE_CHECKING:
    import torch

WIDTH = 64
"""Values that are compared at each end of a row."""


class Stored:
    """One stored tensor as a matrix: an entry of its first axis per row, of fused experts an output channel."""

    def __init__(self, layer: LayerInfo, files: TensorFiles, values: Mapping[str, torch.Tensor] | None) -> None:
        self.layer, self.name, self.shape = layer, stored_name(layer), layer.shape
        self.columns = self._columns()
        self.rows = numel(self.shape) // self.columns if self.columns else 0
        self._files = files
        self._value = (values or {}).get(self.name)
        self._whole: torch.Tensor | None = None

    @property
    def readable(self) -> bool:
        """Whether there are values to compare; codes of a quantized weight tell nothing without being decoded."""
        return self._value is not None or not self.layer.scheme

    def _columns(self) -> int:
        if len(self.shape) < 2:
            return 1
        if len(self.shape) == 3 and self.layer.kind == "experts":
            return self.shape[2]
        return numel(self.shape[1:])

    def values(self, first: int, count: int) -> torch.Tensor:
        """So many elements from element ``first`` on, in row-major order."""
        if self._value is not None:
            return self._value.reshape(-1)[first : first + count]
        if self._whole is not None:
            return self._whole[first : first + count]
        tensor = self.layer.tensor
        if tensor.strides is not None:
            raw = self._files.read(tensor)
            self._whole = from_bytes(raw, tensor.dtype, (numel(tensor.shape),), self.name)
            return self._whole[first : first + count]
        size = BITS[tensor.dtype] // 8
        buffer = np.empty(count * size, np.uint8)
        self._files.read_into(tensor, first * size, buffer)
        return from_bytes(buffer, tensor.dtype, (count,), self.name)

    def row(self, number: int) -> torch.Tensor:
        """One whole row."""
        return self.values(number * self.columns, self.columns)


def spots(total: int, width: int = WIDTH) -> list[tuple[int, int]]:
    """(first, count) of stretches at the start, the middle and the end of ``total`` elements."""
    width = min(width, total)
    return sorted({(first, width) for first in (0, (total - width) // 2, total - width)}) if total else []


def same_at(stored: Stored, flat: torch.Tensor) -> bool:
    """Whether a flat tensor of the same number of elements agrees at a few stretches."""
    return all(same(stored.values(first, count), flat[first : first + count]) for first, count in spots(flat.numel()))


def same(stored: torch.Tensor, found: torch.Tensor) -> bool:
    """Bit for bit the same after the type is converted as on loading."""
    import torch

    return torch.equal(bits(stored.to(found.dtype)), bits(found.contiguous()))


def bits(value: torch.Tensor) -> torch.Tensor:
    """The tensor as integers of its size: NaN equals itself."""
    import torch

    types = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    value = torch.view_as_real(value).contiguous() if value.is_complex() else value
    return value.detach().view(types[value.element_size()])
