"""Where the texts of a ``.txt``, ``.jsonl`` or ``.json`` file lie; they are read one at a time.

In ``.txt`` a blank line parts texts; in ``.jsonl`` each line is one record; ``.json`` is a list of records. A record is a text,
or an object with the text under a key.
"""

from __future__ import annotations

import os
from array import array
from typing import Any

from engine.calibration.samples import BadSample, NoSample
from engine.errors import InputError
from engine.readers.source import file_info
from engine.readers.text import parse_json

KEYS = ("text", "content", "messages")
FRAGMENT = 1 << 20
LARGEST_JSON = 512 << 20
"""Bytes of a .json that are parsed at once; a .jsonl may be of any size."""


class Documents:
    """Texts of one file by their number. ``column`` and ``labels`` are keys of records."""

    def __init__(self, path: str, column: str = "", labels: str = "") -> None:
        self.path, self.column, self.labels = path, column, labels
        self.starts, self.sizes, self.lines = array("q"), array("q"), array("q")
        self._records: list[Any] | None = None
        self._suffix = os.path.splitext(path)[1].lower()
        if file_info(path).nbytes == 0:
            raise InputError(f"{path} is empty (0 bytes).")
        if self._suffix == ".json" and self._is_list():
            self._parse()
        else:
            self._scan()

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def plain(self) -> bool:
        """Whether there are texts only, no records."""
        return self._suffix not in (".json", ".jsonl")

    def name(self, index: int) -> str:
        """What to call a text: where it starts in the file."""
        return f"record {index}" if self._records is not None else f"line {self.lines[index]}"

    def read(self, index: int) -> tuple[Any, int | float | None]:
        """The text (or conversation) and its label. Raises BadSample; NoSample when it is blank."""
        if self._records is not None:
            return self._of_record(self._records[index])
        with open(self.path, "rb") as file:
            file.seek(self.starts[index])
            data = file.read(self.sizes[index])
        try:
            text = data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise BadSample(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from None
        if "\0" in text:
            raise BadSample("it is not text (it has NUL characters)")
        if self.plain:
            return text.strip("\n"), None
        try:
            return self._of_record(parse_json(text))
        except ValueError as error:
            raise BadSample(f"it is not valid JSON ({error})") from None

    def _of_record(self, record: Any) -> tuple[Any, int | float | None]:
        if isinstance(record, str) and not self.labels:
            return _filled(record), None
        if not isinstance(record, dict):
            raise BadSample(f"it is a {type(record).__name__}, not an object with {'a label' if self.labels else 'a text'}")
        keys = (self.column,) if self.column else KEYS
        key = next((key for key in keys if key in record), None)
        if key is None:
            raise BadSample(
                f"it has no key {' or '.join(map(repr, keys))}, but {', '.join(map(repr, list(record)[:6])) or 'none'}"
            )
        label = None
        if self.labels:
            label = record.get(self.labels)
            if isinstance(label, bool) or not isinstance(label, (int, float)) or not abs(label) < 1 << 63:
                raise BadSample(f"its label {self.labels!r} is {label!r}, not a number")
        return _filled(record[key]), label

    def _is_list(self) -> bool:
        with open(self.path, "rb") as file:
            return file.read(FRAGMENT).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["

    def _parse(self) -> None:
        size = file_info(self.path).nbytes
        if size > LARGEST_JSON:
            raise InputError(f"{self.path} is one JSON list of {size / 1e9:.1f} GB; save it as .jsonl, one record per line.")
        try:
            with open(self.path, encoding="utf-8-sig") as file:
                self._records = parse_json(file.read())
        except ValueError as error:
            raise InputError(f"{self.path} is not valid JSON ({error}).") from None
        assert self._records is not None
        # A record's size is only a guide to how many are enough.
        share = max(1, size // max(1, len(self._records)))
        self.sizes = array("q", [share]) * len(self._records)

    def _scan(self) -> None:
        """Starts and sizes of texts; lines of any length are passed in pieces."""
        start, size, first, line, position, whole = 0, 0, 0, 0, 0, True
        with open(self.path, "rb") as file:
            while piece := file.readline(FRAGMENT):
                line += whole
                blank = whole and not piece.strip(b" \t\r\n\xef\xbb\xbf")
                if blank and size and self.plain:
                    self._add(start, size, first)
                    size = 0
                elif not blank:
                    if not size:
                        start, first = position, line
                    size = position + len(piece) - start
                position += len(piece)
                whole = piece.endswith(b"\n")
                if size and whole and not self.plain and not blank:
                    self._add(start, size, first)
                    size = 0
        if size:
            self._add(start, size, first)

    def _add(self, start: int, size: int, line: int) -> None:
        self.starts.append(start)
        self.sizes.append(size)
        self.lines.append(line)


def _filled(text: Any) -> Any:
    if not text or (isinstance(text, str) and not text.strip()):
        raise NoSample("it is empty")
    return text
