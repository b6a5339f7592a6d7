"""The queue and the kept runs: seen, picked, named, searched, mended, deleted, gone on with, and shared with other windows."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from PySide6.QtCore import QItemSelectionModel, QModelIndex, Qt
from PySide6.QtWidgets import QMessageBox, QWidget
from pytestqt.qtbot import QtBot

import engine
from engine.records.run import RunRecord
from mono_quant_gui import text
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import SCHEME as LAYER_SCHEME
from mono_quant_gui.models.layer_columns import SQNR as LAYER_SQNR
from mono_quant_gui.models.runs import ACTION, NAME, RESULT, SQNR, STAR, TAGS, WHEN, RunsModel
from mono_quant_gui.run import Run
from mono_quant_gui.session import Session
from mono_quant_gui.settings import Settings
from tests.gui.conftest import PATIENCE, edit, open_model

UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj"


SelectionFlag = QItemSelectionModel.SelectionFlag


def quantized(qtbot: QtBot, window: MainWindow) -> Run:
    """A run of the current recipe that is done."""
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE) as ended:
        window.session.quantize()
    run = ended.args[0]  # type: ignore[index]
    assert run.state == "done", run.message
    return run


def rows(model: RunsModel, column: int = NAME, parent: QModelIndex | None = None) -> list[Any]:
    """A column from above, children in a list of their own behind their parent."""
    root = parent or QModelIndex()
    found: list[Any] = []
    for row in range(model.rowCount(root)):
        found.append(model.index(row, column, root).data())
        if model.rowCount(model.index(row, 0, root)):
            found.append(rows(model, column, model.index(row, 0, root)))
    return found


def click(qtbot: QtBot, window: MainWindow, run: Run, column: int = RESULT) -> None:
    view, index = window.runs.view, window.runs.model.index_of(run, column)
    view.scrollTo(index)
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=view.visualRect(index).center())


def column(window: MainWindow, number: int) -> list[str]:
    model = window.layers.model
    return [model.index(row, number).data() for row in range(model.rowCount())]


def killed_run(folder: Path, model: Path, recipe: str = 'scheme = "int4:g64"') -> None:
    """A run in the ledger whose process was killed."""
    code = (
        "import engine, sys; ledger = engine.Ledger(sys.argv[1]);"
        "ledger.begin(sys.argv[2], sys.argv[3], 'docstring_lm', name='lost'); print(1, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder), str(model), recipe]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        process.send_signal(signal.SIGKILL)


# -- the queue -----------------------------------------------------------------------------------------------------------


def test_runs_wait_go_in_order_and_are_taken_out(qtbot: QtBot, window: MainWindow, big_model: Path, errors: list[str]) -> None:
    session, model = window.session, window.runs.model
    open_model(qtbot, window, big_model)
    edit(qtbot, window, engine.recipe("int4:g128"))
    with qtbot.waitSignal(session.run_layers, timeout=PATIENCE):
        session.quantize()
    first = session.running
    assert first and not window.quantize_button.isEnabled() and "runs already" in window.quantize_button.toolTip()
    for scheme in ("int8:channel", "int4:g64", "int4:g32"):
        edit(qtbot, window, engine.recipe(scheme))
        assert window.quantize_button.isEnabled()
        qtbot.mouseClick(window.quantize_button, Qt.MouseButton.LeftButton)
    second, third, fourth = session.queue
    assert rows(model) == ["#1  int4:g128", "#2  int8:channel", "#3  int4:g64", "#4  int4:g32"]
    assert rows(model, RESULT)[1:] == ["waits: next", "waits: 1 before it", "waits: 2 before it"]
    assert rows(model, ACTION) == ["Cancel", "Remove", "Remove", "Remove"]

    session.move(fourth, -1)
    assert session.queue == [second, fourth, third] and rows(model)[2] == "#4  int4:g32"
    click(qtbot, window, second, ACTION)
    assert second.state == "cancelled" and second.message == "Taken out of the queue." and session.running is first
    # Layers that have ended are in the table while the run goes; it is all zeros, and nothing is lost of those.
    with qtbot.waitSignal(session.run_layers, timeout=PATIENCE):
        pass
    qtbot.waitUntil(lambda: column(window, LAYER_SQNR).count("exact") == len(first.reports) > 0, timeout=PATIENCE)
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        window.actions_["stop"].trigger()
    assert first.state == "cancelled" and session.running is fourth and session.queue == [third]
    assert rows(model, ACTION) == ["Cancel", "Remove", "Run again", "Run again"]
    session.cancel_run(third)
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.cancel()
    assert not session.busy and errors == []
    # What was measured before a run was stopped is kept with it.
    session.show_run(None)
    first.read, before = False, list(first.reports)
    first.reports = {}
    session.show_run(first)
    qtbot.waitUntil(lambda: first.read, timeout=PATIENCE)
    assert set(before) <= set(first.reports)


def test_a_run_pauses_and_goes_on_where_it_was(qtbot: QtBot, window: MainWindow, big_model: Path, errors: list[str]) -> None:
    session = window.session
    open_model(qtbot, window, big_model)
    edit(qtbot, window, engine.recipe("int4:g128"))
    with qtbot.waitSignal(session.run_layers, timeout=PATIENCE):
        session.quantize()
    run = session.running
    assert run
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.pause_run(run)
    assert (run.state, run.message, errors) == ("unfinished", "paused", [])
    assert rows(window.runs.model, RESULT) == ["did not finish: paused"] and rows(window.runs.model, ACTION) == ["Go on"]
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        click(qtbot, window, run, ACTION)
    assert run.state == "done" and run.totals and run.totals["resumed"] and len(run.reports) == 40
    assert run.artifact.stat().st_size == run.totals["bytes_after"] and len(session.runs) == 1


# -- picking -------------------------------------------------------------------------------------------------------------


def test_a_picked_run_shows_its_recipe_and_figures_and_one_click_leads_back(
    qtbot: QtBot, window: MainWindow, language_model: Path, settings: Settings, errors: list[str]
) -> None:
    session, bar = window.session, window.viewed
    open_model(qtbot, window, language_model)
    first = quantized(qtbot, window)
    four_bits = column(window, LAYER_SQNR)
    assert bar.isHidden()
    edit(qtbot, window, engine.recipe("W8A16"))
    second = quantized(qtbot, window)
    eight_bits = column(window, LAYER_SQNR)
    first.read, first.reports = False, {}  # as if the window had been opened again

    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        click(qtbot, window, first)
    qtbot.waitUntil(lambda: first.read, timeout=PATIENCE)
    assert bar.isVisible() and "Run #1 · W4A16 is shown" in bar.words.full_text()
    assert session.recipe == engine.recipe("W4A16") and window.recipe.preset.currentText() == "W4A16"
    assert window.recipe.note.full_text() == "of run #1"
    assert column(window, LAYER_SQNR) == four_bits and column(window, LAYER_SCHEME).count("int4:g128") == 28
    assert session.heavy._calls == {} and len(session.runs) == 2  # nothing was computed for it
    assert settings.text("recipe") == engine.recipe_to_text(engine.recipe("W8A16"))

    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        qtbot.mouseClick(bar.back_button, Qt.MouseButton.LeftButton)
    assert bar.isHidden() and session.shown_run is second and column(window, LAYER_SQNR) == eight_bits
    assert session.recipe == engine.recipe("W8A16") and window.recipe.preset.currentText() == "W8A16"

    click(qtbot, window, first)
    count = session.undo.count()
    bar.use_button.click()
    assert bar.isHidden() and session.own_recipe == engine.recipe("W4A16") and session.undo.count() == count + 1
    session.undo.undo()
    assert session.recipe == engine.recipe("W8A16")
    click(qtbot, window, first)
    session.edit_recipe(replace(session.recipe, builtin=False), "test")  # an edit of what is seen
    assert bar.isHidden() and session.own_recipe == replace(engine.recipe("W4A16"), builtin=False) and errors == []


def test_the_keyboard_picks_too_and_a_run_with_the_current_recipe_needs_no_bar(
    qtbot: QtBot, window: MainWindow, language_model: Path
) -> None:
    session, view = window.session, window.runs.view
    open_model(qtbot, window, language_model)
    first = quantized(qtbot, window)
    second = quantized(qtbot, window)
    view.setFocus()
    view.setCurrentIndex(window.runs.model.index_of(second))
    qtbot.keyClick(view, Qt.Key.Key_Down)
    assert session.shown_run is first and window.viewed.isHidden()


def test_a_run_of_another_model_opens_it(qtbot: QtBot, window: MainWindow, language_model: Path, digits: Path) -> None:
    session = window.session
    open_model(qtbot, window, language_model)
    run = quantized(qtbot, window)
    open_model(qtbot, window, digits / "model.safetensors")
    qtbot.waitUntil(lambda: session.kept.looked and session.runs == [], timeout=PATIENCE)
    assert window.runs.empty.isVisible()
    window.runs.whose.setCurrentIndex(1)
    window.runs.whose.activated.emit(1)
    qtbot.waitUntil(lambda: len(session.runs) == 1, timeout=PATIENCE)
    (found,) = session.runs
    assert rows(window.runs.model) == ["#1  W4A16 · docstring_lm"] and found.id == run.id
    click(qtbot, window, found)
    assert session.model and session.model.path.endswith("model.safetensors") and "click twice" in window.status.full_text()
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        window.runs.pick(found, sure=True)
    assert session.model.path == str(language_model)
    qtbot.waitUntil(lambda: session.shown_run is not None and session.shown_run.read, timeout=PATIENCE)
    assert session.shown_run is run and len(run.reports) == 28


# -- names, notes, stars, tags, search -------------------------------------------------------------------------------------


def test_runs_are_named_noted_starred_tagged_and_searched(
    qtbot: QtBot, window: MainWindow, language_model: Path, settings: Settings
) -> None:
    open_model(qtbot, window, language_model)
    first, second = quantized(qtbot, window), quantized(qtbot, window)
    model = window.runs.model
    assert model.setData(model.index_of(first), "  Smallest  ") and not model.setData(model.index_of(first), " ")
    dialog = window.ask_details(second)
    qtbot.waitUntil(lambda: dialog.disk.full_text() != "…", timeout=PATIENCE)
    assert dialog.disk.full_text() == text.size(sum(f.stat().st_size for f in second.folder.rglob("*") if f.is_file()))
    dialog.tags.setText("phone, best,, phone")
    dialog.note.setPlainText("Sounds right.\nKeep it.")
    dialog._save()
    click(qtbot, window, second, STAR)
    with engine.Ledger(settings.runs_folder()) as ledger:
        found = ledger.get(second.id)
        assert (found.name, found.tags, found.note, found.starred) == (
            "W4A16", ("phone", "best"), "Sounds right.\nKeep it.", True,
        )  # fmt: skip
        assert ledger.get(first.id).name == "Smallest"
    assert rows(model) == ["#2  W4A16", "#1  Smallest"] and rows(model, STAR) == ["★", "☆"]
    assert model.index_of(second).data(TAGS) == ["phone", "best"]
    for words, expected in (
        ("SMALL", ["#1  Smallest"]),
        ("right w4a16", ["#2  W4A16"]),
        ("done", rows(model)),
        ("#2", ["#2  W4A16"]),
    ):
        window.runs.search.setText(words)
        assert rows(model) == expected, words
    window.runs.search.setText("no such thing")
    assert rows(model) == [] and window.runs.empty.text() == "No run matches the search." and window.runs.empty.isVisible()
    assert window.runs.note.full_text() == "0 of 2"
    window.runs.search.clear()
    window.runs.starred.click()
    assert rows(model) == ["#2  W4A16"]
    click(qtbot, window, second, STAR)
    assert rows(model) == []


def test_deleting_says_what_it_frees_and_asks(
    qtbot: QtBot, window: MainWindow, language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_model(qtbot, window, language_model)
    first, second = quantized(qtbot, window), quantized(qtbot, window)
    asked: list[str] = []
    answers = [QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda _parent, _title, words, *_: asked.append(words) or answers.pop(0))
    view = window.runs.view
    size = sum(f.stat().st_size for run in (first, second) for f in run.folder.rglob("*") if f.is_file())
    window.activateWindow()
    view.setFocus()
    qtbot.waitUntil(view.hasFocus, timeout=PATIENCE)
    view.selectAll()
    qtbot.keyClick(view, Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: bool(asked), timeout=PATIENCE)
    assert asked == [f"Delete 2 runs and their files? {text.size(size)} on disk become free."] and first.folder.exists()
    view.clearSelection()
    view.setCurrentIndex(window.runs.model.index_of(second))
    qtbot.keyClick(view, Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: not second.folder.exists(), timeout=PATIENCE)
    assert "run #2 W4A16" in asked[1] and first.folder.exists() and window.session.shown_run is first


# -- mending ---------------------------------------------------------------------------------------------------------------


def test_a_mended_run_stands_under_the_one_before_and_only_its_layers_ran(
    qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path
) -> None:
    session = window.session
    open_model(qtbot, window, language_model)
    parent = quantized(qtbot, window)
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.mending.rerun([UP, DOWN], "int8:channel")
    child = session.shown_run
    assert child and child.record.parent == parent.id and child.totals
    assert rows(window.runs.model) == ["#1  W4A16", ["#2  W4A16: int8:channel for 2 layers"]]
    assert "26 layers taken from the run before" in rows(window.runs.model, RESULT)[1][0]
    assert set(child.reports) - set(child.totals["reused"]) == {UP, DOWN} and len(child.totals["reused"]) == 26
    # The same bytes as when all layers are quantized anew.
    engine.quantize_to(str(language_model), str(tmp_path / "anew"), engine.recipe_from_text(child.recipe), record=False)
    assert (child.artifact / "model.safetensors").read_bytes() == (tmp_path / "anew" / "model.safetensors").read_bytes()
    edit(qtbot, window, engine.recipe("W8A16"))
    other = quantized(qtbot, window)
    assert other.record.parent == ""
    # A child stays in sight when its parent goes.
    session.delete_runs([parent])
    qtbot.waitUntil(lambda: child.record.parent == "", timeout=PATIENCE)
    assert rows(window.runs.model) == ["#3  W8A16", "#2  W4A16: int8:channel for 2 layers"]


# -- after a crash, beside another window, after damage ----------------------------------------------------------------------


def test_runs_that_did_not_finish_are_told_and_go_on(
    qtbot: QtBot, settings: Settings, language_model: Path, qapp: Any, request: pytest.FixtureRequest
) -> None:
    killed_run(settings.runs_folder(), language_model)
    window: MainWindow = request.getfixturevalue("window")
    strip, session = window.runs.strip, window.session
    qtbot.waitUntil(strip.isVisible, timeout=PATIENCE)
    assert strip.words == "1 run did not finish, because the window or the machine stopped: #1 lost"
    open_model(qtbot, window, language_model)
    qtbot.waitUntil(lambda: len(session.runs) == 1, timeout=PATIENCE)
    assert rows(window.runs.model, RESULT) == ["did not finish"]
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        qtbot.mouseClick(strip.button, Qt.MouseButton.LeftButton)
    (run,) = session.runs
    assert strip.isHidden() and run.state == "done" and len(run.reports) == 28 and run.artifact.exists()
    assert {report.scheme for report in run.reports.values()} == {"int4:g64"}


def test_what_a_window_that_was_killed_had_done_is_not_done_again(
    qtbot: QtBot, settings: Settings, big_model: Path, request: pytest.FixtureRequest
) -> None:
    settings.sync()
    code = """if 1:
        import sys
        from pathlib import Path
        from PySide6.QtWidgets import QApplication
        import engine
        from mono_quant_gui.session import Session
        from mono_quant_gui.settings import Settings
        app = QApplication([])
        session = Session(Settings(Path(sys.argv[1])))
        session.edit_recipe(engine.recipe("int4:g128"), "test")
        session.plan_changed.connect(lambda: session.quantize())
        session.run_layers.connect(lambda run: len(run.reports) > 3 and print(session.heavy.pid, flush=True))
        session.open(sys.argv[2])
        app.exec()
        """
    command = [sys.executable, "-c", code, settings._store.fileName(), str(big_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        host = psutil.Process(int(process.stdout.readline()))
        process.kill()
    host.wait(PATIENCE / 1000)  # it ends by itself, and leaves the work as it is
    window: MainWindow = request.getfixturevalue("window")
    qtbot.waitUntil(window.runs.strip.isVisible, timeout=PATIENCE)
    with qtbot.waitSignal(window.session.run_finished, timeout=2 * PATIENCE):
        window.runs.strip.button.click()
    run = next(run for run in window.session.runs if run.state == "done")
    assert run.totals and len(run.totals["resumed"]) > 2 and len(run.totals["kept"]) == 0
    assert run.artifact.stat().st_size == run.totals["bytes_after"]


def test_two_windows_see_each_others_runs(
    qtbot: QtBot, window: MainWindow, language_model: Path, settings: Settings, errors: list[str]
) -> None:
    other = Session(settings)
    try:
        with qtbot.waitSignal(other.plan_changed, timeout=PATIENCE):
            other.open(str(language_model))
        open_model(qtbot, window, language_model)
        waiting = other.kept.begin(str(language_model), 'scheme = "int4:g64"', "x", name="theirs")
        qtbot.waitUntil(lambda: [run.id for run in window.session.runs] == [waiting.id], timeout=PATIENCE)
        assert rows(window.runs.model, RESULT) == ["waits in another window"] and rows(window.runs.model, ACTION) == [""]
        other.kept.star(waiting, True)
        qtbot.waitUntil(lambda: rows(window.runs.model, STAR) == ["★"], timeout=PATIENCE)
        run = quantized(qtbot, window)
        qtbot.waitUntil(lambda: {found.id: found.state for found in other.runs}.get(run.id) == "done", timeout=PATIENCE)
        assert run.number == 2 and errors == []
    finally:
        other.close()


def test_a_damaged_list_is_set_aside_and_told(
    qtbot: QtBot, settings: Settings, language_model: Path, request: pytest.FixtureRequest
) -> None:
    with engine.Ledger(settings.runs_folder()) as ledger:
        ledger.finish(ledger.begin(str(language_model), 'scheme = "int4:g64"', "x", name="saved").id, "cancelled")
    for name in ("runs.sqlite-wal", "runs.sqlite-shm"):
        (settings.runs_folder() / name).unlink(missing_ok=True)
    (settings.runs_folder() / "runs.sqlite").write_bytes(b"not a database" * 500)
    window: MainWindow = request.getfixturevalue("window")
    qtbot.waitUntil(window.runs.strip.isVisible, timeout=PATIENCE)
    (aside,) = settings.runs_folder().glob("runs.sqlite.damaged-*")
    assert aside.name in window.runs.strip.words and "made again" in window.runs.strip.words
    qtbot.waitUntil(lambda: rows(window.runs.model) == ["#1  saved · docstring_lm"], timeout=PATIENCE)
    qtbot.mouseClick(window.runs.strip.close_button, Qt.MouseButton.LeftButton)
    assert window.runs.strip.isHidden()


def test_a_folder_that_is_gone_is_one_sentence(qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]) -> None:
    open_model(qtbot, window, language_model)
    qtbot.waitUntil(lambda: window.session.kept.looked, timeout=PATIENCE)
    shutil.rmtree(window.session.settings.runs_folder())
    window.session.quantize()
    assert len(errors) == 1 and "Cannot create a folder for the run" in errors[0] and not window.session.busy


# -- the model ---------------------------------------------------------------------------------------------------------------


def made(number: int, **more: Any) -> Run:
    totals = {"sqnr_db": 20.0 + number % 7, "bytes_after": number, "seconds": 1.0, "worst_layer": None} if number % 3 else None
    values: dict[str, Any] = {
        "name": f"run {number}",
        "state": "done" if totals else "failed",
        "totals": totals,
        "created": number,
    }
    return Run(RunRecord(f"id{number}", number, "/m", "", f"/runs/{number}", f"/runs/{number}/a", **values | more))


def test_qts_model_tester_is_content(qtbot: QtBot, window: MainWindow, qtmodeltester: Any) -> None:
    kept, model = window.session.kept, window.runs.model
    qtbot.waitUntil(lambda: kept.looked, timeout=PATIENCE)
    parents = {2: "id1", 3: "id2", 4: "id1", 8: "id9", 9: "id8", 11: "gone"}
    kept.runs = [made(number, parent=parents.get(number, "")) for number in range(12, 0, -1)]
    kept.changed.emit()
    qtmodeltester.check(model, force_py=True)  # and from now on with every change
    assert rows(model)[-2:] == ["#1  run 1 · m", ["#4  run 4 · m", "#2  run 2 · m", ["#3  run 3 · m"]]]
    assert "#8  run 8 · m" in rows(model) and "#9  run 9 · m" in rows(model)  # each claims to come from the other
    for sorted_by in (SQNR, NAME, -1):
        window.runs.view.sortByColumn(sorted_by, Qt.SortOrder.DescendingOrder)
    window.runs.search.setText("done")
    window.runs.search.setText("")
    kept.runs = [made(number, parent="id30" if number < 30 else "") for number in range(40, 0, -1)]
    kept.changed.emit()
    kept.runs = []
    kept.changed.emit()


def test_runs_sort_and_what_has_no_figure_comes_last(qtbot: QtBot, window: MainWindow) -> None:
    kept, model = window.session.kept, window.runs.model
    qtbot.waitUntil(lambda: kept.looked, timeout=PATIENCE)
    kept.runs = [made(number) for number in range(1, 7)]
    kept.changed.emit()
    for order in (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder):
        window.runs.view.sortByColumn(SQNR, order)
        values = [float(words.split()[0]) for words in rows(model, SQNR) if words]
        assert len(values) == 4 and values == sorted(values, reverse=order == Qt.SortOrder.DescendingOrder)
        assert rows(model, SQNR)[4:] == ["", ""]


def test_the_selection_stays_with_its_run_and_thousands_cost_no_widgets(qtbot: QtBot, window: MainWindow) -> None:
    kept, view, model = window.session.kept, window.runs.view, window.runs.model
    qtbot.waitUntil(lambda: kept.looked, timeout=PATIENCE)
    few = [made(number) for number in range(5)]
    kept.runs = few
    kept.changed.emit()
    before = len(window.runs.findChildren(QWidget))
    view.setCurrentIndex(model.index_of(few[3]))
    kept.runs = [made(number, parent="id3" if number % 2 else "") for number in range(5000, 5, -1)] + few
    kept.changed.emit()
    assert window.runs.selected() == [few[3]] and len(window.runs.findChildren(QWidget)) == before
    assert view.isExpanded(model.index_of(few[3])) and model.rowCount(model.index_of(few[3])) == 2497


def test_hundreds_of_selected_runs_stay_selected_in_another_order(qtbot: QtBot, window: MainWindow) -> None:
    kept, view, model = window.session.kept, window.runs.view, window.runs.model
    qtbot.waitUntil(lambda: kept.looked, timeout=PATIENCE)
    kept.runs = [made(number, parent=f"id{number - 1}" if number % 2 == 0 else "") for number in range(600, 0, -1)]
    kept.changed.emit()
    view.selectAll()
    selection = view.selectionModel()
    selection.select(model.index_of(kept.runs[7]), SelectionFlag.Deselect | SelectionFlag.Rows)
    selection.setCurrentIndex(model.index_of(kept.runs[9]), SelectionFlag.NoUpdate)
    expected = {run.id for run in kept.runs} - {kept.runs[7].id}
    for column in (SQNR, NAME):
        view.sortByColumn(column, Qt.SortOrder.AscendingOrder)
        assert {run.id for run in window.runs.selected()} == expected
        assert model.run(view.currentIndex()) is kept.runs[9]


@pytest.mark.parametrize(
    ("then", "expected"), [((2026, 11, 3, 9, 5), "09:05"), ((2026, 3, 2, 9, 5), "2 Mar"), ((2025, 11, 3, 9, 5), "3 Nov 2025")]
)
def test_moments_in_words(then: tuple[int, ...], expected: str) -> None:
    from datetime import datetime

    now = datetime(2026, 11, 3, 14, 0)
    assert text.when(datetime(*then).timestamp(), now.timestamp()) == expected  # type: ignore[arg-type]
    assert WHEN < ACTION
