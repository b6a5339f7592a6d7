"""The help's window: contents, a search over all pages, and the page. Nothing is fetched from anywhere."""

from collections.abc import Sequence

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QColor, QDesktopServices, QKeySequence, QShortcut, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import (
    QDialog,
    QLabel,
    QLineEdit,
    QListWidget,
    QSplitter,
    QTextBrowser,
    QTextEdit,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import theme
from mono_quant_gui.helping import Section
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import label

MOST_MARKS = 500


class _Page(QTextBrowser):
    """Loads nothing: pages are whole as they are."""

    def loadResource(self, kind: int, name: QUrl | str) -> object:
        return None


class HelpWindow(QDialog):
    """Stays beside the main window; not modal."""

    def __init__(self, pages: Sequence[Section], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pages = pages
        self._listed: list[Section] = []
        self.setWindowTitle(tr("Mono Quant help"))
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("Search all pages"))
        self.search.setAccessibleName(tr("Search the help"))
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._search)
        self.contents = QListWidget()
        self.contents.setAccessibleName(tr("Contents"))
        self.contents.currentRowChanged.connect(self._show_row)
        self.page = _Page()
        self.page.setAccessibleName(tr("Page"))
        self.page.setOpenLinks(False)
        self.page.anchorClicked.connect(_open_link)
        self._none: QLabel = label(tr("No page has these words."), "muted")
        self._lay_out()
        find = QShortcut(QKeySequence.StandardKey.Find, self)
        find.activated.connect(self.search.setFocus)
        self._search("")

    def refresh(self) -> None:
        """Draw the page again, after a change of theme."""
        self._show_row(self.contents.currentRow())

    def _lay_out(self) -> None:
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        for widget in (self.search, self._none, self.contents):
            column.addWidget(widget)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.setChildrenCollapsible(False)
        split.addWidget(left)
        split.addWidget(self.page)
        split.setSizes([230, 670])
        split.setStretchFactor(1, 1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(12, 12, 12, 12)
        outer.addWidget(split)
        self.resize(920, 640)

    def _search(self, wanted: str) -> None:
        words = wanted.casefold().split()
        now = self.contents.currentRow()
        before = self._listed[now] if 0 <= now < len(self._listed) else None
        self._listed = [page for page in self._pages if all(word in page.markdown.casefold() for word in words)]
        self.contents.blockSignals(True)
        self.contents.clear()
        self.contents.addItems([page.title for page in self._listed])
        self.contents.blockSignals(False)
        self._none.setVisible(not self._listed)
        row = self._listed.index(before) if before in self._listed else 0
        self.contents.setCurrentRow(row if self._listed else -1)
        self._show_row(self.contents.currentRow())

    def _show_row(self, row: int) -> None:
        if not 0 <= row < len(self._listed):
            self.page.clear()
            return
        self.page.setMarkdown(self._listed[row].markdown)
        self._mark(self.search.text().split())

    def _mark(self, words: Sequence[str]) -> None:
        """What was searched for, in the selection's colour, and the first of it in sight."""
        shape = QTextCharFormat()
        shape.setBackground(QColor(theme.current().selection))
        marks, first = [], None
        for word in words:
            cursor = self.page.document().find(word)
            while not cursor.isNull() and len(marks) < MOST_MARKS:
                mark = QTextEdit.ExtraSelection()
                mark.cursor, mark.format = cursor, shape  # type: ignore[attr-defined]
                marks.append(mark)
                first = cursor if first is None or cursor.position() < first.position() else first
                cursor = self.page.document().find(word, cursor)
        self.page.setExtraSelections(marks)
        if first is not None:
            place = QTextCursor(first)
            place.clearSelection()
            self.page.setTextCursor(place)
            self.page.ensureCursorVisible()


def _open_link(url: QUrl) -> None:
    """A link leads to the browser of the user; pages have none of their own."""
    if url.scheme() in ("http", "https"):
        QDesktopServices.openUrl(url)
