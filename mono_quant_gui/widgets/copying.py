"""Rows of a table on their way to the clipboard: 90,000 take seconds, and the window answers meanwhile."""

from collections.abc import Callable, Iterator

from PySide6.QtCore import QObject, Qt
from PySide6.QtGui import QGuiApplication, QKeySequence, QShortcut
from PySide6.QtWidgets import QAbstractItemView

from mono_quant_gui.exporting import rows_as_lines
from mono_quant_gui.i18n import tr
from mono_quant_gui.turns import Turns

AT_ONCE = 300
"""Rows that nobody waits for."""
PIECE = 20


class Copying:
    """Of one table. ``say`` is told where it takes a moment."""

    def __init__(self, owner: QObject, say: Callable[[str], object]) -> None:
        self._turns, self._say = Turns(owner), say

    def copy(self, lines: Iterator[str], count: int) -> None:
        """Put lines onto the clipboard when all are there; a later call takes the place of one that is not done."""
        if count > AT_ONCE:
            self._say(tr("Copying {count} rows…").format(count=f"{count:,}"))
        self._turns.start(self._work(lines, count), at_once=count <= AT_ONCE)

    def drop(self) -> None:
        """Forget rows that are gone."""
        self._turns.drop()

    def _work(self, lines: Iterator[str], count: int) -> Iterator[None]:
        found: list[str] = []
        for line in lines:
            found.append(line)
            if len(found) % PIECE == 0:
                yield
        QGuiApplication.clipboard().setText("\n".join(found))
        if count > AT_ONCE:
            self._say(tr("Copied {count} rows").format(count=f"{count:,}"))


def copies_rows(view: QAbstractItemView, say: Callable[[str], object] = lambda _: None) -> None:
    """Let Ctrl+C copy the selected rows, or all where none is, as they are shown: tab-separated, with a head."""
    copying = Copying(view, say)
    shortcut = QShortcut(QKeySequence.StandardKey.Copy, view)
    shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
    shortcut.activated.connect(lambda: copying.copy(*rows_as_lines(view)))
    for changing in (view.model().modelAboutToBeReset, view.model().layoutAboutToBeChanged):
        changing.connect(copying.drop)
