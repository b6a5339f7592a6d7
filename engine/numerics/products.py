"""Which products this processor carries out faster; no flag tells, so it is tried, once a process.

With matrix units (AMX) or AMD's vector units bfloat16 is several times as fast as float32, on other processors with the same
instructions half as fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

TRIES = 5
CLEARLY = 0.8
"""A share of the ordinary way's time that another must stay under, so that noise does not choose."""


@cache
def halves_are_fast() -> bool:
    """Whether bfloat16 matrices are multiplied faster than float32 ones (some 10 ms, once)."""
    import torch

    wide = torch.ones(512, 1024), torch.ones(1024, 1024)
    narrow = wide[0].bfloat16(), wide[1].bfloat16()
    return _seconds(lambda: torch.mm(*narrow)) < CLEARLY * _seconds(lambda: torch.mm(*wide))


def _seconds(work: Callable[[], object]) -> float:
    """The best of some tries."""

    def once() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return min(once() for _ in range(TRIES))
