"""Which Python function builds the network for a file of weights. The file is read as text here and never run."""

import ast
import json
import os
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from engine.records.trust import Factory
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.state import How
from mono_quant_gui.widgets.parts import label

LONGEST = 4_000_000
"""Bytes of a Python file that is looked into."""


class NetworkDialog(QDialog):
    """``factory()`` and ``fold()`` are what was entered, once accepted."""

    def __init__(self, folder: str, how: How, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder = folder
        self._wrong = ""
        self.setWindowTitle(tr("Network from a Python file"))
        self.setMinimumWidth(theme.px(560))
        why = label(
            tr("This file has weights only. Name the Python function that builds the network; the weights are put into it.")
        )
        why.setWordWrap(True)
        self.path = QLineEdit()
        self.path.setPlaceholderText("model.py")
        self.path.textChanged.connect(self._read)
        browse = QPushButton(tr("Browse…"))
        browse.setAutoDefault(False)
        browse.clicked.connect(self._browse)
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(self.path, 1)
        line.addWidget(browse)
        self.function = QComboBox()
        self.function.setAccessibleName(tr("Function"))
        self.arguments = QLineEdit()
        self.arguments.setPlaceholderText(tr('{"width": 128}, nothing if empty'))
        self.arguments.textChanged.connect(self._check)
        self._fold = QCheckBox(tr("Fold batch norms into the convolutions before them"))
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        file = label(tr("&File"))
        file.setBuddy(self.path)
        form.addRow(file, line)
        form.addRow(tr("F&unction"), self.function)
        form.addRow(tr("&Arguments"), self.arguments)
        form.addRow("", self._fold)
        self.message = label("", "muted")
        self.message.setWordWrap(True)
        self.message.setMinimumHeight(2 * self.message.fontMetrics().height() + 4)
        self.message.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.use_button = QPushButton(tr("Use this network"))
        self.use_button.setProperty("kind", "primary")
        self.use_button.setDefault(True)
        self.use_button.clicked.connect(self.accept)
        cancel = QPushButton(tr("Cancel"))
        cancel.clicked.connect(self.reject)
        buttons = QHBoxLayout()
        buttons.addStretch()
        buttons.addWidget(cancel)
        buttons.addWidget(self.use_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addWidget(why)
        column.addLayout(form)
        column.addWidget(self.message)
        column.addLayout(buttons)
        self._fill(how)

    def factory(self) -> Factory:
        """The function as entered."""
        arguments = json.loads(self.arguments.text()) if self.arguments.text().strip() else {}
        return Factory(self._file(), self.function.currentText(), arguments)

    def fold(self) -> bool:
        return self._fold.isChecked()

    def _fill(self, how: How) -> None:
        self._fold.setChecked(how.fold)
        if how.factory:
            self.path.setText(how.factory.path)
            self.function.setCurrentText(how.factory.name)
            self.arguments.setText(json.dumps(how.factory.arguments) if how.factory.arguments else "")
        else:
            self._read()

    def _file(self) -> str:
        return os.path.expanduser(self.path.text().strip())

    def _browse(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, tr("Python file"), self._file() or self._folder, tr("Python (*.py)"))
        if chosen:
            self.path.setText(chosen)

    def _read(self) -> None:
        """Offer what the file defines."""
        self.function.clear()
        names, self._wrong = callables_in(self._file()) if self._file() else ([], "")
        self.function.addItems(names)
        self._check()

    def _check(self) -> None:
        words = self._wrong or _arguments_error(self.arguments.text())
        self.message.setText(text.plain(words or tr("The file is only read here. Before it runs, you are asked.")))
        self.message.setStyleSheet(f"color: {theme.current().bad}" if words else "")
        self.use_button.setEnabled(not words and self.function.count() > 0)


def callables_in(path: str) -> tuple[list[str], str]:
    """Functions and classes that a Python file defines, and a sentence where there are none; the file is not run."""
    try:
        if "\0" in path or not path.endswith(".py") or not os.path.isfile(path):
            return [], tr("Choose a file that ends in .py.")
        if os.path.getsize(path) > LONGEST:
            return [], f"{Path(path).name} is too long for a Python file."
        tree = ast.parse(Path(path).read_bytes())
    except OSError as error:
        return [], f"{Path(path).name} cannot be read: {error.strerror}."
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        return [], f"{Path(path).name} is not Python that this version reads{where}."
    found = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")]
    found.sort(key=lambda node: isinstance(node, ast.ClassDef))  # functions first: they are more often the factory
    return [node.name for node in found], "" if found else f"{Path(path).name} defines no function and no class."


def _arguments_error(words: str) -> str:
    try:
        fits = not words.strip() or isinstance(json.loads(words), dict)
    except (ValueError, RecursionError):
        fits = False
    return "" if fits else tr('Arguments are a JSON object, such as {"width": 128}.')
