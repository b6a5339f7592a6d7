"""Every action of the window: words, shortcut, and what it does. Menus, toolbar and command palette are built from these."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QMenuBar, QWidget

from mono_quant_gui.i18n import tr


@dataclass(frozen=True, slots=True)
class Spec:
    """``menu`` is the path of its menu; an empty ``name`` is a separator; several shortcuts are parted by ``"; "``."""

    menu: str
    name: str
    words: str = ""
    shortcut: str = ""
    tip: str = ""
    checkable: bool = False


SEPARATOR = ""


def menu_titles() -> dict[str, str]:
    """Titles of menus by path, by their place."""
    return {
        "file": tr("&File"), "file/recent": tr("Open &Recent"), "file/save": tr("Save Plot or Ta&ble"), "edit": tr("&Edit"),
        "model": tr("&Model"), "run": tr("&Run"), "view": tr("&View"), "view/panes": tr("&Panes"), "view/theme": tr("&Theme"),
        "help": tr("&Help"),
    }  # fmt: skip


def specs() -> tuple[Spec, ...]:
    """Every action, in the order of the menus."""
    return (
        Spec("file", "open", tr("&Open File…"), "Ctrl+O", tr("Open a .safetensors, .pt, .pth, .bin or .pt2 file")),
        Spec("file", "open_folder", tr("Open &Folder…"), "Ctrl+Shift+O", tr("Open a model folder")),
        Spec("file/recent", "clear_recent", tr("&Clear List")),
        Spec("file", SEPARATOR),
        Spec("file", "open_recipe", tr("Open Re&cipe…"), "", tr("Read a recipe from a TOML file")),
        Spec("file", "save_recipe", tr("&Save Recipe"), "Ctrl+S", tr("Write the recipe to its file")),
        Spec("file", "save_recipe_as", tr("Save Recipe &As…"), "Ctrl+Shift+S", tr("Write the recipe as another TOML file")),
        Spec("file", "duplicate_recipe", tr("&Duplicate Recipe"), "", tr("Go on with a copy that has no file yet")),
        Spec("file", SEPARATOR),
        Spec("file", "export", tr("&Export…"), "Ctrl+E", tr("Write the shown run in a format that others load")),
        Spec("file", "report", tr("Save Run Repor&t…"), "", tr("Write the shown run as a page with plots that opens offline")),
        Spec("file/save", SEPARATOR),  # filled when it opens
        Spec("file", SEPARATOR),
        Spec("file", "preferences", tr("&Preferences…"), "Ctrl+,", tr("Theme, folders and what happens at the start")),
        Spec("file", "quit", tr("&Quit"), "Ctrl+Q"),
        Spec("edit", "undo", tr("&Undo"), "Ctrl+Z"),
        Spec("edit", "redo", tr("&Redo"), "Ctrl+Shift+Z; Ctrl+Y"),
        Spec("edit", SEPARATOR),
        Spec("edit", "filter", tr("&Filter Layers"), "Ctrl+F"),
        Spec("edit", SEPARATOR),
        Spec("edit", "copy_toml", tr("Copy Recipe as &TOML"), "", tr("Copy the text of the recipe's file")),
        Spec("edit", "copy_command", tr("Copy as Command &Line"), "", tr("Copy the command that does the same run")),
        Spec("edit", "copy_python", tr("Copy as P&ython"), "", tr("Copy Python that does the same run")),
        Spec("edit", SEPARATOR),
        Spec("edit", "palette", tr("Command &Palette…"), "Ctrl+Shift+P", tr("Find any action or layer by typing")),
        Spec("model", "calibration", tr("&Calibration…"), "Ctrl+D", tr("Choose data to run the model on")),
        Spec(
            "model", "network", tr("&Network from a Python File…"), "",
            tr("Name the function that builds the network of these weights"),
        ),
        Spec("run", "quantize", tr("&Quantize"), "Ctrl+R", tr("Run the recipe on a worker")),
        Spec("run", "search", tr("S&earch Schemes"), "Ctrl+B", tr("Find a scheme for every layer under a budget")),
        Spec("run", "compare", tr("&Compare Runs…"), "Ctrl+Shift+C", tr("Runs, artifacts and float models side by side")),
        Spec("run", "stop", tr("&Stop"), "Esc", tr("Stop the run; nothing half-written stays")),
        Spec("view", "log", tr("&Logarithmic Histogram"), "Ctrl+L", checkable=True),
        Spec("view", "zoom_in", tr("Zoom &In"), "Ctrl++; Ctrl+=", tr("Show less of the layer's plot, larger")),
        Spec("view", "zoom_out", tr("Zoom &Out"), "Ctrl+-", tr("Show more of the layer's plot")),
        Spec("view", "zoom_all", tr("Zoom to &All"), "Ctrl+0", tr("Show all of the layer's plot")),
        Spec("view", SEPARATOR),
        Spec("view", "next_pane", tr("&Next Pane"), "F6", tr("Move the keyboard to the next pane")),
        Spec("view", "previous_pane", tr("Pre&vious Pane"), "Shift+F6", tr("Move the keyboard to the pane before")),
        Spec("view/panes", "reset_layout", tr("&Reset Layout"), "", tr("Put every pane back where it was at first")),
        Spec("view", SEPARATOR),
        Spec("view/theme", "theme_system", tr("&System"), checkable=True),
        Spec("view/theme", "theme_light", tr("&Light"), checkable=True),
        Spec("view/theme", "theme_dark", tr("&Dark"), checkable=True),
        Spec("help", "help", tr("Mono Quant &Help"), "F1", tr("How to use the window, the command line and the package")),
        Spec("help", "about", tr("&About Mono Quant"), "", tr("Versions and licences")),
    )  # fmt: skip


def build(bar: QMenuBar, owner: QWidget, slots: dict[str, Callable[..., object]]) -> tuple[dict[str, QAction], dict[str, QMenu]]:
    """Fill a menu bar; returns actions by name and menus by path. Every action must have a slot."""
    titles = menu_titles()
    menus: dict[str, QMenu] = {}
    actions: dict[str, QAction] = {}
    for spec in specs():
        menu = _menu(bar, menus, titles, spec.menu)
        if spec.name == SEPARATOR:
            menu.addSeparator()
        else:
            actions[spec.name] = _action(spec, owner, slots[spec.name])
            menu.addAction(actions[spec.name])
    return actions, menus


def _menu(bar: QMenuBar, menus: dict[str, QMenu], titles: dict[str, str], path: str) -> QMenu:
    if path not in menus:
        parent, _, _ = path.rpartition("/")
        menus[path] = (_menu(bar, menus, titles, parent) if parent else bar).addMenu(titles[path])
    return menus[path]


def _action(spec: Spec, owner: QWidget, slot: Callable[..., object]) -> QAction:
    action = QAction(spec.words, owner)
    action.setObjectName(spec.name)
    action.setCheckable(spec.checkable)
    if spec.shortcut:
        action.setShortcuts(QKeySequence.listFromString(spec.shortcut))
    if spec.tip:
        action.setToolTip(f"{spec.tip} ({spec.shortcut})" if spec.shortcut else spec.tip)
        action.setStatusTip(spec.tip)
    action.triggered.connect(slot)
    return action


def walk(bar: QMenuBar) -> Iterator[tuple[str, QAction]]:
    """Every action of a menu bar with its path in words: File ▸ Open Recent ▸ Clear List."""
    for action in bar.actions():
        yield from _walk(action, "")


def _walk(action: QAction, before: str) -> Iterator[tuple[str, QAction]]:
    words = plain_words(action.text())
    title = f"{before} ▸ {words}" if before else words
    menu = action.menu()
    if isinstance(menu, QMenu):
        for inner in menu.actions():
            yield from _walk(inner, title)
    elif not action.isSeparator():
        yield title, action


def plain_words(words: str) -> str:
    """An action's text without its mnemonic."""
    return words.replace("&&", "\0").replace("&", "").replace("\0", "&")
