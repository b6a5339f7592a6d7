"""Every action of the window: words, shortcut, and what it does. Menus and toolbar are built from these."""

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QMenuBar, QWidget


@dataclass(frozen=True, slots=True)
class Spec:
    """``menu`` is the path of its menu; an empty ``name`` is a separator."""

    menu: str
    name: str
    words: str = ""
    shortcut: str = ""
    tip: str = ""
    checkable: bool = False


SEPARATOR = ""

SPECS: tuple[Spec, ...] = (
    Spec("&File", "open", "&Open File…", "Ctrl+O", "Open a .safetensors, .pt, .pth, .bin or .pt2 file"),
    Spec("&File", "open_folder", "Open F&older…", "Ctrl+Shift+O", "Open a model folder"),
    Spec("&File/Open &Recent", "clear_recent", "&Clear List"),
    Spec("&File", SEPARATOR),
    Spec("&File", "open_recipe", "Open Re&cipe…", "", "Read a recipe from a TOML file"),
    Spec("&File", "save_recipe", "&Save Recipe", "Ctrl+S", "Write the recipe to its file"),
    Spec("&File", "save_recipe_as", "Save Recipe &As…", "Ctrl+Shift+S", "Write the recipe as another TOML file"),
    Spec("&File", "duplicate_recipe", "&Duplicate Recipe", "", "Go on with a copy that has no file yet"),
    Spec("&File", SEPARATOR),
    Spec("&File", "export", "&Export…", "Ctrl+E", "Write the shown run in a format that others load"),
    Spec("&File", SEPARATOR),
    Spec("&File", "quit", "&Quit", "Ctrl+Q"),
    Spec("&Edit", "undo", "&Undo", "Ctrl+Z"),
    Spec("&Edit", "redo", "&Redo", "Ctrl+Shift+Z"),
    Spec("&Edit", SEPARATOR),
    Spec("&Edit", "filter", "&Filter Layers", "Ctrl+F"),
    Spec("&Edit", SEPARATOR),
    Spec("&Edit", "copy_toml", "Copy Recipe as &TOML", "", "Copy the text of the recipe's file"),
    Spec("&Edit", "copy_command", "Copy as Command &Line", "", "Copy the command that does the same run"),
    Spec("&Edit", "copy_python", "Copy as &Python", "", "Copy Python that does the same run"),
    Spec("&Model", "calibration", "&Calibration…", "Ctrl+D", "Choose data to run the model on"),
    Spec("&Model", "network", "&Network from a Python File…", "", "Name the function that builds the network of these weights"),
    Spec("&Run", "quantize", "&Quantize", "Ctrl+R", "Run the recipe on a worker"),
    Spec("&Run", "stop", "&Stop", "Esc", "Stop the run; nothing half-written stays"),
    Spec("&View", "log", "&Logarithmic Histogram", "Ctrl+L", checkable=True),
    Spec("&View", "next_pane", "&Next Pane", "F6", "Move the keyboard to the next pane"),
    Spec("&View", "previous_pane", "Pre&vious Pane", "Shift+F6", "Move the keyboard to the pane before"),
    Spec("&View/&Panes", "reset_layout", "&Reset Layout", "", "Put every pane back where it was at first"),
    Spec("&View", SEPARATOR),
    Spec("&View/&Theme", "theme_system", "&System", checkable=True),
    Spec("&View/&Theme", "theme_light", "&Light", checkable=True),
    Spec("&View/&Theme", "theme_dark", "&Dark", checkable=True),
    Spec("&Help", "about", "&About Mono Quant", "F1"),
)


def build(bar: QMenuBar, owner: QWidget, slots: dict[str, Callable[..., None]]) -> tuple[dict[str, QAction], dict[str, QMenu]]:
    """Fill a menu bar; returns actions by name and menus by path. Every action must have a slot."""
    menus: dict[str, QMenu] = {}
    actions: dict[str, QAction] = {}
    for spec in SPECS:
        menu = _menu(bar, menus, spec.menu)
        if spec.name == SEPARATOR:
            menu.addSeparator()
            continue
        action = QAction(spec.words, owner)
        action.setObjectName(spec.name)
        action.setCheckable(spec.checkable)
        if spec.shortcut:
            action.setShortcut(QKeySequence(spec.shortcut))
        if spec.tip:
            action.setToolTip(f"{spec.tip} ({spec.shortcut})" if spec.shortcut else spec.tip)
            action.setStatusTip(spec.tip)
        action.triggered.connect(slots[spec.name])
        menu.addAction(action)
        actions[spec.name] = action
    return actions, menus


def _menu(bar: QMenuBar, menus: dict[str, QMenu], path: str) -> QMenu:
    if path not in menus:
        parent, _, words = path.rpartition("/")
        menus[path] = _menu(bar, menus, parent).addMenu(words) if parent else bar.addMenu(words)
    return menus[path]
