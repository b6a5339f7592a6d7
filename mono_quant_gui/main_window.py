"""The window: panes in the frame, and what follows what. Wiring only; what happens is decided in the session."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QCloseEvent, QContextMenuEvent, QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QApplication, QDialog, QMessageBox

from mono_quant_gui import actions, text, theme
from mono_quant_gui.asking import Asking
from mono_quant_gui.i18n import tr

if TYPE_CHECKING:
    from mono_quant_gui.dialogs.about import AboutDialog
    from mono_quant_gui.dialogs.help import HelpWindow
    from mono_quant_gui.dialogs.palette import Command, Palette
    from mono_quant_gui.dialogs.preferences import PreferencesDialog
    from mono_quant_gui.panes.inspector import InspectorPane
    from mono_quant_gui.panes.layers import LayersPane
    from mono_quant_gui.panes.log import LogPane
    from mono_quant_gui.panes.runs import RunsPane
    from mono_quant_gui.panes.search import SearchPane
    from mono_quant_gui.session import Session
    from mono_quant_gui.settings import Settings

ZOOM = 1.5
"""By how much the keyboard zooms."""


class MainWindow(Asking):
    """One session's window. Modules of panes and dialogs are imported where they are made: the frame is painted before."""

    layers: "LayersPane"
    inspector: "InspectorPane"
    runs: "RunsPane"
    log: "LogPane"
    search: "SearchPane"

    def __init__(self, settings: "Settings") -> None:
        super().__init__(settings)
        self._asked = False
        self._help: HelpWindow | None = None

    # -- building ----------------------------------------------------------------------------------------------

    def stages(self, session: "Session | None" = None) -> Iterator[None]:
        """The session, then pane after pane in the frame; a turn of the event loop for each."""
        yield from self.take_session(session)
        yield from self._make_panes()
        from mono_quant_gui.export_menu import ExportMenu

        self.exports = ExportMenu(self.session, self, self._menus["file/save"])
        self._acts = self._slots()
        self._connect()
        self._restore_panes()
        self.viewed.follow(self.session)
        self._update()
        self.update_title()
        self._furnished = True
        self.furnished.emit()

    def _make_panes(self) -> Iterator[None]:
        from mono_quant_gui.panes.layers import LayersPane

        yield
        self.layers = LayersPane(self.session)
        self.docks.put("layers", self.layers)
        yield
        from mono_quant_gui.panes.recipe import RecipePane

        yield
        self.recipe = RecipePane(self.session)
        self.docks.put("recipe", self.recipe)
        yield
        from mono_quant_gui.panes.inspector import InspectorPane

        yield
        self.inspector = InspectorPane(self.session)
        self.docks.put_central(self.inspector)
        yield
        from mono_quant_gui.panes.runs import RunsPane

        yield
        self.runs = RunsPane(self.session)
        self.docks.put("runs", self.runs)
        yield
        from mono_quant_gui.panes.log import LogPane
        from mono_quant_gui.panes.search import SearchPane

        yield
        self.log, self.search = LogPane(self.journal), SearchPane(self.session)
        self.docks.put("log", self.log)
        self.docks.put("search", self.search)
        yield

    def _slots(self) -> dict:
        session = self.session
        return {
            "open": self.open_file, "open_folder": self.open_folder, "clear_recent": session.settings.clear_recent,
            **self.recipes.slots(), "export": self.export_shown, "report": self.report_shown,
            "preferences": self.prefer, "palette": self.find_command, "help": self.help,
            "quit": self.close, "undo": session.undo.undo, "redo": session.undo.redo,
            "filter": self.layers.focus_filter, "quantize": session.quantize,
            "search": lambda: self.docks.show("search"), "stop": session.cancel,
            "compare": lambda: self.compare(self.runs.selected()), "log": self._log_toggled, "about": self.about,
            "theme_system": lambda _: self.set_theme("system"), "theme_light": lambda _: self.set_theme("light"),
            "theme_dark": lambda _: self.set_theme("dark"), "calibration": lambda: self.calibrate(),
            "network": lambda: self.add_network(), "reset_layout": self.docks.reset,
            "zoom_in": lambda: self.inspector.zoom(1 / ZOOM), "zoom_out": lambda: self.inspector.zoom(ZOOM),
            "zoom_all": lambda: self.inspector.zoom(None),
            "next_pane": self.docks.next_pane, "previous_pane": lambda: self.docks.next_pane(back=True),
        }  # fmt: skip

    def _name_undo(self, words: str) -> None:
        self.actions_["undo"].setText(tr("&Undo {what}").format(what=words.replace("&", "&&")).strip())

    def _name_redo(self, words: str) -> None:
        self.actions_["redo"].setText(tr("&Redo {what}").format(what=words.replace("&", "&&")).strip())

    def _connect(self) -> None:
        session = self.session
        undo = session.undo
        undo.canUndoChanged.connect(self.actions_["undo"].setEnabled)
        undo.canRedoChanged.connect(self.actions_["redo"].setEnabled)
        undo.undoTextChanged.connect(self._name_undo)
        undo.redoTextChanged.connect(self._name_redo)
        calibrating = session.calibrating
        for changed in (session.model_changed, session.plan_changed, session.runs_changed, calibrating.changed):
            changed.connect(self._update)
        session.model_changed.connect(self._model_changed)
        for changed in (session.recipe_changed, session.recipe_file.changed):
            changed.connect(self.update_title)
            changed.connect(self._name_recipe)
        self._name_recipe()
        for pane in (self.layers, self.inspector, self.runs, self.search, self.log):
            pane.open_wanted.connect(self.open_file)
        self.inspector.data_wanted.connect(self.calibrate)
        self.layers.save_wanted.connect(lambda: self.exports.ask(self.layers.view))
        self.recipe.rule_wanted.connect(self._edit_rule)
        self.recipe.data_wanted.connect(self.calibrate)
        self.recipe.network_wanted.connect(self.add_network)
        self.runs.export_wanted.connect(self.export)
        self.runs.compare_wanted.connect(self.compare)
        self.runs.report_wanted.connect(self.exports.ask_report)
        self.runs.delete_wanted.connect(self.delete_runs)
        self.runs.details_wanted.connect(self.ask_details)

    # -- what the session says ---------------------------------------------------------------------------------

    def _update(self) -> None:
        session = self.session
        shown, obstacle = session.shown_run, session.obstacle
        for thing in (self.quantize_button, self.actions_["quantize"]):
            thing.setEnabled(not obstacle)
        self.quantize_button.setToolTip(text.plain(obstacle) or _run_tip(session))
        for thing in (self.stop_button, self.actions_["stop"]):
            thing.setEnabled(session.busy)
        words = session.calibrating.words
        self.data_button.setText(" " + (tr("Calibration: {data}").format(data=words) if words else tr("Calibration…")))
        self.data_button.setToolTip(_data_tip(session))
        for thing in (self.data_button, self.actions_["calibration"]):
            thing.setEnabled(session.model is not None)
        model = session.model
        for thing in (self.compare_button, self.actions_["compare"]):
            thing.setEnabled(len(self.comparable([])) > 1)
        self.actions_["network"].setEnabled(model is not None and (not model.runs or model.how.factory is not None))
        for thing in (self.export_button, self.actions_["export"]):
            thing.setEnabled(shown is not None and shown.state == "done")
        self.actions_["report"].setEnabled(shown is not None and not shown.going)
        for name in ("copy_command", "copy_python"):
            self.actions_[name].setEnabled(session.model is not None)

    def _name_recipe(self) -> None:
        file = self.session.recipe_file
        words = tr("Recipe: {name}").format(name=text.plain(file.name, 60)) + ("" if file.saved else " •")
        self.recipe_button.set_text(words)
        self.recipe_button.setToolTip(words + ("" if file.saved else tr(" (not saved)")))

    def _model_changed(self) -> None:
        model = self.session.model
        self.update_title()
        if model is None:
            return
        words = (
            tr("{path} · {count} parameters · {size} {dtype}")
            .format(
                path=text.path(model.path), count=text.count(model.parameters), size=text.size(model.nbytes), dtype=model.dtype
            )
            .rstrip()
        )
        if model.quantized:
            already = tr("already quantized: {method} {detail}")
            words += f" · {already.format(method=model.quantized['method'], detail=model.quantized['detail'])}".rstrip()
        self.model_label.set_text(words, text.exact_bytes(model.nbytes))

    # -- what the user wants -----------------------------------------------------------------------------------

    def _log_toggled(self, on: bool) -> None:
        self.inspector.set_log(on)

    def commands(self) -> "list[Command]":
        """What the command palette lists."""
        from mono_quant_gui.dialogs.palette import Command

        self._fill_recent(self._recent_menu)
        self.exports.fill()
        own = self.actions_["palette"]
        return [
            Command(title, action.trigger, action.shortcut().toString(), action.isEnabled())
            for title, action in actions.walk(self.menuBar())
            if action is not own
        ]

    def find_command(self) -> "Palette":
        """Open the command palette."""
        from mono_quant_gui.dialogs.palette import Palette

        model = self.session.model
        palette = Palette(self.commands(), [row.name for row in model.layers] if model else [], self.session.select, self)
        palette.open()
        return palette

    def prefer(self) -> "PreferencesDialog":
        """Open the preferences."""
        from mono_quant_gui.dialogs.preferences import PreferencesDialog

        dialog = PreferencesDialog(self.session.settings, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.accepted.connect(lambda: self._preferred(dialog))
        dialog.open()
        return dialog

    def _preferred(self, dialog: "PreferencesDialog") -> None:
        dialog.store()
        self.session.kept.reopen()
        self.session.ask_plan()  # the limit of memory may be another
        choice = self.session.settings.theme()
        self.actions_[f"theme_{choice}"].setChecked(True)
        self.set_theme(choice)

    def about(self) -> "AboutDialog":
        from mono_quant_gui.dialogs.about import AboutDialog

        dialog = AboutDialog(self)
        self.exports.attach(dialog)
        dialog.open()
        return dialog

    def help(self) -> "HelpWindow":
        """Show the help beside the window; a second time, the one that is open."""
        from mono_quant_gui import helping
        from mono_quant_gui.dialogs.help import HelpWindow

        if self._help is None:
            keys = ((title, action.shortcut().toString()) for title, action in actions.walk(self.menuBar()))
            self._help = HelpWindow(helping.sections(keys), self)
        self._help.show()
        self._help.raise_()
        self._help.activateWindow()
        return self._help

    def set_theme(self, choice: str) -> None:
        """Light, dark, or as the system says."""
        self.session.settings.set_text("theme", choice)
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        theme.apply(app, choice)
        self._refresh_icons()
        self.recipe.rules.refresh_icons()
        self.session.recipe_changed.emit()
        self.session.runs_changed.emit()
        self.inspector.refresh()
        self.search.refresh()
        if self._help is not None:
            self._help.refresh()

    # -- Qt's events -------------------------------------------------------------------------------------------

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Of a plot or a table that has no other; asked for by the mouse or by the keyboard."""
        self.furnish()
        by_keys = event.reason() == QContextMenuEvent.Reason.Keyboard
        menu = self.exports.menu_at(QApplication.focusWidget() if by_keys else self.childAt(event.pos()))
        if menu is None:
            super().contextMenuEvent(event)
        else:
            menu.popup(event.globalPos())

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if _dropped(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self.take(_dropped(event))

    def close_now(self) -> None:
        """Close without asking, whatever dialog is open."""
        self._asked = True
        while (modal := QApplication.activeModalWidget()) is not None and modal.close():
            pass  # one that must stop something first stays, and goes with the window
        self.close()

    def closeEvent(self, event: QCloseEvent) -> None:
        if not self._furnished:
            self.leave_frame()
            super().closeEvent(event)
            return
        if not self._asked and not ((not self.session.busy or self._may_stop()) and self.may_lose_recipe()):
            event.ignore()
            return
        settings = self.session.settings
        settings.set_state("window", self.saveGeometry())
        settings.set_state("docks", self.docks.save())
        self.layers.save_state()
        settings.set_state("runs", self.runs.view.header().saveState())
        for dialog in self.findChildren(QDialog):
            dialog.close()  # Qt would leave those on the screen that stand beside the window
        self.docks.close()
        self.session.close()
        settings.sync()
        super().closeEvent(event)

    def _may_stop(self) -> bool:
        buttons = QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel
        question = tr("A run is in progress. Stop it and close? It can go on at the next start.")
        return (
            QMessageBox.question(self, tr("Mono Quant"), question, buttons, QMessageBox.StandardButton.Cancel)
            == QMessageBox.StandardButton.Yes
        )

    def _restore_panes(self) -> None:
        state = self.settings.state("runs")
        if state is not None:
            self.runs.view.header().restoreState(state)
        self.layers.restore_state()


def _run_tip(session: "Session") -> str:
    return tr("Run the recipe when what runs now is done (Ctrl+R)") if session.busy else tr("Run the recipe (Ctrl+R)")


def _dropped(event: QDropEvent) -> list[str]:
    """Local files; a web page's link is none."""
    return [path for url in event.mimeData().urls() if (path := url.toLocalFile())]


def _data_tip(session: "Session") -> str:
    data = session.calibrating.data
    if data is None:
        return tr("Choose data to run the model on: for calibrated algorithms, and to measure outputs")
    path = text.path(data.path) if data.path else tr("random numbers")
    return tr("Runs are calibrated and measured on {data}: {path}").format(data=session.calibrating.words, path=path)
