"""The layers model under Qt's own tester, its filter, and its speed-minded bookkeeping."""

from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QItemSelectionModel, Qt
from pytestqt.qtbot import QtBot

from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.filtering import Columns, matching
from mono_quant_gui.models.layers import NAME, SHAPE, SQNR
from tests.gui.conftest import PATIENCE, open_model

COLUMNS = Columns(
    ["model.embed", "a.0.q_proj", "a.1.q_proj", "conv"],
    ["embedding", "linear", "linear", "conv2d"],
    ["keep", "int4:g128", "int8:channel", "int4:channel"],
    np.array([5_000_000, 2_000_000, 900_000, 500]),
    np.array([np.nan, 18.0, 40.0, 22.0]),
    np.array([False, False, True, False]),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 1, 2, 3]), ("q_proj", [1, 2]), ("Q_PROJ 1", [2]), ("kind:lin", [1, 2]), ("scheme:int4", [1, 3]),
        ("<20dB", [1]), (">20db", [2, 3]), (">1M", [0, 1]), ("<1k", [3]), ("<1000000 kind:linear", [2]), ("problem", [2]),
        ("nothing", []), (">0.002B", [0]),
    ],
)  # fmt: skip
def test_filter(text: str, expected: list[int]) -> None:
    assert np.flatnonzero(matching(text, COLUMNS)).tolist() == expected


def test_qts_model_tester_is_content(qtbot: QtBot, window: MainWindow, language_model: Path, qtmodeltester) -> None:
    open_model(qtbot, window, language_model)
    qtmodeltester.check(window.layers.model, force_py=True)
    window.layers.table.sortByColumn(SHAPE, Qt.SortOrder.DescendingOrder)
    window.layers.filter.setText("proj")
    qtmodeltester.check(window.layers.model, force_py=True)


def test_the_selection_survives_sorting(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    model, table = window.layers.model, window.layers.table
    row = model.row_of("model.layers.1.mlp.up_proj")
    assert row is not None
    flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
    table.selectionModel().setCurrentIndex(model.index(row, 0), flags)
    table.sortByColumn(NAME, Qt.SortOrder.DescendingOrder)
    assert window.layers.selected_names() == ["model.layers.1.mlp.up_proj"]
    table.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
    assert model.row_of("model.layers.1.mlp.up_proj") == row


def test_what_was_not_measured_sorts_last_both_ways(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    model = window.layers.model
    for order in (Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder):
        window.layers.table.sortByColumn(SQNR, order)
        shown = [model.index(row, SQNR).data() for row in range(model.rowCount())]
        assert all(shown[:28]) and not any(shown[28:])
        values = [float(value) for value in shown[:28]]
        assert values == sorted(values, reverse=order == Qt.SortOrder.DescendingOrder)


def test_copied_rows_are_tab_separated(qtbot: QtBot, window: MainWindow, language_model: Path, qapp) -> None:
    open_model(qtbot, window, language_model)
    window.layers.table.selectRow(1)
    window.layers.copy_rows()
    assert qapp.clipboard().text().split("\t")[:3] == ["model.layers.0.input_layernorm", "norm", "128"]
