"""The window: panes, menus, toolbar, status. Wiring only; what happens is decided in the session."""

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QActionGroup, QCloseEvent, QDragEnterEvent, QDropEvent, QShowEvent
from PySide6.QtWidgets import (
    QApplication,
    QFileDialog,
    QLabel,
    QMainWindow,
    QMessageBox,
    QSizePolicy,
    QToolBar,
    QWidget,
)

import engine
from mono_quant_gui import actions, text, theme
from mono_quant_gui.dialogs.calibration import CalibrationDialog
from mono_quant_gui.dialogs.error import show_error
from mono_quant_gui.dialogs.export import ExportDialog
from mono_quant_gui.dialogs.network import NetworkDialog
from mono_quant_gui.dialogs.rule import RuleDialog
from mono_quant_gui.dialogs.trust import TrustDialog
from mono_quant_gui.docks import Docks
from mono_quant_gui.journal import Journal
from mono_quant_gui.models.layers import LOW_SQNR_DB
from mono_quant_gui.panes.inspector import InspectorPane
from mono_quant_gui.panes.layers import LayersPane
from mono_quant_gui.panes.log import LogPane
from mono_quant_gui.panes.recipe import RecipePane
from mono_quant_gui.panes.runs import RunsPane
from mono_quant_gui.recipe_menu import RecipeMenu
from mono_quant_gui.runs_store import Run
from mono_quant_gui.session import Session
from mono_quant_gui.state import Calibration, Trust
from mono_quant_gui.widgets.parts import ElidedLabel, action_button

FILES = "Models (*.safetensors *.pt *.pth *.bin *.ckpt *.pt2);;All files (*)"


CALIBRATION_TIP = "Choose data to run the model on: for calibrated algorithms, and to measure outputs"


