"""Weights that are in memory, read as those of files are."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from engine.readers.source import Bytes, TensorFiles
from engine.records.dtypes import BITS
from engine.records.model import LayerInfo, ModelSummary, TensorInfo


def summary_of(*layers: LayerInfo) -> ModelSummary:
    """A model of some layers that are in no file."""
    return ModelSummary("", "module", (), layers)


class MemoryFiles(TensorFiles):
    """Stored bytes of tensors by name."""

    def __init__(self, tensors: Mapping[str, Bytes]) -> None:
        super().__init__(summary_of())
        self._tensors = tensors

    def read_into(self, tensor: TensorInfo, start: int, buffer: Bytes) -> None:
        buffer[:] = self._tensors[tensor.name][start : start + buffer.size]


def sampled(files: TensorFiles, layer: LayerInfo, rows: int, wanted: int, height: int) -> tuple[LayerInfo, Bytes]:
    """About ``wanted`` of a layer's ``rows`` output channels, evenly spread, as a layer of its own.

    ``height``: channels that share a scale stay together. The layer's channels must lie one after the other.
    """
    row_bytes = layer.nbytes // rows
    blocks = max(wanted // height, 1)
    starts = np.unique(np.linspace(0, max(rows - height, 0), blocks).astype(int) // height * height)
    sizes = [min(height, rows - int(start)) for start in starts]
    raw = np.empty(sum(sizes) * row_bytes, np.uint8)
    place = 0
    for start, size in zip(starts, sizes, strict=True):
        files.read_into(layer.tensor, int(start) * row_bytes, raw[place : place + size * row_bytes])
        place += size * row_bytes
    shape = (sum(sizes), row_bytes * 8 // BITS[layer.dtype])
    tensor = replace(layer.tensor, shape=shape, nbytes=raw.size, strides=None)
    return replace(layer, kind="linear", shape=shape, axis=0, parts=(tensor,), tied=()), raw
