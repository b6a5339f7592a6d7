"""The affine map of integer schemes: from a range of values to scale and zero point.

``w ~ (q - z) * s``. Every operation is rounded to the dtype the scale is stored in, in the order
compressed-tensors uses (``quantization/utils/helpers.py: calculate_qparams``), so that stored scales agree
with it to the bit: symmetric ``s = amax / ((2**bits - 1) / 2)``; asymmetric ``s = (max - min) / (2**bits - 1)``,
``z = qmin - min / s``, zero always inside the range.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23}
LARGEST = {"BF16": 3.3895313892515355e38, "F16": 65504.0, "F32": 3.4028234663852886e38}


def round_to(values: Floats, dtype: str) -> Floats:
    """Round float32 values to the nearest even ``dtype`` (BF16, F16 or F32); the result stays float32."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (bits & np.uint32(0xFFFF0000)).view(np.float32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return values


def parameters(low: Floats, high: Floats, bits: int, symmetric: bool, dtype: str) -> tuple[Floats, Floats]:
    """Scale and zero point of each range, as float32 arrays shaped like ``low``.

    ``low``, ``high``: least and greatest value of each group. A range of zero width gets the dtype's epsilon
    as its scale, so that zeros come back as exact zeros. A scale whose lowest code would decode to an
    infinity is reduced until it does not.
    """
    low = np.minimum(low, np.float32(0))
    high = np.maximum(high, np.float32(0))
    steps = np.float32(2**bits - 1)
    q_min, q_max = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if symmetric:
            amax: Floats = np.maximum(-low, high)
            scale = round_to((amax / np.float32(steps / 2)).astype(np.float32), dtype)
        else:
            # A span beyond the dtype's range is infinite here; dividing each end first keeps it finite.
            span = round_to(high - low, dtype)
            scale = round_to(np.where(np.isfinite(span), span / steps, high / steps - low / steps).astype(np.float32), dtype)
        scale = np.minimum(scale, _largest_scale(bits, symmetric, dtype))
        empty = scale == 0
        scale = np.where(empty, np.float32(EPSILON[dtype]), scale).astype(np.float32)
        if symmetric:
            return scale, np.zeros_like(scale)
        zero = round_to(np.float32(q_min) - round_to(low / scale, dtype), dtype)
    zero = np.where(empty, 0, np.rint(np.clip(zero, q_min, q_max)))
    return scale, zero.astype(np.float32)


def _largest_scale(bits: int, symmetric: bool, dtype: str) -> np.float32:
    """The greatest scale whose every code decodes to a finite value of ``dtype``."""
    reach = 2 ** (bits - 1) if symmetric else 2**bits - 1
    mantissa = {"BF16": 8, "F16": 11, "F32": 24}[dtype]
    # One unit in the last place below the exact quotient, so that no product rounds up past the limit.
    largest = np.array([LARGEST[dtype] / reach * (1 - 2.0 ** (1 - mantissa))], np.float32)
    return round_to(largest, dtype)[0]


def to_bytes(values: Floats, dtype: str) -> bytes:
    """Float32 values that are exact in ``dtype`` as stored bytes."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
    return values.astype(np.float16 if dtype == "F16" else np.float32).tobytes()


def from_bytes(raw: NDArray[np.uint8], dtype: str) -> Floats:
    """Stored bytes of ``dtype`` as float32."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float32)
