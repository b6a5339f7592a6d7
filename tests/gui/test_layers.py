"""The layers pane: tree and table, columns, figures and findings against torch, selections shared with plots, the menu."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot
from safetensors.torch import load_file, save_file

import engine
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import (
    ALGORITHM,
    BITS,
    CAUSE,
    DTYPE,
    FIGURES,
    KIND,
    KURTOSIS,
    NAME,
    PARAMETERS,
    SCHEME,
    SIZE,
    SQNR,
    columns,
)
from mono_quant_gui.models.layer_data import split_names
from mono_quant_gui.panes.layer_marks import MOST_RUNS
from mono_quant_gui.panes.layers import LayersPane
from mono_quant_gui.session import Session
from mono_quant_gui.turns import Turns
from tests.gui.conftest import PATIENCE, edit, open_model


def column(window: MainWindow, place: int) -> list[str]:
    model = window.layers.model
    return [model.index(row, place).data() for row in range(model.rowCount())]


def labels(window: MainWindow, parent: QModelIndex) -> list[str]:
    model = window.layers.tree_model
    return [model.index(row, NAME, parent).data() for row in range(model.rowCount(parent))]


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """Layers that are Gaussian, heavy-tailed, and with an outlier channel."""
    generator = torch.Generator().manual_seed(5)
    fine = torch.randn(128, 512, generator=generator)
    spiky = torch.randn(128, 512, generator=generator)
    spiky[7] *= 60
    heavy = torch.randn(128, 512, generator=generator)
    heavy *= torch.randn(128, 512, generator=generator).abs()
    path = tmp_path / "uneven.safetensors"
    save_file({"fine.weight": fine, "spiky.weight": spiky, "heavy.weight": heavy}, path)
    return path


def test_the_tree_follows_module_paths(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    layers, model = window.layers, window.layers.tree_model
    layers.set_tree(True)
    assert layers.tree.isVisible() and not layers.table.isVisible()
    assert labels(window, QModelIndex()) == ["model", "lm_head"]
    assert labels(window, model.find("model")) == ["embed_tokens", "layers", "norm"]
    assert labels(window, model.find("model.layers")) == ["0", "1", "2", "3"]
    assert set(labels(window, model.find("model.layers.1.mlp"))) == {"gate_proj", "up_proj", "down_proj"}
    block = model.find("model.layers.1")
    rows = [row for row in window.session.model.layers if row.name.startswith("model.layers.1.")]  # type: ignore[union-attr]
    assert block.siblingAtColumn(KIND).data() == f"{len(rows)} layers"
    planned = sum(window.session.plan.nbytes[window.session.model.index[row.name]] for row in rows)  # type: ignore[union-attr]
    assert block.siblingAtColumn(SIZE).data(Qt.ItemDataRole.ToolTipRole) == f"{planned:,} bytes"
    assert block.siblingAtColumn(SCHEME).data() == "2 different"

    layers.filter.setText("mlp.up")
    assert layers.rows.order.size == 4 and labels(window, QModelIndex()) == ["model.layers"]
    assert labels(window, model.find("model.layers")) == [f"{n}.mlp.up_proj" for n in range(4)]
    layers.filter.clear()
    layers.tree.sortByColumn(NAME, Qt.SortOrder.DescendingOrder)
    assert labels(window, model.find("model.layers")) == ["3", "2", "1", "0"]


@pytest.mark.parametrize("filtered", ["", "mlp.up", "nothing at all"])
def test_qts_model_tester_is_content_with_the_tree(
    qtbot: QtBot, window: MainWindow, language_model: Path, qtmodeltester, filtered: str
) -> None:
    open_model(qtbot, window, language_model)
    window.layers.set_tree(True)
    window.layers.filter.setText(filtered)
    qtmodeltester.check(window.layers.tree_model, force_py=True)
    window.layers.tree.sortByColumn(SIZE, Qt.SortOrder.DescendingOrder)  # watched by the tester
    window.layers.filter.clear()


def test_a_module_stands_for_its_layers(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    layers = window.layers
    layers.set_tree(True)
    layers.tree.setCurrentIndex(layers.tree_model.find("model.layers.2.mlp"))
    names = layers.selected_names()
    assert len(names) == 3 and all(name.startswith("model.layers.2.mlp.") for name in names)
    assert set(window.session.selection) == set(names)
    menu = layers.context_menu(names)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        next(action for action in menu.actions() if action.text().startswith("&Keep")).trigger()
    chosen = dict(zip(column(window, NAME), column(window, SCHEME), strict=True))
    assert {chosen[name] for name in names} == {"keep"} and chosen["model.layers.1.mlp.up_proj"] == "int4:g128"
    layers.set_tree(False)  # the same layers are selected in the table
    assert set(layers.selected_names()) == set(names)


def test_algorithms_are_assigned_from_the_menu(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    names = ["model.layers.0.mlp.up_proj", "model.layers.3.mlp.up_proj"]
    algorithms = window.layers.context_menu(names).actions()[1].menu()
    titles = {info.title: info.name for info in engine.algorithm_choices()}
    action = next(action for action in algorithms.actions() if titles.get(action.text()) == "mse")
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        action.trigger()
    chosen = dict(zip(column(window, NAME), column(window, ALGORITHM), strict=True))
    assert [name for name, algorithm in chosen.items() if algorithm == "mse"] == names


def test_chosen_columns_are_remembered(qtbot: QtBot, window: MainWindow, language_model: Path, settings) -> None:
    open_model(qtbot, window, language_model)
    layers = window.layers
    assert layers.table.isColumnHidden(DTYPE) and not layers.table.isColumnHidden(KIND)
    menu = layers.columns_menu()
    assert [action.text() for action in menu.actions()[:-2]] == [one.head for one in columns()[1:]]
    next(action for action in menu.actions() if action.text() == "Dtype").trigger()
    layers.show_column(KIND, False)
    layers.set_tree(True)
    for view in (layers.table, layers.tree):
        assert not view.isColumnHidden(DTYPE) and view.isColumnHidden(KIND) and not view.isColumnHidden(NAME)
    assert column(window, DTYPE)[0] == "BF16" and column(window, PARAMETERS)[0] == "262 k" and column(window, BITS)[0] == "16.00"
    again = LayersPane(window.session)
    qtbot.addWidget(again)
    assert not again.table.isColumnHidden(DTYPE) and again.table.isColumnHidden(KIND) and again.view is again.tree
    layers.show_standard_columns()
    assert layers.table.isColumnHidden(DTYPE) and not layers.table.isColumnHidden(KIND)


def test_figures_of_weights_come_where_they_are_shown(qtbot: QtBot, window: MainWindow, uneven: Path) -> None:
    open_model(qtbot, window, uneven)
    assert window.session.surveying.figures == {} and column(window, KURTOSIS) == [""] * 3
    with qtbot.waitSignal(window.session.surveying.figures_changed, timeout=PATIENCE):
        window.layers.show_column(KURTOSIS)
    for row, name in enumerate(column(window, NAME)):
        weight = load_file(uneven)[f"{name}.weight"].double().numpy()
        mean, std = weight.mean(), weight.std()
        exact = [weight.min(), weight.max(), std, (((weight - mean) / std) ** 4).mean() - 3, np.abs(weight - mean).max() / std]
        assert [float(column(window, place)[row]) for place in FIGURES] == pytest.approx(exact, rel=6e-3, abs=6e-3)
    window.layers.filter.setText("kurtosis>1")
    assert sorted(column(window, NAME)) == ["heavy", "spiky"]


def test_what_falls_short_is_said_with_its_cause(qtbot: QtBot, window: MainWindow, uneven: Path) -> None:
    open_model(qtbot, window, uneven)
    edit(qtbot, window, engine.Recipe(engine.parse_scheme("int8:tensor"), builtin=False))
    assert window.layers.table.isColumnHidden(CAUSE)
    surveying = window.session.surveying
    with qtbot.waitSignal(
        surveying.causes_changed, timeout=PATIENCE, check_params_cb=lambda: set(surveying.causes) == {"spiky", "heavy"}
    ):
        window.session.quantize()
    qtbot.waitUntil(lambda: window.session.running is None, timeout=PATIENCE)
    assert not window.layers.table.isColumnHidden(CAUSE)
    said = dict(zip(column(window, NAME), zip(column(window, CAUSE), column(window, SQNR), strict=True), strict=True))
    run = window.session.shown_run
    assert run
    for name, cause in (("spiky", "outlier channel"), ("heavy", "heavy tail")):
        report = run.reports[name]
        expected = engine.try_scheme(uneven, name, "int8:tensor").expected_db
        assert expected is not None and report.sqnr_db is not None
        assert said[name] == (f"−{expected - report.sqnr_db:.1f} dB · {cause}", f"▾ {report.sqnr_db:.1f}")
    assert said["fine"][0] == "" and not said["fine"][1].startswith("▾")
    window.layers.filter.setText("short")
    assert sorted(column(window, NAME)) == ["heavy", "spiky"]
    assert_in_sight(window, (NAME, SCHEME, SQNR, CAUSE))


def assert_in_sight(window: MainWindow, wanted: tuple[int, ...]) -> None:
    """At 1280 × 800 these columns stand beside one another, without scrolling, and none of their cells is cut."""
    window.resize(1280, 800)
    window.docks.fit()
    QApplication.processEvents()
    table, metrics = window.layers.table, window.layers.table.fontMetrics()
    header = table.horizontalHeader()
    assert header.length() <= table.viewport().width()
    assert {place for place in range(len(columns())) if not table.isColumnHidden(place)} == set(wanted)
    for place in wanted:
        for words in column(window, place) if place != NAME else ():
            assert metrics.horizontalAdvance(words) + 8 <= header.sectionSize(place), words


def test_layers_picked_elsewhere_are_selected_here(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    session, layers = window.session, window.layers
    names = ["model.layers.0.mlp.up_proj", "model.layers.2.mlp.up_proj", "lm_head"]
    session.set_selection(names)
    assert sorted(layers.selected_names()) == sorted(names)
    layers.table.sortByColumn(NAME, Qt.SortOrder.DescendingOrder)
    assert sorted(layers.selected_names()) == sorted(names)
    layers.table.selectAll()
    assert len(session.selection) == 39
    layers.table.sortByColumn(NAME, Qt.SortOrder.AscendingOrder)
    assert len(layers.selected_names()) == 39


def test_a_wrong_filter_leaves_what_is_shown(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    layers = window.layers
    layers.filter.setText("mlp")
    assert len(column(window, NAME)) == 12 and not layers.problem.isVisible()
    layers.filter.setText("mlp re:(")
    assert len(column(window, NAME)) == 12 and layers.problem.isVisible()
    assert layers.problem.text().startswith("“re:(” is no regular expression")
    edit(qtbot, window, engine.recipe("W8A16"))  # other values do not take the sentence away
    assert layers.problem.isVisible()
    layers.filter.setText("mlp re:(a|aa)+$")
    assert not layers.problem.isVisible() and column(window, NAME) == []


def test_the_menu_opens_by_keyboard(qtbot: QtBot, window: MainWindow, language_model: Path, qapp) -> None:
    open_model(qtbot, window, language_model)
    window.activateWindow()
    window.layers.table.setFocus()
    window.layers.table.selectRow(3)
    qtbot.waitUntil(window.layers.table.hasFocus, timeout=PATIENCE)
    for key, modifier in ((Qt.Key.Key_F10, Qt.KeyboardModifier.ShiftModifier), (Qt.Key.Key_Menu, Qt.KeyboardModifier.NoModifier)):
        QTest.keyClick(window.windowHandle(), key, modifier)  # as the system sends it
        qtbot.waitUntil(lambda: qapp.activePopupWidget() is not None, timeout=PATIENCE)
        assert "this layer" in qapp.activePopupWidget().actions()[0].text()
        qapp.activePopupWidget().close()


def test_many_rows_are_arranged_in_turns(qtbot: QtBot, window: MainWindow, tmp_path: Path) -> None:
    """9,000 layers: the same order as Python's, with the event loop running in between."""
    from tests.bench.many import many_tensors

    many_tensors(tmp_path / "many.safetensors", 9_000)
    open_model(qtbot, window, tmp_path / "many.safetensors")
    layers = window.layers
    qtbot.waitUntil(lambda: layers.model.rowCount() == 9_000, timeout=PATIENCE)
    names = column(window, NAME)
    for order, reverse in ((Qt.SortOrder.AscendingOrder, False), (Qt.SortOrder.DescendingOrder, True)):
        with qtbot.waitSignal(layers.rows.arranged, timeout=PATIENCE):
            layers.table.sortByColumn(NAME, order)
        assert column(window, NAME) == sorted(names, reverse=reverse)
    with qtbot.waitSignal(layers.rows.arranged, timeout=PATIENCE):
        layers.filter.setText("re:w1\\.1")
        assert layers.model.rowCount() == 9_000  # not yet
    assert column(window, NAME) == sorted((name for name in names if "w1.1" in name), reverse=True)
    layers.set_tree(True)
    qtbot.waitUntil(lambda: layers.tree_model.rowCount() > 0, timeout=PATIENCE)
    assert set(labels(window, layers.tree_model.find("model.layers"))) == {
        f"{name.split('.')[2]}.mlp.experts" for name in names if "w1.1" in name
    }


