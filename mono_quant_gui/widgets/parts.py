"""Labels and surfaces."""

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QButtonGroup,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

LEAST_HEIGHT = 150
"""Of what scrolls when there is no more room."""


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
    box.setMinimumContentsLength(box.minimumContentsLength() or 8)


def roomy(box: QAbstractSpinBox) -> None:
    """Keep the number off the edge: a style sheet's padding does not reach it."""
    line = box.findChild(QLineEdit)
    if line is not None:
        line.setTextMargins(6, 0, 0, 0)


class Pane(QFrame):
    """A titled surface: a small muted head, and a body to fill."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pane")
        self.setAccessibleName(title)
        self.title = title
        outer = QVBoxLayout(self)
        outer.setContentsMargins(12, 12, 12, 12)
        outer.setSpacing(8)
        self._head_bar = QFrame()
        self._head_bar.setObjectName("pane")
        line = QHBoxLayout(self._head_bar)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(8)
        line.addWidget(label(title.upper(), "head"))
        self.note = ElidedLabel(role="muted")
        line.addWidget(self.note, 1)
        outer.addWidget(self._head_bar)
        self.head = line
        self.body = outer

    def take_head(self) -> QWidget:
        """The head, to stand above the pane: a dock is dragged by it."""
        sides = self.body.contentsMargins()
        self.body.removeWidget(self._head_bar)
        self.body.setContentsMargins(sides.left(), 8, sides.right(), sides.bottom())
        self.head.setContentsMargins(12, 12, 12, 0)
        return self._head_bar


class TallArea(QScrollArea):
    """As wide as what is in it must be; what is too high for it scrolls instead of overlapping."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._inside = inside
        self.setWidget(inside)
        inside.installEventFilter(self)
        for surface in (self.viewport(), inside):  # the pane's own shows through
            surface.setAutoFillBackground(False)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """What is shown in it may become wider: the room around is asked for again."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    def minimumSizeHint(self) -> QSize:
        inside = self._inside.minimumSizeHint()
        bar = self.verticalScrollBar().sizeHint().width()
        return QSize(inside.width() + bar, min(inside.height(), LEAST_HEIGHT))

    def sizeHint(self) -> QSize:
        return self._inside.sizeHint()


class ElidedLabel(QLabel):
    """One line of plain text that gives way when there is no room, with the whole text as its tooltip."""

    def __init__(self, words: str = "", role: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideMiddle) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self._mode, self._words, self._tip = mode, "", ""
        if role:
            self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.set_text(words)

    def set_text(self, words: str, tip: str = "") -> None:
        """``tip``: what the tooltip adds, as the exact bytes of a size."""
        self._words, self._tip = words, tip
        self.setAccessibleName(words)
        self._elide()

    def full_text(self) -> str:
        return self._words

    def minimumSizeHint(self) -> QSize:
        """No width: a toolbar would rather hide its last buttons."""
        return QSize(0, super().minimumSizeHint().height())

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        self._elide()

    def _elide(self) -> None:
        shown = self.fontMetrics().elidedText(self._words, self._mode, max(self.width(), 8))
        self.setText(shown)
        said = [self._words] if shown != self._words else []
        self.setToolTip("\n".join([*said, *([self._tip] if self._tip else [])]))


class WrappedLabel(QLabel):
    """Plain text in as many lines as it takes; it asks for no width."""

    def __init__(self, role: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        if role:
            self.setProperty("role", role)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def set_text(self, words: str) -> None:
        """Numbers stay with their units, and what would be empty takes no room."""
        self._words = words
        self.setText(words.replace(" %", "\u00a0%").replace(" dB", "\u00a0dB"))
        self.setVisible(bool(words))

    def full_text(self) -> str:
        return self._words

    _words = ""


def action_button(words: str, slot: Callable[[], object], tip: str, *, primary: bool = False) -> QPushButton:
    """A button that calls ``slot`` without arguments; the primary one stands out."""
    button = QPushButton(f" {words}")  # the space keeps the icon off the word
    button.clicked.connect(lambda _=False: slot())
    button.setToolTip(tip)
    if primary:
        button.setProperty("kind", "primary")
    return button


def split_button(words: str, slot: Callable[[], object], tip: str, menu: QMenu) -> QToolButton:
    """A button that calls ``slot``, with an arrow that opens a menu."""
    button = QToolButton()
    button.setText(f" {words}")  # the space keeps the icon off the word
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    button.setPopupMode(QToolButton.ToolButtonPopupMode.MenuButtonPopup)
    button.setProperty("kind", "split")
    button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    button.setMenu(menu)
    button.clicked.connect(lambda _=False: slot())
    button.setToolTip(tip)
    return button


class MenuButton(QPushButton):
    """Looks like a combo box and opens a menu; its words give way when there is no room."""

    def __init__(self) -> None:
        super().__init__()
        self._words = ""
        self.setProperty("kind", "menu")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def set_text(self, words: str) -> None:
        self._words = words
        self.setAccessibleDescription(words)
        self._elide()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._elide()

    def _elide(self) -> None:
        shown = self.fontMetrics().elidedText(self._words, Qt.TextElideMode.ElideRight, max(self.width() - 40, 8))
        self.setText(f"  {shown}")  # a style sheet gives no room on the left of a button with a menu


class Choice(QWidget):
    """A few words of which one is chosen; ``on_choice`` gets its key when the user picks another."""

    def __init__(self, choices: dict[str, tuple[str, str]], chosen: str, on_choice: Callable[[str], None]) -> None:
        """``choices`` are (word, tooltip) by key."""
        super().__init__()
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        self._group = QButtonGroup(self)
        self.buttons: dict[str, QToolButton] = {}
        for key, (word, tip) in choices.items():
            button = self.buttons[key] = QToolButton()
            button.setText(word)
            button.setCheckable(True)
            button.setChecked(key == chosen)
            button.setProperty("kind", "choice")
            button.setToolTip(tip)
            button.setAccessibleName(tip)
            button.clicked.connect(lambda _=False, key=key: on_choice(key))
            self._group.addButton(button)
            line.addWidget(button)
        self._group.buttonToggled.connect(self._stop_at_chosen)
        self._stop_at_chosen()

    def _stop_at_chosen(self) -> None:
        """Tab comes to the chosen word only, also when no click chose it; arrow keys go to the others."""
        for button in self.buttons.values():
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus if button.isChecked() else Qt.FocusPolicy.NoFocus)

    def choose(self, key: str) -> None:
        """Show another choice without telling."""
        self.buttons[key].setChecked(True)


class ChoiceBox(QComboBox):
    """As ``Choice``, where there is room for one word only."""

    def __init__(self, choices: dict[str, tuple[str, str]], chosen: str, on_choice: Callable[[str], None], name: str) -> None:
        super().__init__()
        for place, (key, (word, tip)) in enumerate(choices.items()):
            self.addItem(word, key)
            self.setItemData(place, tip, Qt.ItemDataRole.ToolTipRole)
        self.setAccessibleName(name)
        self.setToolTip(name)
        self.choose(chosen)
        self.activated.connect(lambda _: on_choice(self.currentData()))

    def choose(self, key: str) -> None:
        """Show another choice without telling."""
        self.setCurrentIndex(self.findData(key))
