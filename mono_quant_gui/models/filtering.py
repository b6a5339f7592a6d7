"""The filter's little language: words, ``kind:conv``, ``scheme:int4``, ``<20dB``, ``>1M``, ``problem``, ``unreached``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_NUMBER = re.compile(r"^([<>])(\d+(?:\.\d+)?)(db|[kmb]?)$", re.I)
_SCALE = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}

HINT = "name, kind:linear, scheme:int4, <20dB, >1M, problem"


@dataclass(slots=True)
class Columns:
    """What can be filtered by, one entry a layer; ``sqnr`` is NaN where nothing was measured."""

    names: Sequence[str]
    kinds: Sequence[str]
    schemes: Sequence[str]
    parameters: NDArray[np.int64]
    sqnr: NDArray[np.float64]
    problems: Mask
    unreached: Mask | None = None


def matching(text: str, columns: Columns) -> Mask:
    """Which layers every term of ``text`` matches."""
    keep = np.ones(len(columns.names), bool)
    for term in text.lower().split():
        keep &= _term(term, columns)
    return keep


def _term(term: str, columns: Columns) -> Mask:
    number = _NUMBER.match(term)
    if number:
        below = number[1] == "<"
        limit = float(number[2]) * _SCALE.get(number[3], 1)
        values = columns.sqnr if number[3] == "db" else columns.parameters
        with np.errstate(invalid="ignore"):
            return values < limit if below else values > limit
    if term.startswith("kind:"):
        return _contains(columns.kinds, term[5:])
    if term.startswith("scheme:"):
        return _contains(columns.schemes, term[7:])
    if term == "problem":
        return columns.problems
    if term == "unreached" and columns.unreached is not None:
        return columns.unreached
    return _contains(columns.names, term)


def _contains(values: Sequence[str], part: str) -> Mask:
    return np.fromiter((part in value.lower() for value in values), bool, len(values))
