"""Numba kernels from stored codes to values and products, on sixteen numbers at once.

Loops over packed codes are not vectorized by compilers, so these kernels say what is done to vectors: four types of values,
``Floats``, ``Words`` and ``Bytes`` (16 of float32, uint32 and int8) and ``Eight`` (of float32), and the few operations on them
that are needed, in LLVM's own terms, which it turns into the instructions of any processor. Rows of codes are first spread to
bytes, then widened, decoded and multiplied in the registers; one row times one vector is mostly taken straight from what is
stored. One file, because numba's cache notices changes of the file that a kernel stands in, not of those it calls into.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from engine.numerics.grids import CODEBOOK, FLOAT, INTEGER, TRITS
from engine.numerics.scales import TABLE

BF16, F16 = 0, 1
LANES, SPARE = 16, 128
HALF = 8
"""Lanes of what is summed in products with several vectors: twelve such sums and what they need fill the registers of AVX2."""
BAND = 16
"""Rows that are decoded before they are multiplied: they stay in the cache of one core, with ``SPAN`` numbers of each vector."""
SPAN = 1024
AHEAD = 1024
"""Bytes of codes that are asked for before they are needed."""
_EXACT = {"nogil": True, "cache": True, "boundscheck": False, "error_model": "numpy"}
_FLOAT, _WORD, _BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
_FLOATS, _WORDS, _EIGHT = ir.VectorType(_FLOAT, LANES), ir.VectorType(_WORD, LANES), ir.VectorType(_FLOAT, HALF)
_BYTES, _SHORTS = ir.VectorType(_BYTE, LANES), ir.VectorType(ir.IntType(16), LANES)


class _Vector(types.Type):
    """Sixteen numbers, as numba sees them."""


class _FloatsType(_Vector):
    pass


class _WordsType(_Vector):
    pass


class _EightType(_Vector):
    """Eight of float32."""


class _BytesType(_Vector):
    """Sixteen of int8."""


@register_model(_FloatsType)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(_WordsType)
class _WordsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _WORDS)


@register_model(_EightType)
class _EightModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _EIGHT)


@register_model(_BytesType)
class _BytesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _BYTES)


Floats, Words, Eight, Bytes = _FloatsType("float32x16"), _WordsType("uint32x16"), _EightType("float32x8"), _BytesType("int8x16")


def _place(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, index: Any, to: ir.Type) -> Any:
    """Where an array's element lies, as a pointer to ``to``."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _constant(kind: ir.VectorType, values: Any) -> ir.Constant:
    return ir.Constant(kind, [int(v) for v in values])


def _shuffled(builder: ir.IRBuilder, a: Any, b: Any, places: Any) -> Any:
    return builder.shuffle_vector(a, b, _constant(ir.VectorType(_WORD, len(places)), places))


def _splat(builder: ir.IRBuilder, value: Any, kind: ir.VectorType) -> Any:
    if value.type != kind.element:  # numba widens what it computes with integers
        value = builder.trunc(value, kind.element)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_WORD, 0))
    return _shuffled(builder, one, ir.Constant(kind, ir.Undefined), [0] * kind.count)


def _operation(result: Any, emit: Callable) -> Any:
    """An operation on one, two or three values that LLVM has an instruction for."""

    def unary(context, a):
        return result(a), lambda context, builder, signature, arguments: emit(builder, *arguments)

    def binary(context, a, b):
        return result(a, b), lambda context, builder, signature, arguments: emit(builder, *arguments)

    arity = emit.__code__.co_argcount - 1
    return intrinsic((unary, binary)[arity - 1])


_plus = _operation(Floats, lambda b, x, y: b.fadd(x, y))
_minus = _operation(Floats, lambda b, x, y: b.fsub(x, y))
_times = _operation(Floats, lambda b, x, y: b.fmul(x, y))
_and = _operation(Words, lambda b, x, y: b.and_(x, y))
_right = _operation(Words, lambda b, x, y: b.lshr(x, y))
_to_floats = _operation(Floats, lambda b, x: b.sitofp(x, _FLOATS))
_each = _operation(Floats, lambda b, x: _splat(b, x, _FLOATS))
_each_word = _operation(Words, lambda b, x: _splat(b, x, _WORDS))


@intrinsic
def _plus_product(context, total, x, y):
    """``total + x * y``, in one rounding where the processor has that."""

    def make(context, builder, signature, arguments):
        product = builder.fmul(arguments[1], arguments[2], flags=["contract"])
        return builder.fadd(arguments[0], product, flags=["contract"])

    return total(total, x, y), make


def _has(context: Any, feature: str) -> bool:
    """Whether what is compiled here runs on a processor with this (``avx2``, ``ssse3``, ``f16c``)."""
    return f"+{feature}" in context.codegen().magic_tuple()[2].split(",")


def _total(builder: ir.IRBuilder, vector: Any, add: Callable) -> Any:
    """The sum of all lanes, by halves."""
    count = vector.type.count
    while count > 1:
        count //= 2
        vector = add(*(_shuffled(builder, vector, vector, range(first, first + count)) for first in (0, count)))
    return builder.extract_element(vector, ir.Constant(_WORD, 0))


@intrinsic
def _to_bfloat(context, x):
    """Rounded to the nearest even number of bfloat16."""

    def make(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _WORDS)
        even = builder.and_(builder.lshr(bits, _constant(_WORDS, [16] * LANES)), _constant(_WORDS, [1] * LANES))
        carried = builder.add(bits, builder.add(even, _constant(_WORDS, [0x7FFF] * LANES)))
        return builder.bitcast(builder.and_(carried, _constant(_WORDS, [0xFFFF0000] * LANES)), _FLOATS)

    return Floats(x), make


@intrinsic
def _sum(context, x):
    return types.float32(x), lambda context, builder, signature, arguments: _total(builder, arguments[0], builder.fadd)


