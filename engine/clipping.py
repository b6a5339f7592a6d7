"""How much of a weight lies beyond the range of the codes that were stored for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from engine import numerics
from engine.readers.source import TensorFiles
from engine.records.model import LayerInfo
from engine.schemes import family_of, parse_scheme
from engine.schemes.base import role_of
from engine.schemes.grouping import Grouping, Matrix, first_axis
from engine.schemes.scaled import ScaledFamily

ROUNDING = 1e-3
"""A share of weights beyond what was reported that is still put down to rounding of scales."""
BLOCK = 8 << 20


class CodeRange:
    """The range of a stored layer's codes, to be asked about some rows at a time.

    ``stored``: bytes of every part but the codes, by role.
    """

    def __init__(self, layer: LayerInfo, stored: Mapping[str, np.ndarray]) -> None:
        scheme = parse_scheme(layer.scheme or "keep")
        family, self.grouping = family_of(scheme), Grouping(Matrix.of(layer), scheme)
        self._known = isinstance(family, ScaledFamily)
        if isinstance(family, ScaledFamily):
            self._grid = family.stored_grid(scheme, layer)
            self._parameters = family.read_parameters(scheme, layer, self.grouping, stored)

    def beyond(self, first: int, w: torch.Tensor) -> int:
        """How many original weights (rows, cols; rows from ``first`` on, a chunk of the grouping) lie more than half a step
        beyond what codes can say; 0 for a family whose codes have no range."""
        if not self._known:
            return 0
        count, columns = len(w), self.grouping.columns
        scale, zero = (self.grouping.spread(p[self.grouping.span(first, count)], count) for p in self._parameters)
        if self._within(w, scale, zero):
            return 0
        scale, zero = (
            torch.from_numpy(p).reshape(count, -1).repeat_interleave(columns, 1)[:, : w.shape[1]] for p in (scale, zero)
        )
        steps = w.float() / scale + zero
        return int(((steps > float(self._grid.clip_high)) | (steps < float(self._grid.clip_low))).sum())

    def _within(self, w: torch.Tensor, scale: np.ndarray, zero: np.ndarray) -> bool:
        """Whether no weight needs to be looked at: the ends of every group are in range (scales are positive)."""
        kind = numerics.KINDS_OF_TORCH.get(str(w.dtype))
        if kind is None or not w.numel():
            return not w.numel()
        low, high = np.empty_like(scale), np.empty_like(scale)
        raw = w.contiguous().view(torch.uint8).reshape(-1).numpy()
        if numerics.backend().row_ranges(raw, *w.shape, kind, self.grouping.columns, low, high) >= 0:
            return False
        with np.errstate(all="ignore"):  # of a damaged scale
            return bool((high / scale + zero <= self._grid.clip_high).all() and (low / scale + zero >= self._grid.clip_low).all())


def clipped_share(layer: LayerInfo, stored: Mapping[str, np.ndarray], weight: torch.Tensor) -> float:
    """Share (0 to 1) of the original ``weight`` more than half a step beyond its codes' range, rounding of scales apart."""
    if not weight.numel():
        return 0.0
    codes = CodeRange(layer, stored)
    matrix = codes.grouping.matrix
    rows = weight.movedim(layer.axis, first_axis(layer)).reshape(matrix.rows, -1)
    chunks = codes.grouping.chunks(4 * matrix.cols, BLOCK)
    return sum(codes.beyond(first, rows[first : first + count]) for first, count in chunks) / weight.numel()


def representable(files: TensorFiles, layer: LayerInfo) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value that each weight of a stored layer could have been given, (rows, cols) float32."""
    scheme = parse_scheme(layer.scheme or "keep")
    family, grouping = family_of(scheme), Grouping(Matrix.of(layer), scheme)
    if not isinstance(family, ScaledFamily):
        raise TypeError(f"{layer.scheme} has no scales")
    stored = {role_of(p.name): files.read(p) for p in layer.parts[1:]}
    scale, zero = family.read_parameters(scheme, layer, grouping, stored)
    grid, shape = family.stored_grid(scheme, layer), grouping.matrix
    scale, zero = (p.reshape(shape.slices, -1, grouping.per_row) for p in (scale, zero))
    ends = [np.repeat((end - zero) * scale, grouping.height, axis=1)[:, : shape.slice_rows] for end in (grid.low, grid.high)]
    wide = [np.repeat(end.reshape(shape.rows, -1), grouping.columns, axis=1)[:, : shape.cols] for end in ends]
    return np.minimum(*wide), np.maximum(*wide)
