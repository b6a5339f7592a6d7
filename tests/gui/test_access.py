"""The window without a mouse, without eyes, and in little room: names, the way of Tab, keys, and words that are not cut."""

from collections.abc import Callable, Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QShortcut
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QCheckBox,
    QComboBox,
    QDialog,
    QHeaderView,
    QLabel,
    QLineEdit,
    QMenu,
    QMenuBar,
    QPlainTextEdit,
    QScrollBar,
    QSlider,
    QTabBar,
    QTableView,
    QTextEdit,
    QTreeView,
    QWidget,
)
from pytestqt.qtbot import QtBot

import engine
from mono_quant_gui import helping
from mono_quant_gui.dialogs.error import ErrorDialog
from mono_quant_gui.dialogs.help import HelpWindow
from mono_quant_gui.dialogs.network import NetworkDialog
from mono_quant_gui.dialogs.rule import RuleDialog
from mono_quant_gui.dialogs.trust import TrustDialog
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.state import How, Trust
from mono_quant_gui.widgets.parts import ElidedLabel, MenuButton, TallArea
from tests.conftest import SAMPLES
from tests.gui.conftest import PATIENCE, open_model

INTERACTIVE = (
    QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox, QAbstractItemView, QSlider, QPlainTextEdit, QTextEdit,
)  # fmt: skip
SIZES = ((1280, 800), (1080, 680))
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def window(shared_window: MainWindow) -> MainWindow:
    return shared_window


@pytest.fixture(scope="module")
def measured(shared_window: MainWindow, qapp: QApplication, request: pytest.FixtureRequest) -> MainWindow:
    """With a model, a run of two layers and a problem of the recipe; every pane has something to say."""
    bot = QtBot(request)
    session = shared_window.session
    open_model(bot, shared_window, SAMPLES / "docstring_lm")
    text = 'scheme = "keep"\n[[rules]]\nmatch = "*layers.0.mlp*"\nscheme = "int4:g64"\n'
    with bot.waitSignal(session.plan_changed, timeout=PATIENCE):
        session.edit_recipe(engine.recipe_from_text(text), "test")
    with bot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.quantize()
    session.select("model.layers.0.mlp.down_proj")
    bot.waitUntil(lambda: bool(session.looking.detail and session.looking.detail.image), timeout=PATIENCE)
    return shared_window


def dialogs(window: MainWindow) -> dict[str, Callable[[], QDialog]]:
    """Every dialog that the window has, by how it is opened."""
    session, model = window.session, SAMPLES / "docstring_lm"
    trust = Trust(str(model / "x.py"), "0" * 64, "a Python file", lambda: None, lambda: None)
    return {
        "calibration": window.calibrate, "preferences": window.prefer, "palette": window.find_command, "about": window.about,
        "rule": lambda: shown(RuleDialog(None, session.recipe.default, window)),
        "network": lambda: shown(NetworkDialog(str(model), How(), window)),
        "trust": lambda: shown(TrustDialog(trust, window)),
        "error": lambda: shown(ErrorDialog("What went wrong.", "details\n" * 40, window)),
        "export": lambda: window.export(session.shown_run),  # type: ignore[arg-type]
        "help": lambda: shown(HelpWindow(helping.sections(()), window)),
        "run details": lambda: window.ask_details(session.shown_run),  # type: ignore[arg-type]
        "compare": lambda: window.compare([session.shown_run]),  # type: ignore[dict-item, list-item]
    }  # fmt: skip


def shown(dialog: QDialog) -> QDialog:
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.open()
    return dialog


DIALOGS = ("calibration", "preferences", "palette", "about", "rule", "network", "trust", "error", "export")
DIALOGS += ("help", "run details", "compare")


def close(qtbot: QtBot, dialog: QDialog) -> None:
    with qtbot.waitSignal(dialog.destroyed, timeout=PATIENCE):
        dialog.reject()


def parts(root: QWidget) -> Iterator[QWidget]:
    """Widgets in sight that are not the insides of others."""
    for widget in root.findChildren(QWidget):
        inside = widget.parentWidget()
        hidden = isinstance(inside, QComboBox | QAbstractSpinBox | QLineEdit | QHeaderView | QMenuBar | QScrollBar | QMenu)
        corner = isinstance(inside, QTableView) and isinstance(widget, QAbstractButton)
        popup = widget.window() is not root.window()
        if widget.isVisible() and not (hidden or corner or popup or widget.objectName().startswith("qt_")):
            yield widget


def name_of(widget: QWidget) -> str:
    """What a screen reader says: a name, the words on it, or the label that belongs to it."""
    said = widget.accessibleName() or (widget.text() if isinstance(widget, QAbstractButton) else "")
    labels = [label for label in widget.window().findChildren(QLabel) if label.buddy() is widget]
    return said.strip() or next((label.text().strip() for label in labels), "")


