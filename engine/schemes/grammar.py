"""The words after a number format's name: ``:g128``, ``:channel``, ``:b128x128``, ``:asym``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import RecipeError
from engine.records.scheme import Granularity, Scheme

LONGEST = 999_999_999
"""Greatest group that a name can say."""
_GROUP = re.compile(r"g([1-9]\d{0,8})")
_BLOCK = re.compile(r"b([1-9]\d{0,8})x([1-9]\d{0,8})")


@dataclass(frozen=True, slots=True)
class Words:
    """What stood after the name; ``granularity`` is None when it was not said."""

    granularity: Granularity | None = None
    group: int | None = None
    block_rows: int | None = None
    variant: str = ""


def parse(text: str, granularities: Sequence[Granularity], variants: Sequence[str] = ()) -> Words:
    """The words of ``text`` after its first. Raises RecipeError naming the wrong one."""
    where: list[tuple[Granularity, int | None, int | None]] = []
    chosen: list[str] = []
    for word in text.split(":")[1:]:
        group, block = _GROUP.fullmatch(word), _BLOCK.fullmatch(word)
        if word == "tensor" and "tensor" in granularities:
            where.append(("tensor", None, None))
        elif word == "channel" and "channel" in granularities:
            where.append(("channel", None, None))
        elif group and "group" in granularities:
            where.append(("group", int(group[1]), None))
        elif block and "block" in granularities:
            where.append(("block", int(block[2]), int(block[1])))
        elif word in variants:
            chosen.append(word)
        else:
            spelled = {"group": "g<size>", "block": "b<rows>x<columns>"}
            known = [*(spelled.get(g, g) for g in granularities), *variants]
            what = f"is not one of {', '.join(known)}" if known else f"is too much: {text.split(':')[0]} has no choices"
            raise RecipeError(f"{text!r}: {word!r} {what}.")
    if len(where) > 1 or len(chosen) > 1:
        raise RecipeError(f"{text!r}: give one granularity and one of {', '.join(variants) or 'nothing else'}.")
    granularity, group_size, rows = where[0] if where else (None, None, None)
    return Words(granularity, group_size, rows, chosen[0] if chosen else "")


def where(scheme: Scheme) -> str:
    """The word for a scheme's granularity."""
    if scheme.granularity == "group":
        return f"g{scheme.group}"
    return f"b{scheme.block_rows}x{scheme.group}" if scheme.granularity == "block" else scheme.granularity
