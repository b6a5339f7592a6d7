"""What a runtime does to a layer's input: quantize and decode it, in the model's dtype, each operation rounded in its order.

The order is that of compressed-tensors' forward, which transformers runs: ``t = x / s``, ``+ z``, clamp, round to even, ``- z``,
``* s``; so a result here equals that of the exported model (but for the sign of a zero). Where the two differ:

- ``token`` is one scale for each row along the last axis, as in vLLM. compressed-tensors does that to inputs of three axes
  (batch, tokens, columns), but takes one scale for the whole of an input of two axes.
- Groups within a quarter of the dtype's greatest number have a finite E8M0 scale; compressed-tensors makes NaN of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.errors import DataError, InputError

if TYPE_CHECKING:
    import torch

CHUNK = 1 << 18
"""Elements that go through all operations at once: small enough to stay in a processor's cache."""

GREATEST = {"int8": 127.0, "fp8": 448.0, "fp4": 6.0}
_MANTISSA = {"fp8": (3, -6), "fp4": (1, 0)}
"""Bits of mantissa, and exponent of the least normal number (OCP Microscaling Formats 1.0, tables 1 and 5)."""
_EXPONENT_OF_GREATEST = {"fp8": 8, "fp4": 2}
_MANTISSA_OF_DTYPE = {"bfloat16": 7, "float16": 10, "float32": 23, "float64": 52}


@dataclass(frozen=True, slots=True)
class ActivationFormat:
    """How one name quantizes a layer's input.

    codes   the numbers that are stored or multiplied: int8, E4M3 or E2M1
    scope   what shares a scale: a token (the last axis), the whole tensor, or ``group`` values along the last axis
    scales  plain: as the range asks, in the model's dtype; e8m0: powers of two; e4m3: float8 under one global scale
    stored  names of the tensors that must stand beside the layer's weight; none when all is computed on the fly
    """

    name: str
    title: str
    codes: Literal["int8", "fp8", "fp4"]
    scope: Literal["token", "tensor", "group"]
    group: int | None = None
    symmetric: bool = True
    scales: Literal["plain", "e8m0", "e4m3"] = "plain"
    stored: tuple[str, ...] = ()


FORMATS: tuple[ActivationFormat, ...] = (
    ActivationFormat("int8:token", "int8, a scale per token", "int8", "token"),
    ActivationFormat("int8:static", "int8, one calibrated scale", "int8", "tensor", stored=("input_scale",)),
    ActivationFormat(
        "int8:static:asym", "int8, one calibrated scale and zero point", "int8", "tensor",
        symmetric=False, stored=("input_scale", "input_zero_point"),
    ),
    ActivationFormat("fp8:token", "fp8, a scale per token", "fp8", "token"),
    ActivationFormat("fp8:static", "fp8, one calibrated scale", "fp8", "tensor", stored=("input_scale",)),
    ActivationFormat("mxfp8", "mxfp8, groups of 32", "fp8", "group", 32, scales="e8m0"),
    ActivationFormat("mxfp4", "mxfp4, groups of 32", "fp4", "group", 32, scales="e8m0"),
    ActivationFormat(
        "nvfp4", "nvfp4, groups of 16 under a calibrated global scale", "fp4", "group", 16,
        scales="e4m3", stored=("input_global_scale",),
    ),
)  # fmt: skip
_KNOWN = {found.name: found for found in FORMATS}


def format_of(name: str) -> ActivationFormat:
    """The format of that name. Raises InputError."""
    if name not in _KNOWN:
        raise InputError(f"{name!r} is not a way to quantize activations; known are {', '.join(_KNOWN)}.")
    return _KNOWN[name]


