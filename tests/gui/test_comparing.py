"""The compare window with the real engine: two runs, a float model beside one, a file, saving, what cannot be compared."""

import csv
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox
from pytestqt.qtbot import QtBot

import engine
from engine.records.comparison import ComparedLayer, Comparison, LayerFigures, Side
from mono_quant_gui.dialogs.comparison import ComparisonWindow
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.comparison import ComparisonModel, WordsModel
from mono_quant_gui.run import Run
from tests.gui.conftest import PATIENCE, edit, open_model


def quantized(qtbot: QtBot, window: MainWindow, recipe: str) -> Run:
    if window.session.recipe != engine.recipe(recipe):
        edit(qtbot, window, engine.recipe(recipe))
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE) as ended:
        window.session.quantize()
    return ended.args[0]


def found(qtbot: QtBot, compare: ComparisonWindow) -> Comparison:
    qtbot.waitUntil(lambda: compare.comparing.found is not None, timeout=PATIENCE)
    assert compare.comparing.found
    return compare.comparing.found


@pytest.fixture
def runs(qtbot: QtBot, window: MainWindow, digits: Path) -> tuple[Run, Run]:
    open_model(qtbot, window, digits)
    return quantized(qtbot, window, "W4A16"), quantized(qtbot, window, "W8A16")


def test_two_runs_side_by_side(qtbot: QtBot, window: MainWindow, runs: tuple[Run, Run]) -> None:
    compare = window.compare([])
    assert compare is not None
    shown = found(qtbot, compare)
    assert [side.run for side in shown.sides] == [runs[0].id, runs[1].id]
    four, eight = runs[0].reports, runs[1].reports
    for row in range(compare.layers.rowCount()):
        name = compare.layers.name_at(row)
        if name in four and name in eight:
            change = eight[name].sqnr_db - four[name].sqnr_db
            assert compare.layers.index(row, compare.layers.first_change).data() == f"{change:+.2f}".replace("-", "−")
    with qtbot.waitSignal(compare.comparing.histograms_changed, timeout=PATIENCE):
        compare.layers_view.selectRow(compare.layers.rowCount() - 1)
    name = compare.layers.name_at(compare.layers.rowCount() - 1)
    assert name is not None and compare.comparing.histograms == [four[name].histogram, eight[name].histogram]
    assert window.session.selected == name
    assert '+name = "W8A16"' in compare.recipes.toPlainText()
    compare.close()


def test_a_run_beside_its_float_model_and_another_side(qtbot: QtBot, window: MainWindow, runs: tuple[Run, Run]) -> None:
    compare = ComparisonWindow(window.session, [window.session.model.path, runs[0].id], window)  # type: ignore[union-attr]
    compare.show()
    assert [side.kind for side in found(qtbot, compare).sides] == ["model", "run"]
    compare.sides.more.click()
    assert len(found(qtbot, compare).sides) == 3
    compare.sides.less.click()
    assert len(found(qtbot, compare).sides) == 2
    box: QComboBox = compare.sides.boxes[0]
    box.setCurrentIndex(box.findData(runs[1].id))
    box.activated.emit(box.currentIndex())
    assert [side.run for side in found(qtbot, compare).sides] == [runs[1].id, runs[0].id]
    compare.close()


def test_it_is_saved_as_values_and_as_a_page(qtbot: QtBot, window: MainWindow, runs: tuple[Run, Run], tmp_path: Path) -> None:
    compare = window.compare(list(runs))
    assert compare is not None
    shown = found(qtbot, compare)
    for name in ("found.csv", "found.html"):
        with qtbot.waitSignal(window.session.notice, timeout=PATIENCE):
            compare.comparing.save(str(tmp_path / name))
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [layer.name for layer in shown.layers]
    assert "W8A16" in (tmp_path / "found.html").read_text()
    compare.close()


def test_a_wrong_file_is_said_in_the_window(qtbot: QtBot, window: MainWindow, runs: tuple[Run, Run], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"no header")
    compare = ComparisonWindow(window.session, [runs[0].id, str(wrong)], window)
    with qtbot.waitSignal(compare.comparing.failed, timeout=PATIENCE):
        pass
    assert "wrong.safetensors" in compare.status.full_text() and not compare.save_button.isEnabled()
    compare.close()


def test_one_run_is_compared_with_its_model_and_none_with_nothing(qtbot: QtBot, window: MainWindow, digits: Path) -> None:
    assert not window.actions_["compare"].isEnabled()
    open_model(qtbot, window, digits)
    assert window.compare([]) is None
    run = quantized(qtbot, window, "W4A16")
    assert window.comparable([]) == [window.session.model.path, run.id]  # type: ignore[union-attr]
    assert window.actions_["compare"].isEnabled()


def test_models_of_the_window_are_models(qtmodeltester, qapp) -> None:
    sides = (Side("a", "run", ""), Side("b", "run", ""))
    figures = [(20.0, 45.0), (45.0, 20.0), (None, 30.0)]
    layers = [
        ComparedLayer(name, 4, tuple(LayerFigures("int4", "rtn", 2, db, db is not None) for db in pair))
        for name, pair in zip("abc", figures, strict=True)
    ]
    model = ComparisonModel(qapp)
    qtmodeltester.check(model)
    model.show(Comparison(sides, tuple(layers), (), ("", "")))
    qtmodeltester.check(model)
    column = model.first_change
    for order, names in ((Qt.SortOrder.AscendingOrder, "bac"), (Qt.SortOrder.DescendingOrder, "abc")):
        model.sort(column, order)
        assert "".join(str(model.name_at(row)) for row in range(3)) == names  # what is not known stays last
    words = WordsModel(qapp)
    words.show(["", "A"], [["bytes", "1"]])
    qtmodeltester.check(words)
