"""About: what this is, its version and licence, and those of what it runs on."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import theme, versions
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import label


class AboutDialog(QDialog):
    """Deletes itself when closed."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(tr("About Mono Quant"))
        mark = QLabel()
        mark.setPixmap(theme.icon("mono-quant").pixmap(56, 56))
        words = label(tr("A workbench for quantizing PyTorch models: open, plan, quantize, see, export."), "muted")
        words.setWordWrap(True)
        beside = QVBoxLayout()
        beside.addWidget(label(tr("Mono Quant {version} · MIT licence").format(version=versions.__version__), "strong"))
        beside.addWidget(words)
        head = QHBoxLayout()
        head.setSpacing(16)
        head.addWidget(mark)
        head.addLayout(beside, 1)
        self.table = _table()
        self.copy_button = QPushButton(tr("&Copy versions"))
        self.copy_button.clicked.connect(lambda: QGuiApplication.clipboard().setText(versions.text()))
        close = QPushButton(tr("C&lose"))
        close.setDefault(True)
        close.clicked.connect(self.reject)
        buttons = QHBoxLayout()
        buttons.addWidget(self.copy_button)
        buttons.addStretch()
        buttons.addWidget(close)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addLayout(head)
        column.addWidget(self.table, 1)
        column.addWidget(label(versions.system(), "muted"))
        column.addLayout(buttons)
        self.resize(520, 480)


def _table() -> QTableWidget:
    rows = versions.versions()
    table = QTableWidget(len(rows), 3)
    table.setAccessibleName(tr("Versions and licences"))
    table.setHorizontalHeaderLabels([tr("Name"), tr("Version"), tr("Licence")])
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setTabKeyNavigation(False)
    table.setShowGrid(False)
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(theme.px(25))
    table.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    table.horizontalHeader().setStretchLastSection(True)
    for row, found in enumerate(rows):
        for column, words in enumerate(found):
            table.setItem(row, column, QTableWidgetItem(words))
    return table
