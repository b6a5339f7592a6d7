"""Fused numba kernels: rows of stored weights in, codes and measurements out, one trip through memory.

Every kernel releases the GIL and works on a chunk of rows; the caller runs several in its own threads.
Each row is widened to float32 in a buffer that stays in the L1 cache. Arithmetic is carried out in the
*model's* dtype (each operation rounded to bfloat16 or float16), because that is what
compressed-tensors does and the stored bytes must agree with it. ``reference.py`` says the same in torch.

Codes here are in offset form, ``u = q + 2**(bits - 1)``, so that all widths are unsigned bytes.
No fastmath where a byte of the result depends on it; sums and extrema alone may be reordered.
"""

import numpy as np
from numba import njit

BF16, F16, F32, F64 = 0, 1, 2, 3
BINS = 256

_INFINITY = np.int32(0x7F800000)
_EXACT = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_REORDER = _EXACT | {"fastmath": {"reassoc", "contract", "nsz", "nnan"}}


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
                values[i] = (v + np.float32(0.75)) - np.float32(0.75)


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
    """Codes to bytes, least significant bit first, dense across words (``bits`` of 8 copies)."""
    if bits == 8:
        for i in range(n):
            out[i] = codes[i]
    elif bits == 4 and n % 2 == 0:
        pairs = codes[:n].view(np.uint16)
        for i in range(n // 2):
            out[i] = np.uint8((pairs[i] & np.uint16(15)) | (pairs[i] >> np.uint16(4)))
    else:
        word = np.uint64(0)
        have = 0
        at = 0
        for i in range(n):
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
def _codes_of(x, scale, zero, k, group, cols, offset, kind, t, codes):
    """Codes of one row: round(clamp(x / s + z)), each step rounded to the model's dtype."""
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
    low = np.float32(-offset)
    high = np.float32(offset - 1)
    for i in range(cols):
        codes[i] = np.uint8(np.int32(np.rint(min(max(t[i], low), high))) + offset)


@njit(**_EXACT)
def _count_clipped(x, t, cols, offset, bin_scale, counts):
    """Count values lying more than half a step outside the code range, and add them to their bins."""
    low = np.float32(-offset) - np.float32(0.5)
    high = np.float32(offset) - np.float32(0.5)
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
def decode_row(codes, scale, zero, k, group, cols, offset, kind, out):
    """Values as a reader of the file sees them: ``(q - z) * s`` rounded to the model's dtype."""
    for g in range((cols + group - 1) // group):
        s = scale[k + g]
        z = zero[k + g] + np.float32(offset)
        cs = codes[g * group : (g + 1) * group]
        os = out[g * group : (g + 1) * group]
        for i in range(cs.size):
            os[i] = (np.float32(cs[i]) - z) * s
    round_row(out, cols, kind)


@njit(**_EXACT)
def encode_rows(raw, rows, cols, kind, group, scale, zero, k0, bits, round_to, row_bytes, out, bin_scale, sums, counts):
    """Quantize ``rows`` of stored weights into packed bytes and measure what a reader will get back.

    raw        bytes of ``rows * cols`` values of dtype ``kind``
    scale/zero float32 per group, of the whole tensor; this chunk's first group is number ``k0``
    round_to   dtype in which scale and decoded values live
    out        ``rows * row_bytes`` bytes, all written: packed codes, each row padded with zeros
    bin_scale  128 / largest magnitude of the tensor
    sums       float64[4], added to: signal, noise, worst error, clipped values
    counts     int64[3, 8, 256], added to: float, quantized and clipped histograms
    """
    groups = (cols + group - 1) // group
    offset = 1 << (bits - 1)
    x = np.empty(cols, np.float32)
    t = np.empty(cols, np.float32)
    codes = np.empty(cols, np.uint8)
    index = np.empty(cols, np.uint8)
    worst = np.int32(0)
    for r in range(rows):
        k = k0 + r * groups
        load_row(raw, r * cols, cols, kind, x)
        _codes_of(x, scale, zero, k, group, cols, offset, round_to, t, codes)
        sums[3] += _count_clipped(x, t, cols, offset, bin_scale, counts[2])
        packed = out[r * row_bytes : (r + 1) * row_bytes]
        _pack_row(codes, cols, bits, packed)
        for i in range((cols * bits + 7) // 8, row_bytes):
            packed[i] = 0
        decode_row(codes, scale, zero, k, group, cols, offset, round_to, t)
        _count_bins(x, cols, bin_scale, index, counts[0])
        _count_bins(t, cols, bin_scale, index, counts[1])
        worst = max(worst, _subtract(x, t, cols))
        sums[0] += _energy(x, cols, bin_scale)
        sums[1] += _energy(t, cols, bin_scale)
    t.view(np.int32)[0] = worst
    sums[2] = max(sums[2], t[0])


@njit(**_EXACT)
def _unpack_row(packed, n, bits, codes):
    """Inverse of ``_pack_row``."""
    if bits == 8:
        for i in range(n):
            codes[i] = packed[i]
    elif bits == 4:
        for i in range(n // 2):
            codes[2 * i] = packed[i] & np.uint8(15)
            codes[2 * i + 1] = packed[i] >> np.uint8(4)
        if n % 2 == 1:
            codes[n - 1] = packed[n // 2] & np.uint8(15)
    else:
        mask = np.uint64((1 << bits) - 1)
        word = np.uint64(0)
        have = 0
        at = 0
        for i in range(n):
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
def store_row(values, n, kind, start, raw):
    """Write float32 ``values``, already rounded to ``kind``, at element ``start`` of ``raw`` (bytes)."""
    bits = values.view(np.uint32)
    if kind == BF16:
        halves = raw[start * 2 : (start + n) * 2].view(np.uint16)
        for i in range(n):
            halves[i] = np.uint16(bits[i] >> np.uint32(16))
    elif kind == F16:
        halves = raw[start * 2 : (start + n) * 2].view(np.uint16)
        # The inverse of load_row: 2**-112 moves the exponent bias back and leaves subnormals in place.
        for i in range(n):
            sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
            values[i] = abs(values[i]) * np.float32(1.925929944387236e-34)
            halves[i] = np.uint16((bits[i] >> np.uint32(13)) | sign)
    else:
        floats = raw[start * 4 : (start + n) * 4].view(np.float32)
        for i in range(n):
            floats[i] = values[i]


@njit(**_EXACT)
def decode_rows(packed, rows, cols, row_bytes, bits, group, scale, zero, k0, kind, out):
    """Packed codes back to values of dtype ``kind`` (bytes), exactly as a reader of the file computes them."""
    groups = (cols + group - 1) // group
    codes = np.empty(cols, np.uint8)
    values = np.empty(cols, np.float32)
    for r in range(rows):
        _unpack_row(packed[r * row_bytes : (r + 1) * row_bytes], cols, bits, codes)
        decode_row(codes, scale, zero, k0 + r * groups, group, cols, 1 << (bits - 1), kind, values)
        store_row(values, cols, kind, r * cols, out)


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
