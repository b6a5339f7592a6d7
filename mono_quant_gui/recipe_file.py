"""The file of the recipe being edited: where it is kept, and whether it says what the window says."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

import engine
from engine.records.recipe import Recipe
from mono_quant_gui.i18n import tr

if TYPE_CHECKING:
    from mono_quant_gui.session import Session


class RecipeFile(QObject):
    """Opening, saving and duplicating recipes; undoing the opening of one brings the former file back as well."""

    changed = Signal()
    """Another file, or the recipe came to differ from its file or to be the same again."""

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self.path = session.settings.text("recipe_path")
        """The file, or nothing for a recipe that was never saved."""
        self._contents: dict[str, Recipe] = {}
        """What files said when they were last read or written here."""
        self._first: Recipe | None = session.own_recipe
        self._find_last()
        self._told = (self.path, self.saved)
        session.recipe_changed.connect(self._tell)

    @property
    def saved(self) -> bool:
        """Whether nothing would be lost: the recipe is as in its file; without one, as it was at first or a preset's."""
        recipe = self._session.own_recipe
        return recipe == self._contents.get(self.path) if self.path else recipe == self._first or recipe in engine.presets()

    @property
    def name(self) -> str:
        """What to call the recipe: its file's name, or its own."""
        recipe = self._session.own_recipe
        return Path(self.path).name if self.path else recipe.name or engine.scheme_name(recipe.default)

    def belong(self, path: str) -> None:
        """Belong to another file, or to none."""
        self.path = path
        self._tell()

    def open(self, path: str) -> None:
        """Take over a recipe file, undoably. Raises EngineError, and nothing changes."""
        absolute = str(Path(path).absolute())
        self._contents[absolute] = recipe = engine.load_recipe(absolute)
        self._session.edit_recipe(recipe, tr("open {name}").format(name=Path(path).name), absolute)

    def save(self, path: str = "") -> None:
        """Write the recipe to its file, or to another, which becomes its file. Raises EngineError."""
        target = str(Path(path or self.path).absolute())
        recipe = self._session.own_recipe
        engine.save_recipe(recipe, target)
        self._contents[target] = recipe
        self.belong(target)

    def duplicate(self) -> None:
        """Go on with a copy that has no file yet."""
        recipe = self._session.recipe
        name = tr("{name} copy").format(name=recipe.name or engine.scheme_name(recipe.default))
        self._session.edit_recipe(replace(recipe, name=name), tr("duplicate"), "")

    def changed_on_disk(self) -> bool:
        """Whether the file says something else than when it was read or written here; a file that is gone does not."""
        try:
            known = self._contents.get(self.path)
            return bool(self.path) and Path(self.path).exists() and engine.load_recipe(self.path) != known
        except engine.EngineError:
            return True

    def remember(self) -> None:
        """For the next session."""
        self._session.settings.set_text("recipe_path", self.path)

    def _find_last(self) -> None:
        """The last session's file as it is now; one that is gone or wrong is not worth a question at the start."""
        try:
            if self.path:
                self._contents[self.path] = engine.load_recipe(self.path)
        except engine.EngineError:
            self.path, self._first = "", None

    def _tell(self) -> None:
        now = (self.path, self.saved)
        if now != self._told:
            self._told = now
            self.changed.emit()
