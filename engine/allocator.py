"""How memory is handed out and collected: by the C library in processes that are the engine's own, by Python everywhere."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT = 8 << 20
MOST_KEPT = 128 << 20


@contextmanager
def no_collection() -> Iterator[None]:
    """Hundreds of thousands of small records, none in a cycle: the collector would look at them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def give_back_freed_memory() -> None:
    """Give the system what is freed and kept; a few milliseconds. Before work that needs much at once."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def keep_freed_memory() -> None:
    """Let glibc keep blocks of up to 8 MB (128 MB in all) for the next tensor, instead of giving each back to the system.

    The first touch of fresh memory costs as much as the arithmetic on it: a forward of a transformer's layer gains a tenth.
    Larger tensors go back at once, so that peak memory does not grow. Does nothing where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
