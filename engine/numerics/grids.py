"""Grids: the numbers that codes stand for, before scale and zero point.

An integer grid is ``code + base``; a small-float grid has a sign, an exponent and a mantissa; a codebook lists its levels.
Sources: OCP Microscaling Formats specification v1.0 (E4M3, E5M2, E3M2, E2M3, E2M1); QLoRA, Dettmers et al. 2023, appendix E
(NF4); BitNet b1.58, Ma et al. 2024 (ternary); XNOR-Net, Rastegari et al. 2016 (binary).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

INTEGER, FLOAT, CODEBOOK = 0, 1, 2
TRITS = 0
"""As ``bits``: five base-3 digits to a byte, the first the least significant."""


class Grid(NamedTuple):
    """One grid, as the kernels take it.

    bits       stored width of a code, or ``TRITS``
    base       what is added to an integer's code
    mantissa   stored mantissa bits of a small float; ``normal`` is its least normal magnitude
    low, high  least and greatest value; ``clip_low``, ``clip_high`` lie a little more than half a step further out
    values     value of each code (floats and codebooks); ``middles`` lie between ascending neighbours of a codebook
    flip       of stored bytes: the bits that are the other way round (0x80 for two's complement); packed codes have none
    """

    form: int
    bits: int
    base: int
    mantissa: int
    low: np.float32
    high: np.float32
    clip_low: np.float32
    clip_high: np.float32
    normal: np.float32
    signed_zero: bool
    values: np.ndarray
    middles: np.ndarray
    flip: int = 0


_NONE = np.empty(0, np.float32)


def _clips(low: float, high: float) -> tuple[np.float32, np.float32]:
    """From where on a value counts as clipped: half a step outside, and the rounding of an 8-bit mantissa beyond that.

    A scale that was rounded down puts the greatest weight a little outside, which is no clipping.
    """
    slack = 1 + 2.0**-7
    return np.float32(low * slack), np.float32(high * slack)


def _integer(bits: int, low: int, high: int, base: int) -> Grid:
    ends, clips = (np.float32(low), np.float32(high)), _clips(low - 0.5, high + 0.5)
    return Grid(INTEGER, bits, base, 0, *ends, *clips, np.float32(0), True, _NONE.copy(), _NONE.copy())


@cache
def integer(bits: int, restricted: bool = False) -> Grid:
    """Two's complement integers of 2 to 8 bits; ``restricted`` leaves out the lowest, so that the range is symmetric."""
    reach = 2 ** (bits - 1)
    return _integer(bits, -reach + restricted, reach - 1, -reach)


@cache
def ternary() -> Grid:
    """-1, 0, 1. Under a mean magnitude there is no range that weights could be clipped to."""
    return _unclipped(_integer(TRITS, -1, 1, -1))


@cache
def small_float(exponent: int, mantissa: int, top: float, signed_zero: bool = True) -> Grid:
    """A sign bit, ``exponent`` bits (bias ``2**(exponent - 1) - 1``), ``mantissa`` bits; finite up to ``top``.

    ``signed_zero``: whether -0.0 keeps its sign.
    """
    bias = 2 ** (exponent - 1) - 1
    values = np.empty(2 ** (1 + exponent + mantissa), np.float32)
    for code in range(values.size):
        field, fraction = code >> mantissa & (2**exponent - 1), code & (2**mantissa - 1)
        lead = 1 if field else 0
        size = (lead + fraction / 2**mantissa) * 2.0 ** (max(field, 1) - bias)
        values[code] = (-size if code >> (exponent + mantissa) else size) if size <= top else np.nan
    step = top - float(np.nanmax(values[values < top]))
    high, (_, clip) = np.float32(top), _clips(0.0, top + step / 2)
    normal = np.float32(2.0 ** (1 - bias))
    return Grid(FLOAT, 1 + exponent + mantissa, 0, mantissa, -high, high, -clip, clip, normal, signed_zero, values, _NONE.copy())


@cache
def codebook(levels: tuple[float, ...]) -> Grid:
    """Ascending levels; the code is the index, and a tie goes to the lower level."""
    values = np.array(levels, np.float32)
    middles = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    bits = max(1, (len(levels) - 1).bit_length())
    ends = values[0] - (values[1] - values[0]) / 2, values[-1] + (values[-1] - values[-2]) / 2
    low, high = _clips(float(ends[0]), float(ends[1]))
    return Grid(CODEBOOK, bits, 0, 0, values[0], values[-1], low, high, np.float32(0), True, values, middles)


@cache
def binary() -> Grid:
    """-1 and +1; zero, which has no sign to keep, becomes +1."""
    below_zero = np.array([np.nextafter(np.float32(0), np.float32(-1))], np.float32)
    return _unclipped(codebook((-1.0, 1.0)))._replace(middles=below_zero)


def _unclipped(grid: Grid) -> Grid:
    return grid._replace(clip_low=np.float32(-np.inf), clip_high=np.float32(np.inf))


E4M3 = (4, 3, 448.0)
E5M2 = (5, 2, 57344.0)
E3M2 = (3, 2, 28.0)
E2M3 = (2, 3, 7.5)
E2M1 = (2, 1, 6.0, False)  # compressed-tensors drops the sign of -0.0 here, and here alone

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def on_grid(values: Float32[np.ndarray, "..."], grid: Grid) -> tuple[Float32[np.ndarray, "..."], UInt8[np.ndarray, "..."]]:
    """The nearest values of a small-float grid (ties to even, saturating), and their codes."""
    from engine.numerics import backend

    nearest = np.array(values, np.float32).reshape(-1)
    codes = np.empty(nearest.size, np.uint8)
    backend().to_grid(nearest, grid, codes)
    return nearest.reshape(np.shape(values)), codes.reshape(np.shape(values))
