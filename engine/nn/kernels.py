"""Products of float activations with stored integers, on the CPU; those of integers with integers are in ``integers.py``.

torch's kernels for bfloat16 are several times faster than decoding for few rows, and far slower in float32 and float16, for
which torch has no vector code here (AMD with avx512_bf16, torch 2.13). For many rows it is faster to multiply by the codes
themselves, as exact bfloat16 numbers or, for float32 activations, with int8 products of their digits.
"""

from typing import Protocol

import torch

from engine.nn.storage import QuantizedModule, bytes_of
from engine.schemes import family_of, parse_scheme
from engine.schemes.scaled import ScaledFamily

TILE = 64
"""Weight rows that torch's 4-bit layout interleaves: pieces of a multiple of it are packed one by one."""
SCRATCH = 8 << 20
"""Bytes of scratch memory for codes on their way to a product."""
_ROWS = 256
"""Rows of 8-bit codes turned to two's complement at a time; they stay in the cache until they are multiplied."""
MOST_COLUMNS = 1 << 16
"""Columns whose products of int8 codes surely add up within int32."""


class Kernel(Protocol):
    """One way to multiply by stored codes.

    ``dtypes``: activations it takes. ``copies``: whether it holds the codes once more; ``nbytes``: what it holds beside them.
    ``quantizes``: whether it quantizes the layer's input itself.
    """

    name: str
    dtypes: tuple[torch.dtype, ...]
    copies: bool
    quantizes: bool
    nbytes: int

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        """Whether it computes what this module stores."""
        ...

    def prepare(self, module: QuantizedModule) -> None:
        """Take what it needs from the module."""
        ...

    def run(self, x: torch.Tensor) -> torch.Tensor | None:
        """x (rows, in) to (rows, out) of its type, without bias; None where these values need the reference."""
        ...


class ByteCodes:
    """8-bit integers with one scale per row or for all, as bytes (rows, columns): ``q`` itself, or packed as ``q + 128``."""

    @staticmethod
    def suits(module: QuantizedModule) -> bool:
        scheme, codes = parse_scheme(module.scheme or "keep"), module.stored()["codes"]
        whole_rows = codes.dtype == torch.int8 or (codes.dtype == torch.int32 and module.shape[1] % 4 == 0)
        plain = scheme.family == "int" and scheme.bits == 8 and scheme.variant in ("", "restricted")
        return plain and scheme.granularity in ("channel", "tensor") and whole_rows and codes.device.type == "cpu"

    def __init__(self, module: QuantizedModule) -> None:
        scheme, rows = parse_scheme(module.scheme or "keep"), module.shape[0]
        family = family_of(scheme)
        assert isinstance(family, ScaledFamily)
        found = family.read_parameters(scheme, module.layer, module.grouping, module.stored_bytes())
        self.scale, zero = (torch.from_numpy(p).reshape(-1).expand(rows).contiguous() for p in found)
        self.zero = zero.to(torch.int32) if bool(zero.any()) else None
        self.packed = module.stored()["codes"].dtype == torch.int32
        self.bytes = bytes_of(module.stored()["codes"]).view(tuple(module.shape))

    @property
    def nbytes(self) -> int:
        """What is held beside the module's own codes."""
        return self.scale.nbytes + (self.zero.nbytes if self.zero is not None else 0)

    def whole(self) -> torch.Tensor:
        """All codes in two's complement, int8 (rows, columns); a copy where they are packed."""
        return (self.bytes ^ 0x80 if self.packed else self.bytes).view(torch.int8)

    def blocks(self, rows: int):
        """(slice, int8 codes) of some rows at a time; codes of one block are gone with the next."""
        if not self.packed:
            yield slice(0, len(self.bytes)), self.bytes.view(torch.int8)
            return
        scratch = torch.empty(rows, self.bytes.shape[1], dtype=torch.uint8)
        for first in range(0, len(self.bytes), rows):
            codes = self.bytes[first : first + rows]
            signed = torch.bitwise_xor(codes, 0x80, out=scratch[: len(codes)])
            yield slice(first, first + len(codes)), signed.view(torch.int8)


