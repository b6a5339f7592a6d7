"""How much of a weight lies beyond the range of the codes that were stored for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from engine.readers.source import TensorFiles
from engine.records.model import LayerInfo
from engine.schemes import family_of, parse_scheme
from engine.schemes.base import role_of
from engine.schemes.grouping import Grouping, Matrix, first_axis
from engine.schemes.scaled import ScaledFamily

ROUNDING = 1e-3
"""A share of weights beyond what was reported that is still put down to rounding of scales."""
BLOCK = 8 << 20


def clipped_share(layer: LayerInfo, stored: Mapping[str, np.ndarray], weight: torch.Tensor) -> float:
    """Share (0 to 1) of the original ``weight`` more than half a step beyond its codes' range, rounding of scales apart.

    ``stored``: bytes of every part but the codes, by role.
    """
    scheme = parse_scheme(layer.scheme or "keep")
    family, grouping = family_of(scheme), Grouping(Matrix.of(layer), scheme)
    if not isinstance(family, ScaledFamily) or not weight.numel():
        return 0.0
    grid = family.stored_grid(scheme, layer)
    parameters = family.read_parameters(scheme, layer, grouping, stored)
    rows = weight.movedim(layer.axis, first_axis(layer)).reshape(grouping.matrix.rows, -1)
    beyond = 0
    for first, count in grouping.chunks(4 * grouping.matrix.cols, BLOCK):
        w = rows[first : first + count].float()
        here = (grouping.spread(p[grouping.span(first, count)], count) for p in parameters)
        scale, zero = (
            torch.from_numpy(p).reshape(count, -1).repeat_interleave(grouping.columns, 1)[:, : w.shape[1]] for p in here
        )
        steps = w / scale + zero
        beyond += int(((steps > float(grid.clip_high)) | (steps < float(grid.clip_low))).sum())
    return beyond / weight.numel()


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