def test_of_many_layers_picked_elsewhere_none_is_lost(
    qtbot: QtBot, window: MainWindow, tmp_path: Path, language_model: Path
) -> None:
    """3,000 layers apart from one another: more than Qt marks one by one, and still all of them are meant."""
    from tests.bench.many import many_tensors

    many_tensors(tmp_path / "many.safetensors", 9_000)
    open_model(qtbot, window, tmp_path / "many.safetensors")
    layers, session = window.layers, window.session
    qtbot.waitUntil(lambda: layers.model.rowCount() == 9_000, timeout=PATIENCE)
    names = column(window, NAME)
    session.set_selection(names[::3])
    qtbot.waitUntil(lambda: len(layers.table.selectionModel().selectedRows()) == MOST_RUNS, timeout=PATIENCE)
    assert layers.table.selectionModel().selectedRows()[-1].data() == names[3 * (MOST_RUNS - 1)]
    assert layers.selected_names() == names[::3]
    brushes = [layers.model.index(row, NAME).data(Qt.ItemDataRole.BackgroundRole) for row in range(8_990, 9_000)]
    assert [brush is not None for brush in brushes] == [row % 3 == 0 for row in range(8_990, 9_000)]  # painted all the same
    with qtbot.waitSignal(session.notice, check_params_cb=lambda words: words == "Copied 3,000 rows", timeout=PATIENCE):
        layers.copy_rows()
    copied = QApplication.clipboard().text().split("\n")
    assert [line.split("\t")[0] for line in copied] == names[::3]
    with qtbot.waitSignal(layers.rows.arranged, timeout=PATIENCE):
        layers.table.sortByColumn(NAME, Qt.SortOrder.DescendingOrder)
    qtbot.waitUntil(lambda: len(layers.table.selectionModel().selectedRows()) == MOST_RUNS, timeout=PATIENCE)
    marked = [index.data() for index in layers.table.selectionModel().selectedRows()]
    assert set(marked) <= set(names[::3]) and session.selection == tuple(names[::3]) == tuple(layers.selected_names())
    layers.table.selectRow(5)  # a choice made here takes the place of all that
    assert layers.selected_names() == list(session.selection) == [sorted(names, reverse=True)[5]]
    assert layers.model.index(8_999, NAME).data(Qt.ItemDataRole.BackgroundRole) is None
    session.set_selection(names[::3])
    open_model(qtbot, window, language_model)  # nothing of another model stays selected
    assert session.selection == () and layers.selected_names() == []


