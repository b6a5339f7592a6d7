"""Scales of groups as they are stored: kernels widen those of one row at a time, so that no copy of them all is held."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from engine.numerics.affine import from_bytes

TABLE = -1
"""As ``kind``: bytes that stand for numbers of a table."""
NAMES = {0: "BF16", 1: "F16", 2: "F32"}
_NONE = np.zeros(1, np.float32)


class Scales(NamedTuple):
    """``kind``: that of stored floats (``numerics.KINDS``), or ``TABLE``; ``raw``: stored bytes, group after group.

    ``values``: what each of 256 bytes stands for. All are divided by ``divisor``.
    """

    kind: int
    raw: np.ndarray
    values: np.ndarray = _NONE
    divisor: np.float32 = np.float32(1)

    @classmethod
    def of(cls, scales: Float32[np.ndarray, " groups"]) -> "Scales":
        """Scales that are float32 numbers already."""
        return cls(2, np.ascontiguousarray(scales, np.float32).view(np.uint8))

    @property
    def width(self) -> int:
        """Bytes of one scale."""
        return 1 if self.kind == TABLE else 4 if self.kind == 2 else 2

    def part(self, span: slice) -> "Scales":
        """Those of some groups; shares their memory."""
        return self._replace(raw=self.raw[span.start * self.width : span.stop * self.width])

    def floats(self) -> Float32[np.ndarray, " groups"]:
        """All as float32."""
        found = self.values[self.raw] if self.kind == TABLE else from_bytes(self.raw, NAMES[self.kind])
        with np.errstate(divide="ignore", invalid="ignore"):  # a hostile file may say 0
            return found / self.divisor if self.divisor != 1 else found


def table(raw: UInt8[np.ndarray, " groups"], values: Float32[np.ndarray, " 256"], divisor: float = 1.0) -> Scales:
    """Bytes that stand for numbers of a table."""
    return Scales(TABLE, raw, np.ascontiguousarray(values, np.float32), np.float32(divisor))
