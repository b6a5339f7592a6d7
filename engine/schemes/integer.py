"""Integers of 2 to 8 bits with an affine map: ``int4:g128``, ``int8:channel:asym``, ``int4:g64:floatzero``.

On disk as compressed-tensors lays them out: ``<weight>_packed`` I32 (rows, ceil(cols * bits / 32)) of ``q +
2**(bits-1)``, least significant bits first, or ``<weight>`` I8 in the weight's own shape; ``<weight>_scale`` in the
model's dtype; ``<weight>_zero_point`` packed along the rows or I8 (``floatzero``: in the model's dtype); ``<weight>_shape``.

``restricted`` leaves out the lowest code, ``s = amax / (2**(bits-1) - 1)``; its files read like symmetric ones.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import RecipeError
from engine.records.dtypes import BITS, numel, scale_dtype
from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import GRANULARITIES, KEEP, Granularity, Scheme, SchemeChoices
from engine.schemes import grammar
from engine.schemes.base import OWN, Encoder, part, role_of
from engine.schemes.grouping import Grouping, Matrix, divisors
from engine.schemes.scaled import ScaledCodec, ScaledFamily

if TYPE_CHECKING:
    import numpy as np

    from engine.numerics.grids import Grid

MIN_BITS, MAX_BITS = 2, 8


class Integer(ScaledFamily):
    names = ("int",)
    examples = "int4:g128, int8:channel, int8:channel:asym, int3:tensor, int8:b64x64, int4:g64:floatzero"
    choices = SchemeChoices(
        "Integer",
        "2 to 8 bits; symmetric, or with a zero point",
        tuple((f"int{bits}", f"int{bits}") for bits in range(MAX_BITS, MIN_BITS - 1, -1)),
        ("channel", "group", "tensor", "block"),
        (16, 32, 64, 128, 256),
        True,
        (
            ("sym", "symmetric"),
            ("restricted", "symmetric, restricted"),
            ("asym", "asymmetric"),
            ("floatzero", "float zero point"),
        ),
    )

    def parse(self, text: str) -> Scheme | None:
        found = re.match(r"int(\d{1,4})(?=:|$)", text)
        if not found:
            return None
        bits = int(found[1])
        if not MIN_BITS <= bits <= MAX_BITS:
            raise RecipeError(f"{text!r}: integers have {MIN_BITS} to {MAX_BITS} bits, not {bits}.")
        words = grammar.parse(text, GRANULARITIES, [name for name, _ in self.choices.variants])
        variant = words.variant if words.variant in ("restricted", "floatzero") else ""
        symmetric = words.variant not in ("asym", "floatzero")
        return Scheme("int", bits, words.granularity or "channel", words.group, symmetric, variant, words.block_rows)

    def format(self, scheme: Scheme) -> str:
        variant = scheme.variant or ("" if scheme.symmetric else "asym")
        return f"int{scheme.bits}:{grammar.where(scheme)}" + (f":{variant}" if variant else "")

    def wider(self, scheme: Scheme) -> Scheme:
        """Widths between 4 and 8 are passed over: few runtimes read them."""
        return KEEP if scheme.bits == MAX_BITS else replace(scheme, bits=scheme.bits + 1 if scheme.bits < 4 else MAX_BITS)

    def grid(self, scheme: Scheme) -> "Grid":
        from engine.numerics import grids

        return grids.integer(scheme.bits, scheme.variant == "restricted")

    def stored_grid(self, scheme: Scheme, layer: LayerInfo) -> "Grid":
        from engine.numerics import grids

        return grids.integer(8 if layer.parts[0].dtype == "I8" else scheme.bits)

    def code_bits(self, scheme: Scheme) -> int:
        return scheme.bits

    def plain_type(self, scheme: Scheme, layer: LayerInfo, activations: str) -> str:
        """Eight-bit weights are plain I8 where readers want that: with activations, in embeddings and convolutions."""
        return "I8" if scheme.bits == 8 and (activations != "none" or layer.kind != "linear") else ""

    def stored_plain(self, scheme: Scheme) -> str:
        return "I8"

    def packed_part(self, scheme: Scheme, name: str, matrix: Matrix) -> PartPlan:
        return part(f"{name}_packed", "I32", (matrix.rows, -(-matrix.cols * self.code_bits(scheme) // 32)), "codes")

    def stores_shape(self, scheme: Scheme, layer: LayerInfo) -> bool:
        return True

    def shape_of(self, scheme: Scheme, packed: tuple[int, ...]) -> tuple[int, ...] | None:
        return None

    def other_parts(self, scheme: Scheme, layer: LayerInfo, grouping: Grouping, plain: bool) -> list[PartPlan]:
        if scheme.symmetric:
            return []
        name = f"{layer.parts[0].name.removesuffix('_packed')}_zero_point"
        if scheme.variant == "floatzero":
            return [part(name, scale_dtype(layer.dtype), grouping.shape, "zero_point")]
        if plain or scheme.granularity in ("tensor", "block"):
            return [part(name, "I8", grouping.shape, "zero_point")]
        words = -(-grouping.matrix.rows * scheme.bits // 32)
        return [part(name, "I32", (words, grouping.per_row), "zero_point")]

    def _unlike(self, role: str, found: Any, wanted: PartPlan, scale: str) -> bool:
        """Zero points may be packed or not, whatever this engine would have chosen."""
        if found.dtype == "I8" and numel(found.shape) == numel(wanted.shape):
            return False
        return (found.dtype, numel(found.shape)) != (wanted.dtype, numel(wanted.shape))

    def _remedy(self, scheme: Scheme, cols: int) -> str:
        return f"use {divisors(cols, scheme.group or 1)} or int{scheme.bits}:channel"

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return IntegerEncoder(self, scheme, layer, parts, divide_in_f32=scheme.variant == "floatzero")

    def stored_zeros(
        self, scheme: Scheme, layer: LayerInfo, grouping: Grouping, stored: Mapping[str, "np.ndarray"]
    ) -> "np.ndarray":
        import numpy as np

        from engine.numerics.affine import from_bytes

        if "zero_point" not in stored:
            return super().stored_zeros(scheme, layer, grouping, stored)
        raw, dtype = stored["zero_point"], next(p.dtype for p in layer.parts if role_of(p.name) == "zero_point")
        if dtype == "I8":
            return raw.view(np.int8).astype(np.float32)
        if dtype == "I32":
            return _unpack_zero(raw, grouping, scheme.bits)
        return from_bytes(raw, dtype)

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        if scheme.bits != 8 or scheme.variant or scheme.granularity not in ("channel", "tensor"):
            return ()
        return ("int8:token", "int8:static", "int8:static:asym")

    def storage(self, scheme: Scheme, parts: tuple[PartPlan, ...], activations: str) -> str:
        if scheme.variant == "floatzero":
            return OWN
        return "pack-quantized" if parts[0].dtype == "I32" else "int-quantized"

    def quantization_args(self, scheme: Scheme) -> dict[str, Any]:
        if scheme.variant == "floatzero":
            return super().quantization_args(scheme)
        args = {
            "type": "int",
            "num_bits": scheme.bits,
            "strategy": scheme.granularity,
            "group_size": scheme.group if scheme.granularity == "group" else None,
            "symmetric": scheme.symmetric,
            "dynamic": False,
        }
        return args | ({"block_structure": [scheme.block_rows, scheme.group]} if scheme.granularity == "block" else {})

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        bits = args.get("num_bits")
        if args.get("type", "int") != "int" or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
            return super().scheme_from_args(args)
        found = granularity_from_args(args)
        return found and Scheme("int", bits, found[0], found[1], args.get("symmetric", True) is not False, "", found[2])


def granularity_from_args(args: Mapping[str, Any]) -> tuple[Granularity, int | None, int | None] | None:
    """Granularity, group and block rows that a config group's strategy means; None when it makes no sense."""
    strategy: Granularity | None = next((g for g in GRANULARITIES if g == args.get("strategy")), None)
    group, block = args.get("group_size"), args.get("block_structure")
    if strategy == "group":
        return ("group", group, None) if _is_size(group) else None
    if strategy == "block":
        whole = isinstance(block, list) and len(block) == 2 and all(map(_is_size, block))
        return ("block", block[1], block[0]) if whole and isinstance(block, list) else None
    return (strategy, None, None) if strategy else None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= grammar.LONGEST


