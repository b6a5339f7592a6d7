"""What every reader of calibration data gives: samples by index, the ones that were drawn, and those left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from engine.errors import DataError, InputError
from engine.records.calibration import DataKind, DataSpec, InputInfo, ModelInputs, Skipped

if TYPE_CHECKING:
    import torch

LABEL_NAMES = ("labels", "label", "targets", "y")
"""Arrays, keys and columns that are taken for labels where none are named."""

LENGTH = 2048
"""Most tokens of a sample where no length is given."""

T = TypeVar("T")


class BadSample(Exception):
    """One file, line or row cannot be read; the text says why."""


class NoSample(BadSample):
    """There is nothing in it, which is no fault: it is left out in any case."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Samples as they were read, (samples, ...): by name, or in the order of the model's arguments."""

    values: Mapping[str, torch.Tensor] | tuple[torch.Tensor, ...]
    labels: torch.Tensor | None = None


class Samples(ABC):
    """What a reader opened. ``load`` may be called again and again and gives the same values.

    available  samples that there are, as far as they were counted; ``chosen`` are the indices of those to use, in order
    detail     what one sample is, in words: "1×8×8"
    files      whose contents decide the values; ``extra`` whatever else does
    """

    noun = "samples"
    synthetic = False
    counted = True

    def __init__(self, available: int, chosen: Sequence[int], skipped: Sequence[Skipped] = (), labelled: bool = False) -> None:
        self.available, self.chosen, self.skipped, self.labelled = available, tuple(chosen), tuple(skipped), labelled
        self.detail = ""
        self.files: tuple[str, ...] = ()
        self.extra = ""

    @abstractmethod
    def load(self, indices: tuple[int, ...]) -> Raw:
        """The samples of these indices. Raises DataError."""

    def groups(self, batch: int) -> Iterator[tuple[int, ...]]:
        """The chosen indices in batches."""
        for start in range(0, len(self.chosen), batch):
            yield self.chosen[start : start + batch]

    def words(self, name: str, index: int, value: torch.Tensor) -> str:
        """One sample of one input, for people: its first few values."""
        flat = value.reshape(-1)
        shown = ", ".join(f"{number:.4g}" for number in flat[:8].tolist())
        return f"{shown}, …" if flat.numel() > 8 else shown


@dataclass(frozen=True, slots=True)
class Reader:
    """One kind of data. ``accepts`` looks at the name alone; ``open`` raises InputError or DataError with one sentence."""

    kind: DataKind
    title: str
    suffixes: tuple[str, ...]
    accepts: Callable[[str], bool]
    open: Callable[[DataSpec, ModelInputs], Samples]


def order(available: int, spec: DataSpec) -> range | list[int]:
    """In which order samples are taken: all as they stand (``samples`` 0), else shuffled by ``seed``.

    NumPy promises that the numbers of its old generator never change; those of the other ones may.
    """
    import numpy as np

    if spec.samples == 0:
        return range(available)
    return np.random.RandomState(spec.seed).permutation(available).tolist()


def draw(
    available: int, spec: DataSpec, read: Callable[[int], T] | None = None, name: Callable[[int], str] = str
) -> tuple[dict[int, T | None], list[Skipped]]:
    """The samples to use, in order, with what ``read`` gave for them, and those that it could not read.

    Raises DataError naming the first bad one unless ``spec.skip_bad``, in which case another is drawn in its place.
    """
    wanted = spec.samples or available
    found: dict[int, T | None] = {}
    skipped: list[Skipped] = []
    for index in order(available, spec):
        if len(found) == wanted:
            break
        try:
            found[index] = read(index) if read else None
        except NoSample as error:
            skipped.append(Skipped(name(index), str(error)))
        except BadSample as error:
            skipped.append(bad(spec, name(index), str(error)))
    if not found:
        raise nothing(spec.path, skipped)
    return found, skipped


def bad(spec: DataSpec, name: str, reason: str) -> Skipped:
    """A record of a sample that is left out. Raises DataError where none may be."""
    if not spec.skip_bad:
        where = name if spec.path in name else f"{spec.path}, {name}"
        raise DataError(f"{where} cannot be used: {reason}; mend or remove it, or have bad samples skipped.")
    return Skipped(name, reason)


def nothing(path: str, skipped: Sequence[Skipped]) -> DataError:
    """No sample is left."""
    if skipped:
        first = skipped[0]
        return DataError(
            f"{path} has no sample that can be used: all {len(skipped):,} were skipped, first {first.name} ({first.reason})."
        )
    return DataError(f"{path} holds no samples.")


def title_of(samples: Samples, spec: DataSpec) -> str:
    """What is used, of how much, for people: "128 of 1,930 images, 3×224×224"."""
    count = len(samples.chosen)
    what = samples.noun.removesuffix("s") if samples.available == 1 else samples.noun
    words = f"all {count:,} {what}" if count == samples.available > 1 else f"{count:,} of {samples.available:,} {what}"
    if samples.synthetic or not samples.counted:
        words = f"{count:,} {what}"
    elif count < spec.samples:
        words += f" ({spec.samples:,} were asked for)"
    return ", ".join(part for part in (words, samples.detail) if part)


def check_spec(spec: DataSpec) -> None:
    """Numbers that make sense. Raises InputError."""
    lowest = {"samples": 0, "batch": 1, "seed": 0} | ({} if spec.length is None else {"length": 1})
    for name, low in lowest.items():
        value = getattr(spec, name)
        if value < low:
            raise InputError(f"Calibration data: {name} is {value}, but must be at least {low}.")
    if spec.seed >= 1 << 32:
        raise InputError(f"Calibration data: seed is {spec.seed}, but must be less than 2^32.")


def text_length(spec: DataSpec, inputs: ModelInputs, info: InputInfo) -> int:
    """Tokens of one sample: as asked for, or the model's own length. Raises InputError where the model cannot take as many."""
    fixed = info.shape[0] if info.shape and len(info.shape) == 1 else None
    most = fixed or inputs.max_length
    if spec.length and most and (spec.length > most or fixed not in (None, spec.length)):
        which = "exactly" if fixed else "at most"
        raise InputError(
            f"Samples of {spec.length:,} tokens were asked for, but the model takes {which} {most:,}; set the length to that."
        )
    return spec.length or fixed or min(most or LENGTH, LENGTH)


def by_shape(shaped: Sequence[tuple[int, object]], batch: int) -> Iterator[tuple[int, ...]]:
    """Batches of samples that follow each other and have the same shape, so that they can be stacked without padding."""
    held: list[int] = []
    last: object = None
    for index, shape in shaped:
        if held and (len(held) == batch or shape != last):
            yield tuple(held)
            held = []
        held.append(index)
        last = shape
    if held:
        yield tuple(held)
