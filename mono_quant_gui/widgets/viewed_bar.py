"""Says across the window that a run that was picked is shown with its own recipe, and leads back."""

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton, QSizePolicy, QToolBar, QWidget

from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import ElidedLabel

if TYPE_CHECKING:
    from mono_quant_gui.session import Session


class ViewedBar(QToolBar):
    """In sight only while such a run is shown."""

    _session: "Session"

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(tr("Shown run"), parent)
        self.setObjectName("viewed")
        self.setMovable(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        self.toggleViewAction().setVisible(False)
        self.words = ElidedLabel(role="strong")
        self.words.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.back_button = QPushButton(tr("Back to the current recipe"))
        self.back_button.setProperty("kind", "primary")
        self.back_button.clicked.connect(lambda _=False: self._session.back())
        self.use_button = QPushButton(tr("Use this recipe"))
        self.use_button.setToolTip(tr("Make it the current recipe; undo brings the one before back"))
        self.use_button.clicked.connect(lambda _=False: self._session.use_viewed())
        for widget in (self.words, self.use_button, self.back_button):
            self.addWidget(widget)
        self.setVisible(False)

    def follow(self, session: "Session") -> None:
        """Say which run is shown in it from now on."""
        self._session = session
        session.viewing_changed.connect(self.update_words)
        session.kept.altered.connect(self.update_words)
        self.update_words()

    def update_words(self, *_: object) -> None:
        """Say what is shown, or nothing."""
        run = self._session.viewed
        self.setVisible(run is not None)
        if run is not None:
            words = tr("Run #{number} · {name} is shown, with its own recipe; the current recipe waits unchanged.")
            self.words.set_text(words.format(number=run.number, name=text.plain(run.name, 80)))
