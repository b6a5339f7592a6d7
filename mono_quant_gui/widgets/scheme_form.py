"""The rows of a form that choose one scheme, built from what each number family offers."""

import re

from PySide6.QtCore import QObject, QRegularExpression, Qt, Signal
from PySide6.QtGui import QRegularExpressionValidator
from PySide6.QtWidgets import QComboBox, QFormLayout, QLabel

import engine
from engine.records.scheme import Scheme, SchemeChoices
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.field_row import FieldRow
from mono_quant_gui.widgets.parts import yielding

BLOCKS = ("128x128", "64x64", "32x32")
GROUP = re.compile(r"[1-9]\d{0,8}")
BLOCK = re.compile(r"[1-9]\d{0,8}x[1-9]\d{0,8}")
LONGEST = 1_000_000


def _granularity_words() -> dict[str, str]:
    return {
        "tensor": tr("per tensor"), "channel": tr("per channel"), "group": tr("per group"), "block": tr("per block"),
    }  # fmt: skip


class SchemeForm(QObject):
    """Adds its rows to a form; ``changed`` carries the scheme after an edit by the user.

    A scheme is put together as its name, word by word, so that this form knows no family.
    """

    changed = Signal(object)

    def __init__(self, form: QFormLayout | FieldRow) -> None:
        super().__init__(form)
        self._form = form
        self.number = QComboBox()
        self._choices: dict[str, SchemeChoices] = {}
        for family in engine.scheme_choices():
            if self.number.count():
                self.number.insertSeparator(self.number.count())
            for word, title in family.bases:
                self._choices[word] = family
                self.number.addItem(title, word)
                tip = f"{family.title}: {family.summary}"
                self.number.setItemData(self.number.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.number.setMaxVisibleItems(30)
        self.granularity, self.group, self.range = QComboBox(), QComboBox(), QComboBox()
        self.group.setEditable(True)
        self.group.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        form.addRow(tr("&Weights"), self.number)
        form.addRow(tr("&Granularity"), self.granularity)
        form.addRow(tr("Gro&up"), self.group)
        form.addRow(tr("&Range"), self.range)
        for box, name in (
            (self.number, tr("Weights")),
            (self.granularity, tr("Granularity")),
            (self.group, tr("Group")),
            (self.range, tr("Range")),
        ):
            yielding(box)
            box.setAccessibleName(name)
            box.activated.connect(self._edited)
        line = self.group.lineEdit()
        assert line
        line.editingFinished.connect(self._edited)
        self._group_before = {"group": "128", "block": BLOCKS[0]}
        self._shown = engine.parse_scheme("int8:channel")
        self.set_scheme(self._shown)

    def scheme(self) -> Scheme:
        """The scheme that the widgets say."""
        words = [self.number.currentData()]
        granularity = self.granularity.currentData()
        if granularity in ("group", "block"):
            words.append(("g" if granularity == "group" else "b") + self._group_text(granularity))
        elif granularity:
            words.append(granularity)
        if self.range.currentData():
            words.append(self.range.currentData())
        return engine.parse_scheme(":".join(words))

    def set_scheme(self, scheme: Scheme) -> None:
        """Show a scheme."""
        base, *words = engine.scheme_name(scheme).split(":")
        self.number.setCurrentIndex(self.number.findData(base))
        self._offer(self._choices[base])
        if self.granularity.count():
            self.granularity.setCurrentIndex(self.granularity.findData(scheme.granularity))
        self._offer_groups()
        if scheme.group and scheme.granularity in self._group_before:
            text = f"{scheme.block_rows}x{scheme.group}" if scheme.granularity == "block" else str(scheme.group)
            self._group_before[scheme.granularity] = text
            self.group.setCurrentText(text)
        self.range.setCurrentIndex(max(0, *(self.range.findData(word) for word in ["", *words])) if self.range.count() else -1)
        self._shown = scheme
        self._show_rows()

    def _offer(self, choices: SchemeChoices) -> None:
        """Fill the boxes with what the family has; what was chosen stays where it is still there."""
        granularity, variant = self.granularity.currentData(), self.range.currentData()
        self.granularity.clear()
        words = _granularity_words()
        for name in choices.granularities:
            self.granularity.addItem(words[name], name)
        self.granularity.setCurrentIndex(max(self.granularity.findData(granularity), 0) if choices.granularities else -1)
        title = self._form.labelForField(self.range)
        if isinstance(title, QLabel):
            title.setText(f"&{choices.variants_title}")
        self.range.clear()
        for word, title in choices.variants:
            self.range.addItem(title, word)
        self.range.setCurrentIndex(max(self.range.findData(variant), 0) if choices.variants else -1)

    def _offer_groups(self) -> None:
        """Sizes to pick from, for groups or for blocks."""
        kind = self.granularity.currentData()
        choices = self._choices[self.number.currentData()]
        sizes = BLOCKS if kind == "block" else tuple(map(str, choices.groups))
        if [self.group.itemText(i) for i in range(self.group.count())] != list(sizes):
            self.group.clear()
            self.group.addItems(sizes)
        pattern = BLOCK if kind == "block" else GROUP
        self.group.setValidator(QRegularExpressionValidator(QRegularExpression(pattern.pattern), self.group))
        if kind in self._group_before:
            self.group.setCurrentText(self._group_before[kind])

    def _group_text(self, kind: str) -> str:
        """What stands in the field; what cannot be a group gives way to the group that was there."""
        words = self.group.currentText().strip()
        fits = (BLOCK if kind == "block" else GROUP).fullmatch(words)
        if not fits or any(int(number) > LONGEST for number in words.split("x")):
            self.group.setCurrentText(self._group_before[kind])
        else:
            self._group_before[kind] = words
        return self._group_before[kind]

    def _edited(self, *_: object) -> None:
        base = self.number.currentData()
        if self._choices[base] is not self._choices[engine.scheme_name(self._shown).split(":")[0]]:
            self._offer(self._choices[base])
        if self.sender() is not self.group and self.sender() is not self.group.lineEdit():
            self._offer_groups()
        self._show_rows()
        scheme = self.scheme()
        if scheme != self._shown:
            self._shown = scheme
            self.changed.emit(scheme)

    def _show_rows(self) -> None:
        """Only what there is to choose."""
        self._form.setRowVisible(self.granularity, self.granularity.count() > 0)
        self._form.setRowVisible(self.range, self.range.count() > 0)
        self._form.setRowVisible(self.group, self.granularity.currentData() in ("group", "block"))
