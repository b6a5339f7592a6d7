"""A framed line that tells something and offers what to do about it."""

from collections.abc import Callable

from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QWidget

from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import ElidedLabel


class Strip(QFrame):
    """Hidden until ``tell`` is called; it can be dismissed."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("framed")
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._slot: Callable[[], object] = lambda: None
        self._label = ElidedLabel()
        self.button = QPushButton()
        self.button.clicked.connect(self._act)
        self.close_button = QPushButton(tr("Dismiss"))
        self.close_button.clicked.connect(self.hide)
        line = QHBoxLayout(self)
        line.setContentsMargins(8, 4, 4, 4)
        line.setSpacing(4)
        line.addWidget(self._label, 1)
        for button in (self.button, self.close_button):
            button.setProperty("kind", "link")
            line.addWidget(button)
        self.hide()

    @property
    def words(self) -> str:
        return self._label.full_text()

    def tell(self, words: str, action: str = "", slot: Callable[[], object] = lambda: None) -> None:
        """``words`` are plain text; ``action`` is what the button says, if there is one."""
        self._label.set_text(words)
        self._slot = slot
        self.button.setText(action)
        self.button.setVisible(bool(action))
        self.show()

    def _act(self) -> None:
        self.hide()
        self._slot()
