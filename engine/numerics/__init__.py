"""Tensor arithmetic: chunks of stored bytes in, codes and measurements out.

Two implementations of the same functions: ``kernels`` (numba, fast) and ``reference`` (torch, plain). They are
tested against each other. ``MONO_QUANT_NUMERICS=torch`` chooses the second, which is also the fallback.
"""

import os
from functools import cache
from types import ModuleType

KINDS = {"BF16": 0, "F16": 1, "F32": 2, "F64": 3}
"""Stored float types as the kernels number them."""

BINS = 256
TABLES = 8
"""Interleaved copies of each histogram that the kernels count into."""


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
