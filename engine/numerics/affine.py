"""The affine map ``w ~ (q - z) * s``: from the range of a group to its scale and zero point.

Every operation is rounded to the dtype the scale is stored in, in the order
compressed-tensors uses (``quantization/utils/helpers.py: calculate_qparams``), so that stored scales agree
with it to the bit: symmetric ``s = amax / ((2**bits - 1) / 2)``; asymmetric ``s = (max - min) / (2**bits - 1)``,
``z = qmin - min / s``, zero always inside the range.
"""

import numpy as np
from jaxtyping import Bool, Float32, UInt8

Groups = Float32[np.ndarray, " groups"]

EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23}
LEAST = {"BF16": 2.0**-133, "F16": 2.0**-24, "F32": 2.0**-149}
NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
LARGEST = {"BF16": 3.3895313892515355e38, "F16": 65504.0, "F32": 3.4028234663852886e38}


def round_to(values: Float32[np.ndarray, "*shape"], dtype: str) -> Float32[np.ndarray, "*shape"]:
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


def symmetric(amax: Groups, divisor: float, reach: float, dtype: str) -> tuple[Groups, set[str]]:
    """Scales ``amax / divisor`` in ``dtype``, and notes about those that had to be moved to stay usable.

    ``amax``: largest magnitude of each group. ``reach``: greatest magnitude of the grid. A group of zeros gets the dtype's
    epsilon, so that zeros come back as zeros.
    """
    with np.errstate(over="ignore"):
        scale = round_to((amax / np.float32(divisor)).astype(np.float32), dtype)
    return _usable(scale, amax > 0, reach, dtype)


def asymmetric(low: Groups, high: Groups, bits: int, dtype: str, *, whole: bool = True) -> tuple[Groups, Groups, set[str]]:
    """Scales and zero points of [low, high], zero always inside, and notes; ``whole`` rounds zero points to codes."""
    low = np.minimum(low, np.float32(0))
    high = np.maximum(high, np.float32(0))
    steps = np.float32(2**bits - 1)
    q_min, q_max = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        # A span beyond the dtype's range is infinite here; dividing each end first keeps it finite.
        span = round_to(high - low, dtype)
        scale = round_to(np.where(np.isfinite(span), span / steps, high / steps - low / steps).astype(np.float32), dtype)
        empty = (low == 0) & (high == 0)
        scale, notes = _usable(scale, ~empty, float(steps), dtype)
        zero = round_to(np.float32(q_min) - round_to(low / scale, dtype), dtype)
    zero = np.clip(zero, q_min, q_max)
    zero = np.where(empty, 0, np.rint(zero) if whole else zero)
    return scale, zero.astype(np.float32), notes


def _usable(scale: Groups, wanted: Bool[np.ndarray, " groups"], reach: float, dtype: str) -> tuple[Groups, set[str]]:
    """Scales that are neither zero nor so large that a code decodes to infinity; ``wanted`` where a group is not all zeros."""
    notes = set()
    largest = _largest_scale(reach, dtype)
    if scale.size and scale.max() > largest:
        scale = np.minimum(scale, largest)
        notes.add(f"scales were lowered to {largest:.3g}, so that every code stays finite in {NAMES[dtype]}")
    zero = scale == 0
    if zero.any():
        if (zero & wanted).any():
            notes.add(f"scales below the range of {NAMES[dtype]} were raised to its least, {LEAST[dtype]:.3g}")
        scale = np.where(zero, np.where(wanted, np.float32(LEAST[dtype]), np.float32(EPSILON[dtype])), scale)
    return scale.astype(np.float32), notes


def _largest_scale(reach: float, dtype: str) -> np.float32:
    """The greatest scale whose every code decodes to a finite value of ``dtype``."""
    mantissa = {"BF16": 8, "F16": 11, "F32": 24}[dtype]
    # One unit in the last place below the exact quotient, so that no product rounds up past the limit.
    largest = np.array([LARGEST[dtype] / reach * (1 - 2.0 ** (1 - mantissa))], np.float32)
    return round_to(largest, dtype)[0]


def to_bytes(values: Float32[np.ndarray, "..."], dtype: str) -> bytes:
    """Float32 values that are exact in ``dtype`` as stored bytes."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
    return values.astype(np.float16 if dtype == "F16" else np.float32).tobytes()


def from_bytes(raw: UInt8[np.ndarray, " bytes"], dtype: str) -> Float32[np.ndarray, " values"]:
    """Stored bytes of ``dtype`` as float32."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float32)
