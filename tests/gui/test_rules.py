"""Rules in the recipe pane: what each comes to, reordered by mouse and keyboard, every edit one step of undo."""

from pathlib import Path

from PySide6.QtCore import QModelIndex, Qt
from pytestqt.qtbot import QtBot

import engine
from engine.records.recipe import Recipe, Rule
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.rules import EFFECT, IDLE, MIME
from tests.gui.conftest import edit, open_model

INT8, KEEP = map(engine.parse_scheme, ("int8:channel", "keep"))
RULES = (
    Rule(INT8, match="*.0.*_proj"),
    Rule(KEEP, match="*.up_proj"),
    Rule(KEEP, match="model.layers.0.mlp.up_proj"),
    Rule(KEEP, match="*.experts.*"),
)
ROOT = QModelIndex()
MOVE = Qt.DropAction.MoveAction


DROPS = [(0, 2, "2134"), (0, 4, "2341"), (3, 0, "4123"), (2, 1, "1324"), (1, 1, "1234"), (1, 2, "1234")]
"""A row, the row before which it is dropped, and the order afterwards."""


def ruled(qtbot: QtBot, window: MainWindow, path: Path) -> MainWindow:
    open_model(qtbot, window, path)
    edit(qtbot, window, Recipe(engine.parse_scheme("int4:g128"), rules=RULES))
    return window


def order(window: MainWindow) -> str:
    """Rules in their order now, by what they were called at first."""
    return "".join(str(1 + RULES.index(rule)) for rule in window.session.recipe.rules)


def test_each_rule_says_what_it_comes_to_and_a_click_selects_its_layers(
    qtbot: QtBot, window: MainWindow, language_model: Path
) -> None:
    rules, session = ruled(qtbot, window, language_model).recipe.rules, window.session
    model, view = rules.model, rules.view
    words = [model.index(row).data(EFFECT) for row in range(model.rowCount())]
    assert words[:4] == ["decides 7", "decides 3 of 4", "⚠ shadowed by rule 1", "⚠ matches no layer"]
    assert words[4] == "decides 9" and words[-1] == "decides 18"
    assert [bool(model.index(row).data(IDLE)) for row in range(4)] == [False, False, True, True]
    assert model.index(1).data(Qt.ItemDataRole.AccessibleTextRole) == "rule 2, *.up_proj, keep, decides 3 of 4"
    assert "1 of them by rule 1 already" in model.index(1).data(Qt.ItemDataRole.ToolTipRole)

    view.scrollTo(model.index(1))
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=view.visualRect(model.index(1)).center())
    assert session.selection == tuple(f"model.layers.{n}.mlp.up_proj" for n in (1, 2, 3))
    assert session.selected == "model.layers.1.mlp.up_proj"
    rules.select_layers(2)
    assert "shadowed by rule 1" in window.status.full_text()
    assert session.selected == "model.layers.1.mlp.up_proj"


def test_rules_move_by_mouse_and_keyboard_each_edit_one_step(
    qtbot: QtBot, window: MainWindow, language_model: Path, qtmodeltester
) -> None:
    rules, session = ruled(qtbot, window, language_model).recipe.rules, window.session
    model, undo = rules.model, window.actions_["undo"]
    qtmodeltester.check(model, force_py=True)  # and it goes on to watch every change
    for row, before, expected in DROPS:
        rules.select_row(row)
        dragged = model.mimeData([model.index(row)])
        assert dragged.hasFormat(MIME) and model.canDropMimeData(dragged, MOVE, before, 0, ROOT)
        model.dropMimeData(dragged, MOVE, before, 0, ROOT)
        assert order(window) == expected
        if expected != "1234":
            assert session.recipe.rules[rules.row] == RULES[row]  # the selection went with it
            assert undo.text() == f"&Undo move rule {row + 1}"
            undo.trigger()
            assert order(window) == "1234" and rules.row == row

    # Qt's own way of moving rows in a list; own rules only, and only among themselves.
    assert model.moveRows(ROOT, 0, 1, ROOT, 3) and order(window) == "2314"
    assert not model.moveRows(ROOT, 0, 1, ROOT, 5) and not model.moveRows(ROOT, 4, 1, ROOT, 0)
    undo.trigger()
    drag, drop = Qt.ItemFlag.ItemIsDragEnabled, Qt.ItemFlag.ItemIsDropEnabled
    assert [bool(model.flags(model.index(row)) & drag) for row in (0, 3, 4, model.rowCount() - 1)] == [True, True, False, False]
    assert not any(model.flags(model.index(row)) & drop for row in range(model.rowCount()))
    assert not model.canDropMimeData(model.mimeData([model.index(0)]), MOVE, 5, 0, ROOT)
    assert not model.canDropMimeData(model.mimeData([model.index(5)]), MOVE, 0, 0, ROOT)

    rules.select_row(0)
    rules.view.setFocus()
    for _ in range(2):
        qtbot.keyClick(rules.view, Qt.Key.Key_Down, Qt.KeyboardModifier.AltModifier)
    assert order(window) == "2314" and rules.row == 2
    qtbot.keyClick(rules.view, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    assert order(window) == "2134" and rules.row == 1
    qtbot.keyClick(rules.view, Qt.Key.Key_Delete)
    assert order(window) == "234" and undo.text() == "&Undo remove rule 2"
    for _ in range(4):
        undo.trigger()
    assert order(window) == "1234"

    steps = session.undo.index()
    changed = Rule(INT8, match="*.q_proj")
    menu = rules.context_menu(1)
    next(action for action in menu.actions() if action.text() == "Duplicate").trigger()
    assert order(window) == "12234"
    model.put(changed, 0)
    model.put(changed, None)
    assert session.recipe.rules == (changed, changed, *RULES[1:2], *RULES[1:])
    assert session.undo.index() == steps + 3
    assert [session.undo.text(steps + n) for n in range(3)] == ["duplicate rule 2", "change rule 1", "add a rule"]

    session.edit_recipe(engine.recipe("FP16"), "fewer rows")
    while session.undo.canUndo():
        session.undo.undo()
    while session.undo.canRedo():
        session.undo.redo()
    wanted: list[object] = []
    window.recipe.rule_wanted.disconnect()
    window.recipe.rule_wanted.connect(wanted.append)
    undo.trigger()
    rules.edit(2)
    rules.edit(7)  # a built-in one has no dialog
    assert wanted == [2]