# -- names -------------------------------------------------------------------------------------------------------------


def nameless(root: QWidget) -> list[str]:
    from mono_quant_gui.plots.canvas import PlotCanvas

    wanted = (*INTERACTIVE, PlotCanvas)
    return [
        f"{type(w).__name__} in {[type(p).__name__ for p in above(w)][:4]}" for w in parts(root)
        if isinstance(w, wanted) and not isinstance(w, QHeaderView) and not any(c.isalnum() for c in name_of(w))
    ]  # fmt: skip


def above(widget: QWidget) -> Iterator[QWidget]:
    while (parent := widget.parentWidget()) is not None:
        yield parent
        widget = parent


def test_everything_that_can_be_used_has_a_name(qtbot: QtBot, measured: MainWindow) -> None:
    measured.docks.show("log")
    found = nameless(measured)
    for view in ("weights", "channels", "error", "outliers"):
        measured.inspector.set_view(view)
        found += nameless(measured)
    if "search" in measured.docks.by_name:
        measured.docks.show("search")
        found += nameless(measured)
    tabs = [bar for bar in measured.findChildren(QTabBar) if bar.isVisible()]
    assert tabs and [bar.accessibleName() for bar in tabs if not bar.accessibleName()] == []
    measured.docks.reset()
    assert found == []


@pytest.mark.parametrize("name", DIALOGS)
def test_everything_in_a_dialog_has_a_name(qtbot: QtBot, measured: MainWindow, name: str) -> None:
    dialog = dialogs(measured)[name]()
    assert nameless(dialog) == [] and dialog.windowTitle()
    close(qtbot, dialog)


# -- keys --------------------------------------------------------------------------------------------------------------


def stops(root: QWidget) -> set[QWidget]:
    """Where Tab must come by."""
    return {
        w for w in parts(root)
        if w.isEnabled() and w.focusPolicy() & Qt.FocusPolicy.TabFocus and w.focusProxy() is None
        and isinstance(w, (*INTERACTIVE, QAbstractSlider)) and not isinstance(w, QHeaderView) and not beside_checked(w)
    }  # fmt: skip


def beside_checked(widget: QWidget) -> bool:
    """One of several buttons of which another is chosen: arrow keys go to it."""
    group = widget.group() if isinstance(widget, QAbstractButton) else None
    return group is not None and group.exclusive() and group.checkedButton() not in (None, widget)


def walked(qtbot: QtBot, root: QWidget) -> set[QWidget]:
    """Where Tab does come by, pressed as often as it takes."""
    seen: list[QWidget] = []
    for _ in range(200):
        focus = QApplication.focusWidget()
        assert focus is not None
        if focus in seen:
            if focus is seen[0] or focus is seen[-1]:
                break
        else:
            seen.append(focus)
        qtbot.keyClick(focus, Qt.Key.Key_Tab)
    return set(seen)


def described(widgets: set[QWidget]) -> list[str]:
    return sorted(f"{type(widget).__name__} {name_of(widget)!r}" for widget in widgets)


def test_tab_goes_round_the_window(qtbot: QtBot, measured: MainWindow) -> None:
    measured.activateWindow()
    qtbot.waitUntil(measured.isActiveWindow)
    measured.layers.filter.setFocus()
    wanted = stops(measured)
    assert len(wanted) > 15
    assert described(wanted - walked(qtbot, measured)) == []


@pytest.mark.parametrize("name", DIALOGS)
def test_tab_goes_round_a_dialog(qtbot: QtBot, measured: MainWindow, name: str) -> None:
    dialog = dialogs(measured)[name]()
    dialog.activateWindow()
    qtbot.waitUntil(lambda: QApplication.focusWidget() is not None and QApplication.focusWidget().window() is dialog)
    assert described(stops(dialog) - walked(qtbot, dialog)) == []
    close(qtbot, dialog)


def leaves(menu: QMenu | QMenuBar, path: str = "") -> Iterator[tuple[str, QAction]]:
    for action in menu.actions():
        inner = action.menu()
        if not action.isSeparator():
            yield path, action
        if isinstance(inner, QMenu):
            yield from leaves(inner, f"{path}/{action.text()}")


def mnemonic(action: QAction) -> str:
    words = action.text().replace("&&", "")
    return words.partition("&")[2][:1].casefold()


def test_every_action_is_reached_by_a_letter_or_a_key(measured: MainWindow) -> None:
    measured.commands()
    lists = ("Recent", "Ta&ble")  # files and plots come and go; arrow keys reach them
    letters: dict[tuple[str, str], str] = {}
    for path, action in leaves(measured.menuBar()):
        if any(name in path for name in lists) and not mnemonic(action):
            continue
        assert mnemonic(action) or not action.shortcut().isEmpty() or action.isCheckable(), f"{path}: {action.text()}"
        if letter := mnemonic(action):
            assert (path, letter) not in letters, f"{path}: {action.text()} and {letters[path, letter]} have one letter"
            letters[path, letter] = action.text()


