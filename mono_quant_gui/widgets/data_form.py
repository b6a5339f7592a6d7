"""The form that says which data a model is run on."""

import os

from PySide6.QtCore import Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QWidget,
)

from engine.records.calibration import DataSpec
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import label, roomy, yielding

MOST = 10_000_000
LARGEST_SEED = 2**31 - 1


class DataForm(QWidget):
    """``changed`` follows every edit; a file or folder may be dropped on it."""

    changed = Signal()

    def __init__(self, folder: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = folder
        self.setAcceptDrops(True)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.source = QComboBox()
        self.source.addItem(tr("File or folder"), "file")
        self.source.addItem(tr("Synthetic: random numbers"), "synthetic")
        form.addRow(tr("So&urce"), self.source)
        self.path = QLineEdit()
        self.path.setPlaceholderText(tr("Drop a file or folder here"))
        path = label(tr("&Path"))
        path.setBuddy(self.path)
        form.addRow(path, self.path)
        form.addRow("", self._make_browse())
        self.kind = QComboBox()
        for name, words in _kinds():
            self.kind.addItem(words, name)
        form.addRow(tr("&Kind"), self.kind)
        self.samples = _number(0, MOST, tr("all"), tip=tr("How many are drawn, with the seed"))
        self.seed = _number(0, LARGEST_SEED)
        self.batch = _number(1, MOST, tip=tr("Samples in one forward: fewer need less memory"))
        form.addRow(tr("Sa&mples"), self.samples)
        form.addRow(tr("See&d"), self.seed)
        form.addRow(tr("&Batch"), self.batch)
        self.length = _number(0, MOST, tr("the model's own, at most 2048"), tip=tr("Tokens of one sample of text"))
        form.addRow(tr("&Length"), self.length)
        self.packed = QCheckBox(tr("Join texts and cut them evenly"))
        self.chat = QCheckBox(tr("Conversations: chat template"))
        self.column, self.labels = QLineEdit(), QLineEdit()
        self.column.setPlaceholderText(tr("key of the text, or columns"))
        self.labels.setPlaceholderText(tr("array, key or column; for accuracy"))
        form.addRow("", self.packed)
        form.addRow("", self.chat)
        form.addRow(tr("&Column"), self.column)
        form.addRow(tr("L&abels"), self.labels)
        self.skip_bad = QCheckBox(tr("Leave out what cannot be read"))
        form.addRow("", self.skip_bad)
        self._signals()
        self.set_spec(DataSpec())

    def spec(self) -> DataSpec:
        """The data that the widgets say."""
        synthetic = self.source.currentData() == "synthetic"
        path = "" if synthetic else os.path.abspath(os.path.expanduser(self.path.text().strip().replace("\0", "")))
        return DataSpec(
            path, "synthetic" if synthetic else self.kind.currentData(), self.samples.value(), self.seed.value(),
            self.batch.value(), self.length.value() or None, self.packed.isChecked(), self.chat.isChecked(),
            self.column.text().strip(), self.labels.text().strip(), self.skip_bad.isChecked(),
        )  # fmt: skip

    def set_spec(self, spec: DataSpec) -> None:
        """Show data that were chosen before."""
        synthetic = spec.kind == "synthetic"
        self.source.setCurrentIndex(int(synthetic))
        self.path.setText(spec.path)
        self.kind.setCurrentIndex(0 if synthetic else max(self.kind.findData(spec.kind), 0))
        for box, value in ((self.samples, spec.samples), (self.seed, spec.seed), (self.batch, spec.batch)):
            box.setValue(value)
        self.length.setValue(spec.length or 0)
        for box, on in ((self.packed, spec.packed), (self.chat, spec.chat), (self.skip_bad, spec.skip_bad)):
            box.setChecked(on)
        self.column.setText(spec.column)
        self.labels.setText(spec.labels)
        self._enable()

    @property
    def complete(self) -> bool:
        """Whether there is anything to read."""
        return self.source.currentData() == "synthetic" or bool(self.path.text().strip())

    def take(self, path: str) -> None:
        """Use a file or folder that was dropped or picked."""
        self.source.setCurrentIndex(0)
        self.path.setText(path)

    def _signals(self) -> None:
        self.source.currentIndexChanged.connect(self._edited)
        self.kind.currentIndexChanged.connect(self._edited)
        for line in (self.path, self.column, self.labels):
            line.textChanged.connect(self._edited)
        for number in (self.samples, self.seed, self.batch, self.length):
            number.valueChanged.connect(self._edited)
        for box in (self.packed, self.chat, self.skip_bad):
            box.toggled.connect(self._edited)
        for box in (self.source, self.kind):
            yielding(box)

    def _edited(self, *_: object) -> None:
        self._enable()
        self.changed.emit()

    def _enable(self) -> None:
        """Only what the chosen kind takes."""
        file = self.source.currentData() == "file"
        kind = self.kind.currentData() if file else "synthetic"
        for widget in (self.path, self.kind, self.browse_file, self.browse_folder, self.labels, self.skip_bad):
            widget.setEnabled(file)
        self.length.setEnabled(kind in ("", "text", "synthetic"))
        for widget in (self.packed, self.chat):
            widget.setEnabled(kind in ("", "text"))
        self.column.setEnabled(kind in ("", "text", "table"))

    def _make_browse(self) -> QWidget:
        holder = QWidget()
        line = QHBoxLayout(holder)
        line.setContentsMargins(0, 0, 0, 0)
        self.browse_file, self.browse_folder = QPushButton(tr("File…")), QPushButton(tr("Folder…"))
        for button, slot in ((self.browse_file, self._pick_file), (self.browse_folder, self._pick_folder)):
            button.setAutoDefault(False)
            button.clicked.connect(slot)
            line.addWidget(button)
        line.addStretch()
        return holder

    def _pick_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, tr("Calibration data"), self.path.text() or self._folder)
        if chosen:
            self.take(chosen)

    def _pick_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, tr("Folder of calibration data"), self.path.text() or self._folder)
        if chosen:
            self.take(chosen)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if dropped(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        if path := dropped(event):
            self.take(path)


def dropped(event: QDropEvent) -> str:
    """The one local path of a drop; empty where there is none."""
    urls = event.mimeData().urls()
    return urls[0].toLocalFile() if len(urls) == 1 else ""


def _kinds() -> tuple[tuple[str, str], ...]:
    """Kinds of data as the engine calls them, and in words."""
    return (
        ("", tr("as its name says")), ("arrays", tr("arrays")), ("images", tr("images")), ("text", tr("text")),
        ("table", tr("table")),
    )  # fmt: skip


def _number(low: int, high: int, zero: str = "", tip: str = "") -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setSpecialValueText(zero)
    box.setToolTip(tip)
    box.setGroupSeparatorShown(True)
    roomy(box)
    return box