def static_parameters(name: str, low: torch.Tensor, high: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors that belong beside a weight, by compressed-tensors' names; empty for what is computed on the fly.

    low, high  least and greatest value of the layer's input, shape ()
    dtype      the model's, in which ``input_scale`` [1] is computed and stored; ``input_zero_point`` [1] is int8 and
               ``input_global_scale`` [1] float32

    The range is widened to hold zero. A scale is neither zero (an empty range gets the dtype's epsilon) nor so large that a
    code would decode to infinity. Raises DataError for a range that is not finite, or more than one.
    """
    import torch

    form = format_of(name)
    if low.numel() != 1 or high.numel() != 1:
        raise DataError(f"{name} takes one range for the whole input, not {low.numel()}; observe it per tensor.")
    if not (torch.isfinite(low).all() and torch.isfinite(high).all() and bool((low <= high).all())):
        raise DataError(f"{name} cannot hold the range {low.item():g} to {high.item():g}; look at the calibration data.")
    if not form.stored:
        return {}
    most = torch.finfo(dtype).max
    low, high = low.double().clamp(-most, 0).reshape(1), high.double().clamp(0, most).reshape(1)
    if form.scales == "e4m3":
        return {"input_global_scale": _global_scale(torch.maximum(-low, high).float())}
    low, high = low.to(dtype), high.to(dtype)
    if form.symmetric:
        greatest = GREATEST[form.codes]
        reach = 127.5 if form.codes == "int8" else greatest
        scale = _finite(torch.maximum(-low, high) / reach, greatest + (form.codes == "int8"))
        return {"input_scale": _nonzero(scale)}
    return _asymmetric(low, high)


def _global_scale(greatest: torch.Tensor) -> torch.Tensor:
    """``448 * 6 / amax`` in float32, so that the scale of the greatest group is E4M3's greatest; 1 where that overflows."""
    import torch

    most = torch.finfo(torch.float32).max * (1 - 2**-20)  # a little less, so that 6 * 448 / scale is finite after rounding
    scale = GREATEST["fp8"] * GREATEST["fp4"] / greatest.clamp(max=most)
    return torch.where(torch.isfinite(scale), scale, torch.ones_like(scale))


def _asymmetric(low: torch.Tensor, high: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    scale = (high - low) / 255
    scale = torch.where(torch.isinf(scale), high / 255 - low / 255, scale)
    zero = (-128 - low / scale).clamp(-128, 127)
    zero = torch.where(scale == 0, torch.zeros_like(zero), zero).round()
    scale = _finite(scale, float(torch.maximum(127 - zero, zero + 128)))
    return {"input_scale": _nonzero(scale), "input_zero_point": zero.to(torch.int8)}


def _finite(scale: torch.Tensor, codes: float) -> torch.Tensor:
    """At most so large that ``codes * scale`` is finite in this dtype."""
    import torch

    kind = torch.finfo(scale.dtype)
    return scale.clamp(max=kind.max / codes * (1 - kind.eps)) if bool(torch.isinf(scale * codes).any()) else scale


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(scale == 0, torch.full_like(scale, torch.finfo(scale.dtype).eps), scale)


def fake_quantize(
    x: torch.Tensor, name: str, stored: Mapping[str, torch.Tensor] | None = None, group: int | None = None
) -> torch.Tensor:
    """The input as a runtime sees it: quantized and decoded, in a new tensor of the same shape and dtype.

    x       (..., columns) of bfloat16, float16 or float32
    stored  what ``static_parameters`` gave, where the name has something stored
    group   columns that share a scale instead of a whole token, which is how fp8:token goes with FP8 weights in blocks (128)

    Raises DataError where a stored tensor is missing or columns are not whole groups; the caller knows the layer's name.
    """
    import torch

    form = format_of(name)
    missing = [key for key in form.stored if key not in (stored or {})]
    if missing:
        raise DataError(f"{name} needs {' and '.join(missing)}; calibrate the layer first.")
    if not x.numel() or x.ndim == 0:
        return x
    columns = x.shape[-1]
    width = columns if form.scope == "tensor" else form.group or group or columns
    if columns % width:
        raise DataError(f"{name}: {columns} columns are not whole groups of {width}; choose another format for this layer.")
    with torch.no_grad():
        rows = x.reshape(-1, width)
        out = torch.empty_like(rows)
        step = max(1, CHUNK // width)
        quantize = _quantizer(form, stored or {})
        for first in range(0, rows.shape[0], step):
            out[first : first + step] = quantize(rows[first : first + step])
        return out.reshape(x.shape)


def int8_codes(
    x: torch.Tensor, name: str, stored: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The codes behind ``fake_quantize`` of an int8 format: (codes int8 (rows, columns), scale (rows, 1) or (1,), zero point).

    x is (rows, columns), finite; the same operations in the same order, so that ``(codes - zero) * scale`` is its result.
    """
    import torch

    form = format_of(name)
    if form.scope == "token":
        return _codes(x, scale := _nonzero(_greatest(x) / 127.5), None).to(torch.int8), scale, None
    scale, zero = stored["input_scale"].to(x.dtype), None if form.symmetric else stored["input_zero_point"]
    return _codes(x, scale, zero).to(torch.int8), scale, zero


def _codes(rows: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
    """int8 codes, still as floats."""
    scaled = rows / scale
    if zero is not None:
        scaled.add_(zero.to(rows.dtype))
    return scaled.clamp_(-128, 127).round_()


def _quantizer(form: ActivationFormat, stored: Mapping[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rows of values that share a scale, to the same decoded."""
    if form.scope == "tensor":
        scale, zero = stored["input_scale"], stored.get("input_zero_point") if not form.symmetric else None
        return lambda rows: _through_codes(rows, form.codes, scale, zero)
    if form.scales == "e4m3":
        whole = stored["input_global_scale"]
        return lambda rows: _through_codes(rows, form.codes, _float8_scales(rows, whole))
    if form.scales == "e8m0":
        return lambda rows: _through_codes(rows, form.codes, _power_scales(rows, form.codes))
    reach = 127.5 if form.codes == "int8" else GREATEST[form.codes]
    return lambda rows: _through_codes(rows, form.codes, _nonzero(_greatest(rows) / reach))


def _greatest(rows: torch.Tensor) -> torch.Tensor:
    """Shape (rows, 1). A pass for the magnitudes costs less than the least and the greatest in one reduction."""
    return rows.abs().amax(-1, keepdim=True)


def _through_codes(rows: torch.Tensor, codes: str, scale: torch.Tensor, zero: torch.Tensor | None = None) -> torch.Tensor:
    if codes == "int8":
        found = _codes(rows, scale, zero)
        return (found if zero is None else found.sub_(zero.to(rows.dtype))).mul_(scale)
    greatest = GREATEST[codes]
    return round_to_float((rows / scale).clamp_(-greatest, greatest), *_MANTISSA[codes]).mul_(scale)


def round_to_float(x: torch.Tensor, mantissa: int, least: int) -> torch.Tensor:
    """To the nearest float of so many bits of mantissa, ties to even; ``2**least`` is the least normal number. x is within range.

    Adding ``1.5 * 2**23`` steps pushes what is finer than a step out of a float32's mantissa (Knuth, TAOCP 2, 4.2.2). torch's
    conversion to float8 and back gives the same numbers in four times the time.
    """
    import torch

    wide = x.float()
    pushed = (wide.view(torch.int32) & 0x7F800000).view(torch.float32)  # the power of two below, at least the least normal number
    pushed = pushed.clamp_(min=2.0**least).mul_(1.5 * 2.0 ** (23 - mantissa))
    return (wide + pushed).sub_(pushed).to(x.dtype)


def _power_scales(rows: torch.Tensor, codes: str) -> torch.Tensor:
    """Powers of two from the bits of the greatest: rounded up where a mantissa of 1 bit would, then divided by the power in the
    format's own greatest number (OCP Microscaling Formats 1.0, 6.3, with compressed-tensors' rounding).

    At least E8M0's 2**-127, and finite for all codes; what float16 cannot hold becomes 1, as in compressed-tensors.
    """
    import torch

    greatest = _greatest(rows)
    bits, width = torch.finfo(rows.dtype).bits, _MANTISSA_OF_DTYPE[str(rows.dtype).removeprefix("torch.")]
    integers = {16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
    field = (greatest.view(integers).to(torch.int64) + (1 << (width - 2))) >> width
    bias = (1 << (bits - width - 2)) - 1
    field = field.clamp_(max=2 * bias)  # rounding up beyond that is infinity's exponent
    exponent = torch.where(field > 0, field - bias - _EXPONENT_OF_GREATEST[codes], -127).clamp_(min=-127)
    scale = torch.pow(2.0, exponent.to(torch.float32)).to(rows.dtype)
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _float8_scales(rows: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Float32 scales of groups: rounded to E4M3 under the global scale, then without it; a group of zeros gets 1/8."""
    import torch

    local = (whole * (_greatest(rows) / GREATEST["fp4"])).clamp_(-GREATEST["fp8"], GREATEST["fp8"])
    local = local.to(torch.float8_e4m3fn).to(torch.float32)
    return torch.where(local == 0, torch.full_like(local, 0.125), local) / whole