def test_no_two_actions_have_one_shortcut(measured: MainWindow) -> None:
    owner: dict[str, str] = {}
    found = [(key.toString(), action.text()) for action in measured.findChildren(QAction) for key in action.shortcuts()]
    found += [
        (shortcut.key().toString(), type(shortcut.parent()).__name__)
        for shortcut in measured.findChildren(QShortcut)
        if shortcut.context() != Qt.ShortcutContext.WidgetShortcut
    ]
    for key, words in found:
        assert key not in owner, f"{key}: {words} and {owner[key]}"
        owner[key] = words
    for wanted in ("Ctrl+O", "Ctrl+R", "Esc", "Ctrl+E", "Ctrl+F", "Ctrl+Z", "Ctrl+Y", "F1", "Ctrl+Shift+P"):
        assert wanted in owner, f"{wanted} does nothing"


@pytest.mark.parametrize("name", DIALOGS)
def test_labels_of_a_dialog_have_letters_of_their_own(qtbot: QtBot, measured: MainWindow, name: str) -> None:
    dialog = dialogs(measured)[name]()
    letters: dict[str, str] = {}
    for widget in parts(dialog):
        words = widget.text() if isinstance(widget, QAbstractButton) or (isinstance(widget, QLabel) and widget.buddy()) else ""
        letter = words.replace("&&", "").partition("&")[2][:1].casefold()
        assert not letter or letter not in letters, f"{words} and {letters[letter]} have one letter"
        letters[letter] = words
    close(qtbot, dialog)


# -- room --------------------------------------------------------------------------------------------------------------


def cut(root: QWidget) -> list[str]:
    """Words that have less room than they take, without an ellipsis and a tooltip that has them all."""
    found = []
    for widget in parts(root):
        if isinstance(widget, ElidedLabel | MenuButton):
            continue
        if isinstance(widget, QLabel) and widget.text():
            room = widget.contentsRect()
            if widget.wordWrap():
                if widget.heightForWidth(widget.width()) > widget.height() + 1:
                    found.append(f"{widget.text()!r} takes {widget.heightForWidth(widget.width())} of {widget.height()} px")
            elif widest(widget) > room.width() + 1:
                found.append(f"{widget.text()!r} takes {widest(widget)} of {room.width()} px")
        elif isinstance(widget, QAbstractButton) and widget.text():
            hint, edges = (widget.sizeHint(), -1) if isinstance(widget, QCheckBox) else (widget.minimumSizeHint(), 4)
            if hint.width() > widget.width() + 1 or widget.fontMetrics().height() > widget.height() - edges:
                found.append(f"{widget.text()!r} takes {hint} of {widget.size()}")
        elif isinstance(widget, QTableView | QTreeView):
            found += cut_heads(widget)
        elif isinstance(widget, TallArea) and widget.widget().width() > widget.viewport().width():
            found.append(f"{type(widget.widget()).__name__} is wider than what is seen of it")
    return found


def widest(label: QLabel) -> int:
    metrics = label.fontMetrics()
    return max(metrics.horizontalAdvance(line) for line in label.text().replace("&", "").splitlines())


def cut_heads(view: QTableView | QTreeView) -> list[str]:
    header = view.horizontalHeader() if isinstance(view, QTableView) else view.header()
    if not header.isVisible():
        return []
    found, model, across = [], view.model(), Qt.Orientation.Horizontal
    for column in range(model.columnCount()):
        words, tip = str(model.headerData(column, across) or ""), model.headerData(column, across, Qt.ItemDataRole.ToolTipRole)
        room, wanted = header.sectionSize(column), header.fontMetrics().horizontalAdvance(words) + 12
        if not header.isSectionHidden(column) and wanted > room and not tip:
            found.append(f"head {words!r} takes {wanted} of {room} px")
    return found


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_no_words_of_the_window_are_cut(qtbot: QtBot, measured: MainWindow, size: tuple[int, int], theme: str) -> None:
    measured.set_theme(theme)
    measured.resize(*size)
    found = []
    for order, view in (("network", "weights"), ("sizes", "channels"), ("spread", "outliers")):
        measured.inspector.set_order(order)
        measured.inspector.set_view(view)
        QApplication.processEvents()
        found += cut(measured)
    assert (measured.width(), measured.height()) == size, "it does not become so small"
    measured.set_theme("light")
    measured.resize(1440, 900)
    assert sorted(set(found)) == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", DIALOGS)
def test_no_words_of_a_dialog_are_cut(qtbot: QtBot, measured: MainWindow, name: str, theme: str) -> None:
    measured.set_theme(theme)
    dialog = dialogs(measured)[name]()
    QApplication.processEvents()
    found = cut(dialog)
    close(qtbot, dialog)
    measured.set_theme("light")
    assert found == []