@intrinsic
def _eights(context, this, other):
    """Eight times one number and eight times another."""

    def make(context, builder, signature, arguments):
        none = ir.Constant(_FLOATS, ir.Undefined)
        both = none
        for place, value in enumerate(arguments):
            both = builder.insert_element(both, value, ir.Constant(_WORD, place))
        return _shuffled(builder, both, none, [0] * HALF + [1] * HALF)

    return Floats(types.float32, types.float32), make


@intrinsic
def _only(context, x, count):
    """The first ``count`` numbers, and zeros."""

    def make(context, builder, signature, arguments):
        inside = builder.icmp_signed("<", _constant(_WORDS, range(LANES)), _splat(builder, arguments[1], _WORDS))
        return builder.select(inside, arguments[0], ir.Constant(_FLOATS, [0.0] * LANES))

    return Floats(x, count), make


@intrinsic
def _floats_at(context, array, index):
    def make(context, builder, signature, arguments):
        return builder.load(_place(context, builder, array, *arguments, _FLOATS), align=4)

    return Floats(array, index), make


def _row_place(context: Any, builder: ir.IRBuilder, kind: Any, arguments: Any, element: ir.Type, to: ir.Type) -> Any:
    """Where a contiguous matrix holds (row, column), as a pointer to ``to``."""
    held = context.make_array(kind)(context, builder, arguments[0])
    first = builder.mul(arguments[1], builder.extract_value(held.strides, 0))
    start = builder.gep(builder.bitcast(held.data, _BYTE.as_pointer()), [first])
    place = builder.gep(builder.bitcast(start, element.as_pointer()), [arguments[2]])
    return builder.bitcast(place, to.as_pointer())


@intrinsic
def _eight_at(context, array, row, index):
    """Eight numbers of a row of a contiguous matrix."""

    def make(context, builder, signature, arguments):
        return builder.load(_row_place(context, builder, array, arguments, _FLOAT, _EIGHT), align=4)

    return Eight(array, types.intp, types.intp), make


@intrinsic
def _no_eight(context):
    return Eight(), lambda context, builder, signature, arguments: ir.Constant(_EIGHT, [0.0] * HALF)


def _loaded(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, index: Any) -> Any:
    """Sixteen bytes from an array's element on."""
    return builder.load(_place(context, builder, kind, array, index, _BYTES), align=1)


@intrinsic
def _bytes_at(context, array, index):
    """Sixteen bytes, widened."""

    def make(context, builder, signature, arguments):
        return builder.zext(_loaded(context, builder, array, *arguments), _WORDS)

    return Words(array, index), make


@intrinsic
def _signed_at(context, array, index, flip):
    """Sixteen bytes, of which some bits are the other way round, in two's complement, widened."""

    def make(context, builder, signature, arguments):
        flipped = builder.xor(_loaded(context, builder, array, *arguments[:2]), _splat(builder, arguments[2], _BYTES))
        return builder.sext(flipped, _WORDS)

    return Words(array, index, flip), make


@intrinsic
def _table_at(context, array, index):
    """Sixteen bytes as they are."""

    def make(context, builder, signature, arguments):
        return _loaded(context, builder, array, *arguments)

    return Bytes(array, index), make


def _halves(part: int) -> Any:
    """Of the sixteen bytes at a place the lower or the upper halves, as what a table of sixteen has for them, widened."""

    @intrinsic
    def found(context, array, index, table):
        def make(context, builder, signature, arguments):
            given = _loaded(context, builder, array, *arguments[:2])
            codes = (
                builder.lshr(given, _constant(_BYTES, [4] * LANES))
                if part
                else builder.and_(given, _constant(_BYTES, [15] * LANES))
            )
            return builder.sext(_looked_up(context, builder, arguments[2], codes), _WORDS)

        return Words(array, index, table), make

    return found


_lower, _upper = _halves(0), _halves(1)


def _looked_up(context: Any, builder: ir.IRBuilder, table: Any, codes: Any) -> Any:
    """The bytes among sixteen that codes below 16 stand for: one instruction where the processor has that."""
    if not _has(context, "ssse3"):
        return _halved(builder, table, codes)
    form = ir.FunctionType(_BYTES, [_BYTES, _BYTES])
    return builder.call(cgutils.get_or_insert_function(builder.module, form, "llvm.x86.ssse3.pshuf.b.128"), [table, codes])


@intrinsic
def _small_floats(context, array, index, bits, mantissa, finite):
    """Sixteen bytes, codes of a small float, as float16 numbers with its exponent and mantissa, widened.

    They are ``2**(bias - 15)`` times what they stand for; NaN where the code without its sign is not below ``finite``.
    """

    def make(context, builder, signature, arguments):
        codes = builder.zext(_loaded(context, builder, array, *arguments[:2]), _SHORTS)
        short = _SHORTS.element
        bits, mantissa, finite = (builder.trunc(a, short) for a in arguments[2:])
        sign = builder.shl(short(1), builder.sub(bits, short(1)))
        size = builder.and_(codes, _splat(builder, builder.sub(sign, short(1)), _SHORTS))
        placed = builder.shl(size, _splat(builder, builder.sub(short(10), mantissa), _SHORTS))
        finite = builder.icmp_signed("<", size, _splat(builder, finite, _SHORTS))
        number = builder.select(finite, placed, _constant(_SHORTS, [0x7E00] * LANES))
        signs = builder.and_(codes, _splat(builder, sign, _SHORTS))
        signs = builder.shl(signs, _splat(builder, builder.sub(short(16), bits), _SHORTS))
        return _widened(context, builder, builder.or_(number, signs))

    return Floats(array, index, bits, mantissa, finite), make


