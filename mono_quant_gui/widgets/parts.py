"""Labels and surfaces."""

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget


def label(words: str = "", role: str = "") -> QLabel:
    """A plain-text label in one of the style sheet's roles."""
    made = QLabel(words)
    made.setTextFormat(Qt.TextFormat.PlainText)
    if role:
        made.setProperty("role", role)
    return made


def yielding(box: QComboBox) -> None:
    """Let a combo box become narrower than its longest item."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)


class Pane(QFrame):
    """A titled surface: a small muted head, and a body to fill."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pane")
        self.setAccessibleName(title)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(12, 10, 12, 12)
        outer.setSpacing(8)
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(label(title.upper(), "head"))
        self.note = ElidedLabel(role="muted")
        line.addWidget(self.note, 1)
        outer.addLayout(line)
        self.head = line
        self.body = outer


class ElidedLabel(QLabel):
    """One line of plain text that gives way when there is no room, with the whole text as its tooltip."""

    def __init__(self, words: str = "", role: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideMiddle) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self._mode, self._words = mode, ""
        if role:
            self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.set_text(words)

    def set_text(self, words: str) -> None:
        self._words = words
        self.setAccessibleName(words)
        self._elide()

    def full_text(self) -> str:
        return self._words

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        self._elide()

    def _elide(self) -> None:
        shown = self.fontMetrics().elidedText(self._words, self._mode, max(self.width(), 8))
        self.setText(shown)
        self.setToolTip(self._words if shown != self._words else "")


def action_button(words: str, slot: Callable[[], object], tip: str, *, primary: bool = False) -> QPushButton:
    """A button that calls ``slot`` without arguments; the primary one stands out."""
    button = QPushButton(f" {words}")  # the space keeps the icon off the word
    button.clicked.connect(lambda _=False: slot())
    button.setToolTip(tip)
    if primary:
        button.setProperty("kind", "primary")
    return button