class MainWindow(QMainWindow):
    """One session's window."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._asked = False
        self.setAcceptDrops(True)
        self.setWindowTitle("Mono Quant")
        self.setWindowIcon(theme.icon("mono-quant"))
        self.layers = LayersPane(session)
        self.inspector = InspectorPane(session)
        self.recipe = RecipePane(session)
        self.runs = RunsPane(session)
        self.journal = Journal(self)
        self.log = LogPane(self.journal)
        self._lay_out()
        self.recipes = RecipeMenu(session, self)
        self.actions_, self._menus = actions.build(self.menuBar(), self, self._slots())
        self._recent_menu = self._menus["&File/Open &Recent"]
        self._recent_menu.aboutToShow.connect(self._fill_recent)
        panes = self._menus["&View/&Panes"]
        panes.insertActions(self.actions_["reset_layout"], self.docks.toggles())
        panes.insertSeparator(self.actions_["reset_layout"])
        self._setup_checkable()
        self.toolbar = self._make_toolbar()
        self._make_status()
        self._connect()
        self._restore()
        self._update()

    # -- building ----------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        for pane in (self.layers, self.recipe):
            pane.setMinimumWidth(260)
        self.inspector.setMinimumWidth(340)
        self.runs.setMinimumHeight(56)
        self.setMinimumSize(960, 600)
        self.resize(1440, 900)
        self.docks = Docks(
            self, self.inspector, {"layers": self.layers, "recipe": self.recipe, "runs": self.runs, "log": self.log}
        )

    def _slots(self) -> dict:
        session = self.session
        return {
            "open": self.open_file, "open_folder": self.open_folder, "clear_recent": session.settings.clear_recent,
            **self.recipes.slots(), "export": self.export_shown,
            "quit": self.close, "undo": session.undo.undo, "redo": session.undo.redo,
            "filter": self.layers.focus_filter, "quantize": session.quantize,
            "stop": session.cancel, "log": self._log_toggled, "about": self.about,
            "theme_system": lambda: self.set_theme("system"), "theme_light": lambda: self.set_theme("light"),
            "theme_dark": lambda: self.set_theme("dark"), "calibration": lambda: self.calibrate(),
            "network": lambda: self.add_network(), "reset_layout": self.docks.reset,
            "next_pane": self.docks.next_pane, "previous_pane": lambda: self.docks.next_pane(back=True),
        }  # fmt: skip

    def _setup_checkable(self) -> None:
        group = QActionGroup(self)
        for choice in ("system", "light", "dark"):
            action = self.actions_[f"theme_{choice}"]
            group.addAction(action)
            action.setChecked(self.session.settings.theme() == choice)
        self.actions_["log"].setChecked(self.session.settings.flag("histogram_log", True))
        undo = self.session.undo
        for name, can in (("undo", undo.canUndoChanged), ("redo", undo.canRedoChanged)):
            self.actions_[name].setEnabled(False)
            can.connect(self.actions_[name].setEnabled)
        undo.undoTextChanged.connect(self._name_undo)
        undo.redoTextChanged.connect(self._name_redo)

    def _name_undo(self, words: str) -> None:
        self.actions_["undo"].setText(f"&Undo {words}".strip())

    def _name_redo(self, words: str) -> None:
        self.actions_["redo"].setText(f"&Redo {words}".strip())

    def _make_toolbar(self) -> QToolBar:
        bar = QToolBar("Main")
        bar.setObjectName("toolbar")
        bar.setMovable(False)
        bar.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        self.open_button = action_button("Open…", self.open_file, "Open a model (Ctrl+O)")
        self.data_button = action_button("Calibration…", self.calibrate, CALIBRATION_TIP)
        self.quantize_button = action_button("Quantize", self.session.quantize, "Run the recipe (Ctrl+R)", primary=True)
        self.stop_button = action_button("Stop", self.session.cancel, "Stop the run (Esc)")
        self.export_button = action_button("Export…", self.export_shown, "Export the shown run (Ctrl+E)")
        self.model_label = ElidedLabel(role="muted")
        self.model_label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        buttons = (self.open_button, self.data_button, self.quantize_button, self.stop_button)
        for widget in (*buttons, self.model_label, self.export_button):
            bar.addWidget(widget)
        self.addToolBar(bar)
        self._refresh_icons()
        return bar

    def _refresh_icons(self) -> None:
        colors = theme.current()
        for button, name, color in (
            (self.open_button, "open", colors.text),
            (self.quantize_button, "play", colors.on_accent),
            (self.stop_button, "stop", colors.text),
            (self.export_button, "export", colors.text),
        ):
            button.setIcon(theme.icon(name, color))

    def _make_status(self) -> None:
        self.status = ElidedLabel("Ready")
        self.status.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.statusBar().addWidget(self.status, 1)
        self.statusBar().setSizeGripEnabled(False)
        self._engine_label = QLabel("")
        self.statusBar().addPermanentWidget(self._engine_label)

    def _connect(self) -> None:
        session = self.session
        session.opening.connect(lambda path: self._say(f"Opening {text.path(path)}…"))
        session.failed.connect(self._failed)
        session.notice.connect(self._say)
        for host in (session.heavy, session.peeks):
            host.said.connect(self._engine_said)
        calibrating = session.calibrating
        for changed in (session.model_changed, session.plan_changed, session.runs_changed, calibrating.changed):
            changed.connect(self._update)
        session.model_changed.connect(self._model_changed)
        session.run_progress.connect(self._progressed)
        session.run_finished.connect(self._run_finished)
        session.trust_wanted.connect(self.ask_trust)
        calibrating.progressed.connect(self._calibration_progressed)
        calibrating.finished.connect(self._calibrated)
        self.layers.open_wanted.connect(self.open_file)
        self.recipe.rule_wanted.connect(self._edit_rule)
        self.recipe.data_wanted.connect(self.calibrate)
        self.recipe.network_wanted.connect(self.add_network)
        self.runs.export_wanted.connect(self.export)
        self.runs.delete_wanted.connect(self._delete_run)

    # -- what the session says ---------------------------------------------------------------------------------

    def _update(self) -> None:
        session = self.session
        shown, obstacle = session.shown_run, session.obstacle
        for thing in (self.quantize_button, self.actions_["quantize"]):
            thing.setEnabled(not obstacle)
        self.quantize_button.setToolTip(text.plain(obstacle) or "Run the recipe (Ctrl+R)")
        for thing in (self.stop_button, self.actions_["stop"]):
            thing.setEnabled(session.busy)
        words = session.calibrating.words
        self.data_button.setText(f" Calibration: {words}" if words else " Calibration…")
        self.data_button.setToolTip(_data_tip(session) if words else CALIBRATION_TIP)
        for thing in (self.data_button, self.actions_["calibration"]):
            thing.setEnabled(session.model is not None)
        model = session.model
        self.actions_["network"].setEnabled(model is not None and (not model.runs or model.how.factory is not None))
        for thing in (self.export_button, self.actions_["export"]):
            thing.setEnabled(shown is not None and shown.state == "done")
        for name in ("copy_command", "copy_python"):
            self.actions_[name].setEnabled(session.model is not None)

    def _model_changed(self) -> None:
        model = self.session.model
        if model is None:
            return
        self.setWindowTitle(f"{text.plain(model.name)} — Mono Quant")
        words = f"{text.path(model.path)} · {text.count(model.parameters)} parameters"
        if model.quantized:
            words += f" · already quantized: {model.quantized['method']} {model.quantized['detail']}".rstrip()
        self.model_label.set_text(words)
        self._say(model.problems[0] if model.problems else f"Opened {text.plain(model.name)}")

    def _calibration_progressed(self) -> None:
        running = self.session.calibrating.running
        if running and running.progress and running.progress["total"]:
            done = f"{100 * running.progress['done'] / running.progress['total']:.0f} %"
            self.status.set_text(f"Calibrating: {done} · {text.plain(running.progress['layer'])}")

    def _calibrated(self, calibration: Calibration) -> None:
        report = calibration.report
        if report:
            missed = f", {len(calibration.unreached):,} layers never reached" if calibration.unreached else ""
            words = f"Calibrated on {text.plain(report['data'])} in {text.duration(report['seconds'])}{missed}"
            self._say(words)
        else:
            self._say(text.plain(calibration.message))

    def _progressed(self, run: Run) -> None:
        progress = run.progress
        if progress and progress["total"]:
            done = f"{100 * progress['done'] / progress['total']:.0f} %"
            self.status.set_text(f"Run #{run.number}: {done} · {text.plain(progress['layer'])}")

    def _run_finished(self, run: Run) -> None:
        if run.totals:
            sqnr = "exact" if run.totals["sqnr_db"] is None else f"{run.totals['sqnr_db']:.2f} dB"
            memory = text.size(run.totals["peak_memory_bytes"])
            words = f"Run #{run.number} done in {text.duration(run.totals['seconds'])}: {sqnr}, peak memory {memory}"
            words += f" · {text.evaluation(run.evaluation)}" if run.evaluation else ""
            words += f" · ⚠ {text.plain(run.warnings[0])}" if run.warnings else ""
            self._say(words)
            self._engine_label.setText(f"{run.totals['threads']} threads · CPU")
        else:
            self._say(f"Run #{run.number}: {text.plain(run.message)}")

    def _say(self, words: str, level: str = "info") -> None:
        """In the status bar and in the log."""
        self.status.set_text(text.plain(words, 900))
        self.journal.add("window", words, level)

    def _engine_said(self, words: str) -> None:
        self.journal.add("engine", words)

    def _failed(self, message: str, details: str) -> None:
        self._say(message, "error")
        if details:
            self.journal.add("window", details, "error")
        show_error(self, message, details)

    # -- what the user wants -----------------------------------------------------------------------------------

    def open_path(self, path: str) -> None:
        self.session.open(path)

    def open_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open model", self._last_folder(), FILES)
        if path:
            self.open_path(path)

    def open_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Open model folder", self._last_folder())
        if path:
            self.open_path(path)

    def _last_folder(self) -> str:
        recent = self.session.settings.recent()
        return str(Path(recent[0]).parent) if recent else str(Path.home())

    def _fill_recent(self) -> None:
        menu, clear = self._recent_menu, self.actions_["clear_recent"]
        for action in menu.actions():
            if action is not clear:
                menu.removeAction(action)
                action.deleteLater()
        recent = self.session.settings.recent()
        for path in recent:
            action = menu.addAction(text.plain(path, 80).replace("&", "&&"))
            action.triggered.connect(lambda _=False, path=path: self.open_path(path))
            menu.insertAction(clear, action)
        menu.insertSeparator(clear)
        clear.setEnabled(bool(recent))

    def calibrate(self) -> CalibrationDialog:
        """Open the dialog that chooses calibration data."""
        dialog = CalibrationDialog(self.session, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.network_button.clicked.connect(lambda: self.add_network(dialog))
        dialog.open()
        return dialog

    def add_network(self, parent: QWidget | None = None) -> NetworkDialog | None:
        """Open the dialog that names the Python function of a network."""
        model = self.session.model
        if model is None:
            return None
        dialog = NetworkDialog(str(Path(model.path).parent), model.how, parent or self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.accepted.connect(lambda: self.session.set_network(dialog.factory(), dialog.fold()))
        dialog.open()
        return dialog

    def ask_trust(self, trust: Trust) -> TrustDialog:
        """Ask whether code from a file may run."""
        dialog = TrustDialog(trust, QApplication.activeModalWidget() or self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()
        return dialog

    def export_shown(self) -> None:
        if self.session.shown_run and self.session.shown_run.state == "done":
            self.export(self.session.shown_run)

    def export(self, run: Run) -> ExportDialog:
        """Open the export dialog for a run."""
        dialog = ExportDialog(self.session, run, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()
        return dialog

    def _edit_rule(self, row: int | None) -> None:
        rules = self.recipe.rules.model
        dialog = RuleDialog(None if row is None else rules.rule(row), self.session.recipe.default, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.accepted.connect(lambda: rules.put(dialog.rule(), row))
        dialog.open()

    def _delete_run(self, run: Run) -> None:
        if run.totals:
            question = f"Delete run #{run.number} and its files ({text.size(run.totals['bytes_after'])})?"
            buttons = QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel
            answer = QMessageBox.question(self, "Mono Quant", question, buttons, QMessageBox.StandardButton.Cancel)
            if answer != QMessageBox.StandardButton.Yes:
                return
        self.session.delete_run(run)

    def _log_toggled(self, on: bool) -> None:
        self.inspector.set_log(on)

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

    def about(self) -> None:
        words = (
            f"Mono Quant {engine.__version__}\n\nA workbench for quantizing PyTorch models: open, plan, quantize, see, export.\n"
            f"MIT licence. Layers below {LOW_SQNR_DB:.0f} dB are marked as hurt.\n\n"
            "Ctrl+O open · Ctrl+R quantize · Esc stop · Ctrl+E export · Ctrl+F filter"
        )
        box = QMessageBox(QMessageBox.Icon.NoIcon, "About Mono Quant", words, QMessageBox.StandardButton.Close, self)
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setIconPixmap(theme.icon("mono-quant").pixmap(64, 64))
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    # -- Qt's events -------------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self.session.settings.state("docks") is None:
            self.docks.fit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if self._dropped(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        path = self._dropped(event)
        if path and path.endswith(".toml"):
            self.recipes.load(path)
        elif path:
            self.open_path(path)

    def _dropped(self, event: QDropEvent) -> str | None:
        urls = event.mimeData().urls()
        return urls[0].toLocalFile() or None if len(urls) == 1 else None

    def close_now(self) -> None:
        """Close without asking, whatever dialog is open."""
        self._asked = True
        while (modal := QApplication.activeModalWidget()) is not None and modal.close():
            pass  # one that must stop something first stays, and goes with the window
        self.close()

    def closeEvent(self, event: QCloseEvent) -> None:
        if self.session.busy and not self._asked and not self._may_stop():
            event.ignore()
            return
        settings = self.session.settings
        settings.set_state("window", self.saveGeometry())
        settings.set_state("docks", self.docks.save())
        settings.set_state("layers", self.layers.table.horizontalHeader().saveState())
        self.session.close()
        settings.sync()
        super().closeEvent(event)

    def _may_stop(self) -> bool:
        buttons = QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel
        question = "A run is in progress. Stop it and close? Nothing half-written stays."
        return (
            QMessageBox.question(self, "Mono Quant", question, buttons, QMessageBox.StandardButton.Cancel)
            == QMessageBox.StandardButton.Yes
        )

    def _restore(self) -> None:
        settings = self.session.settings
        for key, restore in (
            ("window", self.restoreGeometry),
            ("docks", self.docks.restore),
            ("layers", self.layers.table.horizontalHeader().restoreState),
        ):
            state = settings.state(key)
            if state is not None:
                restore(state)


def _data_tip(session: Session) -> str:
    data = session.calibrating.data
    path = text.path(data.path) if data and data.path else "random numbers"
    return f"Runs are calibrated and measured on {session.calibrating.words}: {path}"
