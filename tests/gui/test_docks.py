"""Panes in docks: moved, closed, remembered, put back, and reached with F6."""

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.settings import Settings


def test_an_arrangement_is_remembered_and_can_be_put_back(window: MainWindow, settings: Settings) -> None:
    docks = window.docks.by_name
    window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, docks["recipe"])
    docks["runs"].toggleViewAction().trigger()
    assert not docks["runs"].isVisible()
    window.close()
    again = MainWindow(Settings(Path(settings._store.fileName())))
    again.furnish()
    again.show()
    found = again.docks.by_name
    assert again.dockWidgetArea(found["recipe"]) == Qt.DockWidgetArea.LeftDockWidgetArea and not found["runs"].isVisible()
    again.actions_["reset_layout"].trigger()
    assert again.dockWidgetArea(found["recipe"]) == Qt.DockWidgetArea.RightDockWidgetArea and found["runs"].isVisible()
    again.session.close()
    again.close()


def test_a_broken_arrangement_changes_nothing(window: MainWindow) -> None:
    from PySide6.QtCore import QByteArray

    window.docks.restore(QByteArray(b"\0\0\0\xff not a state"))
    assert all(window.docks.by_name[name].isVisible() for name in ("layers", "recipe", "runs"))


def test_f6_goes_round_the_panes(qtbot: QtBot, window: MainWindow) -> None:
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    panes = [window.inspector, window.recipe, window.layers]
    window.recipe.preset.setFocus()
    seen = []
    for _ in range(6):
        window.actions_["next_pane"].trigger()
        focus = QApplication.focusWidget()
        seen.append(next((pane for pane in [*panes, window.runs] if focus and pane.isAncestorOf(focus)), None))
    assert None not in seen and set(panes) <= set(seen)
    before = seen[-2]
    window.actions_["previous_pane"].trigger()
    assert before is not None and before.isAncestorOf(QApplication.focusWidget())
