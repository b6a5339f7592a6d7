"""The rows of a form that choose one scheme: number format, granularity, group, range."""

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QIntValidator
from PySide6.QtWidgets import QComboBox, QFormLayout

import engine
from engine.records.scheme import Scheme
from mono_quant_gui.widgets.parts import yielding

GROUPS = (16, 32, 64, 128, 256)


class SchemeForm(QObject):
    """Adds its rows to a form; ``changed`` carries the scheme after an edit by the user."""

    changed = Signal(object)

    def __init__(self, form: QFormLayout) -> None:
        super().__init__(form)
        self.number = QComboBox()
        for bits in range(8, 1, -1):
            self.number.addItem(f"int{bits}", f"int{bits}")
        self.number.addItem("fp16", "fp16")
        self.number.addItem("bf16", "bf16")
        self.number.addItem("keep as it is", "keep")
        self.granularity = QComboBox()
        for name, words in (("tensor", "per tensor"), ("channel", "per channel"), ("group", "per group")):
            self.granularity.addItem(words, name)
        self.group = QComboBox()
        self.group.setEditable(True)
        self.group.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.group.setValidator(QIntValidator(1, 1_000_000, self.group))
        for size in GROUPS:
            self.group.addItem(str(size))
        self.range = QComboBox()
        self.range.addItem("symmetric", True)
        self.range.addItem("asymmetric", False)
        form.addRow("&Weights", self.number)
        form.addRow("&Granularity", self.granularity)
        form.addRow("Gro&up", self.group)
        form.addRow("&Range", self.range)
        for box in (self.number, self.granularity, self.group, self.range):
            yielding(box)
            box.activated.connect(self._edited)
        line = self.group.lineEdit()
        assert line
        line.editingFinished.connect(self._edited)
        self._shown = Scheme("int", 8)
        self._shown = self.scheme()

    def scheme(self) -> Scheme:
        """The scheme that the widgets say."""
        number = self.number.currentData()
        if not number.startswith("int"):
            return engine.parse_scheme(number)
        granularity = self.granularity.currentData()
        group = self._group_size() if granularity == "group" else None
        return Scheme("int", int(number[3:]), granularity, group, self.range.currentData())

    def set_scheme(self, scheme: Scheme) -> None:
        """Show a scheme."""
        self.number.setCurrentIndex(self.number.findData(engine.scheme_name(scheme).split(":")[0]))
        if scheme.family == "int":
            self.granularity.setCurrentIndex(self.granularity.findData(scheme.granularity))
            self.range.setCurrentIndex(self.range.findData(scheme.symmetric))
            if scheme.group:
                self.group.setCurrentText(str(scheme.group))
        self._shown = scheme
        self._enable()

    def _group_size(self) -> int:
        """What stands in the field; what cannot be a group gives way to the group that was there."""
        words = self.group.currentText().strip()
        if words.isascii() and words.isdecimal() and 0 < int(words) <= 1_000_000:
            return int(words)
        before = self._shown.group or 128
        self.group.setCurrentText(str(before))
        return before

    def _edited(self, *_: object) -> None:
        self._enable()
        scheme = self.scheme()
        if scheme != self._shown:
            self._shown = scheme
            self.changed.emit(scheme)

    def _enable(self) -> None:
        integer = self.number.currentData().startswith("int")
        self.granularity.setEnabled(integer)
        self.range.setEnabled(integer)
        self.group.setEnabled(integer and self.granularity.currentData() == "group")
