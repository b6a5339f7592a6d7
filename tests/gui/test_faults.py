"""Cancelling, closing mid-run, a killed engine, a wrong file: the window lives and says so."""

import dataclasses
import os
import signal
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import QDropEvent
from PySide6.QtWidgets import QApplication, QMessageBox
from pytestqt.qtbot import QtBot

import engine
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.runs import ACTION
from mono_quant_gui.run import Run
from tests.gui.conftest import PATIENCE, edit, open_model


def finished_run(qtbot: QtBot, window: MainWindow, model: Path) -> Run:
    """A run of the default recipe that is done."""
    open_model(qtbot, window, model)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    return window.session.runs[0]


def start_big_run(qtbot: QtBot, window: MainWindow, big_model: Path) -> None:
    """Return while a run is well under way."""
    open_model(qtbot, window, big_model)
    edit(qtbot, window, engine.recipe("int4:g128"))
    with qtbot.waitSignal(window.session.run_layers, timeout=PATIENCE):
        window.session.quantize()
    assert window.session.running


def run_files(settings) -> list[Path]:
    """What runs wrote; the ledger and what was measured may stay."""
    kept = ("run.json", "layers.json")
    return [file for file in settings.runs_folder().rglob("*/*") if file.name not in kept]


def test_cancel_stops_the_run_and_leaves_nothing(qtbot: QtBot, window: MainWindow, big_model: Path, errors: list[str]) -> None:
    start_big_run(qtbot, window, big_model)
    run = window.session.running
    view = window.runs.view
    link = view.visualRect(window.runs.model.index_of(run, ACTION)).center()
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=link)
    assert run and run.state == "cancelled" and window.session.running is None
    assert run_files(window.session.settings) == [] and errors == []
    assert window.quantize_button.isEnabled()
    assert "Cancelled" in window.status.full_text()


def test_escape_stops_the_run(qtbot: QtBot, window: MainWindow, big_model: Path) -> None:
    start_big_run(qtbot, window, big_model)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.actions_["stop"].trigger()
    assert window.session.runs[0].state == "cancelled"


def test_closing_mid_run_asks_and_leaves_what_can_go_on(qtbot: QtBot, window: MainWindow, big_model: Path, settings) -> None:
    start_big_run(qtbot, window, big_model)
    answers = [QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Yes]

    def answer() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        box.button(answers.pop(0)).click()

    QTimer.singleShot(0, answer)
    assert not window.close() and window.session.running
    QTimer.singleShot(0, answer)
    assert window.close()
    assert not psutil.Process().children()
    assert all(".mono-quant-" in str(file) for file in run_files(settings))
    with engine.Ledger(settings.runs_folder()) as ledger:
        (record,) = ledger.find()
    assert (record.state, record.message) == ("unfinished", "the window was closed") and not Path(record.artifact).exists()


def test_a_killed_engine_is_said_and_replaced(qtbot: QtBot, window: MainWindow, big_model: Path, errors: list[str]) -> None:
    start_big_run(qtbot, window, big_model)
    first = window.session.heavy.pid
    assert first
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        os.kill(first, signal.SIGKILL)
    run = window.session.runs[0]
    assert run.state == "unfinished" and "killed" in run.message
    assert len(errors) == 1 and "was killed (SIGKILL, perhaps for want of memory)" in errors[0] and "started again" in errors[0]
    assert window.isVisible() and not run.artifact.exists()
    edit(qtbot, window, engine.recipe_from_text('scheme = "keep"\n[[rules]]\nmatch = "layers.0"\nscheme = "int4:g128"'))
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    assert window.session.runs[0].state == "done"
    assert window.session.heavy.pid not in (None, first)


def test_a_stopped_engine_is_ended_after_its_deadline(
    qtbot: QtBot, window: MainWindow, big_model: Path, errors: list[str]
) -> None:
    start_big_run(qtbot, window, big_model)
    pid = window.session.heavy.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.cancel()
    assert len(errors) == 1 and "did not stop when asked" in errors[0]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_killed_peek_host_does_not_take_the_window_along(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    pid = window.session.peeks.pid
    assert pid
    with qtbot.waitSignal(window.session.peeks.died, timeout=PATIENCE):
        os.kill(pid, signal.SIGKILL)
    edit(qtbot, window, engine.recipe("W8A16"))
    assert window.session.plan.predicted == engine.plan(language_model, "W8A16").predicted_bytes


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nxxxxxxxx", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_wrong_file_is_one_sentence_and_the_open_model_stays(
    content: bytes, qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path, errors: list[str]
) -> None:
    open_model(qtbot, window, language_model)
    (tmp_path / "wrong.safetensors").write_bytes(content)
    with qtbot.waitSignal(window.session.failed, timeout=PATIENCE):
        window.open_path(str(tmp_path / "wrong.safetensors"))
    assert len(errors) == 1 and "wrong.safetensors" in errors[0] and "\n" not in errors[0]
    assert window.session.model and window.session.model.name == "docstring_lm"


