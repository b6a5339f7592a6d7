"""What all families of scaled numbers share: limits, layout on disk, encoding, decoding.

A weight becomes codes (plain, of the weight's own shape, or packed row by row), scales, and what else its family stores.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import RecipeError
from engine.records.dtypes import BITS, FLOATS, numel, scale_dtype
from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import Scheme
from engine.schemes.base import OWN, Decoder, Encoder, Family, Multiplier, part, role_of
from engine.schemes.grouping import Grouping, Matrix, divisors, first_axis

if TYPE_CHECKING:
    import numpy as np

    from engine.measure.tally import Tally
    from engine.numerics.grids import Grid
    from engine.numerics.scales import Scales


class ScaledFamily(Family):
    """A family whose layers have codes and scales."""

    scale_type = ""
    """Stored type of the scales; empty for the type the model's scales have."""
    decoded_type = ""
    """Type that a decoder gives; empty for the type of the scales."""
    decodes_exactly = False
    """Whether all that decodes to normal numbers of that type does so without being rounded."""

    @abstractmethod
    def grid(self, scheme: Scheme) -> "Grid":
        """The numbers that codes stand for."""

    def plain_type(self, scheme: Scheme, layer: LayerInfo, activations: str) -> str:
        """Stored type of unpacked codes of the weight's own shape; empty when codes are packed."""
        return ""

    @abstractmethod
    def code_bits(self, scheme: Scheme) -> int:
        """Bits of a packed code; 0 for five ternary digits to a byte."""

    def problems(self, scheme: Scheme, layer: LayerInfo) -> list[str]:
        if layer.dtype not in FLOATS:
            return [f"{layer.dtype} is not a float type that can be quantized; use keep"]
        if len(layer.shape) < 2:
            return [f"{len(layer.shape)}-dimensional tensors have no output channels to quantize; use keep"]
        return []

    def ragged(self, scheme: Scheme, layer: LayerInfo) -> str:
        cols = Matrix.of(layer).cols
        if scheme.granularity != "group" or not scheme.group or cols % scheme.group == 0:
            return ""
        return f"group {scheme.group} does not divide {cols} input values; {self._remedy(scheme, cols)}"

    def _remedy(self, scheme: Scheme, cols: int) -> str:
        return f"use {divisors(cols, scheme.group or 1)}, or keep the layer"

    def parts(self, scheme: Scheme, layer: LayerInfo, activations: str) -> tuple[PartPlan, ...]:
        name, matrix = layer.tensor.name, Matrix.of(layer)
        plain = self.plain_type(scheme, layer, activations) if layer.axis == first_axis(layer) else ""
        codes = part(name, plain, layer.shape, "codes") if plain else self.packed_part(scheme, name, matrix)
        grouping = Grouping(matrix, scheme)
        parts = [codes, part(f"{name}_scale", self.scale_type or scale_dtype(layer.dtype), grouping.shape, "scale")]
        parts += self.other_parts(scheme, layer, grouping, bool(plain))
        if not plain and self.stores_shape(scheme, layer):
            parts.append(part(f"{name}_shape", "I64", (len(layer.shape),), "shape"))
        return tuple(parts)

    def packed_part(self, scheme: Scheme, name: str, matrix: Matrix) -> PartPlan:
        """The codes' tensor when they are packed: bytes, row by row."""
        return part(f"{name}_packed", "U8", (matrix.rows, packed_bytes(self.code_bits(scheme), matrix.cols)), "codes")

    def other_parts(self, scheme: Scheme, layer: LayerInfo, grouping: Grouping, plain: bool) -> list[PartPlan]:
        """What a layer stores beside codes, scales and shape."""
        return []

    def stores_shape(self, scheme: Scheme, layer: LayerInfo) -> bool:
        """Whether the weight's shape cannot be told from its packed codes."""
        bits = self.code_bits(scheme)
        return len(layer.shape) != 2 or layer.axis != 0 or bits == 0 or layer.shape[1] * bits % 8 != 0

    def shape_of(self, scheme: Scheme, packed: tuple[int, ...]) -> tuple[int, ...] | None:
        """The weight's shape where its packed codes tell it."""
        bits = self.code_bits(scheme)
        return (packed[0], packed[1] * 8 // bits) if len(packed) == 2 and bits else None

    def stored_problem(self, scheme: Scheme, layer: LayerInfo) -> str:
        stored = {role_of(p.name): p for p in layer.parts}
        codes, scale = stored["codes"], stored["scale"]
        grouping = Grouping(Matrix.of(layer), scheme)
        packed = codes.name.endswith("_packed")
        # Both type and shape: the arithmetic behind reads as many bytes as they promise, without looking.
        ours = self.packed_part(scheme, "", grouping.matrix)
        expected = (ours.dtype, ours.shape) if packed else (self.stored_plain(scheme), layer.shape)
        if (codes.dtype, codes.shape) != expected:
            return f"its codes {codes.dtype} {list(codes.shape)} do not fit the shape {list(layer.shape)} in {scheme.family}"
        if scale.dtype not in self.stored_types(scheme) or numel(scale.shape) != grouping.count:
            return f"its scale {scale.dtype} {list(scale.shape)} does not fit"
        expected_parts = {p.role: p for p in self.other_parts(scheme, layer, grouping, not packed)}
        extra = set(stored) - {"codes", "scale", "shape"}
        if extra != set(expected_parts):
            missing = sorted(set(expected_parts) - extra)
            return f"its {missing[0].replace('_', ' ')} is missing" if missing else "it has parts that its scheme does not know"
        for role, wanted in expected_parts.items():
            if self._unlike(role, stored[role], wanted, scale.dtype):
                return f"its {role.replace('_', ' ')} {stored[role].dtype} {list(stored[role].shape)} does not fit"
        return ""

    def stored_plain(self, scheme: Scheme) -> str:
        """Type of stored codes that are not packed; empty when this family always packs them."""
        return ""

    def stored_types(self, scheme: Scheme) -> tuple[str, ...]:
        """Types that stored scales may have."""
        return (self.scale_type,) if self.scale_type else ("BF16", "F16", "F32")

    def decoded_dtype(self, scheme: Scheme, layer: LayerInfo, scale: str) -> str:
        """Type of decoded values, given that of the scales."""
        return self.decoded_type or scale

    def _unlike(self, role: str, found: Any, wanted: PartPlan, scale: str) -> bool:
        return found.dtype != wanted.dtype or numel(found.shape) != numel(wanted.shape)

    def decoder(self, scheme: Scheme, layer: LayerInfo, stored: Mapping[str, "np.ndarray"]) -> Decoder:
        parts = {role_of(p.name): p for p in layer.parts}
        dtype = self.decoded_dtype(scheme, layer, parts["scale"].dtype)
        grouping = Grouping(Matrix.of(layer), scheme)
        grid = self.stored_grid(scheme, layer)._replace(flip=0x80 if parts["codes"].dtype == "I8" else 0)
        row_bytes = parts["codes"].nbytes // max(grouping.matrix.rows, 1)
        scales, zeros = self.stored_scales(layer, stored), self.stored_zeros(scheme, layer, grouping, stored)
        own = 0 if scales.raw is stored["scale"] else scales.raw.nbytes
        return ScaledDecoder(grouping, grid, dtype, row_bytes, scales, zeros, own, self.decodes_exactly)

    def stored_grid(self, scheme: Scheme, layer: LayerInfo) -> "Grid":
        """The grid of stored codes (plain 8-bit storage may hold narrower integers)."""
        return self.grid(scheme)

    def read_parameters(
        self, scheme: Scheme, layer: LayerInfo, grouping: Grouping, stored: Mapping[str, "np.ndarray"]
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """Scale and zero point of every group from their stored bytes, as float32."""
        import numpy as np

        scale, zero = self.stored_scales(layer, stored).floats(), self.stored_zeros(scheme, layer, grouping, stored)
        return scale, zero if zero.size else np.zeros_like(scale)

    def stored_scales(self, layer: LayerInfo, stored: Mapping[str, "np.ndarray"]) -> "Scales":
        """The scales of all groups, as they are stored."""
        from engine.numerics import KINDS
        from engine.numerics.scales import Scales

        return Scales(KINDS[next(p.dtype for p in layer.parts if role_of(p.name) == "scale")], stored["scale"])

    def stored_zeros(
        self, scheme: Scheme, layer: LayerInfo, grouping: Grouping, stored: Mapping[str, "np.ndarray"]
    ) -> "np.ndarray":
        """The zero points of all groups, float32; none where all are 0."""
        import numpy as np

        return np.zeros(0, np.float32)

    def quantization_args(self, scheme: Scheme) -> dict[str, Any]:
        return {"type": OWN, "num_bits": scheme.bits, "scheme": self.format(scheme)}

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        name = args.get("scheme")
        if args.get("type") != OWN or not isinstance(name, str):
            return None
        try:
            return self.parse(name)
        except RecipeError:
            return None


def packed_bytes(bits: int, cols: int) -> int:
    return -(-cols * bits // 8) if bits else -(-cols // 5)


class ScaledCodec(Encoder):
    """The common encoder: codes stand for numbers of a grid times a scale that groups of weights share.

    Families give it their grid, and override how ranges become scales and how those are stored.
    ``dtype``: the type in which scales are rounded; ``kind``: that of the weights it is given. ``notes``: what had to be done to
    keep numbers finite, for the report.
    """

    def __init__(
        self, family: ScaledFamily, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...], *, divide_in_f32: bool
    ) -> None:
        from engine import numerics

        self.scheme, self.layer = scheme, layer
        self.grouping = Grouping(Matrix.of(layer), scheme)
        self.grid = family.grid(scheme)
        self.dtype = scale_dtype(layer.dtype)
        self.notes: set[str] = set()
        self._parts = {p.role: p for p in parts}
        self._kernels = numerics.backend()
        self.kind = numerics.KINDS[layer.dtype]
        self.divide_in = numerics.KINDS["F32" if divide_in_f32 else self.dtype]
        self.decode_in = numerics.KINDS[family.decoded_dtype(scheme, layer, self.dtype)]
        codes = self._parts["codes"]
        self._row_bytes = codes.nbytes // max(self.grouping.matrix.rows, 1)
        self._flip = 0x80 if codes.dtype == "I8" else 0

    def take_floats(self) -> None:
        """From now on weights come as float32 and are divided as such: solvers work on them before they are rounded."""
        from engine.numerics import KINDS

        self.kind = self.divide_in = KINDS["F32"]

    def begin(self, limit: float) -> None:
        """Take the largest magnitude of the whole weight (and of those that must share its scale) before anything else."""

    def encode(self, raw, rows, parameters, bin_scale, out, tally: "Tally") -> None:
        scale, zero = (self.grouping.spread(p, rows) for p in parameters)
        self._kernels.encode_rows(
            raw, rows, self.grouping.matrix.cols, self.kind, self.grouping.columns, scale, zero, self.grid, self.divide_in,
            self.decode_in, self._row_bytes, out, bin_scale, tally.sums, tally.counts, tally.joint,
        )  # fmt: skip
        if self._flip:
            out ^= self._flip  # q + 128 to two's complement

    def pack_levels(self, levels: "np.ndarray", rows: int, out: "np.ndarray") -> None:
        """Fill ``out`` with the codes of numbers that lie on the grid already, float32 of ``rows`` rows."""
        import numpy as np

        from engine.measure.tally import Tally
        from engine.numerics import KINDS

        count, f32, unused = rows * self.grouping.per_row, KINDS["F32"], Tally()
        ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
        self._kernels.encode_rows(
            levels, rows, self.grouping.matrix.cols, f32, self.grouping.columns, ones, zeros, self.grid, f32, f32,
            self._row_bytes, out, np.float32(1), unused.sums, unused.counts, unused.joint,
        )  # fmt: skip
        if self._flip:
            out ^= self._flip

    def decode_levels(self, levels: "np.ndarray", rows: int, parameters: Any) -> "np.ndarray":
        """What a reader decodes from numbers of the grid, (rows, cols) float32, under the parameters of a chunk's groups."""
        import numpy as np

        from engine.numerics.affine import round_to

        dtype = next(name for name, kind in self._kinds().items() if kind == self.decode_in)
        scale, zero = (
            np.repeat(self.grouping.spread(p, rows).reshape(rows, -1), self.grouping.columns, axis=1)[:, : levels.shape[1]]
            for p in parameters
        )
        return round_to((levels - zero) * scale, dtype)

    @staticmethod
    def _kinds() -> Mapping[str, int]:
        from engine.numerics import KINDS

        return KINDS

    def floats(self, raw: "np.ndarray") -> "np.ndarray":
        """Stored weights as float32."""
        from engine.numerics.affine import from_bytes

        return from_bytes(raw, next(name for name, kind in self._kinds().items() if kind == self.kind))

    def rounded(self, values: "np.ndarray") -> "np.ndarray":
        """Float32 values rounded to the type in which parameters are stored."""
        from engine.numerics.affine import round_to

        return round_to(values, self.dtype)

    def errors(self, raw, rows, parameters, power: float) -> "np.ndarray":
        """Sum of ``|w - w'|**power`` of each group of a chunk."""
        import numpy as np

        scale, zero = (self.grouping.spread(p, rows) for p in parameters)
        totals = np.zeros(scale.size)
        self._kernels.error_rows(
            raw, rows, self.grouping.matrix.cols, self.kind, self.grouping.columns, scale, zero, self.grid, self.divide_in,
            self.decode_in, float(power), totals,
        )  # fmt: skip
        return self.grouping.reduce(np.add, totals, rows)

    @property
    def settles(self) -> bool:
        """Whether all scales of the layer must be known before any weight can be encoded."""
        return False

    def settle(self, scale: "np.ndarray") -> "np.ndarray":
        """All scales of the layer as they will be stored and read."""
        return scale

    def first_parameters(self, low: "np.ndarray", high: "np.ndarray", means: Any) -> tuple["np.ndarray", "np.ndarray"]:
        """What round-to-nearest takes; ``means()`` gives the mean magnitude of each group, which costs a pass."""
        return self.parameters(low, high)

    def parameters(self, low: "np.ndarray", high: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
        """Scale and zero point (float32, as a reader will have them) that cover each range."""
        import numpy as np

        scale = self.scales(np.maximum(-low, high))
        return scale, np.zeros_like(scale)

    def scales(self, amax: "np.ndarray") -> "np.ndarray":
        """Scale of each group, given its largest magnitude."""
        from engine.numerics.affine import symmetric

        top = float(self.grid.high)
        scale, notes = symmetric(amax, top, top, self.dtype)
        self.notes |= notes
        return scale

    def small_parts(self, scale, zero, first: int, row: int) -> Mapping[str, tuple[int, bytes]]:
        """(byte offset, bytes) of the stored parameters of a chunk, by role: groups from ``first``, rows from ``row`` on."""
        from engine.numerics.affine import to_bytes

        dtype = self._parts["scale"].dtype
        return {"scale": (first * BITS[dtype] // 8, to_bytes(scale, dtype))}

    def layer_parts(self) -> Mapping[str, bytes]:
        """Whole parts that belong to the layer rather than to its groups, by role."""
        import numpy as np

        return {"shape": np.asarray(self.layer.shape, np.int64).tobytes()} if "shape" in self._parts else {}


class ScaledDecoder(Decoder):
    """Stored codes to values. ``own``: bytes of scales that are not the stored ones; ``exact``: see ``decodes_exactly``."""

    def __init__(
        self,
        grouping: Grouping,
        grid: "Grid",
        dtype: str,
        row_bytes: int,
        scales: "Scales",
        zeros: "np.ndarray",
        own: int,
        exact: bool,
    ) -> None:
        from engine import numerics

        self.dtype, self.codes_row_bytes = dtype, row_bytes
        self._grouping, self._grid, self._zeros, self._own = grouping, grid, zeros, own
        # To numba what cannot be written is another type, for which every kernel would be compiled once more.
        self._scales = scales if scales.raw.flags.writeable else scales._replace(raw=scales.raw.copy())
        self._kernels, self._kind, self._exact = numerics.backend(), numerics.KINDS[dtype], exact

    def decode(self, codes: "np.ndarray", row: int, rows: int) -> "np.ndarray":
        import numpy as np

        cols = self._grouping.matrix.cols
        out = np.empty(rows * cols * BITS[self.dtype] // 8, np.uint8)
        for begin, end, arguments in self._arguments(codes, row, rows):
            self._kernels.decode_rows(*arguments, out[begin * cols * BITS[self.dtype] // 8 : end * cols * BITS[self.dtype] // 8])
        return out

    @property
    def nbytes(self) -> int:
        grouping = self._grouping
        tall = 4 * grouping.matrix.rows * grouping.per_row if grouping.height > 1 else 0  # of each parameter, spread over rows
        return self._own + tall + (self._zeros.nbytes + tall if self._zeros.size else 0)

    def multiplier(self, codes: "np.ndarray", row: int, rows: int, *, rounded: bool = True) -> Multiplier:
        from engine.numerics import KINDS

        kind, run = self._kind if rounded and not self._exact else KINDS["F32"], self._kernels.multiply_rows
        pieces = [(begin, end, arguments) for begin, end, (*arguments, _) in self._arguments(codes, row, rows)]
        if len(pieces) == 1:
            arguments = pieces[0][2]
            return lambda x, out: run(*arguments, kind, x, out)

        def multiply(x: "np.ndarray", out: "np.ndarray") -> None:
            for begin, end, arguments in pieces:
                run(*arguments, kind, x, out[begin:end])

        return multiply

    def _arguments(self, codes: "np.ndarray", row: int, rows: int) -> "Iterator[tuple[int, int, tuple[Any, ...]]]":
        """(first, last, what the kernels are given) of pieces of these rows, counted from the first of them."""
        from engine.numerics.scales import Scales

        grouping = self._grouping
        for first, count in self._pieces(row, rows):
            span = grouping.span(first, count)
            begin, end = first - row, first - row + count
            scales, zeros = self._scales.part(span), self._zeros[span]
            if grouping.height > 1:
                scales = Scales.of(grouping.spread(scales.floats(), count))
                zeros = grouping.spread(zeros, count) if zeros.size else zeros
            piece = codes[begin * self.codes_row_bytes : end * self.codes_row_bytes]
            shape = (count, grouping.matrix.cols, self.codes_row_bytes)
            yield begin, end, (piece, *shape, self._grid, grouping.columns, scales, zeros, self._kind)

    def _pieces(self, row: int, rows: int) -> list[tuple[int, int]]:
        """These rows, cut where groups that span rows end with their slice."""
        if not self._grouping.by_slice or self._grouping.matrix.slices == 1:
            return [(row, rows)]
        size = self._grouping.matrix.slice_rows
        return [(first, min(first + size, row + rows) - first) for first in range(row, row + rows, size)]
