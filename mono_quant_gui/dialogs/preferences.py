"""Preferences: what is asked for here takes effect at once and is kept for the next time."""

import os
from pathlib import Path

from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.settings import MOST_MEGABYTES, Settings
from mono_quant_gui.widgets.parts import label


class PreferencesDialog(QDialog):
    """``store`` writes what was entered; ``theme`` is then to be applied by the window."""

    def __init__(self, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self.setWindowTitle(tr("Preferences"))
        self.setMinimumWidth(theme.px(560))
        self.theme = QComboBox()
        for key, words in (("system", tr("as the system")), ("light", tr("light")), ("dark", tr("dark"))):
            self.theme.addItem(words, key)
        self.theme.setCurrentIndex(self.theme.findData(settings.theme()))
        self.reopen = QCheckBox(tr("&Open the last model again at the start"))
        self.reopen.setChecked(settings.reopens())
        self.memory = QSpinBox()
        self.memory.setRange(0, MOST_MEGABYTES)
        self.memory.setSingleStep(500)
        self.memory.setGroupSeparatorShown(True)
        self.memory.setSuffix(tr(" MB"))
        self.memory.setSpecialValueText(tr("what is free"))
        self.memory.setValue((settings.memory_limit() or 0) // 1_000_000)
        self.memory.setAccessibleName(tr("Memory that a run may take"))
        self.memory.setToolTip(tr("Below it a run holds less at once; what cannot fit is refused before it begins"))
        self.runs = QLineEdit(str(settings.runs_folder()))
        self.exports = QLineEdit(settings.text("export_folder") or str(Path.home()))
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.addRow(tr("&Theme"), self.theme)
        form.addRow("", self.reopen)
        memory = label(tr("&Memory of a run"))
        memory.setBuddy(self.memory)
        form.addRow(memory, self.memory)
        self._add_folder(form, tr("&Runs"), self.runs, tr("Folder of runs"))
        where = label(tr("Runs made from now on are kept there; earlier ones stay where they are."), "muted")
        where.setWordWrap(True)
        form.addRow("", where)
        self._add_folder(form, tr("&Exports"), self.exports, tr("Folder that exports go to"))
        if settings.overridden("runs_folder"):
            self.runs.setEnabled(False)
            self.runs.setToolTip(tr("Given on the command line for this session"))
        self._hint = label("", "muted")
        self._hint.setWordWrap(True)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addLayout(form)
        column.addWidget(self._hint)
        column.addWidget(self.buttons)
        self._check()

    def store(self) -> None:
        """Keep what was entered."""
        settings = self._settings
        settings.set_text("theme", self.theme.currentData())
        settings.set_flag("reopen", self.reopen.isChecked())
        settings.set_memory_limit(self.memory.value())
        if self.runs.isEnabled():
            settings.set_text("runs_folder", _folder(self.runs))
        settings.set_text("export_folder", _folder(self.exports))

    def _add_folder(self, form: QFormLayout, words: str, line: QLineEdit, title: str) -> None:
        line.setAccessibleName(title)
        line.textChanged.connect(self._check)
        browse = QPushButton(tr("Browse…"))
        browse.setAccessibleName(tr("Browse: {what}").format(what=title))
        browse.setAutoDefault(False)
        browse.clicked.connect(lambda: self._browse(line, title))
        row = QHBoxLayout()
        row.addWidget(line, 1)
        row.addWidget(browse)
        name = label(words)
        name.setBuddy(line)
        form.addRow(name, row)

    def _browse(self, line: QLineEdit, title: str) -> None:
        chosen = QFileDialog.getExistingDirectory(self, title, line.text())
        if chosen:
            line.setText(chosen)

    def _check(self) -> None:
        wrong = next(filter(None, (_obstacle(line) for line in (self.runs, self.exports) if line.isEnabled())), "")
        self._hint.setText(wrong)
        self.buttons.button(QDialogButtonBox.StandardButton.Ok).setEnabled(not wrong)


def _folder(line: QLineEdit) -> str:
    return os.path.expanduser(line.text().strip())


def _obstacle(line: QLineEdit) -> str:
    """Why nothing can be kept in this folder; empty when something can."""
    folder = _folder(line)
    if not os.path.isabs(folder) or "\0" in folder:
        return tr("Give the whole path of a folder.")
    standing = Path(folder)
    while not standing.exists() and standing != standing.parent:
        standing = standing.parent
    if not standing.is_dir():
        return tr("{path} is not a folder.").format(path=standing)
    return "" if os.access(standing, os.W_OK) else tr("Nothing can be written in {path}.").format(path=standing)
