"""The kernels' work said plainly in torch, in the model's own dtype: the reference, and the fallback; on CUDA where there is one.

Signatures and meaning are those of ``kernels.py``; arrays are numpy, filled in place.
"""

import numpy as np
import torch

from engine.numerics.grids import CODEBOOK, INTEGER, TRITS, Grid

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
BINS = 256


def _values(raw: np.ndarray, rows: int, cols: int, kind: int) -> torch.Tensor:
    """Stored bytes as a (rows, cols) tensor of their own dtype."""
    return torch.from_numpy(raw).view(DTYPES[kind])[: rows * cols].to(DEVICE).view(rows, cols)


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
        low[: rows * groups].reshape(rows, groups)[:, g] = block.amin(1).cpu().numpy()
        high[: rows * groups].reshape(rows, groups)[:, g] = block.amax(1).cpu().numpy()
    return -1


def column_sums(raw, rows, cols, kind, low, high, total, magnitude) -> bool:
    values = _values(raw, rows, cols, kind).float().cpu()
    low[:] = np.minimum(low, values.amin(0).numpy())
    high[:] = np.maximum(high, values.amax(0).numpy())
    total += values.sum(0, dtype=torch.float64).numpy()
    magnitude += values.abs().sum(0, dtype=torch.float64).numpy()
    return bool(np.isfinite(low).all() and np.isfinite(high).all())


def _count(values: torch.Tensor, bin_scale: float, counts: np.ndarray) -> None:
    bins = (values.float() * float(bin_scale) + 128).clamp(0, 255).to(torch.int64)
    counts[0] += torch.bincount(bins.flatten(), minlength=BINS).cpu().numpy()


def _measure(x: torch.Tensor, decoded: torch.Tensor, bin_scale: float, sums, counts) -> None:
    error = x.double() - decoded.double()
    sums[0] += float(x.double().square().sum())
    sums[1] += float(error.square().sum())
    sums[2] = max(sums[2], float(error.abs().max()))
    _count(x, bin_scale, counts[0])
    _count(decoded, bin_scale, counts[1])


