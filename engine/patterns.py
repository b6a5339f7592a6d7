"""Patterns on the names of layers, from recipes and configurations: anyone may have written them, so their time is bounded.

A glob takes time in proportion to the name. A regular expression may take for ever (``(a|a)*$``); it is matched by the package
``regex``, which has the language of ``re`` and a time limit.
"""

import fnmatch
import re
import time
from typing import Protocol

import regex

from engine.errors import RecipeError

LONGEST = 1000
"""Characters of a pattern."""
SECONDS = 0.5
"""For one name; an ordinary pattern takes microseconds."""
IN_ALL = 5.0
"""For all names that one pattern is compared with."""
_WILDCARD = frozenset("*?[")


class Pattern(Protocol):
    """``match(name)`` says whether it matches from the start of the name. Raises RecipeError where it takes too long."""

    def match(self, name: str, /) -> object: ...


class _Bounded:
    def __init__(self, text: str) -> None:
        re.compile(text)  # its language, and its words for what is wrong
        self._text, self._compiled, self._left = text, regex.compile(text), IN_ALL

    def match(self, name: str, /) -> object:
        started = time.perf_counter()
        try:
            found = self._compiled.match(name, timeout=max(min(SECONDS, self._left), 1e-3))
            self._left -= time.perf_counter() - started
            return found
        except TimeoutError:
            said = f"The pattern {'re:' + self._text!r} takes too long on {name[:80]!r}"
            raise RecipeError(f"{said}; write it without repetitions inside repetitions.") from None


class _Name:
    """A glob without a wildcard, as searches write by the thousand: nothing is compiled."""

    def __init__(self, text: str) -> None:
        self._text = text

    def match(self, name: str, /) -> object:
        return True if name == self._text else None


def is_name(match: str) -> bool:
    """Whether a pattern matches one name only, itself."""
    return _WILDCARD.isdisjoint(match) and not match.startswith("re:")


def compiled(match: str, *, own: bool = False) -> Pattern:
    """A glob, or behind ``re:`` a regular expression; ``own`` ones need no watching. Raises ValueError with a few words."""
    if len(match) > LONGEST:
        raise ValueError(f"a pattern of {len(match):,} characters is too long; {LONGEST:,} are the most")
    try:
        if is_name(match):
            return _Name(match)
        if not match.startswith("re:"):
            return re.compile(fnmatch.translate(match))
        return re.compile(match[3:]) if own else _Bounded(match[3:])
    except (re.error, regex.error) as error:
        raise ValueError(f"{match!r} is not a regular expression: {error}") from None
    except (RecursionError, OverflowError, MemoryError):
        raise ValueError(f"{match[:80]!r} is nested or repeated too much") from None
