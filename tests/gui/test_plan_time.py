"""The time of the plan below the recipe: an estimate before a first run, the throughput of earlier runs after it."""

from pathlib import Path

from pytestqt.qtbot import QtBot

from mono_quant_gui.main_window import MainWindow
from tests.gui.conftest import PATIENCE, open_model


def test_the_time_comes_by_itself_and_says_that_it_is_an_estimate(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    session, shown = window.session, window.recipe.totals.figures["Time"]
    with qtbot.waitSignal(session.plan_time.changed, timeout=PATIENCE):
        session.peeks.call("warm_up", {})  # as a window that a person opens does at once
        open_model(qtbot, window, language_model)
        assert not shown.text()
    assert session.plan.takes and session.plan.takes["seconds"] > 0
    assert shown.text().startswith("about ") and "an estimate" in shown.toolTip()
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.quantize()
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        session.ask_plan()
    assert shown.text().startswith("about ") and "earlier runs" in shown.toolTip() and errors == []
