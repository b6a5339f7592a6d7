"""One rule: which layers, and their scheme."""

import re

from PySide6.QtWidgets import QComboBox, QDialog, QDialogButtonBox, QFormLayout, QLineEdit, QVBoxLayout, QWidget

from engine.records.model import KINDS
from engine.records.recipe import Rule
from engine.records.scheme import Scheme
from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.algorithm_form import AlgorithmForm
from mono_quant_gui.widgets.parts import label
from mono_quant_gui.widgets.scheme_form import SchemeForm


class RuleDialog(QDialog):
    """``rule()`` is what was entered, once accepted."""

    def __init__(self, rule: Rule | None, default: Scheme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(tr("Change rule") if rule else tr("Add rule"))
        self.setMinimumWidth(theme.px(420))
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        self.match = QLineEdit(rule.match or "" if rule else "")
        self.match.setPlaceholderText("*.down_proj, or re:.*layers\\.[01]\\..*")
        self.match.textChanged.connect(self._check)
        form.addRow(tr("La&yers"), self.match)
        self.kind = QComboBox()
        self.kind.addItem(tr("any kind"), None)
        for kind in KINDS:
            self.kind.addItem(kind, kind)
        if rule and rule.kind:
            self.kind.setCurrentText(rule.kind)
        form.addRow(tr("&Kind"), self.kind)
        self.min_size = self._size_line(rule.min_size if rule else None)
        self.max_size = self._size_line(rule.max_size if rule else None)
        form.addRow(tr("At l&east"), self.min_size)
        form.addRow(tr("At &most"), self.max_size)
        self.scheme = SchemeForm(form)
        self.scheme.set_scheme(rule.scheme if rule else default)
        self.algorithm = AlgorithmForm(form)
        self.algorithm.set_text(rule.algorithm if rule else "rtn")
        self._hint = label("", "muted")
        self._hint.setWordWrap(True)
        self._buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        self._buttons.accepted.connect(self.accept)
        self._buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addLayout(form)
        column.addWidget(self._hint)
        column.addWidget(self._buttons)
        self._check()

    def rule(self) -> Rule:
        """The rule as entered."""
        return Rule(
            self.scheme.scheme(), self.algorithm.text(), self.match.text().strip() or None, self.kind.currentData(),
            _number(self.min_size.text()), _number(self.max_size.text()),
        )  # fmt: skip

    def _size_line(self, value: int | None) -> QLineEdit:
        line = QLineEdit("" if value is None else str(value))
        line.setPlaceholderText(tr("elements, any if empty"))
        line.textChanged.connect(self._check)
        return line

    def _check(self) -> None:
        wrong = _pattern_error(self.match.text().strip())
        for line in (self.min_size, self.max_size):
            words = line.text().strip()
            if words and _number(words) is None:
                wrong = tr("{words} is not a whole number of elements.").format(words=repr(words))
        self._hint.setText(
            wrong or tr("* stands for any characters; re: begins a regular expression. Empty matches every layer.")
        )
        self._buttons.button(QDialogButtonBox.StandardButton.Ok).setEnabled(not wrong)


def _number(words: str) -> int | None:
    words = words.strip().replace(",", "").replace("_", "")
    return int(words) if words.isascii() and words.isdecimal() and len(words) < 19 else None


def _pattern_error(pattern: str) -> str:
    if pattern.startswith("re:"):
        if pattern == "re:":
            return "Write a regular expression after re:"
        try:
            re.compile(pattern[3:])
        except re.error as error:
            return f"Not a regular expression: {error}."
    return ""
