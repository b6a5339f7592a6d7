"""Fused numba kernels: rows of stored weights in, codes and measurements out, one trip through memory.

Every kernel releases the GIL and works on a chunk of rows; the caller runs several in its own threads.
Each row is widened to float32 in a buffer that stays in the L1 cache. Arithmetic is carried out in the
*model's* dtype (each operation rounded to bfloat16 or float16), because that is what
compressed-tensors does and the stored bytes must agree with it. ``reference.py`` says the same in torch.

Codes are unsigned bytes; what they stand for is said by a ``Grid``. No fastmath where a byte of the result depends on it;
sums and extrema alone may be reordered. All kernels are in this one file because numba's cache notices changes of the file
that a kernel stands in, not of those it calls into.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from engine.numerics.decode import decode_rows, multiply_rows, store_row
from engine.numerics.grids import FLOAT, INTEGER, TRITS

__all__ = ["decode_rows", "multiply_rows", "store_row"]  # kernels too

BF16, F16, F32, F64 = 0, 1, 2, 3
BINS = 256

_INFINITY = np.int32(0x7F800000)
_STRIP = 512  # columns whose sums stay in the first-level cache
_EXACT = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_REORDER = _EXACT | {"fastmath": {"reassoc", "contract", "nsz", "nnan"}}


@intrinsic
def _bits_of(context, value):
    """The bits of a float32 as uint32: a view of one number."""

    def make(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), make


@intrinsic
def _float_of(context, bits):
    """The inverse of ``_bits_of``."""

    def make(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), make


@njit(inline="always", **_EXACT)
def _to_bf16(value):
    """Round to the nearest even bfloat16."""
    b = _bits_of(value)
    return _float_of((b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000))


@njit(**_EXACT)
def load_row(raw, start, n, kind, out):
    """Widen ``n`` stored values beginning at element ``start`` of ``raw`` (bytes) into float32 ``out``."""
    if kind == BF16:
        halves = raw[start * 2 : (start + n) * 2].view(np.uint16)
        bits = out.view(np.uint32)
        for i in range(n):
            bits[i] = np.uint32(halves[i]) << np.uint32(16)
    elif kind == F16:
        halves = raw[start * 2 : (start + n) * 2].view(np.uint16)
        bits = out.view(np.uint32)
        for i in range(n):
            h = np.uint32(halves[i])
            bits[i] = (h & np.uint32(0x7FFF)) << np.uint32(13)
        # Scaling by 2**112 moves the exponent bias from 15 to 127 and makes subnormals right.
        for i in range(n):
            out[i] = out[i] * np.float32(5.192296858534828e33)
        for i in range(n):
            h = np.uint32(halves[i])
            special = np.uint32(0x7F800000) if (h & np.uint32(0x7C00)) == np.uint32(0x7C00) else np.uint32(0)
            bits[i] = bits[i] | special | ((h & np.uint32(0x8000)) << np.uint32(16))
    elif kind == F32:
        floats = raw[start * 4 : (start + n) * 4].view(np.float32)
        for i in range(n):
            out[i] = floats[i]
    else:
        doubles = raw[start * 8 : (start + n) * 8].view(np.float64)
        for i in range(n):
            out[i] = np.float32(doubles[i])


@njit(**_EXACT)
def round_row(values, n, kind):
    """Round float32 ``values`` in place to the nearest even bfloat16 or float16 (float32: nothing to do)."""
    bits = values.view(np.uint32)
    if kind == BF16:
        for i in range(n):
            b = bits[i]
            b = b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))
            bits[i] = b & np.uint32(0xFFFF0000)
    elif kind == F16:
        for i in range(n):
            v = values[i]
            b = bits[i]
            b = b + np.uint32(0xFFF) + ((b >> np.uint32(13)) & np.uint32(1))
            bits[i] = b & np.uint32(0xFFFFE000)
            # Below 2**-14 float16 is a fixed grid of 2**-24, which adding 0.75 rounds to.
            if abs(v) < np.float32(6.103515625e-05):
                values[i] = np.copysign((abs(v) + np.float32(0.75)) - np.float32(0.75), v)


@njit(**_EXACT)
def row_ranges(raw, rows, cols, kind, group, low, high):
    """Minimum and maximum of every group of ``group`` values; returns the first non-finite element or -1.

    ``low`` and ``high`` are float32 of ``rows * ceil(cols / group)``. A row's last group may be shorter.
    """
    groups = (cols + group - 1) // group
    buffer = np.empty(cols, np.float32)
    bits = buffer.view(np.int32)
    lows = low.view(np.int32)
    highs = high.view(np.int32)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, buffer)
        for g in range(groups):
            lo, hi = _extrema(bits[g * group : (g + 1) * group])
            if hi >= _INFINITY or lo <= ~_INFINITY:
                for i in range(cols):
                    if bits[i] & _INFINITY == _INFINITY:
                        return r * cols + i
            lows[r * groups + g] = _ordered(lo)
            highs[r * groups + g] = _ordered(hi)
    return -1


@njit(**_EXACT)
def column_sums(raw, rows, cols, kind, low, high, total, magnitude):
    """Take rows into each column's minimum and maximum (float32), sum and sum of magnitudes (float64); whether all are finite."""
    buffer = np.empty(_STRIP, np.float32)
    bits = buffer.view(np.int32)
    lows, highs = low.view(np.int32), high.view(np.int32)
    for i in range(cols):
        lows[i], highs[i] = _ordered(lows[i]), _ordered(highs[i])
    for start in range(0, cols, _STRIP):
        width = min(_STRIP, cols - start)
        own, size = total[start : start + width], magnitude[start : start + width]
        least, most = lows[start : start + width], highs[start : start + width]
        for r in range(rows):
            load_row(raw, r * cols + start, width, kind, buffer)
            for i in range(width):
                value = np.float64(buffer[i])
                own[i] += value
                size[i] += abs(value)
            for i in range(width):
                b = _ordered(bits[i])
                least[i] = min(least[i], b)
                most[i] = max(most[i], b)
    finite = True
    for i in range(cols):
        finite &= lows[i] > ~_INFINITY and highs[i] < _INFINITY
        lows[i], highs[i] = _ordered(lows[i]), _ordered(highs[i])
    return finite


