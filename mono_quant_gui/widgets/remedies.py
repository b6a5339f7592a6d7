"""Why the selected layer is worse than it ought to be, and what may help: each remedy can be tried, or applied."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QMenu, QPushButton, QWidget

from engine.records.look import Remedy
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import label


class Remedies(QFrame):
    """Hidden where there is nothing to mend."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session, self._looking = session, session.looking
        self.setObjectName("framed")
        self.words = label("")
        self.words.setWordWrap(True)
        self.button = QPushButton(tr("Mend…"))
        self.button.setToolTip(tr("Remedies that fit this layer"))
        self.button.clicked.connect(self._open)
        self.button.setProperty("kind", "small")
        line = QHBoxLayout(self)  # beside the words: the plot above needs the height
        line.setContentsMargins(8, 4, 8, 4)
        line.addWidget(self.words, 1)
        line.addWidget(self.button)
        self._looking.detail_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the diagnosis of what the plots show."""
        diagnosis = self._looking.diagnosis
        self.setVisible(bool(diagnosis.cause))
        self.words.setText("⚠ " + text.plain(diagnosis.words, 400))

    def _open(self) -> None:
        menu = self.menu()
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(self.button.mapToGlobal(self.button.rect().bottomLeft()))

    def menu(self) -> QMenu:
        """Every remedy, to be tried in the strip or applied and measured."""
        menu = QMenu(self)
        for title, slot in ((tr("Try"), self.attempt), (tr("Apply and measure"), self.apply)):
            part = menu.addMenu(title)
            for remedy in self._looking.diagnosis.remedies:
                action = part.addAction(f"{remedy.words} ({_name(remedy)})")
                action.triggered.connect(lambda _=False, slot=slot, remedy=remedy: slot(remedy))
        return menu

    def attempt(self, remedy: Remedy) -> None:
        """Show it in the what-if strip."""
        self._looking.try_scheme(remedy.scheme, remedy.algorithm)

    def apply(self, remedy: Remedy) -> None:
        """Write a rule, and run that layer again where a run is shown; else the trial that follows the plan measures it."""
        name = self._session.selected
        if name is not None:
            self._looking.wanted = None  # from now on the recipe says so
            self._session.mending.rerun([name], remedy.scheme, remedy.algorithm)


def _name(remedy: Remedy) -> str:
    return remedy.scheme if remedy.algorithm == "rtn" else f"{remedy.scheme}, {remedy.algorithm}"
