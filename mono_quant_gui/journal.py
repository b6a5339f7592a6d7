"""What the engine and the window said, with the time: the log pane shows it, a report of a defect takes its end along."""

import logging
import time
from collections import deque
from dataclasses import dataclass

from PySide6.QtCore import QObject, QtMsgType, Signal, qInstallMessageHandler

MOST, LONGEST = 5000, 4000
"""Entries that are kept, and characters of one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``source`` is window, engine or Qt; ``level`` is info, warning or error; ``when`` is seconds since the epoch."""

    when: float
    source: str
    level: str
    words: str

    def __str__(self) -> str:
        return f"{time.strftime('%H:%M:%S', time.localtime(self.when))}  {self.source:<6}  {self.level:<7}  {self.words}"


class Journal(QObject):
    """Entries in the order they came; may be written to from any thread, is read in the window's."""

    added = Signal(object)
    _said = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.entries: deque[Entry] = deque(maxlen=MOST)
        self._said.connect(self._take)

    def add(self, source: str, words: str, level: str = "info") -> None:
        """Note something; empty words are nothing."""
        words = words.strip()
        if words:
            self._said.emit(Entry(time.time(), source, level, words[:LONGEST]))

    def _take(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.added.emit(entry)

    def text(self, last: int = MOST) -> str:
        """The last entries, one a line."""
        return "\n".join(map(str, list(self.entries)[-last:]))


class _Records(logging.Handler):
    """Python's log records, from libraries in the window's process."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.add("window", f"{record.name}: {record.getMessage()}", record.levelname.lower())


def listen(journal: Journal) -> None:
    """Note what Qt and Python's libraries say in this process from now on; they are still heard on stderr."""
    levels = {QtMsgType.QtWarningMsg: "warning", QtMsgType.QtCriticalMsg: "error", QtMsgType.QtFatalMsg: "error"}
    before = None

    def handle(kind, context, message: str) -> None:
        journal.add("Qt", message, levels.get(kind, "info"))
        if before is not None:
            before(kind, context, message)

    before = qInstallMessageHandler(handle)
    logging.getLogger().addHandler(_Records(journal))
    logging.captureWarnings(True)
