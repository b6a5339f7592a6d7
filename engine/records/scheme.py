"""How numbers are stored: the record. What each family does with it is in ``engine/schemes/``."""

from dataclasses import dataclass
from typing import Literal

Granularity = Literal["tensor", "channel", "group"]
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "group")


@dataclass(frozen=True, slots=True)
class Scheme:
    """One number format for weights.

    family       which file of ``engine/schemes/`` understands it
    bits         width of a code; 16 for half formats, 0 when the weight is kept as it is
    granularity  what shares one scale: the whole tensor, an output channel, or ``group`` values of a channel
    symmetric    whether the zero point is fixed at zero
    """

    family: str
    bits: int = 0
    granularity: Granularity = "channel"
    group: int | None = None
    symmetric: bool = True


KEEP = Scheme("keep")
