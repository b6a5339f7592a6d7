"""The search pane with the real engine: measured, moved, used, and compared with what a run measures."""

from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

import engine
from engine.records.calibration import DataSpec
from engine.records.search import SearchSpace
from engine.searching.calls import Run
from mono_quant_gui.front import Front
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.sensitivity import CHOSEN, CHOSEN_ROLE, FIRST, NAME
from tests.gui.conftest import PATIENCE, open_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that other tests, or the user, measured; the engine's processes inherit it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def shown(qtbot: QtBot, window: MainWindow, path: Path) -> None:
    window.actions_["search"].trigger()
    open_model(qtbot, window, path)
    searching = window.session.searching
    qtbot.waitUntil(lambda: searching.cost is not None or bool(searching.problem), timeout=PATIENCE)


def measured(qtbot: QtBot, window: MainWindow, path: Path) -> None:
    shown(qtbot, window, path)
    searching = window.session.searching
    with qtbot.waitSignal(searching.front_changed, timeout=PATIENCE):
        window.search.measure_button.click()
    settled(qtbot, window)


def settled(qtbot: QtBot, window: MainWindow) -> None:
    qtbot.waitUntil(lambda: window.session.searching.exact is not None, timeout=PATIENCE)


def test_from_nothing_to_a_run_that_does_what_was_predicted(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    shown(qtbot, window, language_model)
    searching, pane, session = window.session.searching, window.search, window.session
    assert searching.cost and searching.cost.cells == 224 and "224 errors to measure" in pane.status.full_text()
    measured(qtbot, window, language_model)
    assert pane.model.rowCount() == 28 and pane.model.columnCount() == FIRST + 8
    pane.bits.setValue(4.5)
    settled(qtbot, window)
    exact = searching.exact
    assert exact and exact.exact and exact.bits <= 4.5
    # The same answer as without a window.
    assert exact.schemes == engine.search(language_model, "4.5bpw").schemes
    before, count = session.recipe, session.undo.count()
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        pane.use_button.click()
    assert session.undo.count() == count + 1 and session.plan.predicted == exact.predicted_bytes
    assert session.model
    planned = dict(zip(session.model.index, session.plan.schemes, strict=True))
    assert {name: planned[name] for name, _ in exact.schemes} == dict(exact.schemes)
    with qtbot.waitSignals([session.run_finished, searching.outcomes_changed], timeout=PATIENCE):
        session.quantize()
    (outcome,) = searching.outcomes.values()
    assert outcome.measured == pytest.approx(exact.error, rel=1e-5) and outcome.nbytes == exact.nbytes
    assert "gap +0.00 dB" in pane.afterwards.full_text() or "gap -0.00 dB" in pane.afterwards.full_text()
    assert pane.plot and [row[0] for row in pane.plot.table()[1] if "run 1" in str(row[0])]
    session.undo.undo()
    assert session.recipe == before and errors == []


def test_the_slider_gives_every_layer_a_scheme_while_it_moves(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    measured(qtbot, window, language_model)
    searching, pane = window.session.searching, window.search
    front, seen = searching.front, []
    assert front
    for value in (0, len(front) // 3, len(front) - 1):
        pane.slider.setValue(value)
        chosen = searching.schemes()
        seen.append(chosen)
        rows = range(pane.model.rowCount())
        assert {pane.model.name_at(r): pane.model.index(r, CHOSEN).data() for r in rows} == chosen
        framed = sum(bool(pane.model.index(r, FIRST + c).data(CHOSEN_ROLE)) for r in rows for c in range(8))
        assert framed == sum(scheme != "keep" for scheme in chosen.values())
        layers = {layer.name: layer.parameters for layer in engine.open_model(language_model).layers}
        sizes = {cell.scheme: cell.nbytes for name in chosen for cell in searching.rows[name].cells}
        assert sizes and sum(searching.rows[n].cell(s).nbytes for n, s in chosen.items()) == front.nbytes[value]  # type: ignore[union-attr]
        assert front.parameters == sum(layers[name] for name in chosen)
    assert set(seen[0].values()) == {"int2:g32"} and set(seen[-1].values()) == {"keep"} and len(set(seen[1].values())) > 1


def test_columns_sort_on_their_numbers(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    measured(qtbot, window, language_model)
    model = window.search.model
    window.search.table.sortByColumn(FIRST + 3, Qt.SortOrder.AscendingOrder)
    found = [float(model.index(r, FIRST + 3).data()) for r in range(model.rowCount())]
    assert found == sorted(found) and len(set(found)) > 3
    window.search.table.sortByColumn(NAME, Qt.SortOrder.DescendingOrder)
    names = [model.name_at(r) for r in range(model.rowCount())]
    assert names == sorted(names, key=str, reverse=True)
    window.search.table.selectRow(5)
    assert window.session.selected == names[5]
    with qtbot.waitSignal(window.session.selection_changed, timeout=PATIENCE):
        window.session.select(names[20])
    assert window.search.table.currentIndex().row() == 20


def test_a_stopped_pass_keeps_its_rows_and_goes_on(qtbot: QtBot, window: MainWindow, big_model: Path, errors: list[str]) -> None:
    shown(qtbot, window, big_model)
    searching = window.session.searching
    with qtbot.waitSignal(searching.rows_changed, timeout=PATIENCE):
        window.search.measure_button.click()
    assert window.session.busy and window.stop_button.isEnabled()
    with qtbot.waitSignal(searching.front_changed, timeout=PATIENCE):
        window.stop_button.click()
    known = {row.layer for row in searching.rows.values() if row.signal is not None}
    assert searching.state == "cancelled" and 0 < len(known) < 40 and errors == []
    assert {scheme for name, scheme in searching.schemes().items() if name not in known} <= {"keep"}
    qtbot.waitUntil(lambda: searching.cost is not None and searching.cost.cached > 0, timeout=PATIENCE)
    # Another look at the same file starts where this one ended.
    open_model(qtbot, window, big_model)
    qtbot.waitUntil(lambda: searching.front is not None, timeout=PATIENCE)
    assert {row.layer for row in searching.rows.values() if row.signal is not None} == known


def test_choices_change_what_is_searched(qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]) -> None:
    measured(qtbot, window, language_model)
    searching, pane = window.session.searching, window.search
    pane.choices.fill()
    loads = [action.menu() for action in pane.choices.actions() if action.menu()][-1]
    next(action for action in loads.actions() if action.text() == "vLLM").trigger()  # type: ignore[union-attr]
    qtbot.waitUntil(lambda: searching.front is not None and bool(searching.dropped), timeout=PATIENCE)
    assert pane.model.schemes == ["int4:g128", "int4:g32", "int8:channel"] and "4 and 8 bits" in pane.status.full_text()
    searching.choose(SearchSpace(("int3:g128",), loads="vLLM"))
    qtbot.waitUntil(lambda: bool(searching.problem), timeout=PATIENCE)
    assert "nothing to choose from" in pane._empty.text() and not pane.measure_button.isEnabled() and errors == []


def test_the_front_on_arrays_is_what_its_steps_say() -> None:
    """500 layers and 8 schemes, against a walk step by step."""
    rng = np.random.default_rng(3)
    names = [f"s{n}" for n in range(8)]
    steps, level = [], np.zeros(500, int)
    for _ in range(3000):
        group = int(rng.choice(np.flatnonzero(level < 7)))
        level[group] += 1
        steps.append([group, names[level[group]], 1000 + 10 * (len(steps) + 1), 100.0 - 0.03 * (len(steps) + 1)])
    groups = [[f"layer.{n}"] for n in range(500)]
    start = {"parameters": 8000, "other_bytes": 0, "groups": groups, "start": ["s0"] * 500, "nbytes": 1000, "error": 100.0}
    front = Front(start | {"uniform": []}, steps)
    walked = dict.fromkeys((f"layer.{n}" for n in range(500)), "s0")
    for point in range(1, 3001):
        group, scheme, *_ = steps[point - 1]
        walked[f"layer.{group}"] = scheme
        if point % 500 == 0:
            assert front.schemes_at(point) == walked
    assert front.within_bits(front.bits_at(77)) == 77


def test_with_data_the_expected_loss_is_minimised(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    shown(qtbot, window, language_model)
    searching, pane, session = window.session.searching, window.search, window.session
    searching.minimise("fisher")
    assert "calibration data" in pane.status.full_text() and not pane.measure_button.isEnabled()
    session.calibrating.choose(DataSpec(str(language_model / "calibration.txt"), samples=2, batch=2, length=32))
    qtbot.waitUntil(lambda: searching.cost is not None, timeout=PATIENCE)
    assert "448 errors to measure, 3 passes" in pane.status.full_text()
    pane.measure_button.click()
    qtbot.waitUntil(lambda: searching.front is not None or bool(errors), timeout=3 * PATIENCE)
    settled(qtbot, window)
    assert errors == [] and searching.exact and searching.exact.by == "fisher"
    assert all(cell.fisher is not None for row in searching.rows.values() for cell in row.cells)
    total = sum(searching.rows[name].cell(scheme).fisher for name, scheme in searching.exact.schemes)  # type: ignore
    assert searching.exact.error == pytest.approx(total, rel=1e-6)


def test_a_stopped_pass_over_the_data_can_be_used_and_goes_on(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    shown(qtbot, window, language_model)
    searching, pane, session = window.session.searching, window.search, window.session
    assert searching.by == "weight"
    session.calibrating.choose(DataSpec(str(language_model / "calibration.txt"), samples=1, batch=1, length=16))
    assert searching.by == "fisher"  # what data allow is measured unless something else is asked for
    searching.choose(SearchSpace(("int3:g128", "int4:g128")))
    searching.minimise("divergence")
    qtbot.waitUntil(lambda: searching.cost is not None, timeout=PATIENCE)
    assert searching.cost and searching.cost.forwards == 57  # the float model, and 28 layers under 2 schemes
    assert "112 errors to measure, 57 passes, about" in pane.status.full_text()

    def whole_model() -> bool:
        return bool(searching.progress and searching.progress["stage"] == "whole model" and searching.progress["done"] > 8)

    pane.measure_button.click()
    qtbot.waitUntil(whole_model, timeout=PATIENCE)
    with qtbot.waitSignal(searching.front_changed, timeout=PATIENCE):
        pane.cancel_button.click()
    known = sum(cell.divergence is not None for row in searching.rows.values() for cell in row.cells if cell.scheme != "keep")
    assert searching.state == "cancelled" and 0 < known < 56 and errors == []
    settled(qtbot, window)
    assert searching.exact and set(searching.schemes().values()) > {"keep"}  # layers not measured stay float
    qtbot.waitUntil(pane.measure_button.isEnabled, timeout=PATIENCE)
    pane.measure_button.click()
    qtbot.waitUntil(lambda: searching.state == "done", timeout=PATIENCE)
    assert all(cell.divergence is not None for row in searching.rows.values() for cell in row.cells) and errors == []
    assert pane.model.headerData(FIRST, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole).startswith("dB below one nat")


def test_one_layer_left_float_is_a_column_of_what_it_is_worth(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    shown(qtbot, window, language_model)
    searching, pane, session = window.session.searching, window.search, window.session
    data = DataSpec(str(language_model / "calibration.txt"), samples=1, batch=1, length=16)
    searching.choose(SearchSpace(("int3:g128", "int4:g128")))
    pane.choices.fill()
    left = next(action.menu() for action in pane.choices.actions() if action.text() == "Also leave one layer float")
    next(action for action in left.actions() if action.text() == "all others int3:g128").trigger()  # type: ignore[union-attr]
    assert searching.base == "int3:g128" and "calibration data" in pane.status.full_text()
    assert "one left float beside int3:g128" in pane.choices.words()
    session.calibrating.choose(data)
    searching.minimise("weight")
    qtbot.waitUntil(lambda: searching.cost is not None, timeout=PATIENCE)
    assert "29 passes" in pane.status.full_text()  # all layers quantized, and 28 times one of them left float
    pane.measure_button.click()
    qtbot.waitUntil(lambda: searching.state == "done" or bool(errors), timeout=3 * PATIENCE)
    assert errors == [] and pane.model.columnCount() == FIRST + 3
    last = FIRST + 2
    assert pane.model.headerData(last, Qt.Orientation.Horizontal) == "left\nfloat"
    told = engine.sensitivity(language_model, searching.space, run=Run(data, (), "int3:g128"))
    expected = {row.layer: f"{row.relief:.3f}" for row in told.rows}
    rows = range(pane.model.rowCount())
    assert {pane.model.name_at(row): pane.model.index(row, last).data() for row in rows} == expected
    pane.table.sortByColumn(last, Qt.SortOrder.DescendingOrder)
    found = [float(pane.model.index(row, last).data()) for row in rows]
    assert found == sorted(found, reverse=True) and not any(pane.model.index(row, last).data(CHOSEN_ROLE) for row in rows)


def test_layers_are_relaxed_until_the_model_is_measured_within_a_tolerance(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    shown(qtbot, window, language_model)
    searching, pane, session = window.session.searching, window.search, window.session
    searching.choose(SearchSpace(("int3:g128", "int4:g128", "int8:channel")))
    measured(qtbot, window, language_model)
    assert not pane.trials.isVisible()  # there are no data to run the model on
    data = DataSpec(str(language_model / "calibration.txt"), samples=2, batch=2, length=32)
    session.calibrating.choose(data)
    searching.minimise("weight")
    qtbot.waitUntil(lambda: searching.front is not None, timeout=PATIENCE)
    assert pane.trials.isVisible() and not pane.trials.list.isVisible()
    pane.trials.tolerance.setValue(3.0)
    pane.trials.find_button.click()
    assert searching.running and session.busy
    qtbot.waitUntil(lambda: not searching.running or bool(errors), timeout=3 * PATIENCE)
    found, attempts = engine.search_within(language_model, 0.03, data, space=searching.space, by="weight")
    assert errors == [] and searching.exact and searching.exact.schemes == found.schemes
    assert [(trial.bits, trial.within, count) for trial, count in searching.trials] == [
        (trial.bits, trial.within, len(trial.relaxed)) for trial in attempts
    ]
    shown_rows = [pane.trials.list.topLevelItem(n) for n in range(len(attempts))]
    assert [row.text(1) for row in shown_rows if row] == [f"{trial.bits:.2f}" for trial in attempts]
    assert [("✓" in row.text(2)) for row in shown_rows if row] == [trial.within for trial in attempts]
    assert pane.use_button.isEnabled() and f"{found.bits:.2f} bits" in pane.budget.full_text()
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        pane.use_button.click()
    assert session.plan.predicted == found.predicted_bytes


def test_qts_model_tester_is_content_with_the_heat_map(
    qtbot: QtBot, window: MainWindow, language_model: Path, qtmodeltester: ModelTester
) -> None:
    model = window.search.model
    qtmodeltester.check(model, force_py=True)  # and from now on with every change
    measured(qtbot, window, language_model)
    model.sort(FIRST, Qt.SortOrder.DescendingOrder)
    qtmodeltester.check(model, force_py=True)
    assert model.rowCount() == 28
