"""How numbers are stored: the record. What each family does with it is in ``engine/schemes/``."""

from dataclasses import dataclass
from typing import Literal

Granularity = Literal["tensor", "channel", "group", "block"]
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "group", "block")


@dataclass(frozen=True, slots=True)
class Scheme:
    """One number format for weights.

    family       which file of ``engine/schemes/`` understands it
    bits         width of a code; 16 for half formats, 0 when the weight is kept as it is
    granularity  what shares one scale: the whole tensor, an output channel, ``group`` values of a channel, or a block
                 of ``block_rows`` channels by ``group`` values
    symmetric    whether the zero point is fixed at zero
    variant      a family's own further choice, such as ``restricted`` or ``double``
    """

    family: str
    bits: int = 0
    granularity: Granularity = "channel"
    group: int | None = None
    symmetric: bool = True
    variant: str = ""
    block_rows: int | None = None


KEEP = Scheme("keep")


@dataclass(frozen=True, slots=True)
class SchemeChoices:
    """What one family lets a person choose, in the words of its names: ``base[:granularity][:variant]``.

    bases       (word, title) of each number format, e.g. ("int4", "4-bit integer")
    granularities  in the order to offer; the first is the default
    groups      group sizes to suggest; any other may be typed when ``free_group``
    variants    (word, title); the first is the default
    """

    title: str
    summary: str
    bases: tuple[tuple[str, str], ...]
    granularities: tuple[Granularity, ...] = ()
    groups: tuple[int, ...] = ()
    free_group: bool = False
    variants: tuple[tuple[str, str], ...] = ()
    examples: str = ""
    variants_title: str = "Range"