def test_weights_that_are_not_finite_end_a_run_with_tensor_and_index(
    qtbot: QtBot, window: MainWindow, make_file, errors: list[str]
) -> None:
    import torch

    weight = torch.ones(64, 64)
    weight[3, 4] = float("nan")
    open_model(qtbot, window, make_file({"bad.weight": weight}))
    with qtbot.waitSignal(window.session.histogram_changed, timeout=PATIENCE):
        window.session.select(None)
        window.session.select("bad")
    assert errors == [] and "NaN at index [3, 4]" in window.inspector._empty_layer.text()
    edit(qtbot, window, engine.recipe("W8A16"))
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    assert errors == ["bad.weight holds NaN at index [3, 4]; repair the checkpoint or keep this layer."]


def test_drop_opens(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(language_model))])
    keys, buttons = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
    event = QDropEvent(QPointF(10, 10), Qt.DropAction.CopyAction, data, buttons, keys)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        window.dropEvent(event)
    assert window.session.model and window.session.model.name == "docstring_lm"


def test_names_from_a_file_are_shown_as_plain_text(qtbot: QtBot, window: MainWindow, make_file) -> None:
    import torch

    open_model(qtbot, window, make_file({"<b>bold</b>\n<img src=x>.weight": torch.ones(32, 32)}))
    window.session.select(window.session.model.layers[0].name)  # type: ignore[union-attr]
    shown = window.layers.model.index(0, 0).data()
    assert shown.replace("\u200b", "").endswith("<b>bold</b>·<img src=x>")  # widthless spaces keep tooltips from being markup
    assert window.inspector._layer_name.textFormat() == Qt.TextFormat.PlainText


def test_a_waiting_export_is_cancelled_without_touching_the_run(
    qtbot: QtBot, window: MainWindow, big_model: Path, language_model: Path, tmp_path: Path, errors: list[str]
) -> None:
    finished = finished_run(qtbot, window, language_model)
    start_big_run(qtbot, window, big_model)
    dialog = window.export(finished)
    dialog.destination.setText(str(tmp_path / "exported"))
    qtbot.waitUntil(dialog.export_button.isEnabled, timeout=PATIENCE)
    qtbot.mouseClick(dialog.export_button, Qt.MouseButton.LeftButton)
    assert "Waiting for run" in dialog.message.text()
    qtbot.mouseClick(dialog.close_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "Cancelled" in dialog.message.text(), timeout=PATIENCE)
    assert window.session.running and not (tmp_path / "exported").exists() and errors == []
    dialog.close()
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.cancel()


def test_an_export_that_is_not_its_sources_is_not_certified(
    qtbot: QtBot, window: MainWindow, language_model: Path, digits: Path, tmp_path: Path, errors: list[str]
) -> None:
    run = finished_run(qtbot, window, language_model)
    # As if the source had been replaced since.
    run.record = dataclasses.replace(run.record, model_path=str(digits / "model.safetensors"))
    dialog = window.export(run)
    dialog.destination.setText(str(tmp_path / "exported"))
    qtbot.waitUntil(dialog.export_button.isEnabled, timeout=PATIENCE)
    with qtbot.waitSignal(window.session.notice, timeout=PATIENCE):
        qtbot.mouseClick(dialog.export_button, Qt.MouseButton.LeftButton)
    assert "Not certified" in dialog.message.text() and "is missing" in dialog.message.text()
    assert dialog.save_button.isVisible() and errors == []
    dialog.close()


def test_certifying_can_be_stopped_and_what_was_written_stays(
    qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path, errors: list[str]
) -> None:
    dialog = window.export(finished_run(qtbot, window, language_model))
    dialog.destination.setText(str(tmp_path / "exported"))
    qtbot.waitUntil(dialog.export_button.isEnabled, timeout=PATIENCE)
    with qtbot.waitSignal(window.session.notice, timeout=PATIENCE):
        qtbot.mouseClick(dialog.export_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: "fresh process" in dialog.message.text(), timeout=PATIENCE)
        qtbot.mouseClick(dialog.close_button, Qt.MouseButton.LeftButton)
    assert "Wrote" in dialog.message.text() and "not certified: stopped" in dialog.message.text()
    assert engine.open_model(tmp_path / "exported").quantized and dialog.isVisible() and errors == []
    dialog.close()


def test_a_run_of_another_model_does_not_show_in_this_ones_table(
    qtbot: QtBot, window: MainWindow, big_model: Path, language_model: Path
) -> None:
    start_big_run(qtbot, window, big_model)
    open_model(qtbot, window, language_model)
    run = window.session.running
    assert run and window.session.shown_run is None
    window.session.show_run(run)
    assert window.session.shown_run is None
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.cancel()
    qtbot.waitUntil(lambda: window.session.runs == [])


@pytest.mark.parametrize("name", ["", "   ", "~nobody-here/x", "relative", "NUL", "LONG", "no/such/folder/x"])
def test_impossible_destinations_are_said_and_not_tried(
    name: str, qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path, errors: list[str]
) -> None:
    dialog = window.export(finished_run(qtbot, window, language_model))
    wanted = {"NUL": str(tmp_path / "a\0b"), "LONG": str(tmp_path / ("x" * 300)), "no/such/folder/x": str(tmp_path / "no" / "x")}
    qtbot.waitUntil(dialog.export_button.isEnabled, timeout=PATIENCE)
    dialog.destination.setText(wanted.get(name, name))
    qtbot.waitUntil(lambda: dialog.message.text() != "", timeout=PATIENCE)
    assert not dialog.export_button.isEnabled() and errors == []
    dialog.close()
