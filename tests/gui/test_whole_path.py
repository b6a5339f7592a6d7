"""Open, look, edit, quantize, see, export: the whole path in the real window."""

import json
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt
from pytestqt.qtbot import QtBot

import engine
from engine.records.recipe import Rule
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import NAME, SCHEME, SIZE, SQNR
from tests.gui.conftest import PATIENCE, edit, open_model


def column(window: MainWindow, number: int) -> list[str]:
    model = window.layers.model
    return [model.index(row, number).data() for row in range(model.rowCount())]


def test_the_whole_path(qtbot: QtBot, window: MainWindow, errors: list[str], language_model: Path, tmp_path: Path) -> None:
    session = window.session
    assert not window.quantize_button.isEnabled() and not window.export_button.isEnabled()

    # Open: layers and plan are there at once.
    open_model(qtbot, window, language_model)
    assert len(column(window, NAME)) == 39 and column(window, SCHEME).count("int4:g128") == 28
    predicted = engine.plan(language_model, "W4A16").predicted_bytes
    assert session.plan.predicted == predicted
    assert window.recipe.totals.figures["Size"].toolTip() == f"{predicted:,} bytes"

    # Look before any run: the float histogram of a layer picked in the table.
    row = column(window, NAME).index("model.layers.2.mlp.up_proj")
    table = window.layers.table
    with qtbot.waitSignal(session.histogram_changed, timeout=PATIENCE):
        place = table.visualRect(window.layers.model.index(row, NAME)).center()
        table.scrollTo(window.layers.model.index(row, NAME))
        place = table.visualRect(window.layers.model.index(row, NAME)).center()
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert session.selected == "model.layers.2.mlp.up_proj"
    floats = session.float_histogram(session.selected)
    assert floats and sum(floats[0].float_counts) == 512 * 128 and not floats[0].quantized_counts

    # Edit: another preset, a rule for one layer from the context menu; both undoable; size follows.
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        window.recipe.preset.setCurrentText("W8A16")
        window.recipe.preset.activated.emit(window.recipe.preset.currentIndex())
    assert session.plan.predicted == engine.plan(language_model, "W8A16").predicted_bytes
    menu = window.layers.context_menu(["model.layers.2.mlp.up_proj"])
    schemes = menu.actions()[0].menu()
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        next(action for action in schemes.actions() if action.text() == "int4:g32").trigger()
    assert column(window, SCHEME)[row] == "int4:g32"
    assert sum(scheme.removeprefix("⚠ ") == "int8:channel" for scheme in column(window, SCHEME)) == 27
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        window.actions_["undo"].trigger()
    assert column(window, SCHEME)[row] == "int8:channel"
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        window.actions_["redo"].trigger()

    # Quantize on the worker; the table fills.
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        qtbot.mouseClick(window.quantize_button, Qt.MouseButton.LeftButton)
    run = session.shown_run
    assert run and run.state == "done" and run.totals and len(run.reports) == 28
    assert run.totals["bytes_after"] == session.plan.predicted == (run.artifact / "model.safetensors").stat().st_size
    assert column(window, SQNR)[row] == f"{run.reports['model.layers.2.mlp.up_proj'].sqnr_db:.1f}"
    report = session.report_of(session.selected)
    assert report and report.histogram.quantized_counts

    # See: a click on a bar selects its layer.
    bars = window.inspector.bars
    assert bars
    bars.draw()
    names = list(run.reports)
    x, y = bars.axes.transData.transform((5, 1.0)) / bars.devicePixelRatioF()
    qtbot.mouseClick(bars, Qt.MouseButton.LeftButton, pos=QPoint(round(x), round(bars.height() - y)))
    assert session.selected == names[5]
    assert window.layers.model.name_at(window.layers.table.currentIndex().row()) == names[5]

    # Export: the dialog says size and who loads it, and writes.
    dialog = window.export(run)
    with qtbot.waitSignal(session.notice, timeout=PATIENCE):
        dialog.destination.setText(str(tmp_path / "exported"))
        qtbot.waitUntil(dialog.export_button.isEnabled, timeout=PATIENCE)
        assert f"{sum(f.stat().st_size for f in run.artifact.iterdir()):,} bytes in all" in dialog.size_label.toolTip()
        qtbot.mouseClick(dialog.export_button, Qt.MouseButton.LeftButton)
    assert "Wrote" in dialog.message.text() and "Certified" in dialog.message.text(), dialog.message.text()
    for name in ("certificate.html", "certificate.json"):
        with qtbot.waitSignal(session.notice, timeout=PATIENCE):
            dialog.save_certificate(str(tmp_path / name))
    assert "is certified" in (tmp_path / "certificate.html").read_text()
    document = json.loads((tmp_path / "certificate.json").read_text())
    assert document["certified"] and len(document["layers"]) == 28
    dialog.close()
    exported, stored = engine.load_tensors(tmp_path / "exported"), engine.load_tensors(run.artifact)
    assert all((exported[name] == stored[name]).all() for name in stored)
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["quantization_config"]["format"] == "pack-quantized"
    assert errors == []