@njit(**_EXACT)
def _ordered(bits):
    """Map float32 bits to int32 so that integers order as the floats do; its own inverse."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(**_EXACT)
def _extrema(bits):
    """Least and greatest of float32 values given as bits: integer minima vectorize, float ones do not."""
    lo = np.int32(0x7FFFFFFF)
    hi = np.int32(-0x80000000)
    for i in range(bits.size):
        v = _ordered(bits[i])
        lo = min(lo, v)
        hi = max(hi, v)
    return lo, hi


@njit(**_REORDER)
def _energy(values, n, k):
    """Sum of squares; values are scaled by ``k`` first, since the square of a float32 may leave its range either way."""
    total = np.float32(0)
    for i in range(n):
        scaled = values[i] * k
        total += scaled * scaled
    return np.float64(total) / (np.float64(k) * np.float64(k))


@njit(**_EXACT)
def _subtract(values, decoded, n):
    """Leave ``values - decoded`` in ``decoded``; returns the bits of the largest magnitude."""
    for i in range(n):
        decoded[i] = values[i] - decoded[i]
    bits = decoded.view(np.int32)
    worst = np.int32(0)
    for i in range(n):
        worst = max(worst, bits[i] & np.int32(0x7FFFFFFF))
    return worst


@njit(**_EXACT)
def _count_bins(values, n, k, index, counts):
    """Add ``values`` to 256 bins over [-128/k, 128/k]; interleaved tables avoid waiting for a store."""
    for i in range(n):
        t = values[i] * k + np.float32(128)
        index[i] = np.uint8(np.int32(min(max(t, np.float32(0)), np.float32(255))))
    eights = index[: n // 8 * 8].view(np.uint64)
    low = np.uint64(255)
    for i in range(eights.size):
        e = eights[i]
        counts[0, e & low] += 1
        counts[1, (e >> np.uint64(8)) & low] += 1
        counts[2, (e >> np.uint64(16)) & low] += 1
        counts[3, (e >> np.uint64(24)) & low] += 1
        counts[4, (e >> np.uint64(32)) & low] += 1
        counts[5, (e >> np.uint64(40)) & low] += 1
        counts[6, (e >> np.uint64(48)) & low] += 1
        counts[7, e >> np.uint64(56)] += 1
    for i in range(n // 8 * 8, n):
        counts[0, index[i]] += 1


@njit(**_EXACT)
def _pack_row(codes, n, bits, out):
    """Codes to bytes, least significant bit first, dense across words (``bits`` of 8 copies; ``TRITS``: five to a byte)."""
    if bits == 8:
        for i in range(n):
            out[i] = codes[i]
    elif bits == TRITS:
        fives = codes[: n // 5 * 5].reshape(n // 5, 5)
        for at in range(n // 5):
            c = fives[at]
            out[at] = np.uint8(c[0] + 3 * c[1] + 9 * c[2] + 27 * c[3] + 81 * c[4])
        byte = np.uint8(0)
        for i in range(n - 1, n // 5 * 5 - 1, -1):
            byte = np.uint8(byte * 3 + codes[i])
        if n % 5 > 0:
            out[n // 5] = byte
    elif bits == 4 and n % 2 == 0:
        pairs = codes[:n].view(np.uint16)
        for i in range(n // 2):
            out[i] = np.uint8((pairs[i] & np.uint16(15)) | (pairs[i] >> np.uint16(4)))
    else:
        # Eight codes at a time: neighbours join into 16-, 32- and 64-bit lanes, which leaves 8 * bits bits.
        eights = codes[: n // 8 * 8].view(np.uint64)
        b = np.uint64(bits)
        at = 0
        for i in range(eights.size):
            w = eights[i]
            w = (w & np.uint64(0x00FF00FF00FF00FF)) | (((w >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)) << b)
            w = (w & np.uint64(0x0000FFFF0000FFFF)) | (((w >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)) << (b + b))
            w = (w & np.uint64(0xFFFFFFFF)) | ((w >> np.uint64(32)) << (b << np.uint64(2)))
            for _ in range(bits):
                out[at] = np.uint8(w & np.uint64(255))
                w >>= np.uint64(8)
                at += 1
        word = np.uint64(0)
        have = 0
        for i in range(n // 8 * 8, n):
            word |= np.uint64(codes[i]) << np.uint64(have)
            have += bits
            while have >= 8:
                out[at] = np.uint8(word & np.uint64(255))
                at += 1
                word >>= np.uint64(8)
                have -= 8
        if have > 0:
            out[at] = np.uint8(word & np.uint64(255))


@njit(**_EXACT)
def _unpack_row(packed, n, bits, codes):
    """Inverse of ``_pack_row``."""
    if bits == 8:
        for i in range(n):
            codes[i] = packed[i]
    elif bits == TRITS:
        for at in range(n // 5):
            byte = np.uint32(packed[at])
            thirds, ninths, twenty_sevenths = byte // np.uint32(3), byte // np.uint32(9), byte // np.uint32(27)
            codes[5 * at] = np.uint8(byte - np.uint32(3) * thirds)
            codes[5 * at + 1] = np.uint8(thirds - np.uint32(3) * ninths)
            codes[5 * at + 2] = np.uint8(ninths - np.uint32(3) * twenty_sevenths)
            codes[5 * at + 3] = np.uint8(twenty_sevenths % np.uint32(3))
            codes[5 * at + 4] = np.uint8(twenty_sevenths // np.uint32(3) % np.uint32(3))
        last = packed[n // 5] if n % 5 else np.uint8(0)
        for i in range(n - n % 5, n):
            codes[i] = last % np.uint8(3)
            last = last // np.uint8(3)
    elif bits == 4:
        for i in range(n // 2):
            codes[2 * i] = packed[i] & np.uint8(15)
            codes[2 * i + 1] = packed[i] >> np.uint8(4)
        if n % 2 == 1:
            codes[n - 1] = packed[n // 2] & np.uint8(15)
    else:
        mask = np.uint64((1 << bits) - 1)
        step = np.uint64(bits)
        for eight in range(n // 8):  # eight codes are ``bits`` whole bytes
            word = np.uint64(0)
            for b in range(bits):
                word |= np.uint64(packed[eight * bits + b]) << np.uint64(8 * b)
            for j in range(8):
                codes[8 * eight + j] = np.uint8((word >> (step * np.uint64(j))) & mask)
        word = np.uint64(0)
        have = 0
        at = n // 8 * bits
        for i in range(n - n % 8, n):
            while have < bits:
                word |= np.uint64(packed[at]) << np.uint64(have)
                at += 1
                have += 8
            codes[i] = np.uint8(word & mask)
            word >>= np.uint64(bits)
            have -= bits


@njit(**_EXACT)
def pack_rows(codes, bits, out):
    """Pack uint8 ``codes`` (rows, cols) into zeroed bytes ``out`` (rows, row_bytes)."""
    for r in range(codes.shape[0]):
        _pack_row(codes[r], codes.shape[1], bits, out[r])


@njit(**_EXACT)
def unpack_rows(packed, bits, out):
    """Inverse of ``pack_rows``."""
    for r in range(out.shape[0]):
        _unpack_row(packed[r], out.shape[1], bits, out[r])


@njit(**_EXACT)
def _divide(x, scale, zero, k, group, cols, kind, t):
    """x / s + z into ``t``, each step rounded to the dtype ``kind``."""
    groups = (cols + group - 1) // group
    shifted = False
    for g in range(groups):
        s = scale[k + g]
        shifted = shifted or zero[k + g] != 0
        # Slices, not offsets: an index that might be negative keeps LLVM from vectorizing.
        xs = x[g * group : (g + 1) * group]
        ts = t[g * group : (g + 1) * group]
        for i in range(xs.size):
            ts[i] = xs[i] / s
    round_row(t, cols, kind)
    if shifted:
        for g in range(groups):
            z = zero[k + g]
            ts = t[g * group : (g + 1) * group]
            for i in range(ts.size):
                ts[i] = ts[i] + z
        round_row(t, cols, kind)


@njit(**_EXACT)
def _to_grid(t, n, grid, codes):
    """Replace ``t`` by the nearest values of the grid, and give their codes."""
    if grid.form == INTEGER:
        low = grid.low
        high = grid.high
        base = np.int32(grid.base)
        for i in range(n):
            q = np.rint(min(max(t[i], low), high))
            t[i] = q
            codes[i] = np.uint8(np.int32(q) - base)
    elif grid.form == FLOAT:
        _to_float_grid(t, n, grid, codes)
    elif grid.values.size == 16:
        _to_sixteen(t, n, grid.values, grid.middles, codes)
    else:
        values = grid.values
        middles = grid.middles
        for i in range(n):
            codes[i] = np.uint8(0)
        for m in range(middles.size):
            middle = middles[m]
            for i in range(n):
                codes[i] += np.uint8(1) if t[i] > middle else np.uint8(0)
        for i in range(n):
            t[i] = values[codes[i]]


@njit(**_EXACT)
def _to_sixteen(t, n, values, middles, codes):
    """The nearest of 16 levels: four levels of halving, with the numbers to compare with picked by the bits so far."""
    m0, m1, m2, m3, m4, m5, m6, m7 = (
        middles[0], middles[1], middles[2], middles[3], middles[4], middles[5], middles[6], middles[7],
    )  # fmt: skip
    m8, m9, m10, m11, m12, m13, m14 = (
        middles[8], middles[9], middles[10], middles[11], middles[12], middles[13], middles[14],
    )  # fmt: skip
    for i in range(n):
        v = t[i]
        b3 = v > m7
        second = m11 if b3 else m3
        b2 = v > second
        third = (m13 if b2 else m9) if b3 else (m5 if b2 else m1)
        b1 = v > third
        high = (m14 if b1 else m12) if b2 else (m10 if b1 else m8)
        low = (m6 if b1 else m4) if b2 else (m2 if b1 else m0)
        b0 = v > (high if b3 else low)
        code = (np.int32(8) if b3 else np.int32(0)) | (np.int32(4) if b2 else np.int32(0))
        codes[i] = np.uint8(code | (np.int32(2) if b1 else np.int32(0)) | (np.int32(1) if b0 else np.int32(0)))
    for i in range(n):
        t[i] = values[codes[i]]


@njit(**_EXACT)
def _to_float_grid(t, n, grid, codes):
    """Round to a small float: normal numbers by carrying into the kept mantissa, the rest on the fixed subnormal step."""
    bits = t.view(np.uint32)
    shift = np.uint32(23 - grid.mantissa)
    half = np.uint32((1 << (22 - grid.mantissa)) - 1)
    keep = np.uint32(0xFFFFFFFF) << shift
    high = grid.high
    normal = grid.normal
    step = normal / np.float32(1 << grid.mantissa)
    magic = step * np.float32(8388608)
    per_step = np.float32(1) / step
    # Exponent field 1 of the small float is the exponent of ``normal`` in float32.
    below = np.int32((np.int32(np.log2(normal)) + 126) << grid.mantissa)
    zero_keeps = np.uint32(0x80000000) if grid.signed_zero else np.uint32(0)
    sign_at = np.uint32(32 - grid.bits)
    sign_bit = np.uint32(1 << (grid.bits - 1))
    for i in range(n):
        sign = bits[i] & (np.uint32(0x80000000) if t[i] != 0 else zero_keeps)
        t[i] = min(abs(t[i]), high)
        b = bits[i]
        b = (b + half + ((b >> shift) & np.uint32(1))) & keep
        small = (t[i] + magic) - magic
        is_small = t[i] < normal
        normal_code = np.int32(b >> shift) - below
        small_code = np.int32(small * per_step)
        codes[i] = np.uint8(np.uint32(small_code if is_small else normal_code) | ((sign >> sign_at) & sign_bit))
        bits[i] = b
        t[i] = small if is_small else t[i]
        bits[i] = bits[i] | sign


@njit(**_EXACT)
def to_grid(values, grid, codes):
    """Replace values by the nearest of the grid, and give their codes."""
    _to_grid(values, values.size, grid, codes)


@njit(**_EXACT)
def _count_clipped(x, t, cols, grid, bin_scale, counts):
    """Count values lying more than half a step outside the grid, and add them to their bins."""
    low = grid.clip_low
    high = grid.clip_high
    total = 0
    for first in range(0, cols, 256):
        ts = t[first : first + 256]
        xs = x[first : first + 256]
        beyond = np.int32(0)
        for i in range(ts.size):
            beyond += np.int32(1) if (ts[i] > high) | (ts[i] < low) else np.int32(0)
        if beyond > 0:  # rare, so only this block is looked at again
            total += beyond
            for i in range(ts.size):
                if ts[i] > high or ts[i] < low:
                    b = xs[i] * bin_scale + np.float32(128)
                    counts[0, np.uint8(np.int32(min(max(b, np.float32(0)), np.float32(255))))] += 1
    return total


@njit(**_EXACT)
def _multiply(values, scale, zero, k, group, cols, kind):
    """Grid values as a reader of the file sees them: ``(q - z) * s`` rounded to dtype ``kind``, in place."""
    for g in range((cols + group - 1) // group):
        s = scale[k + g]
        z = zero[k + g]
        vs = values[g * group : (g + 1) * group]
        for i in range(vs.size):
            vs[i] = (vs[i] - z) * s
    round_row(values, cols, kind)


@njit(**_EXACT)
def _integers_bf16(x, scale, zero, k, group, cols, grid, codes, decoded):
    """``_divide``, ``_to_grid`` and ``_multiply`` in one loop, for integers in bfloat16; returns how many were clipped."""
    low = grid.low
    high = grid.high
    clip_low = grid.clip_low
    clip_high = grid.clip_high
    base = np.int32(grid.base)
    total = 0
    for g in range((cols + group - 1) // group):
        s = scale[k + g]
        z = zero[k + g]
        xs = x[g * group : (g + 1) * group]
        cs = codes[g * group : (g + 1) * group]
        ds = decoded[g * group : (g + 1) * group]
        beyond = np.int32(0)
        if z == 0:
            for i in range(xs.size):
                t = _to_bf16(xs[i] / s)
                beyond += np.int32(1) if (t > clip_high) | (t < clip_low) else np.int32(0)
                q = np.rint(min(max(t, low), high))
                cs[i] = np.uint8(np.int32(q) - base)
                ds[i] = _to_bf16(q * s)
        else:
            for i in range(xs.size):
                t = _to_bf16(_to_bf16(xs[i] / s) + z)
                beyond += np.int32(1) if (t > clip_high) | (t < clip_low) else np.int32(0)
                q = np.rint(min(max(t, low), high))
                cs[i] = np.uint8(np.int32(q) - base)
                ds[i] = _to_bf16((q - z) * s)
        total += beyond
    return total


@njit(**_EXACT)
def _count_pairs(x, t, n, k, pairs, joint):
    """Add pairs of bins (float, decoded) to a table of 256 x 256: one increment for two histograms."""
    low = np.float32(0)
    high = np.float32(255)
    middle = np.float32(128)
    for i in range(n):
        a = np.int32(min(max(x[i] * k + middle, low), high))
        b = np.int32(min(max(t[i] * k + middle, low), high))
        pairs[i] = np.uint16((a << np.int32(8)) | b)
    fours = pairs[: n // 4 * 4].view(np.uint64)
    mask = np.uint64(0xFFFF)
    one = np.uint32(1)
    for i in range(fours.size):
        e = fours[i]
        joint[e & mask] += one
        joint[(e >> np.uint64(16)) & mask] += one
        joint[(e >> np.uint64(32)) & mask] += one
        joint[e >> np.uint64(48)] += one
    for i in range(n // 4 * 4, n):
        joint[pairs[i]] += one


@njit(**_EXACT)
def encode_rows(
    raw, rows, cols, kind, group, scale, zero, grid, divide_in, decode_in, row_bytes, out, bin_scale, sums, counts, joint
):
    """Quantize ``rows`` of stored weights into packed bytes and measure what a reader will get back.

    raw        bytes of ``rows * cols`` values of dtype ``kind``
    scale/zero float32 of every group of these rows
    divide_in, decode_in   dtypes in which ``x / s + z`` and the decoded values are rounded
    out        ``rows * row_bytes`` bytes, all written: packed codes, each row padded with zeros
    bin_scale  128 / largest magnitude of the tensor
    sums       float64[4], added to: signal, noise, worst error, clipped values
    counts     int64[3, 8, 256], added to: float, quantized and clipped histograms
    joint      uint32[65536], added to in place of the first two: pairs of bins (float, quantized); empty where tables of its
               size cost more than they save
    """
    groups = (cols + group - 1) // group
    x = np.empty(cols, np.float32)
    t = np.empty(cols, np.float32)
    codes = np.empty(cols, np.uint8)
    index = np.empty(cols, np.uint8)
    pairs = np.empty(cols, np.uint16)
    fused = (grid.form == INTEGER) & (divide_in == BF16) & (decode_in == BF16)
    worst = np.int32(0)
    used = (cols + 4) // 5 if grid.bits == TRITS else (cols * grid.bits + 7) // 8
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        clipped = 1
        if fused:
            clipped = _integers_bf16(x, scale, zero, r * groups, group, cols, grid, codes, t)
        if clipped > 0:  # rare with the full range: only then are bins of clipped values counted
            _divide(x, scale, zero, r * groups, group, cols, divide_in, t)
            sums[3] += _count_clipped(x, t, cols, grid, bin_scale, counts[2])
            _to_grid(t, cols, grid, codes)
            _multiply(t, scale, zero, r * groups, group, cols, decode_in)
        packed = out[r * row_bytes : (r + 1) * row_bytes]
        _pack_row(codes, cols, grid.bits, packed)
        for i in range(used, row_bytes):
            packed[i] = 0
        if joint.size > 0:
            _count_pairs(x, t, cols, bin_scale, pairs, joint)
        else:
            _count_bins(x, cols, bin_scale, index, counts[0])
            _count_bins(t, cols, bin_scale, index, counts[1])
        worst = max(worst, _subtract(x, t, cols))
        sums[0] += _energy(x, cols, bin_scale)
        sums[1] += _energy(t, cols, bin_scale)
    t.view(np.int32)[0] = worst
    sums[2] = max(sums[2], t[0])


@njit(**_REORDER)
def _dot(a, b, n):
    total = np.float32(0)
    for i in range(n):
        total += a[i] * b[i]
    return total


@njit(**_EXACT)
def cast_rows(raw, rows, cols, kind, to, limit, bin_scale, out, sums, counts):
    """Round stored weights to dtype ``to``, saturating at ``limit``, and measure; see ``encode_rows``."""
    x = np.empty(cols, np.float32)
    t = np.empty(cols, np.float32)
    index = np.empty(cols, np.uint8)
    worst = np.int32(0)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        for i in range(cols):
            t[i] = x[i]
        round_row(t, cols, to)
        for i in range(cols):
            if abs(t[i]) > limit:
                sums[3] += 1
                b = x[i] * bin_scale + np.float32(128)
                counts[2, 0, np.uint8(np.int32(min(max(b, np.float32(0)), np.float32(255))))] += 1
            t[i] = min(max(t[i], -limit), limit)
        _count_bins(x, cols, bin_scale, index, counts[0])
        _count_bins(t, cols, bin_scale, index, counts[1])
        signal = _energy(x, cols, bin_scale)
        decoded = t.copy()
        worst = max(worst, _subtract(x, decoded, cols))
        sums[0] += signal
        sums[1] += _energy(decoded, cols, bin_scale)
        store_row(t, cols, to, r * cols, out)
    t.view(np.int32)[0] = worst
    sums[2] = max(sums[2], t[0])


@njit(**_EXACT)
def count_rows(raw, rows, cols, kind, bin_scale, counts):
    """Add stored weights to a 256-bin histogram; ``counts`` is int64[8, 256]."""
    x = np.empty(cols, np.float32)
    index = np.empty(cols, np.uint8)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        _count_bins(x, cols, bin_scale, index, counts)


@njit(**_EXACT)
def _powers(a, n, power, work, out):
    """``a**power`` for 0 <= a to about 1e-5 into ``out``: vectorizes, which libm's pow does not.

    log2 and exp2 by polynomials (through Chebyshev nodes) on the mantissa and the fraction; 0 gives 0. ``work`` is int32.
    """
    least = np.float32(1.2e-38)
    floats = work.view(np.float32)
    for i in range(n):
        out[i] = max(a[i], least)
    bits = out.view(np.int32)
    for i in range(n):
        work[i] = (bits[i] & np.int32(0x007FFFFF)) | np.int32(0x3F800000)
    for i in range(n):
        m = floats[i] - np.float32(1)
        log = np.float32(-0.0245685347) * m + np.float32(0.117613084)
        log = log * m + np.float32(-0.272697565)
        log = log * m + np.float32(0.454508492)
        log = log * m + np.float32(-0.717312780)
        log = log * m + np.float32(1.44245353)
        log = log * m + np.float32(2.44343872e-06)
        y = (np.float32((bits[i] >> np.int32(23)) - np.int32(127)) + log) * power
        out[i] = min(max(y, np.float32(-126)), np.float32(126))
    for i in range(n):
        work[i] = (np.int32(np.floor(out[i])) + np.int32(127)) << np.int32(23)
    for i in range(n):
        f = out[i] - np.floor(out[i])
        e = np.float32(0.00189375) * f + np.float32(0.00894959)
        e = e * f + np.float32(0.05586034)
        e = e * f + np.float32(0.24014182)
        e = e * f + np.float32(0.69315449)
        e = e * f + np.float32(0.9999999)
        out[i] = floats[i] * e if a[i] > least else np.float32(0)


@njit(**_REORDER)
def _sum(values, n):
    total = np.float32(0)
    for i in range(n):
        total += values[i]
    return total


@njit(**_REORDER)
def _sum_double(values, n):
    total = 0.0
    for i in range(n):
        total += np.float64(values[i])
    return total


@njit(**_EXACT)
def error_rows(raw, rows, cols, kind, group, scale, zero, grid, divide_in, decode_in, power, errors):
    """Add ``sum |w - w'|**power`` of every group to float64 ``errors``, w' as a reader decodes it; nothing is written.

    Errors are counted in units of their group's scale, since a float32 power may leave the range.
    """
    groups = (cols + group - 1) // group
    x = np.empty(cols, np.float32)
    t = np.empty(cols, np.float32)
    codes = np.empty(cols, np.uint8)
    work = np.empty(cols, np.int32)
    p = np.float32(power)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        _divide(x, scale, zero, r * groups, group, cols, divide_in, t)
        _to_grid(t, cols, grid, codes)
        _multiply(t, scale, zero, r * groups, group, cols, decode_in)
        for g in range(groups):
            per_unit = _inverse(scale[r * groups + g])
            xs = x[g * group : (g + 1) * group]
            ts = t[g * group : (g + 1) * group]
            for i in range(xs.size):
                ts[i] = abs(xs[i] - ts[i]) * per_unit
        if power == 2:
            for i in range(cols):
                t[i] *= t[i]
        elif power != 1:
            _powers(t, cols, p, work, x)
            for i in range(cols):
                t[i] = x[i]
        for g in range(groups):
            ts = t[g * group : (g + 1) * group]
            unit = 1.0 / np.float64(_inverse(scale[r * groups + g]))
            errors[r * groups + g] += np.float64(_sum(ts, ts.size)) * (unit * unit if power == 2 else unit**power)


@njit(**_EXACT)
def _inverse(scale):
    """1 / scale, kept finite."""
    return np.float32(1) / scale if scale > np.float32(3e-39) else np.float32(3e38)


@njit(**_EXACT)
def mean_rows(raw, rows, cols, kind, group, means):
    """Mean magnitude of every group."""
    groups = (cols + group - 1) // group
    x = np.empty(cols, np.float32)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        for i in range(cols):
            x[i] = abs(x[i])
        for g in range(groups):
            xs = x[g * group : (g + 1) * group]
            means[r * groups + g] = np.float32(_sum_double(xs, xs.size) / xs.size)


@njit(**_EXACT)
def quantile_rows(raw, rows, cols, kind, group, magnitude, first, last, low, high):
    """Two quantiles of every group, linear between order statistics (``first``, ``last`` from 0 to 1).

    ``magnitude``: of |w|.
    """
    groups = (cols + group - 1) // group
    x = np.empty(cols, np.float32)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        if magnitude:
            for i in range(cols):
                x[i] = abs(x[i])
        for g in range(groups):
            xs = x[g * group : (g + 1) * group]
            low[r * groups + g] = _quantile(xs, first)
            high[r * groups + g] = _quantile(xs, last)


@njit(**_EXACT)
def _quantile(values, share):
    place = share * (values.size - 1)
    k = int(place)
    parts = np.partition(values, k)
    here = parts[k]
    if k + 1 >= values.size or place == k:
        return here
    after = parts[k + 1]
    for i in range(k + 2, values.size):
        after = min(after, parts[i])
    return np.float32(np.float64(here) + (np.float64(after) - np.float64(here)) * (place - k))


@njit(**_EXACT)
def key_rows(raw, rows, cols, kind, magnitude, prefix, counts):
    """Count the upper 16 bits of keys that order as the values do; with ``prefix`` >= 0, the lower 16 of keys that begin so."""
    x = np.empty(cols, np.float32)
    bits = x.view(np.int32)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        for i in range(cols):
            b = bits[i] & np.int32(0x7FFFFFFF) if magnitude else _ordered(bits[i])
            key = np.uint32(b) ^ np.uint32(0x80000000)
            if prefix < 0:
                counts[key >> np.uint32(16)] += 1
            elif (key >> np.uint32(16)) == prefix:
                counts[key & np.uint32(0xFFFF)] += 1


@njit(**_EXACT)
def half_quadratic_rows(raw, rows, cols, kind, group, scale, zero, grid, whole, iterations, power, beta, kappa):
    """Half-quadratic search of every group's zero point (``whole``: of its scale), in place: HQQ, Badri and Shaji 2023.

    Minimizes ``sum |w - w'|**power`` by splitting the error e off: ``e = shrink(w - w')`` with
    ``shrink(a) = sign(a) max(|a| - |a|**(power - 1) / beta, 0)``, then ``z = mean(q - (w - e) / s)``; beta grows by kappa. The
    best iterate is kept. Zero points that are whole numbers cannot be moved a little, so there the same step is taken for
    the scale, ``s = sum((w - e) (q - z)) / sum((q - z)**2)``.
    """
    groups = (cols + group - 1) // group
    x = np.empty(cols, np.float32)
    q = np.empty(cols, np.float32)
    e = np.empty(cols, np.float32)
    a = np.empty(cols, np.float32)
    h = np.empty(cols, np.float32)
    work = np.empty(cols, np.int32)
    low = grid.low
    high = grid.high
    p = np.float32(power - 1)
    for r in range(rows):
        load_row(raw, r * cols, cols, kind, x)
        for g in range(groups):
            xs = x[g * group : (g + 1) * group]
            n = xs.size
            s = scale[r * groups + g]
            per_s = _inverse(s)
            z = zero[r * groups + g]
            best = np.inf
            best_z = z
            best_s = s
            b = np.float32(beta)
            for _ in range(iterations):
                for i in range(n):
                    v = np.rint(min(max(xs[i] * per_s + z, low), high))
                    q[i] = v
                    e[i] = xs[i] - (v - z) * s
                    a[i] = abs(e[i])
                _powers(a, n, p, work, h)
                error = _dot(a, h, n)
                if error >= best:
                    break
                best = error
                best_z = z
                best_s = s
                per_b = np.float32(1) / b
                for i in range(n):
                    kept = max(a[i] - h[i] * per_b, np.float32(0))
                    kept = kept if e[i] > 0 else -kept
                    e[i] = xs[i] - kept
                if whole:
                    for i in range(n):
                        q[i] -= z
                    fitted = _dot(e, q, n) / max(_dot(q, q, n), np.float32(1e-30))
                    if fitted > 0:
                        s = fitted
                        per_s = _inverse(s)
                else:
                    for i in range(n):
                        e[i] = q[i] - e[i] * per_s
                    z = _sum(e, n) / np.float32(n)
                b *= np.float32(kappa)
            zero[r * groups + g] = best_z
            scale[r * groups + g] = best_s


@njit(**_EXACT)
def solve_columns(w, original, factor, scale, zero, group_of, grid, divide_in, decode_in, levels, errors, losses):
    """GPTQ within one block of columns: round one column, move those that follow so that they make its error good.

    ``w`` (columns, rows) float32, as moved by earlier blocks, in, decoded values out; ``original`` is the weight itself;
    ``factor`` (columns, columns) is unit upper: what a unit of column j's error asks of column k. ``scale``, ``zero`` (groups,
    rows); ``group_of`` each column's group. ``levels`` and ``errors`` (columns, rows) get the grid's numbers and
    ``original - w'``, which the caller takes to the columns beyond the block; ``losses`` (columns) the squared distance that
    rounding left.
    """
    columns, rows = w.shape
    t = np.empty(rows, np.float32)
    codes = np.empty(rows, np.uint8)
    for j in range(columns):
        x, s, z = w[j], scale[group_of[j]], zero[group_of[j]]
        for i in range(rows):
            t[i] = x[i] / s[i]
        round_row(t, rows, divide_in)
        for i in range(rows):
            t[i] = t[i] + z[i] if z[i] != np.float32(0) else t[i]
        round_row(t, rows, divide_in)
        _to_grid(t, rows, grid, codes)
        level, e, first = levels[j], errors[j], original[j]
        for i in range(rows):
            level[i] = t[i]
            t[i] = (t[i] - z[i]) * s[i]
        round_row(t, rows, decode_in)
        for i in range(rows):
            e[i] = x[i] - t[i]
        losses[j] = _dot(e, e, rows)
        for i in range(rows):
            e[i] = first[i] - t[i]
            x[i] = t[i]
        for k in range(j + 1, columns):
            share, other = factor[j, k], w[k]
            for i in range(rows):
                other[i] += share * e[i]


@njit(**_REORDER)
def weighted_words(words, first):
    """``Σ words[i] · K(first + i)`` modulo 2**64, with K as in ``numerics.checksum``."""
    total = np.uint64(0)
    for i in range(words.size):
        z = np.uint64(first + i + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += words[i] * ((z ^ (z >> np.uint64(31))) | np.uint64(1))
    return total


@njit(**_REORDER)
def compare(values, others):
    """Sums of squares of float32 ``values`` and of what ``others`` differ by (float64), and the largest difference."""
    signal, noise, largest = 0.0, 0.0, np.float32(0)
    for i in range(values.size):
        value = np.float64(values[i])
        error = value - np.float64(others[i])
        signal += value * value
        noise += error * error
        largest = max(largest, abs(values[i] - others[i]))
    return signal, noise, largest
