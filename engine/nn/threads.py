"""Threads that decode side by side: the kernels hold no lock of Python's."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
    """``work`` of every item, in order, on as many threads as torch has."""
    if len(items) < 2:
        return map(work, items)
    threads = torch.get_num_threads()
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="mono-quant-decode")
    return _pools[threads].map(work, items)
