"""A second reader of quantized weights: plain torch after the formats' own specifications, sharing no code with what wrote them.

Sources: compressed-tensors 0.20 (packed integers, float-quantized), OCP MX v1.0 (E8M0 scales, E2M1), NVIDIA's NVFP4. Formats
without a specification of their own (codebooks, ternary, MXFP6) have no second reader.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.records.scheme import Scheme

DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I8": torch.int8, "U8": torch.uint8, "I32": torch.int32,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)

Stored = Mapping[str, tuple[str, torch.Tensor]]
"""Role to (dtype as stored, bytes)."""


def decode(scheme: Scheme, shape: tuple[int, int], stored: Stored, slices: int = 1) -> torch.Tensor | None:
    """The weight (rows, cols) in the type in which readers compute; None for a format or storage that is not known here.

    ``slices``: fused experts are so many matrices one under the other.
    """
    values = _codes(scheme, shape, stored)
    if values is None or slices != 1 or "scale_scale" in stored:
        return None
    if scheme.family == "int":
        return _affine(scheme, values, stored)
    if scheme.family in ("fp8_e4m3", "fp8_e5m2"):
        scale = _typed(stored["scale"])
        return values.to(scale.dtype) * _wide(scale, scheme, shape)
    if scheme.family in ("mxfp4", "mxfp8", "mxfp8_e5m2"):
        exponents = stored["scale"][1].to(torch.int32) - 127
        power = torch.ldexp(torch.ones(exponents.shape), exponents)
        return (values * _wide(power, scheme, shape)).bfloat16()
    if scheme.family == "nvfp4":
        local = _typed(stored["scale"]).float() / _typed(stored["global_scale"])
        return (values * _wide(local, scheme, shape)).bfloat16()
    return None


def decode_rows(
    scheme: Scheme, shape: tuple[int, int], stored: Stored, first: int, count: int, slices: int = 1
) -> torch.Tensor | None:
    """The same of ``count`` rows from ``first`` on, a multiple of 32 and of the scheme's block, so that a large weight takes
    little memory."""
    return decode(scheme, (count, shape[1]), _some(scheme, shape, stored, first, count), slices)


def _some(scheme: Scheme, shape: tuple[int, int], stored: Stored, first: int, count: int) -> Stored:
    """The stored bytes of some rows; a zero point of 32-bit words is packed along the rows."""
    rows, height = shape[0], scheme.block_rows or 1
    per_tensor = scheme.granularity == "tensor"
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for role, (dtype, raw) in stored.items():
        if role == "codes":
            lines, begin, end = rows, first, first + count
        elif role not in ("scale", "zero_point") or per_tensor:
            found[role] = (dtype, raw)
            continue
        elif role == "zero_point" and dtype == "I32":
            lines, begin, end = (-(-n * scheme.bits // 32) for n in (rows, first, first + count))
        else:
            lines, begin, end = (-(-n // height) for n in (rows, first, first + count))
        width = raw.numel() // lines
        found[role] = (dtype, raw.reshape(-1)[begin * width : end * width])
    return found


def _affine(scheme: Scheme, codes: torch.Tensor, stored: Stored) -> torch.Tensor | None:
    scale = _typed(stored["scale"])
    shape = (codes.shape[0], codes.shape[1])
    if "zero_point" in stored:
        dtype, raw = stored["zero_point"]
        if dtype == "I8":
            zero = raw.view(torch.int8).float()
        elif dtype == "I32":
            groups = raw.numel() // 4 // -(-shape[0] * scheme.bits // 32)
            words = raw.view(torch.int32).view(-1, groups).T.reshape(-1)
            packed = _unpacked(words.view(torch.uint8).view(groups, -1), shape[0], scheme.bits)
            zero = (packed.T - 2 ** (scheme.bits - 1)).reshape(-1)
        else:
            return None
        codes = codes - _wide(zero, scheme, shape)
    return codes.to(scale.dtype) * _wide(scale, scheme, shape)


def _codes(scheme: Scheme, shape: tuple[int, int], stored: Stored) -> torch.Tensor | None:
    """The numbers that codes stand for, float32 (rows, cols)."""
    dtype, raw = stored["codes"]
    rows, cols = shape
    if scheme.family == "int" and dtype == "I8":
        return raw.view(torch.int8).view(shape).float()
    if scheme.family == "int" and dtype == "I32":
        return _unpacked(raw.view(rows, -1), cols, scheme.bits).sub_(2 ** (scheme.bits - 1))
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return raw.view(DTYPES[dtype]).view(shape).float()
    if scheme.family in ("mxfp4", "nvfp4") and dtype == "U8":
        pairs = torch.stack([raw & 15, raw >> 4], -1).view(rows, -1)[:, :cols]
        return torch.tensor(E2M1)[pairs.long()]
    return None


def _unpacked(raw: torch.Tensor, count: int, bits: int) -> torch.Tensor:
    """Unsigned codes from bytes (rows, n): least significant bits first, without gaps. Float32 (rows, count)."""
    if 8 % bits == 0:
        wide = torch.empty(*raw.shape, 8 // bits)
        for place in range(8 // bits):
            wide[..., place] = (raw >> (place * bits)) & (2**bits - 1)
        return wide.view(len(raw), -1)[:, :count]
    found = torch.zeros(len(raw), count, dtype=torch.int32)
    first = torch.arange(count) * bits
    for bit in range(bits):
        place = first + bit
        found |= ((raw[:, place // 8] >> (place % 8).to(torch.uint8)) & 1).to(torch.int32) << bit
    return found.float()


def _typed(part: tuple[str, torch.Tensor]) -> torch.Tensor:
    return part[1].view(DTYPES[part[0]])


def _wide(values: torch.Tensor, scheme: Scheme, shape: tuple[int, int]) -> torch.Tensor:
    """One value of every group, spread over the weights that share it."""
    rows, cols = shape
    if scheme.granularity == "tensor":
        return values.reshape(1, 1)
    width = min(scheme.group or cols, cols)
    height = scheme.block_rows or 1
    tall = values.reshape(-(-rows // height), -(-cols // width)).repeat_interleave(height, 0)[:rows]
    return tall if width == cols else tall.repeat_interleave(width, 1)[:, :cols]
