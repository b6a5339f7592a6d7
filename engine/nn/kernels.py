"""torch's products of bfloat16 activations with stored integers, on the CPU.

Found by trying on an AMD CPU with avx512_bf16 and torch 2.13: both are several times faster than decoding for few rows
of bfloat16, and far slower in float32 and float16, for which torch has no vector code here; so they take bfloat16 only.
"""

from typing import Protocol

import torch

from engine.nn.storage import QuantizedModule, bytes_of
from engine.schemes import family_of, parse_scheme
from engine.schemes.scaled import ScaledFamily

TILE = 64
"""Weight rows that torch's 4-bit layout interleaves: pieces of a multiple of it are packed one by one."""
_ROWS = 256
"""Rows of 8-bit codes turned to two's complement at a time; they stay in the cache until they are multiplied."""


class Kernel(Protocol):
    """One way to multiply by stored codes. ``nbytes`` is what it holds beside them."""

    name: str
    nbytes: int

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        """Whether it computes what this module stores."""
        ...

    def prepare(self, module: QuantizedModule) -> None:
        """Take what it needs from the module."""
        ...

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, in) bfloat16 to (rows, out) bfloat16, without bias."""
        ...


class Int8Kernel:
    """``_weight_int8pack_mm``: int8 codes (out, in) and a bfloat16 scale per row. Copies no codes.

    Packed codes are ``q + 128``; their sign bit is flipped block by block, in scratch memory of one call.
    """

    name = "int8pack"

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        scheme, codes = parse_scheme(module.scheme or "keep"), module.stored()["codes"]
        plain = codes.dtype in (torch.int8, torch.int32) and codes.device.type == "cpu"
        per_channel = scheme.family == "int" and scheme.granularity == "channel" and scheme.symmetric
        # The kernel reads 16 columns at once and is asked for whole ones.
        return per_channel and scheme.bits == 8 and plain and module.shape[1] % 16 == 0

    def prepare(self, module: QuantizedModule) -> None:
        stored = module.stored()
        self._flip = stored["codes"].dtype == torch.int32
        self._codes = bytes_of(stored["codes"]).view(tuple(module.shape))
        self._scale = stored["scale"].reshape(-1).to(torch.bfloat16)
        self.nbytes = self._scale.nbytes

    def run(self, x: torch.Tensor) -> torch.Tensor:
        if not self._flip:
            return torch.ops.aten._weight_int8pack_mm(x, self._codes.view(torch.int8), self._scale)
        out = x.new_empty(x.shape[0], self._codes.shape[0])
        scratch = torch.empty(_ROWS, self._codes.shape[1], dtype=torch.uint8)
        for first in range(0, self._codes.shape[0], _ROWS):
            codes = self._codes[first : first + _ROWS]
            signed = torch.bitwise_xor(codes, 0x80, out=scratch[: len(codes)]).view(torch.int8)
            part = slice(first, first + len(codes))
            out[:, part] = torch.ops.aten._weight_int8pack_mm(x, signed, self._scale[part])
        return out


class Int4Kernel:
    """``_weight_int4pack_mm_for_cpu``: ``w = (u - 8) * s + b`` with ``u = q + 8`` in a layout of its own.

    That layout is a second copy of the codes, half a byte a weight; ``nbytes`` has it.
    """

    name = "int4pack"

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        scheme, codes = parse_scheme(module.scheme or "keep"), module.stored()["codes"]
        integer = scheme.family == "int" and scheme.bits == 4 and codes.dtype == torch.int32 and codes.device.type == "cpu"
        group = scheme.granularity == "group" and scheme.group in (32, 64, 128, 256) and module.shape[1] % scheme.group == 0
        return integer and group and module.shape[0] % 16 == 0

    def prepare(self, module: QuantizedModule) -> None:
        scheme = parse_scheme(module.scheme or "keep")
        family, grouping = family_of(scheme), module.grouping
        assert isinstance(family, ScaledFamily)
        scale, zero = family.read_parameters(scheme, module.layer, grouping, module.stored_bytes())
        scales, zeros = (torch.from_numpy(p).reshape(-1, grouping.per_row).T for p in (scale, zero))
        self._affine = torch.stack([scales, -zeros * scales], -1).to(torch.bfloat16).contiguous()
        self._codes, self._group = _repacked(module), grouping.columns
        self.nbytes = self._codes.nbytes + self._affine.nbytes

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._codes, self._group, self._affine)


def _repacked(module: QuantizedModule) -> torch.Tensor:
    """The codes (low nibble first) in torch's layout, made a few rows at a time: torch wants an int32 for each code."""
    rows, cols = module.shape
    pairs = bytes_of(module.stored()["codes"]).view(rows, -1)[:, : cols // 2]
    pieces = []
    for first in range(0, rows, 8 * TILE):
        piece = pairs[first : first + 8 * TILE]
        codes = torch.stack([piece & 15, piece >> 4], -1).reshape(len(piece), cols).to(torch.int32)
        pieces.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1))
    return torch.cat(pieces)


KERNELS: tuple[type[Kernel], ...] = (Int8Kernel, Int4Kernel)
