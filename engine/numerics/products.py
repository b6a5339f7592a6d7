"""Which products this processor carries out faster; no flag tells, so it is tried, once a process.

With matrix units (AMX) or AMD's vector units bfloat16 is several times as fast as float32, on other processors with the same
instructions half as fast.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TRIES = 5
CLEARLY = 0.8
"""A share of the ordinary way's time that another must stay under, so that noise does not choose."""
HOPELESS = 4
"""So many times that limit is no noise: bfloat16 without instructions for it needs a hundred times as long as float32."""


@cache
def halves_are_fast() -> bool:
    """Whether bfloat16 matrices are multiplied faster than float32 ones (some 10 ms where they are, once)."""
    import torch

    wide = torch.ones(128, 1024), torch.ones(1024, 1024)
    narrow = wide[0].bfloat16(), wide[1].bfloat16()
    return _is_faster(lambda: torch.mm(*narrow), lambda: torch.mm(*wide))


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``torch.nn.functional.linear`` of contiguous x (rows, in) and weight (out, in), no gradients, by the faster library."""
    import torch

    plain = x.dtype == torch.float32 and weight.dtype == torch.float32 and x.device.type == "cpu"
    if plain and x.numel() and weight.numel() and weight.is_contiguous() and onednn_is_fast():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.nn.functional.linear(x, weight, bias)


@cache
def onednn_is_fast() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than the library that torch calls by itself (MKL, which on AMD's
    processors reaches half of what oneDNN does); some 20 ms, once."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.ones(128, 1024), torch.ones(1024, 1024)
    product = torch.ops.mkldnn._linear_pointwise
    return _is_faster(lambda: product(x, weight, None, "none", [], ""), lambda: torch.mm(x, weight.T))


def _is_faster(this: Callable[[], object], other: Callable[[], object]) -> bool:
    """Whether the best of some tries of one stays clearly below the best of another; what is hopeless is soon left alone."""
    limit = CLEARLY * min(_seconds(other) for _ in range(TRIES))
    best = math.inf
    for done in range(TRIES):
        best = min(best, _seconds(this))
        if done and best > HOPELESS * limit:  # the first try may have been spent on getting ready
            return False
    return best < limit


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