def _widened(context: Any, builder: ir.IRBuilder, halves: Any) -> Any:
    """Sixteen of float16 as float32.

    Without an instruction for it exponent and mantissa are put where float32 has them. Subnormal numbers get the least normal
    one's exponent, and lose the leading bit that it brings by a subtraction.
    """
    if _has(context, "f16c") or context.codegen().magic_tuple()[0].startswith(("aarch64", "arm64")):
        return builder.fpext(builder.bitcast(halves, ir.VectorType(ir.HalfType(), LANES)), _FLOATS)
    words = builder.zext(halves, _WORDS)
    size = builder.and_(words, _constant(_WORDS, [0x7FFF] * LANES))
    moved = builder.shl(size, _constant(_WORDS, [13] * LANES))
    normal = builder.bitcast(builder.add(moved, _constant(_WORDS, [112 << 23] * LANES)), _FLOATS)
    small = builder.bitcast(builder.add(moved, _constant(_WORDS, [113 << 23] * LANES)), _FLOATS)
    small = builder.fsub(small, ir.Constant(_FLOATS, [2.0**-14] * LANES))
    number = builder.select(builder.icmp_signed("<", size, _constant(_WORDS, [1 << 10] * LANES)), small, normal)
    finite = builder.icmp_signed("<", size, _constant(_WORDS, [31 << 10] * LANES))
    number = builder.select(finite, number, ir.Constant(_FLOATS, [float("nan")] * LANES))
    sign = builder.shl(builder.and_(words, _constant(_WORDS, [1 << 15] * LANES)), _constant(_WORDS, [16] * LANES))
    return builder.bitcast(builder.or_(builder.bitcast(number, _WORDS), sign), _FLOATS)


