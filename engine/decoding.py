"""Stored layers as values: the bytes of any layer decoded, and bytes as torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import InputError
from engine.readers.source import Bytes, TensorFiles, from_rows
from engine.records.model import LayerInfo
from engine.schemes import family_of, parse_scheme
from engine.schemes.base import role_of
from engine.schemes.grouping import Matrix

if TYPE_CHECKING:
    import numpy as np
    import torch

_NAMES = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "I8": "int8", "U8": "uint8", "I16": "int16",
    "I32": "int32", "I64": "int64", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64", "C128": "complex128",
}  # fmt: skip


def stored_name(layer: LayerInfo) -> str:
    """The name of a layer's tensor, or of the weight that its parts stand for."""
    name = layer.parts[0].name
    return name.removesuffix("_packed") if layer.scheme else name


def torch_type(dtype: str, name: str) -> torch.dtype:
    """torch's type for a stored one of the tensor ``name``. Raises InputError where torch has none."""
    import torch

    if dtype not in _NAMES:
        raise InputError(f"{name}: torch has no type for {dtype} tensors.")
    return getattr(torch, _NAMES[dtype])


def from_bytes(raw: np.ndarray, dtype: str, shape: tuple[int, ...], name: str) -> torch.Tensor:
    """Bytes seen as a tensor; shares their memory. Raises InputError for a type torch does not have."""
    import torch

    kind = torch_type(dtype, name)
    return (torch.from_numpy(raw).view(kind) if raw.size else torch.empty(0, dtype=kind)).reshape(shape)


def decode_layer(files: TensorFiles, layer: LayerInfo) -> tuple[Bytes, str]:
    """All values of one layer as a reader computes them: (row-major bytes in the layer's shape, dtype)."""
    if not layer.scheme:
        return files.read(layer.tensor), layer.dtype
    scheme = parse_scheme(layer.scheme)
    decoder = family_of(scheme).decoder(scheme, layer, {role_of(p.name): files.read(p) for p in layer.parts[1:]})
    raw = decoder.decode(files.read(layer.parts[0]), 0, Matrix.of(layer).rows)
    return from_rows(raw, layer, decoder.dtype), decoder.dtype


def decoded(files: TensorFiles, layer: LayerInfo) -> torch.Tensor:
    """The same as a tensor."""
    raw, dtype = decode_layer(files, layer)
    return from_bytes(raw, dtype, layer.shape, layer.name)
