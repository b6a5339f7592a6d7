"""What the window asks of the user: files to open and save, and the dialogs behind its actions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QFileDialog, QMessageBox, QWidget

import engine
from mono_quant_gui import dropping, text
from mono_quant_gui.frame import Frame
from mono_quant_gui.i18n import tr

if TYPE_CHECKING:
    from mono_quant_gui.dialogs.calibration import CalibrationDialog
    from mono_quant_gui.dialogs.comparison import ComparisonWindow
    from mono_quant_gui.dialogs.export import ExportDialog
    from mono_quant_gui.dialogs.network import NetworkDialog
    from mono_quant_gui.dialogs.run import RunDialog
    from mono_quant_gui.dialogs.trust import TrustDialog
    from mono_quant_gui.export_menu import ExportMenu
    from mono_quant_gui.jobs.host import EngineHost
    from mono_quant_gui.panes.recipe import RecipePane
    from mono_quant_gui.recipe_menu import RecipeMenu
    from mono_quant_gui.run import Run
    from mono_quant_gui.session import Session
    from mono_quant_gui.state import Trust


class Asking(Frame):
    """The window's side of everything that starts with a question."""

    session: "Session"
    recipe: "RecipePane"
    recipes: "RecipeMenu"
    exports: "ExportMenu"

    _peeks: "EngineHost | None" = None

    def furnish_soon(self) -> None:
        from mono_quant_gui.jobs.host import EngineHost

        self._peeks = EngineHost("peeks", self)  # its process loads the engine while the panes are made
        super().furnish_soon()

    def take_session(self, session: "Session | None") -> Iterator[None]:
        """Answer to a session from now on: this one, or one of its own."""
        from mono_quant_gui.recipe_menu import RecipeMenu
        from mono_quant_gui.session import Session

        yield
        session = session or Session(self.settings, warm=False, peeks=self._peeks)
        self._peeks = None
        session.setParent(self)  # it ends with its window, and with it every row and figure that it holds
        self.session = session
        self.telling.follow(session)
        self.recipes = RecipeMenu(session, self)
        session.failed.connect(self._failed)
        session.trust_wanted.connect(self.ask_trust)
        session.recipe_changed.connect(self._keep_recipe)

    def leave_frame(self) -> None:
        super().leave_frame()
        if hasattr(self, "session"):
            self.session.close()
        if self._peeks:
            self._peeks.close()

    def _failed(self, message: str, details: str) -> None:
        from mono_quant_gui.dialogs.error import show_error

        self.telling.failed(message, details)
        show_error(self, message, details)

    def _last_folder(self) -> str:
        recent = self.settings.recent()
        return str(Path(recent[0]).parent) if recent else str(Path.home())

    # -- models --------------------------------------------------------------------------------------------------

    def open_path(self, path: str) -> None:
        self.furnish()
        self.session.open(path)

    def open_file(self) -> None:
        kinds = tr("Models (*.safetensors *.pt *.pth *.bin *.ckpt *.pt2);;All files (*)")
        path, _ = QFileDialog.getOpenFileName(self, tr("Open model"), self._last_folder(), kinds)
        if path:
            self.open_path(path)

    def open_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, tr("Open model folder"), self._last_folder())
        if path:
            self.open_path(path)

    def take(self, paths: list[str]) -> None:
        """Files that were dropped: each goes where it belongs."""
        self.furnish()
        found = dropping.sort(paths)
        if not found:
            self.telling.say(tr("Drop one model, one recipe (.toml) or one file or folder of data."), "warning")
        if "recipe" in found:
            self.recipes.load(found["recipe"])
        if "model" in found:
            self.session.open(found["model"], then=lambda: self._take_data(found.get("data")))
        else:
            self._take_data(found.get("data"))

    def _take_data(self, path: str | None) -> None:
        if path is None:
            return
        if self.session.model is None:
            self.telling.say(tr("Open a model first: data are for running it."), "warning")
            return
        from mono_quant_gui.dialogs.calibration import CalibrationDialog

        dialog = QApplication.activeModalWidget()
        (dialog if isinstance(dialog, CalibrationDialog) else self.calibrate()).form.take(path)

    # -- the recipe ----------------------------------------------------------------------------------------------

    def update_title(self) -> None:
        """The model, the recipe, and a mark where the recipe is not in its file."""
        file, model = self.session.recipe_file, self.session.model
        words = [text.plain(model.name, 80)] if model else []
        title = " · ".join([*words, text.plain(file.name, 60)]).replace("[*]", "[*][*]")
        self.setWindowTitle(f"{title}[*] — {tr('Mono Quant')}")
        self.setWindowModified(not file.saved)

    def may_lose_recipe(self) -> bool:
        """Whether the window may close as far as the recipe goes.

        One without a file comes back by itself, unless nothing is kept; a file that says something else is asked about.
        """
        file = self.session.recipe_file
        if file.saved or (self.session.settings.keeps and not file.path):
            return True
        buttons = QMessageBox.StandardButton.Save | QMessageBox.StandardButton.Discard | QMessageBox.StandardButton.Cancel
        question = tr("The recipe {name} is not saved. Save it?").format(name=text.plain(file.name, 60))
        answer = QMessageBox.question(self, tr("Mono Quant"), question, buttons, QMessageBox.StandardButton.Save)
        return self.recipes.save() if answer == QMessageBox.StandardButton.Save else answer == QMessageBox.StandardButton.Discard

    def _keep_recipe(self) -> None:
        """After every edit, so that it comes back after a crash too."""
        self.session.settings.set_text("recipe", engine.recipe_to_text(self.session.own_recipe))
        self.session.recipe_file.remember()

    # -- dialogs -------------------------------------------------------------------------------------------------

    def calibrate(self) -> "CalibrationDialog":
        """Open the dialog that chooses calibration data."""
        from mono_quant_gui.dialogs.calibration import CalibrationDialog

        dialog = CalibrationDialog(self.session, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.network_button.clicked.connect(lambda: self.add_network(dialog))
        self.exports.attach(dialog)
        dialog.open()
        return dialog

    def add_network(self, parent: QWidget | None = None) -> "NetworkDialog | None":
        """Open the dialog that names the Python function of a network."""
        model = self.session.model
        if model is None:
            return None
        from mono_quant_gui.dialogs.network import NetworkDialog

        dialog = NetworkDialog(str(Path(model.path).parent), model.how, parent or self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.accepted.connect(lambda: self.session.set_network(dialog.factory(), dialog.fold()))
        dialog.open()
        return dialog

    def ask_trust(self, trust: "Trust") -> "TrustDialog":
        """Ask whether code from a file may run."""
        from mono_quant_gui.dialogs.trust import TrustDialog

        dialog = TrustDialog(trust, QApplication.activeModalWidget() or self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()
        return dialog

    def export_shown(self) -> None:
        if self.session.shown_run and self.session.shown_run.state == "done":
            self.export(self.session.shown_run)

    def report_shown(self) -> None:
        if self.session.shown_run:
            self.exports.ask_report(self.session.shown_run)

    def export(self, run: "Run") -> "ExportDialog":
        """Open the export dialog for a run."""
        from mono_quant_gui.dialogs.export import ExportDialog

        dialog = ExportDialog(self.session, run, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()
        return dialog

    def _edit_rule(self, row: int | None) -> None:
        from mono_quant_gui.dialogs.rule import RuleDialog

        rules = self.recipe.rules.model
        dialog = RuleDialog(None if row is None else rules.rule(row), self.session.recipe.default, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.accepted.connect(lambda: rules.put(dialog.rule(), row))
        dialog.open()

    def ask_details(self, run: "Run") -> "RunDialog":
        """Open the dialog with a run's name, tags and note."""
        from mono_quant_gui.dialogs.run import RunDialog

        dialog = RunDialog(self.session, run, self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()
        return dialog

    def comparable(self, runs: "Sequence[Run]") -> list[str]:
        """Sides for a comparison: these runs where they are two or more; else what is shown or newest, and the float model."""
        from mono_quant_gui.comparing import MOST

        finished = [run for run in self.session.runs if run.totals is not None]
        chosen = [run for run in runs if run in finished]
        if len(chosen) > 1:
            return [run.id for run in reversed(chosen[:MOST])]
        shown = self.session.shown_run
        first = [*chosen, *([shown] if shown in finished else []), *finished]
        sides = [run.id for run in dict.fromkeys(run for run in first if run)][:2][::-1]
        model = self.session.model
        return sides if len(sides) > 1 or model is None else [model.path, *sides]

    def compare(self, runs: "Sequence[Run]") -> "ComparisonWindow | None":
        """Open the compare window; matplotlib comes with it."""
        from mono_quant_gui.dialogs.comparison import ComparisonWindow

        sides = self.comparable(runs)
        if len(sides) < 2:
            return None
        window = ComparisonWindow(self.session, sides, self)
        self.exports.attach(window)
        window.show()
        return window

    def delete_runs(self, runs: "list[Run]") -> None:
        """Say what deleting runs would free, and ask."""
        self.session.kept.disk_use(runs, lambda size: self._delete_runs(runs, size))

    def _delete_runs(self, runs: "list[Run]", size: int) -> None:
        one = tr("Delete run #{number} {name} and its files? {size} on disk become free.")
        many = tr("Delete {count} runs and their files? {size} on disk become free.")
        question = (one if len(runs) == 1 else many).format(
            number=runs[0].number, name=text.plain(runs[0].name, 60), count=len(runs), size=text.size(size)
        )
        buttons = QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel
        answer = QMessageBox.question(self, tr("Mono Quant"), question, buttons, QMessageBox.StandardButton.Cancel)
        if answer == QMessageBox.StandardButton.Yes:
            self.session.delete_runs(runs)
