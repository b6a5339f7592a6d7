"""The window's frame: menus, toolbar, docks and status, painted before there is a session and before the panes are made."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QActionGroup, QPaintEvent, QShowEvent
from PySide6.QtWidgets import QMainWindow, QMenu, QSizePolicy, QToolBar, QToolButton

from mono_quant_gui import actions, text, theme
from mono_quant_gui.docks import Docks
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.importing import Importing
from mono_quant_gui.journal import Journal
from mono_quant_gui.settings import THEMES, Settings
from mono_quant_gui.telling import Telling
from mono_quant_gui.turns import Turns
from mono_quant_gui.widgets.empty import no_model
from mono_quant_gui.widgets.parts import ElidedLabel, MenuButton, Pane, action_button, split_button
from mono_quant_gui.widgets.viewed_bar import ViewedBar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mono_quant_gui.session import Session

RECIPE_ACTIONS = (
    "open_recipe", "save_recipe", "save_recipe_as", "duplicate_recipe", "", "copy_toml", "copy_command", "copy_python",
)  # fmt: skip
"""In the toolbar's menu of the recipe; an empty name is a separator."""
NOT_YET = (
    "undo", "redo", "quantize", "stop", "compare", "calibration", "network", "export", "report", "copy_command", "copy_python",
)  # fmt: skip
"""Actions for which there must be a model or a run."""
LEAST = {"layers": (260, 0), "search": (260, 0), "recipe": (300, 0), "runs": (0, 56), "log": (0, 0)}
"""Pixels (width, height) below which a pane does not go."""


