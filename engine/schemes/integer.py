"""Integers of 2 to 8 bits with an affine map: ``int4:g128``, ``int8:channel:asym``, ``int8:tensor``.

On disk as compressed-tensors lays them out: ``<weight>_packed`` I32 (rows, ceil(cols * bits / 32)) of ``q +
2**(bits-1)``, least significant bits first, or ``<weight>`` I8 in the weight's own shape; ``<weight>_scale`` in the
model's dtype; ``<weight>_zero_point`` packed along the rows or I8; ``<weight>_shape`` I64.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import RecipeError
from engine.records.dtypes import FLOATS, numel, scale_dtype
from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import GRANULARITIES, Granularity, Scheme
from engine.schemes.base import Decoder, Encoder, Family, Fit, Matrix, part

if TYPE_CHECKING:
    import numpy as np

    from engine.measure.tally import Tally

MIN_BITS, MAX_BITS = 2, 8


class Integer(Family):
    names = ("int",)
    title = "Integer"
    examples = "int4:g128, int8:channel, int8:channel:asym, int3:tensor"

    def parse(self, text: str) -> Scheme | None:
        found = re.fullmatch(r"int(\d{1,4})((?::[a-z0-9]+)*)", text)
        if not found:
            return None
        bits = int(found[1])
        if not MIN_BITS <= bits <= MAX_BITS:
            raise RecipeError(f"{text!r}: integers have {MIN_BITS} to {MAX_BITS} bits, not {bits}.")
        where: list[tuple[Granularity, int | None]] = []
        ranges: list[bool] = []
        for word in found[2].split(":")[1:]:
            if word in ("tensor", "channel"):
                where.append(("tensor" if word == "tensor" else "channel", None))
            elif re.fullmatch(r"g[1-9]\d{0,8}", word):
                where.append(("group", int(word[1:])))
            elif word in ("sym", "asym"):
                ranges.append(word == "sym")
            else:
                raise RecipeError(f"{text!r}: {word!r} is not one of tensor, channel, g<size>, sym, asym.")
        if len(where) > 1 or len(ranges) > 1:
            raise RecipeError(f"{text!r}: give one granularity (tensor, channel or g<size>) and one of sym and asym.")
        granularity, group = where[0] if where else ("channel", None)
        return Scheme("int", bits, granularity, group, ranges[0] if ranges else True)

    def format(self, scheme: Scheme) -> str:
        where = f"g{scheme.group}" if scheme.granularity == "group" else scheme.granularity
        return f"int{scheme.bits}:{where}" + ("" if scheme.symmetric else ":asym")

    def problems(self, scheme: Scheme, layer: LayerInfo) -> list[str]:
        if layer.dtype not in FLOATS:
            return [f"{layer.dtype} is not a float type that can be quantized; use keep"]
        if len(layer.shape) < 2:
            return [f"{len(layer.shape)}-dimensional tensors have no output channels to quantize; use keep"]
        cols = Matrix.of(layer.shape, layer.axis).cols
        if scheme.group and cols % scheme.group:
            return [
                f"group {scheme.group} does not divide {cols} input values; "
                f"use {_divisors(cols, scheme.group)} or int{scheme.bits}:channel"
            ]
        return []

    def parts(self, scheme: Scheme, layer: LayerInfo, activations: str) -> tuple[PartPlan, ...]:
        name, matrix = layer.tensor.name, Matrix.of(layer.shape, layer.axis)
        packed = _is_packed(scheme, layer, activations)
        words = -(-matrix.cols * scheme.bits // 32)
        parts = [
            part(f"{name}_packed", "I32", (matrix.rows, words), "codes") if packed else part(name, "I8", layer.shape, "codes")
        ]
        groups = _groups(scheme, matrix)
        scale_shape = (1,) if scheme.granularity == "tensor" else (matrix.rows, groups)
        parts.append(part(f"{name}_scale", scale_dtype(layer.dtype), scale_shape, "scale"))
        if not scheme.symmetric:
            if packed and scheme.granularity != "tensor":
                zero_shape = (-(-matrix.rows * scheme.bits // 32), groups)
                parts.append(part(f"{name}_zero_point", "I32", zero_shape, "zero_point"))
            else:
                parts.append(part(f"{name}_zero_point", "I8", scale_shape, "zero_point"))
        if packed:
            parts.append(part(f"{name}_shape", "I64", (len(layer.shape),), "shape"))
        return tuple(parts)

    def stored_problem(self, scheme: Scheme, layer: LayerInfo) -> str:
        stored = {role_of(p.name): p for p in layer.parts}
        matrix, groups = Matrix.of(layer.shape, layer.axis), _groups(scheme, Matrix.of(layer.shape, layer.axis))
        codes, scale, zero = stored["codes"], stored["scale"], stored.get("zero_point")
        packed_shape = (matrix.rows, -(-matrix.cols * scheme.bits // 32))
        if scheme.group and matrix.cols % scheme.group:
            return f"group {scheme.group} does not divide its {matrix.cols} input values"
        if codes.shape != (packed_shape if codes.dtype == "I32" else layer.shape):
            return f"its codes {list(codes.shape)} do not fit the shape {list(layer.shape)} at {scheme.bits} bits"
        scales = ((1,), ()) if scheme.granularity == "tensor" else ((matrix.rows, groups),)
        if scale.dtype not in ("BF16", "F16", "F32") or (
            scale.shape not in scales and numel(scale.shape) != matrix.rows * groups
        ):
            return f"its scale {scale.dtype} {list(scale.shape)} does not fit"
        if scheme.granularity == "tensor" and numel(scale.shape) != 1:
            return f"its scale {list(scale.shape)} should be one number"
        if (zero is None) != scheme.symmetric:
            return "its zero point is missing" if zero is None else "a symmetric scheme has no zero point"
        words = (-(-matrix.rows * scheme.bits // 32), groups)
        if zero and not (
            (zero.dtype == "I8" and numel(zero.shape) == numel(scale.shape)) or (zero.dtype == "I32" and zero.shape == words)
        ):
            return f"its zero point {zero.dtype} {list(zero.shape)} does not fit"
        return ""

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return IntegerEncoder(scheme, layer, parts)

    def decoder(self, scheme: Scheme, layer: LayerInfo, stored: Mapping[str, "np.ndarray"]) -> Decoder:
        return IntegerDecoder(scheme, layer, stored)

    def quantization_args(self, scheme: Scheme) -> dict[str, Any]:
        return {
            "type": "int",
            "num_bits": scheme.bits,
            "strategy": scheme.granularity,
            "group_size": scheme.group,
            "symmetric": scheme.symmetric,
            "dynamic": False,
        }

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        bits, group = args.get("num_bits"), args.get("group_size")
        strategy: Granularity | None = next((g for g in GRANULARITIES if g == args.get("strategy")), None)
        if args.get("type", "int") != "int" or strategy is None or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
            return None
        if strategy == "group" and not (isinstance(group, int) and group > 0):
            return None
        return Scheme("int", bits, strategy, group if strategy == "group" else None, args.get("symmetric", True))


def _is_packed(scheme: Scheme, layer: LayerInfo, activations: str) -> bool:
    """Eight-bit weights are plain I8 where readers want that: with activations, in embeddings and convolutions."""
    plain = scheme.bits == 8 and layer.axis == 0 and (activations != "none" or layer.kind != "linear")
    return not plain


def _groups(scheme: Scheme, matrix: Matrix) -> int:
    return -(-matrix.cols // scheme.group) if scheme.group else 1


def _divisors(cols: int, wanted: int) -> str:
    """The three divisors of ``cols`` nearest to the wanted group, as a phrase."""
    divisors = [d for d in range(1, min(cols, 65536) + 1) if cols % d == 0 and d >= 8] or [cols]
    nearest = sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:3])
    return " or ".join(f"g{d}" for d in nearest)


class IntegerEncoder(Encoder):
    """Ranges to parameters, rows to packed codes."""

    def __init__(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> None:
        from engine import numerics

        self._scheme, self._shape = scheme, layer.shape
        self._matrix = Matrix.of(layer.shape, layer.axis)
        self._parts = {p.role: p for p in parts}
        self.group = scheme.group or self._matrix.cols
        self._groups = _groups(scheme, self._matrix)
        self._dtype = scale_dtype(layer.dtype)
        self._packed = self._parts["codes"].dtype == "I32"
        self._row_bytes = self._parts["codes"].nbytes // self._matrix.rows
        self._kernels = numerics.backend()
        self._kind, self._round_to = numerics.KINDS[layer.dtype], numerics.KINDS[self._dtype]

    def fit(self, low: "np.ndarray", high: "np.ndarray", limit: float, fit: Fit) -> None:
        from engine.measure.tally import bin_scale

        if self._scheme.granularity == "tensor":
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        self._scale, self._zero = fit(low, high, self._scheme, self._dtype)
        self._bin_scale = bin_scale(limit)
        self._every_scale = _spread(self._scale, self._matrix.rows * self._groups)
        self._every_zero = _spread(self._zero, self._matrix.rows * self._groups)

    def encode(self, raw: "np.ndarray", row: int, rows: int, out: "np.ndarray", tally: "Tally") -> None:
        self._kernels.encode_rows(
            raw, rows, self._matrix.cols, self._kind, self.group, self._every_scale, self._every_zero,
            row * self._groups, self._scheme.bits, self._round_to, self._row_bytes, out, self._bin_scale,
            tally.sums, tally.counts,
        )  # fmt: skip
        if not self._packed:
            out ^= 0x80  # q + 128 to two's complement

    def small_parts(self) -> Mapping[str, bytes]:
        import numpy as np

        from engine.numerics.affine import to_bytes

        parts = {"scale": to_bytes(self._scale, self._dtype)}
        if not self._scheme.symmetric:
            parts["zero_point"] = self._zero_point_bytes()
        if self._packed:
            parts["shape"] = np.asarray(self._shape, np.int64).tobytes()
        return parts

    def _zero_point_bytes(self) -> bytes:
        import numpy as np

        if self._parts["zero_point"].dtype == "I8":
            return self._zero.astype(np.int8).tobytes()
        by_group = self._zero.reshape(self._matrix.rows, self._groups).T + 2.0 ** (self._scheme.bits - 1)
        words = self._parts["zero_point"].shape[0]
        packed = np.zeros((self._groups, words * 4), np.uint8)
        self._kernels.pack_rows(np.ascontiguousarray(by_group, np.uint8), self._scheme.bits, packed)
        return packed.view(np.int32).T.tobytes()


def _spread(values: "np.ndarray", count: int) -> "np.ndarray":
    """One value per range, whether one is shared by all of them or not."""
    import numpy as np

    # A copy: a read-only view would be another type to numba, and every kernel would be loaded twice.
    return np.broadcast_to(values.reshape(-1), (count,)).astype(np.float32)


class IntegerDecoder(Decoder):
    """Stored codes to values of the scale's dtype."""

    def __init__(self, scheme: Scheme, layer: LayerInfo, stored: Mapping[str, "np.ndarray"]) -> None:
        import numpy as np

        from engine import numerics
        from engine.numerics.affine import from_bytes

        parts = {role_of(p.name): p for p in layer.parts}
        self._matrix = Matrix.of(layer.shape, layer.axis)
        self._groups = _groups(scheme, self._matrix)
        self._group = scheme.group or self._matrix.cols
        self._kernels = numerics.backend()
        self.dtype = parts["scale"].dtype
        self._kind = numerics.KINDS[self.dtype]
        self._packed = parts["codes"].dtype == "I32"
        self._bits = scheme.bits if self._packed else 8
        self.codes_row_bytes = parts["codes"].nbytes // self._matrix.rows
        count = self._matrix.rows * self._groups
        self._scale = _spread(from_bytes(stored["scale"], self.dtype), count)
        self._zero = np.zeros(count, np.float32)
        if "zero_point" in stored:
            self._zero = _spread(self._zero_points(stored["zero_point"], parts["zero_point"].dtype), count)

    def _zero_points(self, raw: "np.ndarray", dtype: str) -> "np.ndarray":
        import numpy as np

        if dtype == "I8":
            return raw.view(np.int8).astype(np.float32)
        words = np.ascontiguousarray(raw.view(np.int32).reshape(-1, self._groups).T)
        codes = np.empty((self._groups, self._matrix.rows), np.uint8)
        self._kernels.unpack_rows(words.view(np.uint8), self._bits, codes)
        return codes.T.astype(np.float32) - np.float32(2 ** (self._bits - 1))

    def decode(self, codes: "np.ndarray", row: int, rows: int) -> "np.ndarray":
        import numpy as np

        if not self._packed:
            codes = codes ^ np.uint8(0x80)
        out = np.empty(rows * self._matrix.cols * (4 if self.dtype == "F32" else 2), np.uint8)
        self._kernels.decode_rows(
            codes, rows, self._matrix.cols, self.codes_row_bytes, self._bits, self._group, self._scale,
            self._zero, row * self._groups, self._kind, out,
        )  # fmt: skip
        return out


def role_of(name: str) -> str:
    """What a stored tensor of a quantized layer is, by the ending of its name."""
    for ending, role in (("_scale", "scale"), ("_zero_point", "zero_point"), ("_shape", "shape")):
        if name.endswith(ending):
            return role
    return "codes"
