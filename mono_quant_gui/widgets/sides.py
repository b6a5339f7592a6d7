"""Which sides are compared: a box for each, and buttons for one more or less."""

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QToolButton, QWidget

from mono_quant_gui import text
from mono_quant_gui.comparing import MOST, letter
from mono_quant_gui.i18n import tr
from mono_quant_gui.run import Run
from mono_quant_gui.widgets.parts import label, yielding

FILE, FOLDER = "\0file", "\0folder"


class SidesBox(QWidget):
    """Sides are ids of finished runs, or paths of artifacts and float models."""

    changed = Signal(list)

    def __init__(self, runs: Sequence[Run], sides: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._runs = [run for run in runs if run.totals is not None]
        self._paths = [side for side in sides if all(side != run.id for run in self._runs)]
        self.sides = list(sides)
        self._line = QHBoxLayout(self)
        self._line.setContentsMargins(0, 0, 0, 0)
        self._line.setSpacing(8)
        self.boxes: list[QComboBox] = []
        self._letters: list[QWidget] = []
        self.more = _button("+", tr("Compare one more"), self._one_more)
        self.less = _button("−", tr("Leave the last one out"), self._one_less)
        for button in (self.more, self.less):
            self._line.addWidget(button)
        self._fill()

    def _fill(self) -> None:
        while len(self.boxes) > len(self.sides):
            for widget in (self.boxes.pop(), self._letters.pop()):
                self._line.removeWidget(widget)
                widget.hide()
                widget.deleteLater()
        while len(self.boxes) < len(self.sides):
            self._add_box()
        for box, side in zip(self.boxes, self.sides, strict=True):
            with QSignalBlocker(box):
                box.clear()
                for run in self._runs:
                    box.addItem(tr("run #{number} {name}").format(number=run.number, name=text.plain(run.name, 60)), run.id)
                for path in self._paths:
                    box.addItem(text.plain(Path(path).name, 60), path)
                    box.setItemData(box.count() - 1, text.path(path), Qt.ItemDataRole.ToolTipRole)
                box.insertSeparator(box.count())
                box.addItem(tr("File…"), FILE)
                box.addItem(tr("Folder…"), FOLDER)
                box.setCurrentIndex(box.findData(side))
                box.setToolTip(text.path(side) if side in self._paths else box.currentText())
        self.more.setEnabled(len(self.sides) < MOST)
        self.less.setEnabled(len(self.sides) > 2)

    def _add_box(self) -> None:
        side, box = len(self.boxes), QComboBox()
        yielding(box)
        box.setAccessibleName(tr("Side {letter}").format(letter=letter(side)))
        box.activated.connect(lambda _=0, side=side: self._chosen(side))
        head = label(letter(side), "head")
        for widget, stretch in ((head, 0), (box, 1)):
            self._line.insertWidget(self._line.count() - 2, widget, stretch)
        self.boxes.append(box)
        self._letters.append(head)

    def _chosen(self, side: int) -> None:
        chosen = str(self.boxes[side].currentData() or "")
        if chosen in (FILE, FOLDER):
            chosen = self._ask(chosen == FOLDER)
        if chosen and chosen != self.sides[side]:
            self._put(side, chosen)
        self._fill()

    def _put(self, side: int, chosen: str) -> None:
        if all(chosen != run.id for run in self._runs) and chosen not in self._paths:
            self._paths.append(chosen)
        self.sides[side:] = [chosen, *self.sides[side + 1 :]]
        self.changed.emit(list(self.sides))

    def _ask(self, folder: bool) -> str:
        if folder:
            return QFileDialog.getExistingDirectory(self, tr("Compare model folder"))
        kinds = tr("Models (*.safetensors *.pt *.pth *.bin *.ckpt);;All files (*)")
        return QFileDialog.getOpenFileName(self, tr("Compare model"), "", kinds)[0]

    def _one_more(self) -> None:
        unused = [run.id for run in self._runs if run.id not in self.sides]
        chosen = unused[0] if unused else self._ask(folder=False)
        if chosen:
            self.sides.append(chosen)
            if chosen not in unused and chosen not in self._paths:
                self._paths.append(chosen)
            self._fill()
            self.changed.emit(list(self.sides))

    def _one_less(self) -> None:
        self.sides.pop()
        self._fill()
        self.changed.emit(list(self.sides))


def _button(words: str, tip: str, slot) -> QToolButton:
    button = QToolButton()
    button.setText(words)
    button.setToolTip(tip)
    button.setAccessibleName(tip)
    button.clicked.connect(lambda _=False: slot())
    return button
