"""Where the panes stand: docks around the inspector, their first arrangement, and how it is kept and put back."""

from PySide6.QtCore import QByteArray, QObject, Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QApplication, QDockWidget, QMainWindow, QTabBar, QVBoxLayout, QWidget

from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import Pane

VERSION = 2
"""Of a saved arrangement; one of other panes is not put back."""
AREAS = {
    "layers": Qt.DockWidgetArea.LeftDockWidgetArea,
    "search": Qt.DockWidgetArea.LeftDockWidgetArea,
    "recipe": Qt.DockWidgetArea.RightDockWidgetArea,
    "runs": Qt.DockWidgetArea.BottomDockWidgetArea,
    "log": Qt.DockWidgetArea.BottomDockWidgetArea,
}
LAYERS_SHARE, RECIPE_WIDTH, RUNS_SHARE = 0.39, 300, 0.17
HIDDEN_AT_FIRST = ("log",)


class Dock(QDockWidget):
    """A pane that can be moved, floated and closed; the pane's own head is what it is dragged by."""

    def __init__(self, name: str, pane: Pane, parent: QWidget) -> None:
        super().__init__(pane.title, parent)
        self.setObjectName(f"dock_{name}")
        self.setAccessibleName(pane.title)
        self.setTitleBarWidget(pane.take_head())
        self.setWidget(pane)
        self.toggleViewAction().setObjectName(f"show_{name}")

    def put(self, pane: Pane) -> None:
        """Another pane in the place of the one that is there."""
        before = (self.titleBarWidget(), self.widget())
        pane.setMinimumSize(self.widget().minimumSize())
        self.setTitleBarWidget(pane.take_head())
        self.setWidget(pane)
        for widget in before:
            widget.deleteLater()


class Docks(QObject):
    """The window's docks by name, with the central pane among the stops of F6."""

    def __init__(self, window: QMainWindow, central: Pane, panes: dict[str, Pane]) -> None:
        super().__init__(window)
        self._window, self._central = window, central
        self._middle = QWidget()  # stays: docks take other sizes when a window's central widget changes
        self._middle_room = QVBoxLayout(self._middle)
        self._middle_room.setContentsMargins(0, 0, 0, 0)
        self._middle_room.addWidget(central)
        window.setCentralWidget(self._middle)
        window.setDockOptions(
            QMainWindow.DockOption.AllowNestedDocks
            | QMainWindow.DockOption.AllowTabbedDocks
            | QMainWindow.DockOption.AnimatedDocks
        )
        self.by_name = {name: Dock(name, pane, window) for name, pane in panes.items()}
        window.tabifiedDockWidgetActivated.connect(self._name_tabs)
        for dock in self.by_name.values():
            dock.dockLocationChanged.connect(self._name_tabs)
        self.reset()

    def put(self, name: str, pane: Pane) -> None:
        """A pane in its dock."""
        self.by_name[name].put(pane)

    def put_central(self, pane: Pane) -> None:
        """The pane that the docks stand around."""
        self._middle_room.replaceWidget(self._central, pane)
        self._central.deleteLater()
        self._central = pane

    def reset(self) -> None:
        """The first arrangement."""
        for name, dock in self.by_name.items():
            dock.setFloating(False)
            self._window.addDockWidget(AREAS[name], dock)
        for behind, front in (("log", "runs"), ("search", "layers")):
            self._window.tabifyDockWidget(self.by_name[front], self.by_name[behind])
        for name, dock in self.by_name.items():
            dock.setVisible(name not in HIDDEN_AT_FIRST)
        for front in ("runs", "layers"):
            self.by_name[front].raise_()
        self.fit()
        self._name_tabs()

    def _name_tabs(self, *_: object) -> None:
        """Qt makes bars of tabs as panes are put upon one another, and gives them no name."""
        for bar in self._window.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly):
            bar.setAccessibleName(tr("Panes in one place"))

    def fit(self) -> None:
        """The first arrangement's shares of the window as large as it is now."""
        sides = [self.by_name["layers"], self.by_name["recipe"]]
        widths = [round(LAYERS_SHARE * self._window.width()), theme.px(RECIPE_WIDTH)]
        self._window.resizeDocks(sides, widths, Qt.Orientation.Horizontal)
        self._window.resizeDocks([self.by_name["runs"]], [round(RUNS_SHARE * self._window.height())], Qt.Orientation.Vertical)

    def toggles(self) -> list[QAction]:
        """One checkable action a dock, for the View menu."""
        return [dock.toggleViewAction() for dock in self.by_name.values()]

    def show(self, name: str) -> None:
        """Bring a dock into sight."""
        self.by_name[name].show()
        self.by_name[name].raise_()

    def close(self) -> None:
        """Take floating panes off the screen: Qt leaves them there when their window closes."""
        for dock in self.by_name.values():
            if dock.isFloating():
                dock.hide()

    def save(self) -> QByteArray:
        return self._window.saveState(VERSION)

    def restore(self, state: QByteArray | None) -> None:
        """Put a saved arrangement back; one that cannot be understood changes nothing."""
        if state is not None:
            self._window.restoreState(state, VERSION)

    def next_pane(self, back: bool = False) -> None:
        """Move the keyboard to the next pane in sight, round and round."""
        stops = [self.by_name["layers"].widget(), self._central, *(d.widget() for n, d in self.by_name.items() if n != "layers")]
        seen = [pane for pane in stops if pane.isVisible() and not pane.visibleRegion().isEmpty()]
        if not seen:
            return
        focus = QApplication.focusWidget()
        at = next((n for n, pane in enumerate(seen) if focus is not None and pane.isAncestorOf(focus)), None)
        places = range(len(seen)) if at is None else (at + (n + 1) * (-1 if back else 1) for n in range(len(seen)))
        for place in places:
            if _focus(seen[place % len(seen)]):
                return


def _focus(pane: QWidget) -> bool:
    """Give the first widget of a pane that takes it the keyboard."""
    widget = pane.nextInFocusChain()
    while widget is not None and widget is not pane and pane.isAncestorOf(widget):
        if widget.isVisible() and widget.isEnabled() and widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
            widget.setFocus(Qt.FocusReason.ShortcutFocusReason)
            return True
        widget = widget.nextInFocusChain()
    return False
