"""Where a pane has nothing to show it says so in one sentence, and one click leads on."""

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog
from pytestqt.qtbot import QtBot

import engine
from mono_quant_gui.dialogs.calibration import CalibrationDialog
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.widgets.empty import Empty
from mono_quant_gui.widgets.parts import Pane
from tests.gui.conftest import PATIENCE, open_model


def empties(pane: Pane) -> list[Empty]:
    """Those in sight that lead somewhere."""
    return [empty for empty in pane.findChildren(Empty) if empty.isVisible() and empty.button.isVisible()]


def click(qtbot: QtBot, empty: Empty, words: str) -> None:
    assert empty.button.text() == words
    qtbot.mouseClick(empty.button, Qt.MouseButton.LeftButton)


def test_without_a_model_every_pane_leads_to_one(
    qtbot: QtBot, window: MainWindow, language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (asked.append(1), ("", ""))[1])
    panes = {"layers": window.layers, "": window.inspector, "runs": window.runs, "search": window.search, "log": window.log}
    for name, pane in panes.items():
        if name:
            window.docks.show(name)
        (empty,) = empties(pane)
        assert empty.text().count(".") == 1 and empty.text().endswith(".") and "model" in empty.text()
        click(qtbot, empty, "Open…")
    assert len(asked) == 5
    window.docks.reset()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(language_model / "model.safetensors"), ""))
    with qtbot.waitSignal(window.session.model_changed, timeout=PATIENCE):
        click(qtbot, empties(window.layers)[0], "Open…")
    assert empties(window.layers) == []
    window.layers.filter.setText("nothing like this")
    click(qtbot, empties(window.layers)[0], "Show all")
    assert window.layers.filter.text() == "" and empties(window.layers) == []


def test_from_an_open_model_to_a_run_and_to_what_layers_are_given(
    qtbot: QtBot, window: MainWindow, digits: Path, errors: list[str]
) -> None:
    session, inspector = window.session, window.inspector
    open_model(qtbot, window, digits / "model.safetensors")
    found = {empty.button.text(): empty for empty in empties(inspector)}
    assert set(found) == {"Quantize", "Show the first layer"}
    click(qtbot, found["Show the first layer"], "Show the first layer")
    assert session.selected == session.model.layers[0].name  # type: ignore[union-attr]
    assert [empty.button.text() for empty in empties(window.runs)] == ["Quantize"]
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        click(qtbot, found["Quantize"], "Quantize")
    assert session.shown_run and session.shown_run.state == "done" and empties(window.runs) == []
    # This file has weights only: the way to what layers are given is the dialog, which asks for the network.
    inspector.set_view("inputs")
    dialogs: list[CalibrationDialog] = []
    (empty,) = empties(inspector)
    assert empty.text() == "Calibrate to see what this layer is given."
    click(qtbot, empty, "Calibration…")
    dialogs += window.findChildren(CalibrationDialog)
    assert len(dialogs) == 1 and dialogs[0].isVisible() and errors == []
    dialogs[0].reject()


def test_calibrating_from_the_inspector_shows_the_inputs(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    session, inspector = window.session, window.inspector
    open_model(qtbot, window, language_model)
    session.select("model.layers.0.mlp.up_proj")
    session.calibrating.choose(engine.DataSpec(str(language_model / "calibration.txt"), samples=2))
    inspector.set_view("convergence")
    (empty,) = [empty for empty in empties(inspector) if empty.button.text() == "Calibrate"]
    with qtbot.waitSignal(session.calibrating.finished, timeout=2 * PATIENCE):
        click(qtbot, empty, "Calibrate")
    assert errors == [] and inspector.convergence and inspector.convergence.isVisible()
    seen = session.activity_of("model.layers.0.mlp.up_proj")
    assert seen and inspector.convergence.table()[1][-1] == (2, seen.low, seen.high)
    inspector.set_view("inputs")
    assert inspector.activation and inspector.activation.isVisible()
    assert "2 samples" in inspector._layer_note.full_text()
