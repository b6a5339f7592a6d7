"""The command palette: every action, and every layer, found by typing a few of its letters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QDialog, QHeaderView, QLineEdit, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

from mono_quant_gui.i18n import tr

MOST = 60
"""Lines that are shown."""
LAYERS_FROM = 2
"""Letters typed before layers are searched too."""
MOVES = (Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_PageUp, Qt.Key.Key_PageDown)


@dataclass(frozen=True, slots=True)
class Command:
    """``run`` is called after the palette has closed."""

    title: str
    run: Callable[[], object]
    shortcut: str = ""
    enabled: bool = True


def score(wanted: str, title: str) -> float | None:
    """How well a title matches what was typed; None if it does not. Each word's letters must come in order, runs count more."""
    folded, total = title.casefold(), 0.0
    for word in wanted.casefold().split():
        at = folded.find(word)
        if at >= 0:
            total += 2 * len(word) + (3 if at == 0 or not folded[at - 1].isalnum() else 0)
            continue
        at = -1
        for letter in word:
            before, at = at, folded.find(letter, at + 1)
            if at < 0:
                return None
            total += 1.0 if at == before + 1 or at == 0 or not folded[at - 1].isalnum() else 0.2
    return total - 0.01 * len(title)


class _Line(QLineEdit):
    """Leaves the keys that move in the list to the list."""

    def __init__(self, table: QTreeWidget) -> None:
        super().__init__()
        self._table = table

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in MOVES:
            self._table.keyPressEvent(event)
        else:
            super().keyPressEvent(event)


class Palette(QDialog):
    """``layers`` are names to be chosen with ``select``; actions come first."""

    def __init__(
        self, commands: Sequence[Command], layers: Sequence[str], select: Callable[[str], object], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent, Qt.WindowType.Dialog | Qt.WindowType.FramelessWindowHint)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(tr("Command palette"))
        self._commands, self._layers, self._select = commands, layers, select
        self._folded: list[str] | None = None
        self._shown: list[Command] = []
        self.table = self._make_table()
        self.line = _Line(self.table)
        self.line.setPlaceholderText(tr("Type to find an action or a layer"))
        self.line.setAccessibleName(tr("Find an action or a layer"))
        self.line.setClearButtonEnabled(True)
        self.line.textChanged.connect(self._filter)
        self.line.returnPressed.connect(self._run_current)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(8)
        column.addWidget(self.line)
        column.addWidget(self.table)
        self.resize(620, 420)
        if parent is not None:
            middle = parent.mapToGlobal(parent.rect().topLeft())
            self.move(middle.x() + (parent.width() - self.width()) // 2, middle.y() + 80)
        self._filter("")
        self.line.setFocus()

    def titles(self) -> list[str]:
        """What is listed now, the best first."""
        return [command.title for command in self._shown]

    def _make_table(self) -> QTreeWidget:
        table = QTreeWidget()
        table.setColumnCount(2)
        table.setHeaderHidden(True)
        table.setRootIsDecorated(False)
        table.setUniformRowHeights(True)
        table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        table.setAccessibleName(tr("Actions and layers that match"))
        table.header().setStretchLastSection(False)
        table.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        table.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        table.itemClicked.connect(lambda item, _: self._run_row(table.indexOfTopLevelItem(item)))
        return table

    def _filter(self, wanted: str) -> None:
        ranked = [(found, command) for command in self._commands if (found := score(wanted, command.title)) is not None]
        if wanted.strip():
            ranked.sort(key=lambda pair: (not pair[1].enabled, -pair[0]))
        self._shown = [command for _, command in ranked][:MOST]
        self._shown += self._matching_layers(wanted)[: MOST - len(self._shown)]
        self.table.clear()
        items = [_item(command) for command in self._shown]
        self.table.addTopLevelItems(items)
        if items:
            self.table.setCurrentItem(items[0])

    def _matching_layers(self, wanted: str) -> list[Command]:
        words = wanted.casefold().split()
        if len("".join(words)) < LAYERS_FROM:
            return []
        if self._folded is None:
            self._folded = [name.casefold() for name in self._layers]
        found = []
        for name, folded in zip(self._layers, self._folded, strict=True):
            if all(word in folded for word in words):
                found.append(Command(tr("Layer ▸ {name}").format(name=name), lambda name=name: self._select(name)))
                if len(found) == MOST:
                    break
        return found

    def _run_current(self) -> None:
        item = self.table.currentItem()
        if item is not None:
            self._run_row(self.table.indexOfTopLevelItem(item))

    def _run_row(self, row: int) -> None:
        command = self._shown[row]
        if command.enabled:
            self.accept()
            QTimer.singleShot(0, self.parent() or self, command.run)


def _item(command: Command) -> QTreeWidgetItem:
    item = QTreeWidgetItem([command.title, command.shortcut])
    item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    item.setToolTip(0, command.title)
    if not command.enabled:
        item.setFlags(Qt.ItemFlag.ItemIsSelectable)
    return item
