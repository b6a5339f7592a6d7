"""One sentence about what went wrong, with details to copy behind it."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMessageBox, QWidget

from mono_quant_gui import text


def show_error(parent: QWidget, message: str, details: str) -> QMessageBox:
    """Open without blocking; the box deletes itself when closed."""
    box = QMessageBox(QMessageBox.Icon.Warning, "Mono Quant", text.plain(message, 600), QMessageBox.StandardButton.Close, parent)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    if details:
        box.setDetailedText(details)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()
    return box
