"""Tables of numbers: ``.csv`` and ``.tsv``, one sample per row, all chosen columns as one tensor (samples, columns)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from engine.calibration.samples import LABEL_NAMES, BadSample, Raw, Reader, Samples, bad, draw, nothing
from engine.errors import DataError, InputError
from engine.readers.source import file_info
from engine.records.calibration import DataSpec, ModelInputs, Skipped

if TYPE_CHECKING:
    import torch

SUFFIXES = (".csv", ".tsv")


class Table:
    """The rows of a file, read anew each time. Without a header columns are called 1, 2, 3."""

    def __init__(self, spec: DataSpec) -> None:
        self.path, self._spec = spec.path, spec
        if file_info(spec.path).nbytes == 0:
            raise InputError(f"{spec.path} is empty (0 bytes).")
        try:
            with self._open() as file:
                line = file.readline(1 << 20)
        except UnicodeDecodeError as error:
            raise DataError(f"{spec.path} is not a table of text ({error.reason} at byte {error.start}).") from None
        tab = spec.path.lower().endswith(".tsv")
        self._delimiter = "\t" if tab else ";" if ";" in line and "," not in line else ","
        first = next(iter(self._lines()), None)
        if first is None:
            raise DataError(f"{spec.path} holds no rows.")
        self.header = not all(map(_is_number, first[1]))
        self.names = [name.strip() for name in first[1]] if self.header else [str(n + 1) for n in range(len(first[1]))]
        self.label = self._label()
        self.columns = self._columns()

    def _open(self):
        return open(self.path, encoding="utf-8-sig", newline="")

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Line numbers and fields of the rows that are not blank. Raises DataError."""
        with self._open() as file:
            reader = csv.reader(file, delimiter=self._delimiter)
            try:
                for fields in reader:
                    if any(field.strip() for field in fields):
                        yield reader.line_num, fields
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{self.path}, after line {reader.line_num}, is not a table of text: {error}.") from None

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Without the header."""
        return islice(self._lines(), int(self.header), None)

    def _label(self) -> int | None:
        wanted = self._spec.labels
        if wanted:
            return self._place(wanted)
        return next((self.names.index(name) for name in LABEL_NAMES if self.header and name in self.names), None)

    def _columns(self) -> list[int]:
        if self._spec.column:
            return [self._place(name.strip()) for name in self._spec.column.split(",")]
        found = [place for place in range(len(self.names)) if place != self.label]
        if not found:
            raise DataError(f"{self.path} has a column of labels and no other.")
        return found

    def _place(self, name: str) -> int:
        if name not in self.names:
            shown = ", ".join(self.names[:8]) + (", …" if len(self.names) > 8 else "")
            raise InputError(f"{self.path} has no column {name!r}; it has {shown}.")
        return self.names.index(name)

    def parse(self, fields: list[str]) -> tuple[list[float], float | None]:
        """The numbers of a row and its label. Raises BadSample."""
        if len(fields) != len(self.names):
            raise BadSample(f"it has {len(fields)} fields where the first row has {len(self.names)}")
        values = [self._number(fields, place) for place in self.columns]
        return values, None if self.label is None else self._number(fields, self.label)

    def _number(self, fields: list[str], place: int) -> float:
        text = fields[place].strip()
        if not _is_number(text) or not math.isfinite(float(text)):
            what = f"{text[:40]!r}, which is no number" if text else "empty"
            hint = "; number the classes 0, 1, 2" if text and place == self.label else ""
            raise BadSample(f"its {self.names[place]!r} is {what}{hint}")
        return float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_whole(number: float) -> bool:
    return number.is_integer() and abs(number) < 1 << 53


class TableSamples(Samples):
    """Rows held as numbers."""

    noun = "rows"

    def __init__(self, held: dict[int, list[float]], labels: dict[int, float], available: int, skipped: list[Skipped]) -> None:
        super().__init__(available, list(held), skipped, bool(labels))
        self._held, self._labels = held, labels
        self._classes = all(map(_is_whole, labels.values()))
        self._whole = False
        self.detail = f"{len(next(iter(held.values())))} columns"

    def load(self, indices: tuple[int, ...]) -> Raw:
        import torch

        values = torch.tensor([self._held[index] for index in indices], dtype=torch.float64)
        return Raw((values.long() if self._whole else values,), self._of(indices))

    def _of(self, indices: tuple[int, ...]) -> torch.Tensor | None:
        import torch

        found = [self._labels[index] for index in indices if self._labels]
        return torch.tensor(found, dtype=torch.int64 if self._classes else torch.float32) if found else None

    def as_integers(self) -> None:
        """For a model that takes integers, where all numbers are whole."""
        self._whole = all(_is_whole(value) for row in self._held.values() for value in row)


def open_table(spec: DataSpec, inputs: ModelInputs) -> Samples:
    """The rows of a table, read twice: to know which are sound, then to keep the chosen ones. Raises InputError, DataError."""
    table = Table(spec)
    sound: list[int] = []
    skipped: list[Skipped] = []
    total = 0
    for index, (line, fields) in enumerate(table.rows()):
        total += 1
        try:
            table.parse(fields)
            sound.append(index)
        except BadSample as error:
            skipped.append(bad(spec, f"line {line}", str(error)))
    if not sound:
        raise nothing(spec.path, skipped)
    found, _ = draw(len(sound), spec)
    chosen = [sound[place] for place in found]
    wanted = set(chosen)
    parsed = {index: table.parse(fields) for index, (_, fields) in enumerate(table.rows()) if index in wanted}
    held = {index: parsed[index][0] for index in chosen}
    labels = {index: label for index in chosen if (label := parsed[index][1]) is not None}
    samples = TableSamples(held, labels, total, skipped)
    if inputs.arguments and inputs.arguments[0].dtype[0] == "I":
        samples.as_integers()
    samples.files = (spec.path,)
    return samples


READER = Reader("table", "Table", SUFFIXES, lambda path: path.lower().endswith(SUFFIXES), open_table)