def test_many_rows_are_copied_while_the_window_answers(qtbot: QtBot, window: MainWindow, tmp_path: Path, qapp) -> None:
    from tests.bench.many import many_tensors

    many_tensors(tmp_path / "many.safetensors", 9_000)
    open_model(qtbot, window, tmp_path / "many.safetensors")
    qtbot.waitUntil(lambda: window.layers.model.rowCount() == 9_000, timeout=PATIENCE)
    qapp.clipboard().setText("before")
    window.layers.table.selectAll()
    said: list[str] = []
    window.session.notice.connect(said.append)
    window.layers.copy_rows()
    assert said == ["Copying 9,000 rows…"] and qapp.clipboard().text() == "before"
    qtbot.waitUntil(lambda: said[-1] == "Copied 9,000 rows", timeout=PATIENCE)
    lines = [line.split("\t") for line in qapp.clipboard().text().split("\n")]
    assert [line[0] for line in lines] == list(window.session.model.index)  # type: ignore[union-attr]
    assert {line[1] for line in lines} == {row.kind for row in window.session.model.layers}  # type: ignore[union-attr]


def test_names_are_split_as_python_does() -> None:
    names = ["a.b.c", "a.b", "", "..", "x"] * 1000
    *_, paths = split_names(names)
    assert paths is not None and paths.lengths.tolist() == [3, 2, 1, 3, 1] * 1000
    assert (paths.codes[0::5, 0] == paths.codes[1::5, 0]).all() and (paths.codes[1::5, 2] == -1).all()
    assert len(np.unique(paths.codes)) == 6  # a b c "" x, and nothing


def test_new_work_takes_the_place_of_old(qtbot: QtBot, window: MainWindow) -> None:
    turns, done = Turns(window), []

    def work(name: str):
        for _ in range(3):
            yield
        done.append(name)

    turns.start(work("old"))
    turns.start(work("new"))
    qtbot.waitUntil(lambda: bool(done), timeout=PATIENCE)
    assert done == ["new"] and not turns.busy
    turns.start(work("at once"), at_once=True)
    assert done == ["new", "at once"]


def test_without_a_model_there_is_nothing_to_do(window: MainWindow) -> None:
    session: Session = window.session
    assert session.model is None and window.layers.selected_names() == [] and not window.layers.filter.isEnabled()
    window.layers.set_tree(True)
    window.layers.open_menu()
    assert window.layers.tree_model.rowCount() == 0
