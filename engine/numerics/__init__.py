"""Tensor arithmetic: chunks of stored bytes in, codes and measurements out.

Two implementations of the same functions: ``kernels`` (numba, fast) and ``reference`` (torch, plain). They are
tested against each other. ``MONO_QUANT_NUMERICS=torch`` chooses the second, which is also the fallback.
"""

import os
from functools import cache
from pathlib import Path
from types import ModuleType

KINDS = {"BF16": 0, "F16": 1, "F32": 2, "F64": 3}
"""Stored float types as the kernels number them."""
KINDS_OF_TORCH = {"torch.bfloat16": 0, "torch.float16": 1, "torch.float32": 2}
"""The same by torch's names (torch itself is not imported here)."""

BINS = 256
TABLES = 8
"""Interleaved copies of each histogram that the kernels count into."""


def warm_up() -> None:
    """Load the kernels (from numba's cache, or by compiling them once), so that the first layer does not wait."""
    import numpy as np

    from engine.numerics import grids

    kernels = backend()
    raw, floats = np.zeros(64, np.uint8), np.ones(1, np.float32)
    sums, counts = np.zeros(4), np.zeros((3, TABLES, BINS), np.int64)
    scale = np.float32(1)
    kernels.row_ranges(raw, 1, 16, KINDS["F32"], 16, floats.copy(), floats.copy())
    kernels.count_rows(raw, 1, 16, KINDS["F32"], scale, counts[0])
    grid, f32 = grids.integer(8), KINDS["F32"]
    kernels.encode_rows(
        raw, 1, 16, f32, 16, floats, np.zeros(1, np.float32), grid, f32, f32, 16, np.zeros(16, np.uint8), scale, sums, counts,
        np.zeros(0, np.uint32),
    )  # fmt: skip


def compiled() -> bool:
    """Whether the arithmetic can be used at once, and is not first compiled for the best part of a minute."""
    kernels = backend()
    if not hasattr(kernels, "encode_rows") or not hasattr(kernels.encode_rows, "stats"):
        return True
    source = Path(str(kernels.__file__))
    kept = Path(kernels.encode_rows.stats.cache_path).glob("kernels.encode_rows-*.nbi")
    return any(index.stat().st_mtime >= source.stat().st_mtime for index in kept)


@cache
def backend() -> ModuleType:
    """The module that does the arithmetic; chosen once per process."""
    if os.environ.get("MONO_QUANT_NUMERICS", "").lower() != "torch":
        try:
            from engine.numerics import kernels

            return kernels
        except ImportError:  # numba lags behind new Python releases; torch does not
            pass
    from engine.numerics import reference

    return reference
