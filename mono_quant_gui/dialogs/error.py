"""What went wrong: one sentence, with details to read and copy behind it."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QHBoxLayout, QLabel, QPlainTextEdit, QPushButton, QStyle, QVBoxLayout, QWidget

from mono_quant_gui import text, theme, versions
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import label


class ErrorDialog(QDialog):
    """A failure, or a defect of the window itself; opens without blocking and deletes itself when closed."""

    def __init__(self, message: str, details: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(tr("Mono Quant"))
        self.setMinimumWidth(theme.px(520))
        self._text = message
        self.message = label(text.plain(message, 900))
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.message.setAccessibleName(tr("What went wrong"))
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setTabChangesFocus(True)
        self.details.setFont(theme.monospace())
        self.details.setMinimumHeight(180)
        self.details.setAccessibleName(tr("Details"))
        self.details.hide()
        self.details_button = QPushButton(tr("&Details"))
        self.details_button.setCheckable(True)
        self.details_button.toggled.connect(self._show_details)
        self.copy_button = QPushButton(tr("&Copy details"))
        self.copy_button.setToolTip(tr("Copy the sentence, the details and every version, for a report"))
        self.copy_button.clicked.connect(lambda: QGuiApplication.clipboard().setText(self.report()))
        self.close_button = QPushButton(tr("C&lose"))
        self.close_button.setDefault(True)
        self.close_button.clicked.connect(self.reject)
        self._lay_out()
        self.set_details(details)

    def set_details(self, details: str) -> None:
        """What stands behind the sentence; nothing hides the button that shows it."""
        self.details.setPlainText(details)
        self.details_button.setVisible(bool(details))

    def report(self) -> str:
        """The sentence, the details and what it ran on, as text."""
        return "\n\n".join(filter(None, [self._text, self.details.toPlainText().rstrip(), versions.text()]))

    def _lay_out(self) -> None:
        mark = QLabel()
        mark.setPixmap(self.style().standardIcon(QStyle.StandardPixmap.SP_MessageBoxWarning).pixmap(32, 32))
        line = QHBoxLayout()
        line.setSpacing(16)
        line.addWidget(mark, 0, Qt.AlignmentFlag.AlignTop)
        line.addWidget(self.message, 1)
        buttons = QHBoxLayout()
        buttons.addWidget(self.details_button)
        buttons.addWidget(self.copy_button)
        buttons.addStretch()
        buttons.addWidget(self.close_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addLayout(line)
        column.addWidget(self.details, 1)
        column.addLayout(buttons)

    def _show_details(self, shown: bool) -> None:
        self.details.setVisible(shown)
        self.adjustSize()


def show_error(parent: QWidget, message: str, details: str) -> ErrorDialog:
    """Open a failure's dialog."""
    dialog = ErrorDialog(message, details, parent)
    dialog.open()
    return dialog