class Int8Kernel:
    """``_weight_int8pack_mm``: int8 codes (out, in) and a bfloat16 scale per row."""

    name, dtypes, copies, quantizes = "int8pack", (torch.bfloat16,), False, False

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        # The kernel reads 16 columns at once and is asked for whole ones.
        symmetric = parse_scheme(module.scheme or "keep").symmetric
        return ByteCodes.suits(module) and symmetric and module.shape[1] % 16 == 0

    def prepare(self, module: QuantizedModule) -> None:
        self._codes = ByteCodes(module)
        self._scale = self._codes.scale.to(torch.bfloat16)
        self.nbytes = self._scale.nbytes + self._codes.nbytes

    def run(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(len(x), len(self._scale))
        for part, codes in self._codes.blocks(_ROWS):
            out[:, part] = torch.ops.aten._weight_int8pack_mm(x, codes, self._scale[part])
        return out


class HalfKernel:
    """Codes as bfloat16 numbers, which hold every whole number up to 256 exactly; the scale is put on the result."""

    name, dtypes, copies, quantizes = "bfloat16 codes", (torch.bfloat16,), False, False

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        return ByteCodes.suits(module)

    def prepare(self, module: QuantizedModule) -> None:
        self._codes = ByteCodes(module)
        offset = torch.zeros(len(self._codes.scale)) if self._codes.zero is None else self._codes.zero.float()
        offset = (offset + 128 if self._codes.packed else offset).to(torch.bfloat16)
        self._offset = offset[:, None] if bool(offset.any()) else None
        self.nbytes = self._codes.nbytes + offset.nbytes

    def run(self, x: torch.Tensor) -> torch.Tensor:
        stored = self._codes.bytes if self._codes.packed else self._codes.bytes.view(torch.int8)
        out = x.new_empty(len(x), len(stored))
        rows = max(SCRATCH // (2 * stored.shape[1]), 1)
        scratch = torch.empty(min(rows, len(stored)), stored.shape[1], dtype=torch.bfloat16)
        for first in range(0, len(stored), rows):
            part = slice(first, first + rows)
            codes = scratch[: len(stored[part])].copy_(stored[part])
            if self._offset is not None:
                codes.sub_(self._offset[part])
            out[:, part] = torch.nn.functional.linear(x, codes) * self._codes.scale[part]
        return out


class DigitsKernel:
    """float32 activations as whole numbers of 24 bits, whose three digits of 8 bits are multiplied by int8 codes exactly.

    What is lost is half a step of 2**-23 of a row's largest value, as little as float32 products lose by summing. (The scheme
    of Ootomo, Ozaki and Yokota 2024, "DGEMM on Integer Matrix Multiplication Unit", for one factor.)
    """

    name, dtypes, copies, quantizes = "int8 digits", (torch.float32,), False, False
    LARGEST = float(2**23 - 2**16)
    """So that the highest digit, with what the lower ones carry, is at most 127."""
    LEAST = 2.0**-100
    """Of a row's largest value, unless all are zero: its step is a normal number then."""

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        return ByteCodes.suits(module) and module.shape[1] <= MOST_COLUMNS

    def prepare(self, module: QuantizedModule) -> None:
        self._codes = ByteCodes(module)
        self.nbytes = self._codes.nbytes

    def run(self, x: torch.Tensor) -> torch.Tensor | None:
        reach = x.abs().amax(1, keepdim=True)
        if not bool(((reach == 0) | (reach >= self.LEAST) & torch.isfinite(reach)).all()):
            return None
        step = (reach.clamp_(min=self.LEAST)) / self.LARGEST
        digits = _digits((x / step).round_().to(torch.int32))
        sums = digits.sum(1, keepdim=True, dtype=torch.int32) if self._codes.zero is not None else None
        out = x.new_empty(len(x), len(self._codes.scale))
        for part, codes in self._codes.blocks(max(SCRATCH // codes_width(self._codes), 1)):
            found = int_product(digits, codes)
            if sums is not None and self._codes.zero is not None:
                found.sub_(sums * self._codes.zero[part])
            high, middle, low = found.view(3, len(x), -1)
            whole = torch.add(low, middle, alpha=256).float().add_(high, alpha=65536)
            out[:, part] = whole.mul_(self._codes.scale[part])
        return out.mul_(step)


def int_product(x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """int8 (rows, in) times int8 (out, in), summed in int32: (rows, out)."""
    return torch._int_mm(x, codes.T)  # pyright: ignore[reportPrivateImportUsage]


def codes_width(codes: ByteCodes) -> int:
    """Bytes of one row of codes."""
    return codes.bytes.shape[1]


def _digits(whole: torch.Tensor) -> torch.Tensor:
    """int32 (rows, columns) as int8 (3 * rows, columns): ``high * 65536 + middle * 256 + low``."""
    rows = len(whole)
    digits = torch.empty(3 * rows, whole.shape[1], dtype=torch.int8)
    for place in (2, 1):
        low = digits[place * rows : (place + 1) * rows].copy_(whole)
        whole = (whole - low).bitwise_right_shift_(8)
    digits[:rows] = whole
    return digits


class Int4Kernel:
    """``_weight_int4pack_mm_for_cpu``: ``w = (u - 8) * s + b`` with ``u = q + 8`` in a layout of its own, which is a copy."""

    name, dtypes, copies, quantizes = "int4pack", (torch.bfloat16,), True, False

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


WEIGHT_ONLY: tuple[type[Kernel], ...] = (Int8Kernel, HalfKernel, DigitsKernel, Int4Kernel)
