"""Number families. To add one: a file here and its line in ``FAMILIES``."""

import difflib
import functools
from collections.abc import Mapping
from typing import Any

from engine.errors import RecipeError
from engine.records.scheme import KEEP, Scheme
from engine.schemes.base import Family
from engine.schemes.float8 import Float8
from engine.schemes.four_bit import FourBit
from engine.schemes.half import Half
from engine.schemes.integer import Integer
from engine.schemes.keep import Keep
from engine.schemes.microscaling import Microscaling
from engine.schemes.nvfp4 import NvFp4
from engine.schemes.ternary import Ternary

FAMILIES: tuple[Family, ...] = (
    Integer(), Float8(), Microscaling(), NvFp4(), FourBit(), Ternary(), Half(), Keep(),
)  # fmt: skip

_BY_NAME = {name: family for family in FAMILIES for name in family.names}


def family_of(scheme: Scheme) -> Family:
    """The family that understands a scheme."""
    return _BY_NAME[scheme.family]


@functools.lru_cache(1000)
def parse_scheme(text: str) -> Scheme:
    """The scheme that a name such as ``int4:g128`` stands for. Raises RecipeError saying what is wrong."""
    wanted = text.strip().lower()
    for family in FAMILIES:
        scheme = family.parse(wanted)
        if scheme is not None:
            return scheme
    known = [base for family in FAMILIES for base, _ in family.choices.bases]
    near = difflib.get_close_matches(wanted.split(":")[0], known, 3)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else "examples: int4:g128, int8:channel, fp8, mxfp4, nvfp4, nf4, fp16, keep."
    )
    raise RecipeError(f"{text!r} is not a scheme; {hint}")


def format_scheme(scheme: Scheme) -> str:
    """The canonical name; ``parse_scheme`` reads it back."""
    return family_of(scheme).format(scheme)


def wider_scheme(scheme: Scheme) -> Scheme:
    """The next scheme with more bits; in the end ``keep``."""
    return family_of(scheme).wider(scheme)


def scheme_from_args(args: Mapping[str, Any]) -> Scheme | None:
    """The scheme that a config group's weights describe, if one is known here."""
    return next((s for s in (family.scheme_from_args(args) for family in FAMILIES) if s), None)


__all__ = ["FAMILIES", "KEEP", "family_of", "format_scheme", "parse_scheme", "scheme_from_args", "wider_scheme"]
