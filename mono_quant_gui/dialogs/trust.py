"""The question before code from a file runs; not to run it is the answer that Enter and Escape give."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QFormLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.state import Trust
from mono_quant_gui.widgets.parts import label

WHY = "To open this, code from a file must run. It would run with your rights: it could read, change and send your files."
HOW_LONG = "Nothing of it has run. Your answer is for these very bytes and holds until this window closes."


class TrustDialog(QDialog):
    """Answers a Trust exactly once, however it is closed."""

    def __init__(self, trust: Trust, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._trust = trust
        self.setWindowTitle(tr("Run code from a file?"))
        self.setMinimumWidth(theme.px(620))
        why, how_long = label(WHY), label(HOW_LONG, "muted")
        for words in (why, how_long):
            words.setWordWrap(True)
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(8)
        self.path = _fact(trust.path, mono=True)
        self.what = _fact(trust.what)
        self.sha256 = _fact(trust.sha256, mono=True)
        form.addRow(label(tr("File"), "muted"), self.path)
        form.addRow(label(tr("Would run"), "muted"), self.what)
        form.addRow(label("SHA-256", "muted"), self.sha256)
        self.run_button = QPushButton(tr("Run this code once"))
        self.run_button.setAutoDefault(False)
        self.run_button.clicked.connect(self.accept)
        self.decline_button = QPushButton(tr("Don't open"))
        self.decline_button.setDefault(True)
        self.decline_button.setProperty("kind", "primary")
        self.decline_button.clicked.connect(self.reject)
        buttons = QHBoxLayout()
        buttons.addStretch()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.decline_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addWidget(why)
        column.addLayout(form)
        column.addWidget(how_long)
        column.addLayout(buttons)
        self.accepted.connect(trust.accept)
        self.rejected.connect(trust.decline)
        self.decline_button.setFocus()


def _fact(words: str, *, mono: bool = False) -> QLabel:
    """Text from a file: plain, wrapped anywhere, to be selected and copied."""
    made = label(text.plain(words, 600))
    made.setWordWrap(True)
    made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard)
    if mono:
        made.setFont(theme.monospace())
    return made
