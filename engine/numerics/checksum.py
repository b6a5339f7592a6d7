"""A checksum of a tensor's bytes that adds up over pieces in any order, as threads write them.

``Σ_j word_j · K(j) mod 2**64`` over little-endian words of 8 bytes, the last filled up with zeros. ``K(j)`` is the j-th number
of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") from seed 0, made odd: so any one
changed byte changes the sum. It finds damage, not forgery.
"""

from __future__ import annotations

import numpy as np

from engine import numerics

WORD = 8
MASK = (1 << 64) - 1


def piece(start: int, data: bytes | memoryview) -> int:
    """What the bytes from byte ``start`` of a tensor on add to its checksum."""
    view = memoryview(data).cast("B")
    head = min(-start % WORD, len(view))
    middle = (len(view) - head) // WORD * WORD
    total = _edge(start, view[:head]) + _edge(start + head + middle, view[head + middle :])
    if middle:
        words = np.frombuffer(view[head : head + middle], "<u8")
        total += int(numerics.backend().weighted_words(words, (start + head) // WORD))
    return total & MASK


def _edge(start: int, data: memoryview) -> int:
    """Fewer bytes than a word, which lie within one."""
    if not len(data):
        return 0
    words = np.frombuffer((bytes(start % WORD) + bytes(data)).ljust(WORD, b"\0"), "<u8")
    return int(numerics.backend().weighted_words(words, start // WORD))