class IntegerEncoder(ScaledCodec):
    """Ranges to parameters, rows to packed codes."""

    def parameters(self, low: "np.ndarray", high: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
        import numpy as np

        from engine.numerics import affine

        bits = self.scheme.bits
        if not self.scheme.symmetric:
            whole = self.scheme.variant != "floatzero"
            scale, zero, notes = affine.asymmetric(low, high, bits, self.dtype, whole=whole)
        else:
            reach = 2.0 ** (bits - 1)
            divisor = reach - 1 if self.scheme.variant == "restricted" else reach - 0.5
            scale, notes = affine.symmetric(np.maximum(-low, high), divisor, reach, self.dtype)
            zero = np.zeros_like(scale)
        self.notes |= notes
        return scale, zero

    def small_parts(self, scale, zero, first: int, row: int) -> Mapping[str, tuple[int, bytes]]:
        import numpy as np

        from engine.numerics.affine import to_bytes

        parts = dict(super().small_parts(scale, zero, first, row))
        if self.scheme.symmetric:
            return parts
        dtype = self._parts["zero_point"].dtype
        if dtype == "I8":
            parts["zero_point"] = (first, zero.astype(np.int8).tobytes())
        elif dtype == "I32":
            # Whole words: chunks start at multiples of 32 rows.
            offset = row * self.scheme.bits // 32 * self.grouping.per_row * 4
            parts["zero_point"] = (offset, _pack_zero(zero, self.grouping.per_row, self.scheme.bits))
        else:
            parts["zero_point"] = (first * BITS[dtype] // 8, to_bytes(zero, dtype))
        return parts


def _pack_zero(zero: "np.ndarray", per_row: int, bits: int) -> bytes:
    """Zero points (rows, groups) packed along the rows."""
    import numpy as np

    from engine import numerics

    by_group = np.ascontiguousarray(zero.reshape(-1, per_row).T + 2.0 ** (bits - 1), np.uint8)
    words = -(-by_group.shape[1] * bits // 32)
    packed = np.zeros((per_row, words * 4), np.uint8)
    numerics.backend().pack_rows(by_group, bits, packed)
    return packed.view(np.int32).T.tobytes()


def _unpack_zero(raw: "np.ndarray", grouping: Grouping, bits: int) -> "np.ndarray":
    import numpy as np

    from engine import numerics

    words = np.ascontiguousarray(raw.view(np.int32).reshape(-1, grouping.per_row).T)
    codes = np.empty((grouping.per_row, grouping.matrix.rows), np.uint8)
    numerics.backend().unpack_rows(words.view(np.uint8), bits, codes)
    return (codes.T.astype(np.float32) - np.float32(2 ** (bits - 1))).reshape(-1)
