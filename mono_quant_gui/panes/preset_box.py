"""Choosing a preset, built in or the user's own, and keeping the recipe as one."""

from collections.abc import Callable

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QInputDialog, QMenu, QMessageBox, QToolButton, QWidget

import engine
from engine.records.recipe import Recipe
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.presets import Preset
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import yielding


class PresetBox(QWidget):
    """A box of presets and a menu for the user's own. ``chosen`` carries a built-in Recipe or a Preset of the user."""

    chosen = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.box = _Box(self)
        self.box.setAccessibleName(tr("Preset"))
        yielding(self.box)
        self.box.activated.connect(self._activated)
        self.setFocusProxy(self.box)
        self.button = QToolButton()
        self.button.setText("⋯")
        self.button.setProperty("kind", "icon")
        self.button.setToolTip(tr("Save, rename and delete presets of your own"))
        self.button.setAccessibleName(self.button.toolTip())
        self.button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.button.setMenu(self._make_menu())
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        line.addWidget(self.box, 1)
        line.addWidget(self.button)
        self._told: set[str] = set()
        self.reload()

    # -- what is shown -------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the user's presets again, and say once of each file that it is no recipe."""
        self._own = self._session.presets.all()
        self._choices: dict[str, Preset | Recipe] = {recipe.name: recipe for recipe in engine.presets()}
        self._choices |= {str(preset.path): preset for preset in self._own if preset.recipe}
        box = self.box
        box.clear()
        for recipe in engine.presets():
            box.addItem(recipe.name, recipe.name)
        if self._own:
            box.insertSeparator(box.count())
            self._add_disabled(tr("Yours"))
        for preset in self._own:
            if preset.recipe:
                box.addItem(text.plain(preset.name, 60), str(preset.path))
                box.setItemData(box.count() - 1, text.plain(str(preset.path)), Qt.ItemDataRole.ToolTipRole)
            else:
                self._add_disabled(f"⚠ {text.plain(preset.name, 60)}")
                box.setItemData(box.count() - 1, text.plain(preset.problem), Qt.ItemDataRole.ToolTipRole)
        box.insertSeparator(box.count())
        box.addItem(tr("Custom"), None)
        self.show_recipe()
        for preset in self._own:
            if preset.problem and preset.problem not in self._told:
                self._told.add(preset.problem)
                self._session.notice.emit(preset.problem)

    def show_recipe(self) -> None:
        """Show the preset that the session's recipe is."""
        current = self.current()
        key = str(current.path) if isinstance(current, Preset) else current.name if current else None
        self.box.setCurrentIndex(self.box.count() - 1 if key is None else self.box.findData(key))

    def current(self) -> Preset | Recipe | None:
        """The user's preset that the recipe is, else the built-in one whose weights and activations it has."""
        recipe = self._session.recipe
        own = next((preset for preset in self._own if preset.recipe and _same(preset.recipe, recipe)), None)
        return own or builtin_preset(recipe)

    def _add_disabled(self, words: str) -> None:
        self.box.addItem(words)
        model = self.box.model()
        assert isinstance(model, QStandardItemModel)
        model.item(self.box.count() - 1).setEnabled(False)

    def _activated(self, place: int) -> None:
        choice = self._choices.get(self.box.itemData(place) or "")
        if choice is None:
            self.show_recipe()
        else:
            self.chosen.emit(choice)

    # -- the user's own ------------------------------------------------------------------------------------------

    def _make_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.addAction(tr("Save as preset…"), self.ask_save)
        self._rename = menu.addAction(tr("Rename…"), self.ask_rename)
        self._delete = menu.addAction(tr("Delete…"), self.ask_delete)
        menu.aboutToShow.connect(self._about_to_show)
        return menu

    def _about_to_show(self) -> None:
        own = isinstance(self.current(), Preset)
        for action in (self._rename, self._delete):
            action.setEnabled(own)

    def ask_save(self) -> QInputDialog:
        """Ask for a name to keep the recipe under."""
        recipe, current = self._session.recipe, self.current()
        name = current.name if isinstance(current, Preset) else recipe.name
        return self._ask(tr("Save as preset"), "" if builtin_named(name) else name, self.save)

    def ask_rename(self) -> QInputDialog | None:
        current = self.current()
        if not isinstance(current, Preset):
            return None
        return self._ask(tr("Rename preset"), current.name, lambda name: self.rename(current, name))

    def ask_delete(self) -> None:
        current = self.current()
        if isinstance(current, Preset):
            question = tr("Delete the preset {name}? The recipe stays as it is.").format(name=text.plain(current.name))
            if self._sure(question):
                self._try(lambda: self._session.presets.delete(current))

    def save(self, name: str) -> None:
        """Keep the recipe under a name; one that has it already is replaced after a question."""
        known = self._session.presets.named(name)
        question = tr("Replace the preset {name}?").format(name=text.plain(name))
        if known is None or known.recipe == self._session.recipe or self._sure(question):
            self._try(lambda: self._session.presets.save(name, self._session.recipe))

    def rename(self, preset: Preset, name: str) -> None:
        self._try(lambda: self._session.presets.rename(preset, name))

    def _ask(self, title: str, name: str, done: Callable[[str], None]) -> QInputDialog:
        dialog = QInputDialog(self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setWindowTitle(title)
        dialog.setLabelText(tr("Name"))
        dialog.setTextValue(name)
        dialog.textValueSelected.connect(done)
        dialog.open()
        return dialog

    def _sure(self, question: str) -> bool:
        buttons = QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel
        answer = QMessageBox.question(self, "Mono Quant", question, buttons, QMessageBox.StandardButton.Cancel)
        return answer == QMessageBox.StandardButton.Yes

    def _try(self, do: Callable[[], object]) -> None:
        try:
            do()
        except engine.EngineError as error:
            self._session.failed.emit(str(error), error.details)
        self.reload()


class _Box(QComboBox):
    """Reads the folder again when its list opens: files may have come or gone."""

    def __init__(self, owner: PresetBox) -> None:
        super().__init__()
        self._owner = owner

    def showPopup(self) -> None:
        self._owner.reload()
        super().showPopup()


def builtin_preset(recipe: Recipe) -> Recipe | None:
    """The built-in preset whose weights and activations a recipe has."""
    return next((p for p in engine.presets() if (p.default, p.activations) == (recipe.default, recipe.activations)), None)


def builtin_named(name: str) -> bool:
    return any(name == preset.name for preset in engine.presets())


def _same(one: Recipe, other: Recipe) -> bool:
    """Alike in all but name."""
    fields = ("default", "algorithm", "rules", "builtin", "activations", "observer", "sequential")
    return all(getattr(one, field) == getattr(other, field) for field in fields)
