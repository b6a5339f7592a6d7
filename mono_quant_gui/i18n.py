"""Words in the user's language."""

from PySide6.QtCore import QCoreApplication


def tr(text: str) -> str:
    """Translate a literal; lupdate files those of functions under a context without a name."""
    return QCoreApplication.translate("", text)