class Frame(QMainWindow):
    """Looks as it will with the panes in it. Whatever a person does before they are there brings them first (``furnish``)."""

    painted = Signal()
    """The window is on the screen for the first time."""
    furnished = Signal()
    """Session and panes are there."""

    if TYPE_CHECKING:  # brought by the window that stands on this frame

        def stages(self, session: "Session | None" = None) -> "Iterator[None]":
            """Bring the session, this or one of its own, and the panes; pauses between turns of the event loop."""
            ...

        def open_path(self, path: str) -> None:
            """Open a model."""
            ...

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.journal = Journal(self)
        self.telling = Telling(self, self.journal)
        self.status = self.telling.status
        self._importing = Importing(self)
        self._importing.finished.connect(self._begin)
        self._furnishing = Turns(self)
        self._furnished = self._painted = self._left = False
        self._acts: dict[str, Callable[..., object]] = {}
        self.setAcceptDrops(True)
        self.setWindowIcon(theme.icon("mono-quant"))
        self.setWindowTitle(tr("Mono Quant"))
        self._lay_out()
        slots: dict[str, Callable[..., object]] = {spec.name: partial(self.act, spec.name) for spec in actions.specs()}
        self.actions_, self._menus = actions.build(self.menuBar(), self, slots)
        self._setup_actions()
        self.toolbar = self._make_toolbar()
        self.addToolBarBreak()
        self.viewed = ViewedBar(self)
        self.addToolBar(self.viewed)
        self._restore_frame()

    # -- furnishing ----------------------------------------------------------------------------------------------

    def furnish_soon(self) -> None:
        """Bring what is missing while the window goes on answering; ``furnished`` follows."""
        self._importing.start()

    def _begin(self) -> None:
        if not (self._left or self._furnished or self._furnishing.busy):
            self._furnishing.start(self.stages())

    def furnish(self, session: "Session | None" = None) -> None:
        """Bring what is missing at once."""
        if self._furnished:
            return
        if self._furnishing.busy:
            self._furnishing.finish()
        else:
            self._furnishing.start(self.stages(session), at_once=True)

    def leave_frame(self) -> None:
        """The window closes before it was furnished, and will not be: word that the imports have ended may be on its way."""
        self._left = True
        self._furnishing.drop()
        self._importing.wait()

    def act(self, name: str, on: bool = False) -> None:
        """Do what an action of this name stands for; ``on``: whether it is checked now."""
        self.furnish()
        slot = self._acts[name]
        slot(on) if self.actions_[name].isCheckable() else slot()

    # -- building ------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        titles = {"layers": tr("Layers"), "search": tr("Search"), "recipe": tr("Recipe"), "runs": tr("Runs"), "log": tr("Log")}
        panes = {name: Pane(words) for name, words in titles.items()}
        panes["layers"].body.addWidget(no_model(lambda: self.act("open")), 1)
        for name, pane in panes.items():
            pane.setMinimumSize(*map(theme.px, LEAST[name]))
            if name != "layers":
                pane.body.addStretch()
        self.setMinimumSize(theme.px(1080), theme.px(680))
        self.resize(theme.px(1440), theme.px(900))
        inspector = Pane(tr("Inspector"))
        inspector.body.addStretch()
        self.docks = Docks(self, inspector, panes)

    def _setup_actions(self) -> None:
        group = QActionGroup(self)
        for choice in THEMES:
            action = self.actions_[f"theme_{choice}"]
            group.addAction(action)
            action.setChecked(self.settings.theme() == choice)
        self.actions_["log"].setChecked(self.settings.flag("histogram_log", True))
        for name in NOT_YET:
            self.actions_[name].setEnabled(False)
        self._recent_menu = self._menus["file/recent"]
        self._recent_menu.aboutToShow.connect(lambda: self._fill_recent(self._recent_menu))
        panes = self._menus["view/panes"]
        panes.insertActions(self.actions_["reset_layout"], self.docks.toggles())
        panes.insertSeparator(self.actions_["reset_layout"])

    def _make_toolbar(self) -> QToolBar:
        bar = QToolBar(tr("Main"))
        bar.setObjectName("toolbar")
        bar.setMovable(False)
        bar.setIconSize(QSize(theme.px(16), theme.px(16)))
        bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        self.open_button = self._open_button()
        self.data_button = action_button(tr("Calibration…"), lambda: self.act("calibration"), "")
        self.quantize_button = action_button(
            tr("Quantize"), lambda: self.act("quantize"), tr("Run the recipe (Ctrl+R)"), primary=True
        )
        self.stop_button = action_button(tr("Stop"), lambda: self.act("stop"), tr("Stop the run (Esc)"))
        self.compare_button = action_button(tr("Compare…"), lambda: self.act("compare"), tr("Runs side by side (Ctrl+Shift+C)"))
        self.recipe_button = self._recipe_button()
        self.export_button = action_button(tr("Export…"), lambda: self.act("export"), tr("Export the shown run (Ctrl+E)"))
        for button in (self.data_button, self.quantize_button, self.stop_button, self.compare_button, self.export_button):
            button.setEnabled(False)
        self.model_label = ElidedLabel(role="muted")
        self.model_label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        buttons = (self.open_button, self.data_button, self.recipe_button, self.quantize_button, self.stop_button)
        for widget in (*buttons, self.model_label, self.compare_button, self.export_button):
            bar.addWidget(widget)
        self.addToolBar(bar)
        self._refresh_icons()
        return bar

    def _open_button(self) -> QToolButton:
        menu = QMenu(self)
        menu.aboutToShow.connect(lambda: self._fill_recent(menu))
        self.open_menu = menu
        return split_button(tr("Open…"), lambda: self.act("open"), tr("Open a model (Ctrl+O); the arrow has recent ones"), menu)

    def _recipe_button(self) -> MenuButton:
        button = MenuButton()
        button.setAccessibleName(tr("Recipe"))
        button.setFixedWidth(theme.px(180))
        button.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)  # a toolbar asks for the hint
        button.set_text(tr("Recipe"))
        menu = QMenu(button)
        for name in RECIPE_ACTIONS:
            menu.addAction(self.actions_[name]) if name else menu.addSeparator()
        button.setMenu(menu)
        return button

    def _refresh_icons(self) -> None:
        colors = theme.current()
        for button, name, color in (
            (self.open_button, "open", colors.text),
            (self.quantize_button, "play", colors.on_accent),
            (self.stop_button, "stop", colors.text),
            (self.export_button, "export", colors.text),
        ):
            button.setIcon(theme.icon(name, color))

    def _fill_recent(self, menu: QMenu) -> None:
        """The newest first, and what empties the list."""
        clear = self.actions_["clear_recent"]
        for action in menu.actions():
            if action is clear:
                menu.removeAction(action)
            else:
                action.deleteLater()
        recent = self.settings.recent()
        for path in recent:
            action = menu.addAction(text.plain(path, 80).replace("&", "&&"))
            action.triggered.connect(lambda _=False, path=path: self.open_path(path))
        menu.addSeparator()
        menu.addAction(clear)
        clear.setEnabled(bool(recent))

    def _restore_frame(self) -> None:
        for key, restore in (("window", self.restoreGeometry), ("docks", self.docks.restore)):
            state = self.settings.state(key)
            if state is not None:
                restore(state)

    # -- Qt's events ---------------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self.settings.state("docks") is None:
            self.docks.fit()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self._painted:
            self._painted = True
            self.painted.emit()