def _spread(values: np.ndarray, rows: int, groups: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(values[: rows * groups].copy()).to(DEVICE, dtype).view(rows, groups, 1)


def _on_grid(t: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (int64) and grid values (float32) nearest to ``t``."""
    t = t.float()
    if grid.form == INTEGER:
        q = torch.round(t.clamp(float(grid.low), float(grid.high)))
        return q.to(torch.int64) - grid.base, q
    values = torch.from_numpy(grid.values).to(DEVICE)
    if grid.form == CODEBOOK:
        codes = torch.searchsorted(torch.from_numpy(grid.middles).to(DEVICE), t.contiguous())
        return codes, values[codes]
    magnitudes = values[: len(values) // 2]
    magnitudes = magnitudes[torch.isfinite(magnitudes)]
    a = t.abs().clamp(max=float(grid.high)).contiguous()
    above = torch.searchsorted(magnitudes, a).clamp(1, len(magnitudes) - 1)
    to_lower, to_upper = a - magnitudes[above - 1], magnitudes[above] - a
    codes = torch.where((to_upper < to_lower) | ((to_upper == to_lower) & (above % 2 == 0)), above, above - 1)
    negative = torch.signbit(t) & ((t != 0) | grid.signed_zero)
    codes = codes | (negative.long() << (grid.bits - 1))
    return codes, values[codes]


def to_grid(values, grid, codes) -> None:
    found, nearest = _on_grid(torch.from_numpy(values).to(DEVICE), grid)
    values[:] = nearest.cpu().numpy()
    codes[:] = found.to(torch.uint8).cpu().numpy()


def _divided(x, rows, cols, group, scale, zero, divide_in) -> torch.Tensor:
    """x / s + z as (rows, groups, group), each step rounded to the dtype ``divide_in``; float32."""
    dtype, groups = DTYPES[divide_in], -(-cols // group)
    t = _grouped(x.to(dtype), group) / _spread(scale, rows, groups, dtype)
    z = _spread(zero, rows, groups, dtype)
    return (t if not z.any() else t + z).float()  # adding 0 would lose the sign of -0.0


def _decoded(q: torch.Tensor, rows, cols, scale, zero, decode_in) -> torch.Tensor:
    """(q - z) * s in float32, rounded once to the dtype ``decode_in``, as (rows, cols)."""
    groups = q.shape[1]
    values = (q - _spread(zero, rows, groups, torch.float32)) * _spread(scale, rows, groups, torch.float32)
    return values.to(DTYPES[decode_in]).reshape(rows, -1)[:, :cols]


def encode_rows(
    raw, rows, cols, kind, group, scale, zero, grid, divide_in, decode_in, row_bytes, out, bin_scale, sums, counts, joint
) -> None:
    x = _values(raw, rows, cols, kind)
    t = _divided(x, rows, cols, group, scale, zero, divide_in)
    codes, q = _on_grid(t, grid)
    flat = t.reshape(rows, -1)[:, :cols]
    beyond = (flat > float(grid.clip_high)) | (flat < float(grid.clip_low))
    sums[3] += int(beyond.sum())
    _count(x[beyond], bin_scale, counts[2])
    _measure(x.float(), _decoded(q, rows, cols, scale, zero, decode_in), bin_scale, sums, counts)
    unsigned = codes.to(torch.uint8).reshape(rows, -1)[:, :cols]
    out[: rows * row_bytes] = 0
    pack_rows(unsigned.cpu().contiguous().numpy(), grid.bits, out.reshape(rows, row_bytes))


def error_rows(raw, rows, cols, kind, group, scale, zero, grid, divide_in, decode_in, power, errors) -> None:
    x = _values(raw, rows, cols, kind)
    _, q = _on_grid(_divided(x, rows, cols, group, scale, zero, divide_in), grid)
    error = (x.float() - _decoded(q, rows, cols, scale, zero, decode_in).float()).double().abs() ** float(power)
    errors[: rows * q.shape[1]] += _grouped(error, group).sum(2).flatten().cpu().numpy()


def mean_rows(raw, rows, cols, kind, group, means) -> None:
    x = _values(raw, rows, cols, kind).double().abs()
    sums = _grouped(x, group).sum(2).cpu().numpy()
    sizes = np.minimum(group, cols - group * np.arange(sums.shape[1]))
    means[: sums.size] = (sums / sizes).ravel()


def quantile_rows(raw, rows, cols, kind, group, magnitude, first, last, low, high) -> None:
    x = _values(raw, rows, cols, kind).double()
    x = x.abs() if magnitude else x
    groups = -(-cols // group)
    for g in range(groups):
        block = x[:, g * group : (g + 1) * group]
        for share, result in ((first, low), (last, high)):
            result[g : rows * groups : groups] = torch.quantile(block, float(share), dim=1).cpu().numpy()


def key_rows(raw, rows, cols, kind, magnitude, prefix, counts) -> None:
    bits = _values(raw, rows, cols, kind).float().cpu().contiguous().view(torch.int32).numpy().astype(np.int64)
    keys = bits & 0x7FFFFFFF if magnitude else np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (keys & 0xFFFFFFFF) ^ 0x80000000
    if prefix < 0:
        counts += np.bincount((keys >> 16).ravel(), minlength=65536)
    else:
        counts += np.bincount(keys[keys >> 16 == prefix] & 0xFFFF, minlength=65536)


def half_quadratic_rows(raw, rows, cols, kind, group, scale, zero, grid, whole, iterations, power, beta, kappa) -> None:
    groups = -(-cols // group)
    x = _grouped(_values(raw, rows, cols, kind).float(), group)
    here = _grouped(torch.ones(rows, cols, device=DEVICE), group)
    count = here.sum(2, keepdim=True)
    s = _spread(scale, rows, groups, torch.float32)
    z = _spread(zero, rows, groups, torch.float32)
    low, high = float(grid.low), float(grid.high)
    best, best_z, best_s = torch.full_like(z, float("inf")), z.clone(), s.clone()
    going = torch.ones_like(z, dtype=torch.bool)
    for _ in range(iterations):
        q = torch.round((x / s + z).clamp(low, high))
        e = x - (q - z) * s
        a = e.abs()
        h = a.clamp(min=1.2e-38) ** (power - 1)
        error = (a * h * here).sum(2, keepdim=True)
        going = going & (error < best)
        if not going.any():
            break
        best, best_z, best_s = (torch.where(going, *pair) for pair in ((error, best), (z, best_z), (s, best_s)))
        kept = x - torch.sign(e) * (a - h / beta).clamp(min=0)
        if whole:
            fitted = (kept * (q - z) * here).sum(2, keepdim=True) / ((q - z) ** 2 * here).sum(2, keepdim=True).clamp(min=1e-30)
            s = torch.where(fitted > 0, fitted, s)
        else:
            z = ((q - kept / s) * here).sum(2, keepdim=True) / count
        beta *= kappa
    zero[: rows * groups] = best_z.flatten().cpu().numpy()
    scale[: rows * groups] = best_s.flatten().cpu().numpy()


def decode_rows(packed, rows, cols, row_bytes, grid, group, scales, zeros, kind, out) -> None:
    scale = scales.floats()
    zero = zeros if zeros.size else np.zeros_like(scale)
    codes = np.empty((rows, cols), np.uint8)
    unpack_rows(packed.reshape(rows, row_bytes), grid.bits, codes)
    codes ^= np.uint8(grid.flip)
    if grid.form == INTEGER:
        q = codes.astype(np.float32) + np.float32(grid.base)
    else:
        q = grid.values[np.minimum(codes, grid.values.size - 1)]
    values = _decoded(_grouped(torch.from_numpy(q).to(DEVICE), group), rows, cols, scale, zero, kind).contiguous()
    out[:] = values.cpu().view(torch.uint8).flatten().numpy()


def multiply_rows(packed, rows, cols, row_bytes, grid, group, scales, zeros, kind, x, out) -> None:
    weight = np.empty(rows * cols * DTYPES[kind].itemsize, np.uint8)
    decode_rows(packed, rows, cols, row_bytes, grid, group, scales, zeros, kind, weight)
    out[:] = _values(weight, rows, cols, kind).float().cpu().numpy() @ x.T


def cast_rows(raw, rows, cols, kind, to, limit, bin_scale, out, sums, counts) -> None:
    x = _values(raw, rows, cols, kind).float()
    t = x.to(DTYPES[to])
    beyond = t.float().abs() > float(limit)
    sums[3] += int(beyond.sum())
    _count(x[beyond], bin_scale, counts[2])
    t = t.float().clamp(-float(limit), float(limit)).to(DTYPES[to])
    _measure(x, t, bin_scale, sums, counts)
    out[:] = t.cpu().contiguous().view(torch.uint8).flatten().numpy()


def count_rows(raw, rows, cols, kind, bin_scale, counts) -> None:
    _count(_values(raw, rows, cols, kind), bin_scale, counts)


def pack_rows(codes, bits, out) -> None:
    """Least significant bit first: each code spread over its bits, then eight bits to a byte."""
    if bits == TRITS:
        padded = np.zeros((len(codes), -(-codes.shape[1] // 5) * 5), np.uint8)
        padded[:, : codes.shape[1]] = codes
        dense = (padded.reshape(len(codes), -1, 5) * _PLACES).sum(2, dtype=np.uint8)
    else:
        spread = np.unpackbits(codes[:, :, None], axis=2, bitorder="little", count=bits).reshape(len(codes), -1)
        dense = np.packbits(spread, axis=1, bitorder="little")
    out[:, : dense.shape[1]] = dense


def unpack_rows(packed, bits, out) -> None:
    rows, cols = out.shape
    if bits == TRITS:
        digits = packed[:, :, None] // _PLACES % np.uint8(3)
        out[:] = digits.reshape(rows, -1)[:, :cols]
        return
    spread = np.unpackbits(packed, axis=1, bitorder="little", count=cols * bits).reshape(rows, cols, bits)
    out[:] = np.packbits(spread, axis=2, bitorder="little")[:, :, 0]


_PLACES = np.array([1, 3, 9, 27, 81], np.uint8)


def solve_columns(w, original, factor, scale, zero, group_of, grid, divide_in, decode_in, levels, errors, losses) -> None:
    values, first, spread = (torch.from_numpy(a).to(DEVICE) for a in (w, original, factor))
    for j in range(len(w)):
        s, z = (torch.from_numpy(p[group_of[j]].copy()).to(DEVICE) for p in (scale, zero))
        dtype = DTYPES[divide_in]
        t = (values[j].to(dtype) / s.to(dtype)) + z.to(dtype)
        _, q = _on_grid(t.float(), grid)
        decoded = ((q - z) * s).to(DTYPES[decode_in]).float()
        losses[j] = float((values[j] - decoded).square().sum())
        e = first[j] - decoded
        values[j] = decoded
        values[j + 1 :] += spread[j, j + 1 :, None] * e
        levels[j], errors[j] = q.cpu().numpy(), e.cpu().numpy()
    w[:] = values.cpu().numpy()


def weighted_words(words, first) -> np.uint64:
    with np.errstate(over="ignore"):
        z = (np.arange(words.size, dtype=np.uint64) + np.uint64(first + 1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (words * ((z ^ (z >> np.uint64(31))) | np.uint64(1))).sum(dtype=np.uint64)


def compare(values, others) -> tuple[float, float, float]:
    wide, error = values.astype(np.float64), values.astype(np.float64) - others
    return float(wide @ wide), float(error @ error), float(np.abs(error).max(initial=0.0))
