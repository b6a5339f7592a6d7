"""Names of stored number types, as the safetensors format spells them, and their sizes."""

BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "C128": 128,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

FLOATS = ("BF16", "F16", "F32", "F64")
"""Types whose tensors can be quantized."""

FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")


def numel(shape: tuple[int, ...]) -> int:
    """Number of elements; Python integers, so a lying header cannot overflow it."""
    n = 1
    for size in shape:
        n *= size
    return n


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Stored bytes of a tensor, rounded up to whole bytes for sub-byte types."""
    return (numel(shape) * BITS[dtype] + 7) // 8


def overflows(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether strides of such a tensor exceed 64 bits, which a size of 0 does not hide: torch and NumPy refuse it."""
    reach = BITS[dtype]
    for size in shape:
        reach *= size or 1
        if reach >= 1 << 63:
            return True
    return False


def scale_dtype(dtype: str) -> str:
    """The type in which scales and decoded values of weights of ``dtype`` live."""
    return dtype if dtype in ("BF16", "F16") else "F32"
