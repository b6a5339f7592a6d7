"""The kernels' work said plainly in torch, in the model's own dtype: the reference, and the fallback.

Signatures and meaning are those of ``kernels.py``; arrays are numpy, filled in place.
"""

import numpy as np
import torch

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
BINS = 256


def _values(raw: np.ndarray, rows: int, cols: int, kind: int) -> torch.Tensor:
    """Stored bytes as a (rows, cols) tensor of their own dtype."""
    return torch.from_numpy(raw).view(DTYPES[kind])[: rows * cols].view(rows, cols)


def _grouped(values: torch.Tensor, group: int) -> torch.Tensor:
    """(rows, cols) to (rows, groups, group); a shorter last group is padded with zeros."""
    rows, cols = values.shape
    groups = -(-cols // group)
    padded = torch.nn.functional.pad(values, (0, groups * group - cols))
    return padded.view(rows, groups, group)


def row_ranges(raw, rows, cols, kind, group, low, high) -> int:
    values = _values(raw, rows, cols, kind).float()
    bad = (~torch.isfinite(values)).flatten().nonzero()
    if len(bad):
        return int(bad[0])
    groups = -(-cols // group)
    for g in range(groups):
        block = values[:, g * group : (g + 1) * group]
        low[: rows * groups].reshape(rows, groups)[:, g] = block.amin(1).numpy()
        high[: rows * groups].reshape(rows, groups)[:, g] = block.amax(1).numpy()
    return -1


def _count(values: torch.Tensor, bin_scale: float, counts: np.ndarray) -> None:
    bins = (values.float() * float(bin_scale) + 128).clamp(0, 255).to(torch.int64)
    counts[0] += torch.bincount(bins.flatten(), minlength=BINS).numpy()


def _measure(x: torch.Tensor, decoded: torch.Tensor, bin_scale: float, sums, counts) -> None:
    error = x.double() - decoded.double()
    sums[0] += float(x.double().square().sum())
    sums[1] += float(error.square().sum())
    sums[2] = max(sums[2], float(error.abs().max()))
    _count(x, bin_scale, counts[0])
    _count(decoded, bin_scale, counts[1])


def _parameters(scale, zero, k0, rows, groups, dtype) -> tuple[torch.Tensor, torch.Tensor]:
    chunk = slice(k0, k0 + rows * groups)
    s = torch.from_numpy(scale[chunk].copy()).to(dtype).view(rows, groups, 1)
    z = torch.from_numpy(zero[chunk].copy()).to(dtype).view(rows, groups, 1)
    return s, z


def encode_rows(raw, rows, cols, kind, group, scale, zero, k0, bits, round_to, row_bytes, out, bin_scale, sums, counts) -> None:
    dtype = DTYPES[round_to]
    x = _values(raw, rows, cols, kind)
    s, z = _parameters(scale, zero, k0, rows, -(-cols // group), dtype)
    offset = 1 << (bits - 1)
    t = _grouped(x.to(dtype), group) / s + z
    codes = torch.round(t.clamp(-offset, offset - 1))
    decoded = ((codes - z) * s).reshape(rows, -1)[:, :cols]
    flat = t.float().reshape(rows, -1)[:, :cols]
    beyond = (flat > offset - 0.5) | (flat < -offset - 0.5)
    sums[3] += int(beyond.sum())
    _count(x[beyond], bin_scale, counts[2])
    _measure(x.float(), decoded, bin_scale, sums, counts)
    unsigned = (codes.float() + offset).to(torch.uint8).reshape(rows, -1)[:, :cols]
    out[:] = 0
    pack_rows(unsigned.contiguous().numpy(), bits, out.reshape(rows, row_bytes))


def decode_rows(packed, rows, cols, row_bytes, bits, group, scale, zero, k0, kind, out) -> None:
    dtype = DTYPES[kind]
    codes = np.empty((rows, cols), np.uint8)
    unpack_rows(packed.reshape(rows, row_bytes), bits, codes)
    s, z = _parameters(scale, zero, k0, rows, -(-cols // group), dtype)
    q = torch.from_numpy(codes.astype(np.float32) - (1 << (bits - 1))).to(dtype)
    values = ((_grouped(q, group) - z) * s).reshape(rows, -1)[:, :cols].contiguous()
    out[:] = values.view(torch.uint8).flatten().numpy()


def cast_rows(raw, rows, cols, kind, to, limit, bin_scale, out, sums, counts) -> None:
    x = _values(raw, rows, cols, kind).float()
    t = x.to(DTYPES[to])
    beyond = t.float().abs() > float(limit)
    sums[3] += int(beyond.sum())
    _count(x[beyond], bin_scale, counts[2])
    t = t.float().clamp(-float(limit), float(limit)).to(DTYPES[to])
    _measure(x, t, bin_scale, sums, counts)
    out[:] = t.contiguous().view(torch.uint8).flatten().numpy()


def count_rows(raw, rows, cols, kind, bin_scale, counts) -> None:
    _count(_values(raw, rows, cols, kind), bin_scale, counts)


def pack_rows(codes, bits, out) -> None:
    """Least significant bit first: each code spread over its bits, then eight bits to a byte."""
    spread = np.unpackbits(codes[:, :, None], axis=2, bitorder="little", count=bits).reshape(len(codes), -1)
    dense = np.packbits(spread, axis=1, bitorder="little")
    out[:, : dense.shape[1]] = dense


def unpack_rows(packed, bits, out) -> None:
    rows, cols = out.shape
    spread = np.unpackbits(packed, axis=1, bitorder="little", count=cols * bits).reshape(rows, cols, bits)
    out[:] = np.packbits(spread, axis=2, bitorder="little")[:, :, 0]
