"""What menus do with the recipe as a whole: open, save, duplicate, and copy it in three languages."""

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

import engine
from mono_quant_gui import command_line, python_code, text
from mono_quant_gui.i18n import tr
from mono_quant_gui.session import Session


class RecipeMenu(QObject):
    """Asks for paths in front of ``window``; failures and notices go through the session."""

    def __init__(self, session: Session, window: QWidget) -> None:
        super().__init__(window)
        self._session, self._window = session, window

    def slots(self) -> dict[str, Callable[[], object]]:
        """By the names of their actions."""
        return {
            "open_recipe": self.open, "save_recipe": self.save, "save_recipe_as": self.save_as,
            "duplicate_recipe": self.duplicate, "copy_toml": self.copy_toml, "copy_command": self.copy_command,
            "copy_python": self.copy_python,
        }  # fmt: skip

    # -- files ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self._window, tr("Open recipe"), self._folder(), _filter())
        if path:
            self.load(path)

    def load(self, path: str) -> None:
        """Take over a recipe file; a wrong one is explained and changes nothing."""
        self._try(lambda: self._session.recipe_file.open(path), tr("Opened {path}"), path)

    def save(self) -> bool:
        """To the recipe's file, or where the user says; returns whether it was saved."""
        file = self._session.recipe_file
        if not file.path:
            return self.save_as()
        if file.changed_on_disk() and not self._may_replace(file.path):
            return False
        return self._try(file.save, tr("Saved {path}"), file.path)

    def save_as(self) -> bool:
        """To another file, which becomes the recipe's; returns whether it was saved."""
        file = self._session.recipe_file
        start = file.path or str(Path(self._folder()) / "recipe.toml")
        path, _ = QFileDialog.getSaveFileName(self._window, tr("Save recipe"), start, _filter())
        if not path:
            return False
        target = path if Path(path).suffix else f"{path}.toml"
        return self._try(lambda: file.save(target), tr("Saved {path}"), target)

    def duplicate(self) -> None:
        self._session.recipe_file.duplicate()
        self._session.notice.emit(tr("A copy of the recipe, not saved yet"))

    # -- copies --------------------------------------------------------------------------------------------------

    def copy_toml(self) -> None:
        self._copy(engine.recipe_to_text(self._session.recipe), tr("Copied the recipe as TOML"))

    def copy_command(self) -> None:
        """The command line that does the same run."""
        session, file = self._session, self._session.recipe_file
        if session.model is not None:
            path = file.path if file.saved else ""
            model = session.model
            command = command_line.quantize(model.path, session.recipe, session.calibrating.data, model.how, path)
            self._copy(command, tr("Copied the command line; OUT is where it writes"))

    def copy_python(self) -> None:
        """Python that does the same run."""
        session = self._session
        if session.model is not None:
            code = python_code.quantize(session.model.path, session.recipe, session.calibrating.data, session.model.how)
            self._copy(code, tr("Copied Python; OUT is where it writes"))

    def _copy(self, words: str, notice: str) -> None:
        QGuiApplication.clipboard().setText(words)
        self._session.notice.emit(notice)

    def _try(self, do: Callable[[], None], done: str, path: str) -> bool:
        try:
            do()
        except engine.EngineError as error:
            self._session.failed.emit(str(error), error.details)
            return False
        self._session.notice.emit(done.format(path=text.path(path)))
        return True

    def _may_replace(self, path: str) -> bool:
        buttons = QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel
        question = tr("{path} was changed by another program since it was opened. Replace it?").format(path=text.path(path))
        answer = QMessageBox.question(self._window, "Mono Quant", question, buttons, QMessageBox.StandardButton.Cancel)
        return answer == QMessageBox.StandardButton.Yes

    def _folder(self) -> str:
        """Beside the recipe's file, or the model that was opened last."""
        path, recent = self._session.recipe_file.path, self._session.settings.recent()
        return str(Path(path or recent[0]).parent) if path or recent else str(Path.home())


def _filter() -> str:
    return tr("Recipes (*.toml)")
