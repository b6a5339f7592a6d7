"""What stands where there is nothing to show: one sentence, and one action that leads on."""

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QBoxLayout, QPushButton, QWidget

from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import label

Action = tuple[str, Callable[[], object]]
"""The words of a button, and what it does."""


class Empty(QWidget):
    """In the middle of its room; ``flat``: in one line at its top, where a pane is low."""

    def __init__(self, words: str = "", action: Action | None = None, *, flat: bool = False) -> None:
        super().__init__()
        self._slot: Callable[[], object] = lambda: None
        self.words = label("", "muted" if flat else "empty")
        self.words.setWordWrap(not flat)
        self.button = QPushButton()
        self.button.setProperty("kind", "small")
        self.button.clicked.connect(lambda _=False: self._slot())
        line = QBoxLayout(QBoxLayout.Direction.LeftToRight if flat else QBoxLayout.Direction.TopToBottom, self)
        line.setContentsMargins(0, 4, 0, 4)
        line.setSpacing(8)
        if flat:
            self.words.setMinimumWidth(0)
            for widget in (self.words, self.button):
                line.addWidget(widget, 0, Qt.AlignmentFlag.AlignTop)
        else:
            self.words.setAlignment(Qt.AlignmentFlag.AlignCenter)
            line.addStretch()
            line.addWidget(self.words)
            line.addWidget(self.button, 0, Qt.AlignmentFlag.AlignHCenter)
        line.addStretch()
        self.say(words, action)

    def say(self, words: str, action: Action | None = None) -> None:
        """Another sentence, and another action or none."""
        self.words.setText(words)
        self.button.setVisible(action is not None)
        if action is not None:
            self.button.setText(action[0])
            self._slot = action[1]

    def text(self) -> str:
        return self.words.text()


def no_model(open_one: Callable[[], object]) -> Empty:
    """Where layers stand once a model is open."""
    return Empty(tr("Open a model to see every layer,\nor drop a file or folder here."), (tr("Open…"), open_one))