@intrinsic
def _fetch(context, array, index):
    """Ask for the bytes around an element to be brought near; it may lie beyond the array."""

    def make(context, builder, signature, arguments):
        place, flag = _BYTE.as_pointer(), ir.IntType(32)
        form = ir.FunctionType(ir.VoidType(), [place, flag, flag, flag])
        fetch = cgutils.get_or_insert_function(builder.module, form, "llvm.prefetch.p0i8")
        builder.call(fetch, [_place(context, builder, array, *arguments, _BYTE), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, index), make


@intrinsic
def _put_floats(context, array, index, value):
    def make(context, builder, signature, arguments):
        builder.store(arguments[2], _place(context, builder, array, *arguments[:2], _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), make


@intrinsic
def _put_bytes(context, array, index, value):
    """The lowest byte of each word."""

    def make(context, builder, signature, arguments):
        kind = ir.VectorType(_BYTE, LANES)
        place = _place(context, builder, array, *arguments[:2], kind)
        builder.store(builder.trunc(arguments[2], kind), place, align=1)
        return context.get_dummy_value()

    return types.void(array, index, value), make


@intrinsic(prefer_literal=True)
def _spread(context, codes, to, packed, at, bits):
    """64 codes of ``bits`` bits (a literal) that begin at a byte, as bytes; 64 bytes are read.

    Every second code in turn: the two bytes that it begins and may end in go to a word, which is shifted and masked.
    """
    wide = bits.literal_value
    bytes_, halves = ir.VectorType(_BYTE, 64), ir.VectorType(ir.IntType(16), 32)

    def make(context, builder, signature, arguments):
        given = builder.load(_place(context, builder, signature.args[2], *arguments[2:4], bytes_), align=1)
        found = []
        for odd in (0, 1):
            starts = [(2 * lane + odd) * wide for lane in range(32)]
            # Zeros of the other vector for a second byte that the code does not reach.
            places = [place for s in starts for place in (s // 8, s // 8 + 1 if s % 8 + wide > 8 else 64)]
            words = builder.bitcast(_shuffled(builder, given, ir.Constant(bytes_, [0] * 64), places), halves)
            shifted = builder.lshr(words, _constant(halves, (s % 8 for s in starts)))
            found.append(builder.and_(shifted, _constant(halves, [(1 << wide) - 1] * 32)))
        both = builder.or_(found[0], builder.shl(found[1], _constant(halves, [8] * 32)))
        builder.store(both, _place(context, builder, signature.args[0], *arguments[:2], halves), align=1)
        return context.get_dummy_value()

    return types.void(codes, to, packed, at, bits), make


@intrinsic(prefer_literal=True)
def _spread_trits(context, array, index, part):
    """Of the 80 base-3 digits in sixteen bytes those from ``16 * part`` on; the lowest of a byte comes first."""
    first = part.literal_value * LANES

    def make(context, builder, signature, arguments):
        kind = ir.VectorType(_BYTE, LANES)
        given = builder.load(_place(context, builder, array, *arguments[:2], kind), align=1)
        places = [place for lane in range(LANES) for place in ((first + lane) // 5, LANES, LANES, LANES)]
        words = builder.bitcast(_shuffled(builder, given, ir.Constant(kind, [0] * LANES), places), _WORDS)
        # Floors of bytes over powers of three, exact: 2**16 / 3**k is rounded up by less than 2**16 / 255 / 3**k.
        scale = _constant(_WORDS, (-(-(1 << 16) // 3 ** ((first + lane) % 5)) for lane in range(LANES)))
        digits = builder.lshr(builder.mul(words, scale), _constant(_WORDS, [16] * LANES))
        thirds = builder.lshr(builder.mul(digits, _constant(_WORDS, [21846] * LANES)), _constant(_WORDS, [16] * LANES))
        return builder.sub(digits, builder.mul(thirds, _constant(_WORDS, [3] * LANES)))

    return Words(array, index, part), make


@intrinsic
def _trits_at(context, array, index, part):
    """Of the 80 base-3 digits in sixteen bytes those from ``16 * part`` on, less 1.

    A digit is the part behind the point of its byte over ``3**(place + 1)``, times three. In 65536ths that part is too large by
    at most ``242 * (270 - 65536 / 243) < 75``, where a digit ends a 243rd away.
    """
    spots = [16 * number + lane for number in range(5) for lane in range(LANES)]
    source, scale = [spot // 5 for spot in spots], [-(-(1 << 16) // 3 ** (spot % 5 + 1)) for spot in spots]

    def row(builder, values, part, element):
        """One of five rows of constants."""
        kind = ir.VectorType(element, LANES)
        rows = ir.Constant(
            ir.ArrayType(kind, 5), [ir.Constant(kind, values[first : first + LANES]) for first in range(0, 80, LANES)]
        )
        held = cgutils.global_constant(builder, "trits", rows)
        return builder.load(builder.gep(held, [_WORD(0), part]))

    def make(context, builder, signature, arguments):
        given, part = _loaded(context, builder, array, *arguments[:2]), arguments[2]
        digits = builder.zext(_looked_up(context, builder, given, row(builder, source, part, _BYTE)), _SHORTS)
        behind = builder.mul(digits, row(builder, scale, part, _SHORTS.element))
        product = builder.mul(builder.zext(behind, _WORDS), _constant(_WORDS, [3] * LANES))
        digits = builder.trunc(builder.lshr(product, _constant(_WORDS, [16] * LANES)), _SHORTS)
        return builder.sext(builder.sub(digits, _constant(_SHORTS, [1] * LANES)), _WORDS)

    return Words(array, index, part), make


@intrinsic
def _look_up(context, levels, codes):
    """The numbers among sixteen that codes below 16 stand for."""

    def make(context, builder, signature, arguments):
        return (_permuted if _has(context, "avx2") else _halved)(builder, *arguments)

    return Floats(levels, codes), make


def _permuted(builder: ir.IRBuilder, levels: Any, codes: Any) -> Any:
    """With AVX2: one instruction finds eight numbers among eight, by the low three bits; the fourth chooses between two such."""
    eight_words = ir.VectorType(_WORD, HALF)
    permute = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_EIGHT, [_EIGHT, eight_words]), "llvm.x86.avx2.permps"
    )
    low, high = (_shuffled(builder, levels, levels, range(first, first + HALF)) for first in (0, HALF))
    found = []
    for first in (0, HALF):
        places = _shuffled(builder, codes, codes, range(first, first + HALF))
        fourth = builder.shl(places, _constant(eight_words, [28] * HALF))
        is_high = builder.icmp_signed("<", fourth, _constant(eight_words, [0] * HALF))
        found.append(builder.select(is_high, builder.call(permute, [high, places]), builder.call(permute, [low, places])))
    return _shuffled(builder, *found, range(LANES))


def _halved(builder: ir.IRBuilder, levels: Any, codes: Any) -> Any:
    """On any processor: the numbers are halved four times, by one bit of the codes each."""
    left = [_shuffled(builder, levels, levels, [level] * LANES) for level in range(LANES)]
    for bit in range(4):
        masked = builder.and_(codes, _constant(codes.type, [1 << bit] * LANES))
        on = builder.icmp_unsigned("!=", masked, _constant(codes.type, [0] * LANES))
        left = [builder.select(on, high, low) for low, high in zip(left[::2], left[1::2], strict=True)]
    return left[0]


@njit(**_EXACT)
def _unpack(packed, n, bits, flip, codes):
    """``n`` packed codes as bytes, or stored bytes with some bits the other way round.

    Up to ``SPARE`` bytes beyond them are read and as many codes beyond ``n`` written.
    """
    if bits == TRITS:
        for b in range((n + 79) // 80):
            _put_bytes(codes, 80 * b, _spread_trits(packed, 16 * b, 0))
            _put_bytes(codes, 80 * b + 16, _spread_trits(packed, 16 * b, 1))
            _put_bytes(codes, 80 * b + 32, _spread_trits(packed, 16 * b, 2))
            _put_bytes(codes, 80 * b + 48, _spread_trits(packed, 16 * b, 3))
            _put_bytes(codes, 80 * b + 64, _spread_trits(packed, 16 * b, 4))
    elif bits == 1:
        for b in range((n + 63) // 64):
            _spread(codes, 64 * b, packed, 8 * b, 1)
    elif bits == 2:
        for b in range((n + 63) // 64):
            _spread(codes, 64 * b, packed, 16 * b, 2)
    elif bits == 3:
        for b in range((n + 63) // 64):
            _spread(codes, 64 * b, packed, 24 * b, 3)
    elif bits == 4:
        for b in range((n + 63) // 64):
            _spread(codes, 64 * b, packed, 32 * b, 4)
    elif bits == 5:
        for b in range((n + 63) // 64):
            _spread(codes, 64 * b, packed, 40 * b, 5)
    elif bits == 6:
        for b in range((n + 63) // 64):
            _spread(codes, 64 * b, packed, 48 * b, 6)
    elif bits == 7:
        for b in range((n + 63) // 64):
            _spread(codes, 64 * b, packed, 56 * b, 7)
    else:
        for i in range(n):
            codes[i] = packed[i] ^ np.uint8(flip)


@njit(**_EXACT)
def _levels(grid):
    """The first sixteen of a codebook."""
    table = np.zeros(LANES, np.float32)
    for i in range(min(grid.values.size, LANES)):
        table[i] = grid.values[i]
    return table


@njit(**_EXACT)
def _finite(grid):
    """Codes of a small float below which magnitudes are numbers."""
    finite = 0
    while finite < grid.values.size // 2 and grid.values[finite] == grid.values[finite]:
        finite += 1
    return finite


@njit(**_EXACT)
def _small(grid):
    """By what ``_small_floats`` of this grid are multiplied."""
    return grid.normal * np.float32(16384)


def _of_form(form: int) -> tuple[Any, Any]:
    """The two kernels for one form of grids: compiled for it, so that what it needs stays in the registers."""

    @njit(inline="always", **_EXACT)
    def numbers(codes, at, base, bits, mantissa, finite, levels):
        """Sixteen codes as numbers of the grid; those of a small float are not multiplied yet."""
        if form == INTEGER:
            return _plus(_to_floats(_bytes_at(codes, at)), base)
        if form == FLOAT:
            return _small_floats(codes, at, bits, mantissa, finite)
        return _look_up(levels, _bytes_at(codes, at))

    @njit(**_EXACT)
    def decode(codes, cols, grid, finite, table, group, scale, zero, values):
        """Codes of one row to ``(q - z) * s`` in float32. Up to 15 values more are written."""
        levels, base, small = _floats_at(table, 0), _each(np.float32(grid.base)), _each(_small(grid))
        for g in range((cols + group - 1) // group):
            s, z, i, last = _each(scale[g]), _each(zero[g]), g * group, min(g * group + group, cols)
            while i < last:
                found = numbers(codes, i, base, grid.bits, grid.mantissa, finite, levels)
                if form == INTEGER:
                    found = _minus(found, z)
                elif form == FLOAT:
                    found = _times(found, small)
                _put_floats(values, i, _times(found, s))
                i += LANES

    @njit(**_EXACT)
    def multiply(codes, cols, grid, finite, table, group, scale, zero, x):
        """The product of one row's values, which are not rounded, with ``x``, of which 15 numbers more are read."""
        levels, base, small = _floats_at(table, 0), _each(np.float32(grid.base)), _each(_small(grid))
        total, i = _each(np.float32(0)), 0
        for g in range((cols + group - 1) // group):
            last, even, odd = min(i + group, cols), _each(np.float32(0)), _each(np.float32(0))
            if form == INTEGER:
                base = _each(np.float32(grid.base) - zero[g])
            while i + 2 * LANES <= last:
                found = numbers(codes, i, base, grid.bits, grid.mantissa, finite, levels)
                even = _plus_product(even, found, _floats_at(x, i))
                found = numbers(codes, i + LANES, base, grid.bits, grid.mantissa, finite, levels)
                odd = _plus_product(odd, found, _floats_at(x, i + LANES))
                i += 2 * LANES
            while i < last:
                found = numbers(codes, i, base, grid.bits, grid.mantissa, finite, levels)
                odd = _plus(odd, _only(_times(found, _floats_at(x, i)), last - i))
                i += LANES
            i = last
            both = _plus(even, odd)
            total = _plus_product(total, _each(scale[g]), _times(both, small) if form == FLOAT else both)
        return _sum(total)

    return decode, multiply


_decode_integers, _multiply_integers = _of_form(INTEGER)
_decode_floats, _multiply_floats = _of_form(FLOAT)
_decode_few, _multiply_few = _of_form(CODEBOOK)


@njit(**_EXACT)
def _decode_row(codes, cols, grid, finite, table, group, scale, zero, values):
    if grid.form == INTEGER:
        _decode_integers(codes, cols, grid, finite, table, group, scale, zero, values)
    elif grid.values.size > LANES:
        _decode_floats(codes, cols, grid, finite, table, group, scale, zero, values)
    else:
        _decode_few(codes, cols, grid, finite, table, group, scale, zero, values)


@njit(**_EXACT)
def _multiply_row(codes, cols, grid, finite, table, group, scale, zero, x):
    if grid.form == INTEGER:
        return _multiply_integers(codes, cols, grid, finite, table, group, scale, zero, x)
    if grid.values.size > LANES:
        return _multiply_floats(codes, cols, grid, finite, table, group, scale, zero, x)
    return _multiply_few(codes, cols, grid, finite, table, group, scale, zero, x)


# One row times one vector, whose groups are whole thirty-twos of columns. The vector comes from ``_arranged``; what all numbers
# of a group have in common is left to ``_in_common``.


@njit(**_EXACT)
def _one_of_bytes(codes, first, cols, flip, group, scale, x):
    """Integers: bytes in two's complement, of which some bits are the other way round."""
    flip, total, at = np.uint8(flip), _each(np.float32(0)), first
    for g in range(cols // group):
        i = g * group
        even = _times(_to_floats(_signed_at(codes, at, flip)), _floats_at(x, i))
        odd = _times(_to_floats(_signed_at(codes, at + LANES, flip)), _floats_at(x, i + LANES))
        for step in range(2 * LANES, group, 2 * LANES):
            _fetch(codes, at + step + AHEAD)
            even = _plus_product(even, _to_floats(_signed_at(codes, at + step, flip)), _floats_at(x, i + step))
            odd = _plus_product(odd, _to_floats(_signed_at(codes, at + step + LANES, flip)), _floats_at(x, i + step + LANES))
        total = _plus_product(total, _each(scale[g]), _plus(even, odd))
        at += group
    return _sum(total)


@njit(**_EXACT)
def _one_of_floats(codes, first, cols, grid, finite, group, scale, x):
    """Small floats, one to a byte."""
    bits, mantissa, small, at, total = grid.bits, grid.mantissa, _each(_small(grid)), first, _each(np.float32(0))
    for g in range(cols // group):
        i = g * group
        even = _times(_small_floats(codes, at, bits, mantissa, finite), _floats_at(x, i))
        odd = _times(_small_floats(codes, at + LANES, bits, mantissa, finite), _floats_at(x, i + LANES))
        for step in range(2 * LANES, group, 2 * LANES):
            _fetch(codes, at + step + AHEAD)
            even = _plus_product(even, _small_floats(codes, at + step, bits, mantissa, finite), _floats_at(x, i + step))
            found = _small_floats(codes, at + step + LANES, bits, mantissa, finite)
            odd = _plus_product(odd, found, _floats_at(x, i + step + LANES))
        total = _plus_product(total, _each(scale[g]), _times(_plus(even, odd), small))
        at += group
    return _sum(total)


@njit(**_EXACT)
def _one_of_fours(packed, first, cols, table, unit, group, scale, x):
    """4 bits that stand for whole numbers of units, which a table of bytes has."""
    total, at = _each(np.float32(0)), first
    for g in range(cols // group):
        i = g * group
        _fetch(packed, at + AHEAD)
        even = _times(_to_floats(_lower(packed, at, table)), _floats_at(x, i))
        odd = _times(_to_floats(_upper(packed, at, table)), _floats_at(x, i + LANES))
        at += LANES
        for k in range(i + 2 * LANES, i + group, 2 * LANES):
            _fetch(packed, at + AHEAD)
            even = _plus_product(even, _to_floats(_lower(packed, at, table)), _floats_at(x, k))
            odd = _plus_product(odd, _to_floats(_upper(packed, at, table)), _floats_at(x, k + LANES))
            at += LANES
        total = _plus_product(total, _each(scale[g] * unit), _plus(even, odd))
    return _sum(total)


@njit(**_EXACT)
def _one_of_sixteens(packed, first, cols, table, unit, scale, x, rounded):
    """The same in groups of sixteen: sixteen bytes hold two, in eights of even and of odd numbers. ``rounded``: to bfloat16."""
    total, g = _each(np.float32(0)), 0
    for i in range(0, cols, 2 * LANES):
        at = first + i // 2
        _fetch(packed, at + AHEAD)
        low, high = _to_floats(_lower(packed, at, table)), _to_floats(_upper(packed, at, table))
        scales = _eights(scale[g] * unit, scale[g + 1] * unit)
        if rounded:
            total = _plus_product(total, _to_bfloat(_times(low, scales)), _floats_at(x, i))
            total = _plus_product(total, _to_bfloat(_times(high, scales)), _floats_at(x, i + LANES))
        else:
            some = _plus_product(_times(low, _floats_at(x, i)), high, _floats_at(x, i + LANES))
            total = _plus_product(total, some, scales)
        g += 2
    return _sum(total)


@njit(**_EXACT)
def _one_of_few(packed, first, cols, levels, group, scale, x):
    """4 bits that stand for any sixteen numbers."""
    nibble, four, total, at = _each_word(15), _each_word(4), _each(np.float32(0)), first
    for g in range(cols // group):
        even, odd = _each(np.float32(0)), _each(np.float32(0))
        for i in range(g * group, g * group + group, 2 * LANES):
            _fetch(packed, at + AHEAD)
            words = _bytes_at(packed, at)
            even = _plus_product(even, _look_up(levels, _and(words, nibble)), _floats_at(x, i))
            odd = _plus_product(odd, _look_up(levels, _right(words, four)), _floats_at(x, i + LANES))
            at += LANES
        total = _plus_product(total, _each(scale[g]), _plus(even, odd))
    return _sum(total)


@njit(**_EXACT)
def _one_of_trits(packed, first, cols, group, scale, x):
    """Ternary digits; up to fifteen bytes beyond a row are read."""
    total, at, part = _each(np.float32(0)), first, 0
    for g in range(cols // group):
        even, odd = _each(np.float32(0)), _each(np.float32(0))
        for i in range(g * group, g * group + group, 2 * LANES):
            even = _plus_product(even, _to_floats(_trits_at(packed, at, part)), _floats_at(x, i))
            part, at = (0, at + LANES) if part == 4 else (part + 1, at)
            odd = _plus_product(odd, _to_floats(_trits_at(packed, at, part)), _floats_at(x, i + LANES))
            part, at = (0, at + LANES) if part == 4 else (part + 1, at)
        total = _plus_product(total, _each(scale[g]), _plus(even, odd))
    return _sum(total)


WHOLE, FEW, BYTES, FLOATS, DIGITS = 1, 2, 3, 4, 5
"""Ways of ``_multiply_one``: 4 bits for whole numbers or any others, numbers a byte each, ternary digits; 0 for none."""


@njit(**_EXACT)
def _whole_levels(grid, table):
    """The unit (1, 1/2) of which all sixteen numbers of 4 bits are whole ones, which go to ``table``; 0 where there is none."""
    for unit in (np.float32(1), np.float32(0.5)):
        whole = True
        for i in range(LANES):
            level = np.float32(i + grid.base) if grid.form == INTEGER else grid.values[min(i, grid.values.size - 1)]
            number = level / unit
            if not (abs(number) < 128 and number == np.floor(number)):
                whole = False
            else:
                table[i] = np.uint8(np.int64(number) & 255)
        if whole:
            return unit
    return np.float32(0)


@njit(**_EXACT)
def _way(cols, grid, group, unit, kind):
    """How ``_multiply_one`` takes such rows, whose values are rounded to ``kind``."""
    thirties, rounded = cols % group == 0 and group % (2 * LANES) == 0, kind <= F16
    sixteens = grid.bits == 4 and unit != 0 and group == LANES and cols % (2 * LANES) == 0
    if rounded:
        return WHOLE if sixteens and kind == BF16 and grid.form == FLOAT else 0
    if grid.bits == TRITS:
        return DIGITS if thirties else 0
    if grid.bits == 4 and (sixteens or thirties):
        return WHOLE if unit != 0 else FEW
    if thirties and grid.form == INTEGER:
        return BYTES
    return FLOATS if thirties and grid.form == FLOAT and grid.values.size > LANES else 0


@njit(**_EXACT)
def _arranged(x, cols, way):
    """A vector as a way reads it: for 4 bits the even ones of every thirty-two first, whose codes are the lower halves."""
    out, fours = np.empty(cols, np.float32), way in (WHOLE, FEW)
    for i in range(0, cols, 2 * LANES):
        for lane in range(LANES):
            out[i + lane] = x[i + 2 * lane] if fours else x[i + lane]
            out[i + LANES + lane] = x[i + 2 * lane + 1] if fours else x[i + LANES + lane]
    return out


@njit(**_EXACT)
def _in_common(base, scale, zero, sums, groups):
    """What ``base - zero``, common to all numbers of a group, adds to a row's product; ``sums``: of the vector's groups."""
    even, odd = np.float32(0), np.float32(0)
    for g in range(0, groups - 1, 2):
        even += (base - zero[g]) * scale[g] * sums[g]
        odd += (base - zero[g + 1]) * scale[g + 1] * sums[g + 1]
    if groups % 2:
        even += (base - zero[groups - 1]) * scale[groups - 1] * sums[groups - 1]
    return even + odd


@njit(**_EXACT)
def _multiply_one(packed, rows, cols, row_bytes, grid, group, scales, zeros, way, unit, whole, rounded, x, out):
    """One vector times rows, straight from what is stored or, of 2, 3, 5, 6 and 7 bits, from codes that are bytes again."""
    groups, finite, levels, table = cols // group, _finite(grid), _floats_at(_levels(grid), 0), _table_at(whole, 0)
    given, sums = _arranged(x, cols, way), np.empty(groups, np.float32)
    for g in range(groups):
        sums[g] = x[g * group : (g + 1) * group].sum()
    codes, spare = np.empty(cols + SPARE, np.uint8), np.zeros(row_bytes + SPARE, np.uint8)
    scale, zero = np.empty(groups + 1, np.float32), np.zeros(groups + 1, np.float32)
    bytes_ = grid.bits == 8
    flip = (0 if grid.flip else 0x80) if bytes_ else 0
    # Tables and digits have the base in them already.
    base = np.float32(grid.base + (128 if bytes_ else 0) if way == BYTES else 0)
    for r in range(rows):
        first = r * row_bytes
        _row_parameters(scales, zeros, r * groups, groups, scale, zero)
        if way == WHOLE and group == LANES:
            found = _one_of_sixteens(packed, first, cols, table, unit, scale, given, rounded)
        elif way == WHOLE:
            found = _one_of_fours(packed, first, cols, table, unit, group, scale, given)
        elif way == FEW:
            found = _one_of_few(packed, first, cols, levels, group, scale, given)
        elif way == DIGITS and first + row_bytes + SPARE <= packed.size:
            found = _one_of_trits(packed, first, cols, group, scale, given)
        elif way == DIGITS:
            spare[:row_bytes] = packed[first : first + row_bytes]
            found = _one_of_trits(spare, 0, cols, group, scale, given)
        elif way == BYTES and bytes_:
            found = _one_of_bytes(packed, first, cols, flip, group, scale, given)
        elif bytes_:
            found = _one_of_floats(packed, first, cols, grid, finite, group, scale, given)
        else:
            _row_codes(packed, r, cols, row_bytes, grid, spare, codes)
            if way == BYTES:
                found = _one_of_bytes(codes, 0, cols, flip, group, scale, given)
            else:
                found = _one_of_floats(codes, 0, cols, grid, finite, group, scale, given)
        out[r] = found + _in_common(base, scale, zero, sums, groups) if base != 0 or zeros.size else found


@njit(**_EXACT)
def _row_parameters(scales, zeros, k, groups, scale, zero):
    """Scales and zero points of one row, whose groups begin at ``k``, as float32; no zero points are stored where all are 0."""
    raw, kind = scales.raw, scales.kind
    if kind == TABLE:
        for g in range(groups):
            scale[g] = scales.values[raw[k + g]]
    elif kind == F16:
        halves = raw[2 * k : 2 * (k + groups)].view(np.uint16)
        bits = scale.view(np.uint32)
        for g in range(groups):
            size = np.uint32(halves[g]) & np.uint32(0x7FFF)
            wide = (size << np.uint32(13)) | np.uint32(0x7F800000 if size >= np.uint32(0x7C00) else 0)
            bits[g] = wide | (np.uint32(halves[g]) & np.uint32(0x8000)) << np.uint32(16)
        for g in range(groups):  # 2**112 moves the exponent's bias; subnormal ones become normal by it
            scale[g] *= np.float32(5.192296858534828e33)
    elif kind == BF16:
        halves = raw[2 * k : 2 * (k + groups)].view(np.uint16)
        bits = scale.view(np.uint32)
        for g in range(groups):
            bits[g] = np.uint32(halves[g]) << np.uint32(16)
    else:
        floats = raw[4 * k : 4 * (k + groups)].view(np.float32)
        for g in range(groups):
            scale[g] = floats[g]
    if scales.divisor != 1:
        for g in range(groups):
            scale[g] /= scales.divisor
    if zeros.size:
        for g in range(groups):
            zero[g] = zeros[k + g]


@njit(**_EXACT)
def _row_codes(packed, r, cols, row_bytes, grid, spare, codes):
    """Unpack one row; what lies too near the end to be read in sixteens goes over ``spare``."""
    first, bits = r * row_bytes, grid.bits
    used = (cols + 4) // 5 if bits == TRITS else (cols * bits + 7) // 8
    if first + used + SPARE <= packed.size:
        _unpack(packed[first:], cols, bits, grid.flip, codes)
    else:
        spare[:used] = packed[first : first + used]
        _unpack(spare, cols, bits, grid.flip, codes)


@njit(**_EXACT)
def _round(values, n, kind):
    """Float32 values rounded in place to the nearest even bfloat16 or float16 (float32: nothing to do)."""
    bits = values.view(np.uint32)
    if kind == BF16:
        for i in range(n):
            b = bits[i]
            bits[i] = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    elif kind == F16:
        for i in range(n):
            v, b = values[i], bits[i]
            bits[i] = (b + np.uint32(0xFFF) + ((b >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
            # Below 2**-14 float16 is a fixed grid of 2**-24, which adding 0.75 rounds to.
            if abs(v) < np.float32(6.103515625e-05):
                values[i] = np.copysign((abs(v) + np.float32(0.75)) - np.float32(0.75), v)


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
        # 2**-112 moves the exponent bias from 127 to 15 and leaves subnormals in place.
        for i in range(n):
            sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
            size = abs(values[i])
            values[i] = size * np.float32(1.925929944387236e-34)
            half = (bits[i] >> np.uint32(13)) & np.uint32(0x7FFF)
            # Only a file by others can hold a scale that leads here.
            half = np.uint32(0x7C00) if size >= np.float32(65520) else half
            halves[i] = np.uint16((np.uint32(0x7E00) if size != size else half) | sign)
    else:
        floats = raw[start * 4 : (start + n) * 4].view(np.float32)
        for i in range(n):
            floats[i] = values[i]


@njit(**_EXACT)
def decode_rows(packed, rows, cols, row_bytes, grid, group, scales, zeros, kind, out):
    """Packed codes back to values of dtype ``kind`` (bytes), exactly as a reader of the file computes them."""
    groups = (cols + group - 1) // group
    scale, zero = np.empty(groups, np.float32), np.zeros(groups, np.float32)
    codes, spare = np.empty(cols + SPARE, np.uint8), np.zeros(row_bytes + SPARE, np.uint8)
    values = np.empty(cols + LANES, np.float32)
    table, finite = _levels(grid), _finite(grid)
    for r in range(rows):
        _row_codes(packed, r, cols, row_bytes, grid, spare, codes)
        _row_parameters(scales, zeros, r * groups, groups, scale, zero)
        _decode_row(codes, cols, grid, finite, table, group, scale, zero, values)
        _round(values, cols, kind)
        store_row(values, cols, kind, r * cols, out)


@njit(**_EXACT)
def _products(values, r, x, n, first, last, out):
    """Adds to ``out`` [4 rows, 3 vectors] the products of columns [first, last), a multiple of eight.

    Twelve sums side by side: every number that is loaded is multiplied three or four times.
    """
    a0, a1, a2 = _no_eight(), _no_eight(), _no_eight()
    b0, b1, b2 = _no_eight(), _no_eight(), _no_eight()
    c0, c1, c2 = _no_eight(), _no_eight(), _no_eight()
    d0, d1, d2 = _no_eight(), _no_eight(), _no_eight()
    for i in range(first, last, HALF):
        x0, x1, x2 = _eight_at(x, n, i), _eight_at(x, n + 1, i), _eight_at(x, n + 2, i)
        w = _eight_at(values, r, i)
        a0, a1, a2 = _plus_product(a0, w, x0), _plus_product(a1, w, x1), _plus_product(a2, w, x2)
        w = _eight_at(values, r + 1, i)
        b0, b1, b2 = _plus_product(b0, w, x0), _plus_product(b1, w, x1), _plus_product(b2, w, x2)
        w = _eight_at(values, r + 2, i)
        c0, c1, c2 = _plus_product(c0, w, x0), _plus_product(c1, w, x1), _plus_product(c2, w, x2)
        w = _eight_at(values, r + 3, i)
        d0, d1, d2 = _plus_product(d0, w, x0), _plus_product(d1, w, x1), _plus_product(d2, w, x2)
    out[0, 0] += _sum(a0)
    out[0, 1] += _sum(a1)
    out[0, 2] += _sum(a2)
    out[1, 0] += _sum(b0)
    out[1, 1] += _sum(b1)
    out[1, 2] += _sum(b2)
    out[2, 0] += _sum(c0)
    out[2, 1] += _sum(c1)
    out[2, 2] += _sum(c2)
    out[3, 0] += _sum(d0)
    out[3, 1] += _sum(d1)
    out[3, 2] += _sum(d2)


@njit(**_EXACT)
def multiply_rows(packed, rows, cols, row_bytes, grid, group, scales, zeros, kind, x, out):
    """Float32 vectors ``x`` (n, cols) times the decoded rows, each multiplied while it is in the cache: ``out`` (rows, n).

    ``kind``: to which values are rounded before.
    """
    groups, count = (cols + group - 1) // group, x.shape[0]
    whole = np.zeros(LANES, np.uint8)
    unit = _whole_levels(grid, whole) if grid.bits == 4 else np.float32(0)
    way = _way(cols, grid, group, unit, kind) if count == 1 else 0
    if way:
        _multiply_one(packed, rows, cols, row_bytes, grid, group, scales, zeros, way, unit, whole, kind <= F16, x[0], out[:, 0])
        return
    codes, spare = np.empty(cols + SPARE, np.uint8), np.zeros(row_bytes + SPARE, np.uint8)
    scale, zero = np.empty(groups, np.float32), np.zeros(groups, np.float32)
    table, finite = _levels(grid), _finite(grid)
    if count == 1 and kind > F16:
        padded = np.zeros(cols + LANES, np.float32)
        padded[:cols] = x[0]
        for r in range(rows):
            _row_codes(packed, r, cols, row_bytes, grid, spare, codes)
            _row_parameters(scales, zeros, r * groups, groups, scale, zero)
            out[r, 0] = _multiply_row(codes, cols, grid, finite, table, group, scale, zero, padded)
        return
    # Vectors by threes, rows by fours and columns by eights; what fills them up is zero.
    threes, wide = (count + 2) // 3 * 3, (cols + HALF - 1) // HALF * HALF
    given = np.zeros((threes, wide), np.float32)
    given[:count, :cols] = x
    values, sums = np.zeros((BAND, wide + LANES), np.float32), np.empty((BAND, threes), np.float32)
    for r in range(0, rows, BAND):
        band = min(BAND, rows - r)
        for b in range(band):
            _row_codes(packed, r + b, cols, row_bytes, grid, spare, codes)
            _row_parameters(scales, zeros, (r + b) * groups, groups, scale, zero)
            _decode_row(codes, cols, grid, finite, table, group, scale, zero, values[b])
            values[b, cols:] = 0
            _round(values[b], cols, kind)
        sums[:] = 0
        for first in range(0, wide, SPAN):
            last = min(first + SPAN, wide)
            for b in range(0, band, 4):
                for n in range(0, threes, 3):
                    _products(values, b, given, n, first, last, sums[b : b + 4, n : n + 3])
        for b in range(band):
            out[r + b] = sums[b, :count]
