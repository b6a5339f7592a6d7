"""Threads of which each decodes its own rows of a weight and multiplies by them.

They meet only at the end. Decoding on threads of our own and multiplying on torch's would have both wait for a core in turn:
torch's keep theirs busy for a while after every product.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def kernels_in_parallel(work: Callable[[T], None], items: Sequence[T]) -> None:
    """``work`` of every item, on as many threads as torch has, this one among them, so ``work`` must not call torch.

    Each takes the next item when it is done with one. A thread that is woken begins some 50 µs later, which is as long as a
    small layer's product takes: this one has begun by then, and waits for nobody who has not.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads == 1:
        for item in items:
            work(item)
        return
    left = iter(items)

    def take() -> None:
        for item in left:
            work(item)

    others = [_pool(torch.get_num_threads()).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        if not other.cancel():
            other.result()


def in_parallel(work: Callable[[T], None], items: Sequence[T]) -> None:
    """``work`` of every item, on as many threads as torch has; within them torch has one, and no gradients are recorded."""
    threads = torch.get_num_threads()
    if len(items) < 2 or threads < 2:
        for item in items:
            work(item)
        return
    inference = torch.is_inference_mode_enabled()

    def here(item: T) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(item)

    for _ in _pool(threads).map(here, items):
        pass


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        started = threading.Barrier(threads + 1)

        def start() -> None:
            torch.set_num_threads(1)  # of this thread, and of those that start from now on
            started.wait()

        pool = ThreadPoolExecutor(threads, thread_name_prefix="mono-quant-product", initializer=start)
        for _ in range(threads):
            pool.submit(int)
        started.wait()
        torch.set_num_threads(threads)
        _pools[threads] = pool
    return _pools[threads]
