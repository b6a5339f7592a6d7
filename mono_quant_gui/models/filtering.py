"""The filter's little language, on arrays: words, ``kind:conv``, ``scheme:int4``, ``re:mlp``, ``<20dB``, ``>1M``, ``bits<5`` …"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import regex
from numpy.typing import NDArray

from mono_quant_gui.i18n import tr

Mask = NDArray[np.bool_]
Piece = Iterator[None]
"""Work that pauses now and then, so that a window answers in between."""

_NUMBER = re.compile(r"^([a-z]*)(<=|>=|<|>)(-?\d+(?:\.\d+)?(?:e-?\d+)?)(db|kb|mb|gb|[kmb]?)$")
_COMPARES = re.compile(r"^[a-z]*[<>]")
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "kb": 1e3, "mb": 1e6, "gb": 1e9, "db": 1.0}
_COMPARE: dict[str, Callable[[NDArray, float], Mask]] = {
    "<": np.less, ">": np.greater, "<=": np.less_equal, ">=": np.greater_equal,
}  # fmt: skip
LONGEST_S = 0.05
"""For one name; an ordinary pattern takes microseconds."""
SLICE = 2000
"""Names that a regular expression is tried on between two pauses."""


def hint() -> str:
    """What an empty filter shows."""
    return tr("name, kind:linear, scheme:int4, <20dB, >1M, problem")


def help_text() -> str:
    """All words, in plain text."""
    return tr(
        "Layers that match every word are shown.\n\n"
        "mlp                   the name has it\n"
        "re:layers\\.[01]\\.     the name matches a regular expression\n"
        "kind:conv             kind; also scheme:int4, dtype:bf16, algorithm:gptq\n"
        "<20dB  >1M  >4MB      SQNR of the weights, parameters, bytes\n"
        "bits<5                a column; also output, after, min, max, std,\n"
        "                      kurtosis, outliers, short (dB below a Gaussian)\n"
        "problem               the plan has a problem with it\n"
        "short                 worse than a Gaussian layer would be\n"
        "unreached             calibration data never reached it\n"
        "-norm                 a minus turns any word round"
    )


class FilterError(Exception):
    """What is wrong with a filter, in one sentence."""


@dataclass(slots=True)
class Factor:
    """A column of few different words: the words, and for each row the place of its own."""

    values: Sequence[str] = ()
    codes: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    @classmethod
    def of(cls, words: Sequence[str]) -> "Factor":
        """Of a word for every row."""
        places = {word: place for place, word in enumerate(dict.fromkeys(words))}
        return cls(list(places), np.fromiter(map(places.__getitem__, words), np.int32, len(words)))

    def containing(self, part: str) -> Mask:
        """Rows whose word has this in it."""
        has = np.fromiter((part in value.lower() for value in self.values), bool, len(self.values))
        return has[self.codes]

    def ranks(self) -> NDArray[np.int64]:
        """For each row, the alphabetical place of its word."""
        rank = np.empty(len(self.values), np.int64)
        rank[sorted(range(len(self.values)), key=lambda place: self.values[place])] = np.arange(len(self.values))
        return rank[self.codes]


@dataclass(slots=True)
class Columns:
    """What can be filtered by, an entry a layer; ``lowered`` are names in small letters, numbers are NaN where not known."""

    lowered: Sequence[str]
    words: Mapping[str, Factor]
    numbers: Mapping[str, NDArray]
    flags: Mapping[str, Mask]


Term = Callable[[Columns], Iterator[Mask | None]]
"""Gives None while it works, and the mask at last."""


def parse(text: str) -> list[Term]:
    """The words of a filter. Raises FilterError for one that says nothing."""
    return [_term(word) for word in text.split()]


def matching(terms: Sequence[Term], columns: Columns) -> Iterator[Mask | None]:
    """Which layers every term matches: None while it works, the mask at last."""
    keep = np.ones(len(columns.lowered), bool)
    for term in terms:
        for found in term(columns):
            if found is None:
                yield None
            else:
                keep &= found
        yield None
    yield keep


def _term(word: str) -> Term:
    if word.startswith("-") and len(word) > 1:
        return _inverse(_term(word[1:]))
    low = word.lower()
    if low.startswith("re:"):
        return _regular(word[3:])
    if number := _NUMBER.match(low):
        return _number(word, *number.groups())
    if _COMPARES.match(low):
        raise FilterError(tr("“{word}” compares with no number: write <20dB, >1M, >4MB or bits<5.").format(word=word))
    key, colon, part = low.partition(":")
    if colon and key in ("kind", "scheme", "dtype", "algorithm"):
        return lambda columns: iter([columns.words[key].containing(part)])
    if low in ("problem", "unreached", "short"):
        return lambda columns: iter([columns.flags[low]])
    if colon and key.isalpha():
        return _unknown(word, key, low)
    return lambda columns: iter([_named(columns, low)])


def _named(columns: Columns, part: str) -> Mask:
    return np.fromiter((part in name for name in columns.lowered), bool, len(columns.lowered))


def _unknown(word: str, key: str, low: str) -> Term:
    """A name may have a colon in it; where none has, the word was meant to be another."""

    def find(columns: Columns) -> Iterator[Mask | None]:
        found = _named(columns, low)
        if not found.any():
            raise FilterError(
                tr("“{word}”: there is no “{key}:”; words are kind:, scheme:, dtype:, algorithm: and re:.").format(
                    word=word, key=key
                )
            )
        yield found

    return find


def _inverse(term: Term) -> Term:
    def find(columns: Columns) -> Iterator[Mask | None]:
        for found in term(columns):
            yield None if found is None else ~found

    return find


def _regular(pattern: str) -> Term:
    try:
        re.compile(pattern)  # its language, and its words for what is wrong
        search = regex.compile(pattern, regex.IGNORECASE).search
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise FilterError(tr("“re:{pattern}” is no regular expression: {why}.").format(pattern=pattern, why=error)) from None

    def find(columns: Columns) -> Iterator[Mask | None]:
        names, found = columns.lowered, np.zeros(len(columns.lowered), bool)
        for start in range(0, len(names), SLICE):
            piece = names[start : start + SLICE]
            try:
                found[start : start + len(piece)] = [search(name, timeout=LONGEST_S) is not None for name in piece]
            except TimeoutError:
                words = tr("“re:{pattern}” takes too long: write it without repetitions inside repetitions.")
                raise FilterError(words.format(pattern=pattern)) from None
            yield None
        yield found

    return find


def _number(word: str, key: str, sign: str, number: str, unit: str) -> Term:
    if not key:
        key = "sqnr" if unit == "db" else "bytes" if unit in ("kb", "mb", "gb") else "parameters"
    if key not in NUMBERS:
        raise FilterError(
            tr("“{word}”: no column is called “{key}”; there are {all}.").format(word=word, key=key, all=", ".join(NUMBERS))
        )
    limit = float(number) * _SCALE[unit]

    def find(columns: Columns) -> Iterator[Mask | None]:
        with np.errstate(invalid="ignore"):
            yield _COMPARE[sign](columns.numbers[key], limit)

    return find


NUMBERS = (
    "parameters", "bytes", "after", "bits", "sqnr", "output", "short", "min", "max", "std", "kurtosis", "outliers",
)  # fmt: skip
"""Columns that can be compared with a number."""
