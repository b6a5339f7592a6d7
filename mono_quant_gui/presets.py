"""Presets of the user's own: recipes kept as TOML files in one folder."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import engine
from engine.errors import OutputError
from engine.records.recipe import Recipe
from mono_quant_gui.i18n import tr

MOST = 500
"""Files beyond these are not read."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One file: its recipe, or why there is none."""

    path: Path
    name: str
    recipe: Recipe | None = None
    problem: str = ""


class UserPresets:
    """The files of one folder, read anew each time they are asked for; with no folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def all(self) -> list[Preset]:
        """By name; a file that is no recipe is among them, with the sentence that says why."""
        files = sorted(self._folder.glob("*.toml"))[:MOST] if self._folder else []
        return sorted(map(_read, files), key=lambda preset: (preset.recipe is None, preset.name.lower()))

    def named(self, name: str) -> Preset | None:
        """The preset of that name, whatever its case."""
        return next((preset for preset in self.all() if preset.recipe and preset.name.lower() == name.strip().lower()), None)

    def save(self, name: str, recipe: Recipe) -> Path:
        """Keep a recipe under a name, in the place of the one that has it already. Raises EngineError."""
        name = self._checked(name)
        known = self.named(name)
        path = known.path if known else self._new_path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {error.strerror}.") from None
        engine.save_recipe(replace(recipe, name=name), path)
        return path

    def rename(self, preset: Preset, name: str) -> Path:
        """Raises EngineError for a name that another preset has."""
        name = self._checked(name)
        other = self.named(name)
        if other and other.path != preset.path:
            raise engine.RecipeError(tr("There is a preset called {name} already.").format(name=name))
        assert preset.recipe
        engine.save_recipe(replace(preset.recipe, name=name), preset.path)
        return preset.path

    def delete(self, preset: Preset) -> None:
        """Raises EngineError when the file stays."""
        try:
            preset.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{preset.path} cannot be deleted: {error.strerror}.") from None

    def _checked(self, name: str) -> str:
        name = name.strip()
        if self._folder is None:
            raise OutputError(tr("Presets are not kept while settings are not: start without --fresh."))
        if not name or not name.isprintable() or len(name) > 80:
            raise engine.RecipeError(tr("A preset needs a name of at most 80 characters."))
        if any(name.lower() == known.name.lower() for known in engine.presets()):
            raise engine.RecipeError(tr("{name} is a built-in preset; choose another name.").format(name=name))
        return name

    def _new_path(self, name: str) -> Path:
        assert self._folder
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "preset"
        paths = (self._folder / f"{stem}{'' if n == 1 else f'-{n}'}.toml" for n in range(1, MOST + 2))
        return next(path for path in paths if not path.exists())


def _read(path: Path) -> Preset:
    try:
        recipe = engine.load_recipe(path)
    except engine.EngineError as error:
        return Preset(path, path.name, None, str(error))
    return Preset(path, recipe.name or path.stem, recipe)
