"""One quantized weight read back from disk, some rows at a time, so that the largest takes little memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine import numerics
from engine.certifying import second_reader
from engine.clipping import CodeRange
from engine.decoding import from_bytes
from engine.readers.source import Bytes, TensorFiles
from engine.records.dtypes import BITS
from engine.records.model import LayerInfo, TensorInfo
from engine.schemes import family_of, parse_scheme
from engine.schemes.grouping import first_axis

BLOCK = 1 << 20
"""Bytes of a piece's values in float32: what is made of them stays in the processor's cache."""
PIECE = 1 << 17
"""Weights compared at once: they stay in the processor's cache."""


@dataclass(slots=True)
class Readback:
    """What a weight decodes to, and what it lost against its source where there is one.

    ``signal`` and ``noise`` are sums of squares, ``largest`` the largest error, ``clipped`` the share (0 to 1) of the source's
    weights beyond the codes' range; ``agrees`` is None where there is no second reader.
    """

    finite: bool = True
    agrees: bool | None = None
    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    clipped: float = 0.0

    def compare(self, weight: torch.Tensor, decoded: torch.Tensor) -> None:
        """Take in some weights of the source and what they became."""
        kernels = numerics.backend()
        for w, other in zip(weight.reshape(-1).split(PIECE), decoded.reshape(-1).split(PIECE), strict=True):
            power, error, most = kernels.compare(w.float().numpy(), other.float().numpy())
            self.signal, self.noise, self.largest = self.signal + power, self.noise + error, max(self.largest, float(most))


def read_back(layer: LayerInfo, stored: second_reader.Stored, original: LayerInfo | None, floats: TensorFiles) -> Readback:
    """Decode a layer from the bytes of its parts, with two readers where there are two, and compare it with ``original``.

    ``stored``: role to (dtype as stored, bytes). ``original`` has the layer's shape. Raises DataError for a source that is gone.
    """
    scheme = parse_scheme(layer.scheme or "keep")
    parts = {role: raw.numpy() for role, (_, raw) in stored.items() if role != "codes"}
    codes = CodeRange(layer, parts)
    matrix, decoder = codes.grouping.matrix, family_of(scheme).decoder(scheme, layer, parts)
    source = _Rows(replace(original, axis=layer.axis, kind=layer.kind), matrix.cols, floats) if original else None
    found, beyond = Readback(), 0
    for first, count in codes.grouping.chunks(4 * matrix.cols, BLOCK):
        ends = slice(first * decoder.codes_row_bytes, (first + count) * decoder.codes_row_bytes)
        raw = decoder.decode(stored["codes"][1].numpy()[ends], first, count)
        decoded = from_bytes(raw, decoder.dtype, (count, matrix.cols), layer.name)
        if decoded.numel() and not all(map(torch.isfinite, torch.aminmax(decoded))):
            found.finite = False
        again = second_reader.decode_rows(scheme, (matrix.rows, matrix.cols), stored, first, count, matrix.slices)
        if again is not None:
            found.agrees = found.agrees is not False and _same_bits(again, decoded)
        if source is not None:
            weight = source.take(first, count)
            found.compare(weight, decoded)
            beyond += codes.beyond(first, weight)
    found.clipped = beyond / max(matrix.rows * matrix.cols, 1)
    return found


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two readers agree: bit for bit, signs of zeros too."""
    if a.dtype != b.dtype:
        return False
    return np.array_equal(_bits(a), _bits(b))


def _bits(values: torch.Tensor) -> np.ndarray:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy()


class _Rows:
    """A source's weight by rows of output channels: from disk as they are asked for, or as a whole where it is laid out
    otherwise."""

    def __init__(self, layer: LayerInfo, cols: int, files: TensorFiles) -> None:
        self._layer, self._cols, self._files = layer, cols, files
        by_rows = layer.axis == first_axis(layer) and layer.tensor.strides is None
        self._whole = None if by_rows else files.read_rows(layer)
        self._row_bytes = cols * BITS[layer.dtype] // 8

    def take(self, first: int, count: int) -> torch.Tensor:
        begin, size = first * self._row_bytes, count * self._row_bytes
        if self._whole is not None:
            raw = self._whole[begin : begin + size]
        else:
            raw = np.empty(size, np.uint8)
            self._files.read_into(self._layer.tensor, begin, raw)
        return from_bytes(raw, self._layer.dtype, (count, self._cols), self._layer.name)


def same_as_source(tensor: TensorInfo, files: TensorFiles, before: TensorInfo, floats: TensorFiles) -> bool:
    """Whether a tensor that was kept is its source's: to the byte, or rounded and held within range where it became a half."""
    if tensor.dtype == before.dtype:
        return all(np.array_equal(a, b) for a, b in zip(_pieces(tensor, files), _pieces(before, floats), strict=True))
    for raw, other in zip(_pieces(tensor, files), _pieces(before, floats), strict=True):
        found = from_bytes(raw, tensor.dtype, (-1,), tensor.name)
        expected = from_bytes(other, before.dtype, (-1,), before.name)
        most = torch.finfo(found.dtype).max
        if not torch.equal(found, expected.float().clamp(-most, most).to(found.dtype)):
            return False
    return True


def _pieces(tensor: TensorInfo, files: TensorFiles) -> Iterator[Bytes]:
    """A tensor's bytes, ``BLOCK`` values at a time; as a whole where strides lay them out."""
    whole = files.read(tensor) if tensor.strides is not None else None
    size = BLOCK * BITS[tensor.dtype] // 8
    for start in range(0, tensor.nbytes, size):
        end = min(start + size, tensor.nbytes)
        if whole is not None:
            yield whole[start:end]
            continue
        buffer = np.empty(end - start, np.uint8)
        files.read_into(tensor, start, buffer)
        yield buffer
