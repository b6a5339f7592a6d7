"""The log pane: what the engine and the window said, with the time, as plain text."""

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QGuiApplication, QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QPushButton, QStackedWidget, QWidget

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.journal import MOST, Entry, Journal
from mono_quant_gui.widgets.empty import Empty
from mono_quant_gui.widgets.parts import Pane

PAUSE_MS = 100
"""Entries are shown in batches this far apart, so that a flood of them costs no more than a few."""


class LogPane(Pane):
    """Follows the newest entry unless the reader has scrolled away from it."""

    open_wanted = Signal()

    def __init__(self, journal: Journal, parent: QWidget | None = None) -> None:
        super().__init__(tr("Log"), parent)
        self._journal = journal
        self._waiting: list[Entry] = list(journal.entries)
        self.view = QPlainTextEdit()
        self.view.setReadOnly(True)
        self.view.setMaximumBlockCount(MOST)
        self.view.setFont(theme.monospace())
        self.view.setAccessibleName(tr("Messages of the engine and the window"))
        self.view.setTabChangesFocus(True)
        self.copy_button = _link(tr("Cop&y all"), tr("Copy the whole log as text"))
        self.copy_button.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._journal.text()))
        self.clear_button = _link(tr("C&lear"), tr("Empty the log"))
        self.clear_button.clicked.connect(self.clear)
        for button in (self.copy_button, self.clear_button):
            self.head.addWidget(button)
        self._stack = QStackedWidget()
        words = tr("Open a model: what the engine and the window say stands here.")
        self._stack.addWidget(Empty(words, (tr("Open…"), self.open_wanted.emit), flat=True))
        self._stack.addWidget(self.view)
        self.body.addWidget(self._stack, 1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE_MS)
        self._timer.timeout.connect(self._show_waiting)
        journal.added.connect(self._added)
        self._show_waiting()

    def clear(self) -> None:
        """Forget every entry."""
        self._journal.entries.clear()
        self._waiting.clear()
        self.view.clear()
        self._stack.setCurrentIndex(0)

    def _added(self, entry: Entry) -> None:
        self._waiting.append(entry)
        if not self._timer.isActive():
            self._timer.start()

    def _show_waiting(self) -> None:
        if not self._waiting:
            return
        self._stack.setCurrentIndex(1)
        bar = self.view.verticalScrollBar()
        follows = bar.value() == bar.maximum()
        self.view.appendPlainText("\n".join(_line(entry) for entry in self._waiting[-MOST:]))
        self._waiting.clear()
        if follows:
            self.view.moveCursor(QTextCursor.MoveOperation.End)
            self.view.moveCursor(QTextCursor.MoveOperation.StartOfLine)


def _line(entry: Entry) -> str:
    first, *more = str(entry).splitlines()
    return "\n".join([text.plain(first, 2000), *(f"    {text.plain(line, 2000)}" for line in more)])


def _link(words: str, tip: str) -> QPushButton:
    button = QPushButton(words)
    button.setProperty("kind", "link")
    button.setToolTip(tip)
    button.setAccessibleName(tip)
    return button