def test_filter_and_sort(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    window.layers.filter.setText("kind:linear mlp")
    assert len(column(window, NAME)) == 12
    window.layers.filter.setText("kind:linear >100k")
    assert column(window, NAME) == ["lm_head"]
    window.layers.filter.setText("no such layer")
    assert column(window, NAME) == []
    window.layers.filter.clear()
    window.layers.table.sortByColumn(SIZE, Qt.SortOrder.DescendingOrder)
    assert set(column(window, NAME)[:2]) == {"model.embed_tokens", "lm_head"}
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    window.layers.filter.setText("<19dB")
    shown = column(window, NAME)
    low = {r.name for r in window.session.shown_run.reports.values() if r.sqnr_db < 19}  # type: ignore[union-attr,operator]
    assert set(shown) == low and 0 < len(low) < 28


def test_problems_stand_in_the_table_before_a_run(qtbot: QtBot, window: MainWindow, digits: Path) -> None:
    open_model(qtbot, window, digits / "model.pt")
    edit(qtbot, window, engine.Recipe(engine.parse_scheme("mxfp4"), algorithm="hqq"))
    assert not window.quantize_button.isEnabled()
    assert "hqq fits integers" in window.recipe.problems.text()
    window.layers.filter.setText("problem")
    assert all(scheme.startswith("⚠") for scheme in column(window, SCHEME)) and len(column(window, SCHEME)) == 6
    edit(qtbot, window, engine.recipe("W8A16"))
    assert window.quantize_button.isEnabled() and window.recipe.problems.isHidden()


def test_measurements_of_another_scheme_are_marked_stale(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    edit(qtbot, window, engine.recipe("W8A16"))
    row = column(window, NAME).index("model.layers.0.mlp.up_proj")
    tip = window.layers.model.index(row, SQNR).data(Qt.ItemDataRole.ToolTipRole)
    assert tip == "Measured with int4:g128; the recipe has changed since."


def test_rules_are_added_moved_and_removed(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    pane = window.recipe.rules
    pane.model.put(Rule(engine.parse_scheme("keep"), match="*.0.*"), None)
    pane.model.put(Rule(engine.parse_scheme("int8:channel"), match="*.mlp.*"), None)
    assert [rule.match for rule in window.session.recipe.rules] == ["*.mlp.*", "*.0.*"]
    pane.select_row(0)
    pane.buttons["down"].click()
    assert [rule.match for rule in window.session.recipe.rules] == ["*.0.*", "*.mlp.*"]
    pane.select_row(0)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        pane.buttons["remove"].click()
    assert [rule.match for rule in window.session.recipe.rules] == ["*.mlp.*"]
    assert column(window, SCHEME).count("int8:channel") == 12


def test_runs_come_back_in_a_new_session(qtbot: QtBot, window: MainWindow, language_model: Path, settings) -> None:
    open_model(qtbot, window, language_model)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    window.session.close()
    from mono_quant_gui.session import Session

    later = Session(settings)
    with qtbot.waitSignal(later.plan_changed, timeout=PATIENCE):
        later.open(str(language_model))
    qtbot.waitUntil(lambda: len(later.runs) == 1, timeout=PATIENCE)
    (run,) = later.runs
    later.show_run(run)
    qtbot.waitUntil(lambda: run.read, timeout=PATIENCE)
    assert len(run.reports) == 28 and run.totals and run.totals["worst_layer"]
    later.delete_runs([run])
    assert later.runs == []
    qtbot.waitUntil(lambda: not run.folder.exists(), timeout=PATIENCE)
    later.close()


def test_a_lossless_run_says_exact(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    edit(qtbot, window, engine.recipe("BF16"))
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    assert set(column(window, SQNR)) == {"exact"}
    assert "exact" in window.inspector._empty_bars.text()


def test_deleting_the_shown_run_shows_the_next(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    for _ in range(2):
        with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
            window.session.quantize()
    second, first = window.session.runs
    window.session.delete_runs([second])
    assert window.session.shown_run is first and first.reports


@pytest.mark.parametrize("typed", ["64x", "abc", "0", "-5", "", "²", "99999999999999999999"])
def test_a_group_that_is_no_number_changes_nothing(typed: str, qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    edit(qtbot, window, engine.recipe("int4:g64"))
    group = window.recipe.scheme.group
    group.setEditText(typed)
    group.lineEdit().editingFinished.emit()
    assert engine.scheme_name(window.session.recipe.default) == "int4:g64"
    assert group.currentText() == "64"


def test_a_model_opened_by_a_relative_path_is_the_same_model(
    qtbot: QtBot, window: MainWindow, language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(language_model.parent)
    open_model(qtbot, window, Path(language_model.name))
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    open_model(qtbot, window, language_model)
    qtbot.waitUntil(lambda: [run.state for run in window.session.runs] == ["done"], timeout=PATIENCE)
    assert window.session.settings.recent() == [str(language_model)]
