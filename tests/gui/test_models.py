"""The layers model under Qt's own tester, its filter, and its speed-minded bookkeeping."""

from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QItemSelectionModel, Qt
from pytestqt.qtbot import QtBot

from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.filtering import Columns, Factor, FilterError, matching, parse
from mono_quant_gui.models.layer_columns import NAME, SHAPE, SQNR
from tests.gui.conftest import PATIENCE, open_model

COLUMNS = Columns(
    ["model.embed", "a.0.q_proj", "a.1.q_proj", "conv"],
    {
        "kind": Factor.of(["embedding", "linear", "linear", "conv2d"]),
        "scheme": Factor.of(["keep", "int4:g128", "int8:channel", "int4:channel"]),
        "dtype": Factor.of(["BF16", "BF16", "F32", "F32"]),
        "algorithm": Factor.of(["rtn", "gptq", "rtn", "mse:norm=2.4"]),
    },
    {
        "parameters": np.array([5_000_000, 2_000_000, 900_000, 500]),
        "bytes": np.array([10_000_000, 4_000_000, 3_600_000, 2_000]),
        "bits": np.array([16.0, 4.25, 8.1, 4.5]),
        "sqnr": np.array([np.nan, 18.0, 40.0, 22.0]),
        "kurtosis": np.array([0.1, np.nan, -0.5, 6.0]),
    },
    {"problem": np.array([False, False, True, False]), "short": np.array([False, True, False, False])},
)


def rows_of(text: str) -> list[int]:
    *_, mask = matching(parse(text), COLUMNS)
    assert mask is not None
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 1, 2, 3]), ("q_proj", [1, 2]), ("Q_PROJ 1", [2]), ("kind:lin", [1, 2]), ("scheme:int4", [1, 3]),
        ("<20dB", [1]), (">20db", [2, 3]), (">1M", [0, 1]), ("<1k", [3]), ("<1000000 kind:linear", [2]), ("problem", [2]),
        ("nothing", []), (">0.002B", [0]), ("dtype:f32", [2, 3]), ("algorithm:mse", [3]),
        ("bits<5", [1, 3]), ("bits>=8.1", [0, 2]),
        ("<4MB", [2, 3]), ("<=4MB", [1, 2, 3]), ("kurtosis>-0.5", [0, 3]), ("kurtosis>=-5e-1", [0, 2, 3]), ("short", [1]),
        ("-kind:linear", [0, 3]),
        ("-short -problem", [0, 3]), ("re:^a\\.\\d", [1, 2]), ("re:Q_PROJ$ <20dB", [1]), ("-re:a", [0, 3]),
    ],
)  # fmt: skip
def test_filter(text: str, expected: list[int]) -> None:
    assert rows_of(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mlp <20x", "“<20x” compares with no number: write <20dB, >1M, >4MB or bits<5."),
        ("re:(a", "“re:(a” is no regular expression: missing ), unterminated subpattern at position 0."),
        ("speed>3", "“speed>3”: no column is called “speed”; there are parameters, bytes, after, bits, sqnr, output, short, min, "
         "max, std, kurtosis, outliers."),
        ("type:conv", "“type:conv”: there is no “type:”; words are kind:, scheme:, dtype:, algorithm: and re:."),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_said_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FilterError) as caught:
        rows_of(text)
    assert str(caught.value) == sentence


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
        values = [float(value.removeprefix("▾ ")) for value in shown[:28]]
        assert values == sorted(values, reverse=order == Qt.SortOrder.DescendingOrder)


def test_copied_rows_are_tab_separated(qtbot: QtBot, window: MainWindow, language_model: Path, qapp) -> None:
    open_model(qtbot, window, language_model)
    window.layers.table.selectRow(1)
    window.layers.copy_rows()
    table = window.layers.table
    header, model = table.horizontalHeader(), table.model()
    places = [place for place in map(header.logicalIndex, range(header.count())) if not table.isColumnHidden(place)]
    heads = [str(model.headerData(place, Qt.Orientation.Horizontal)) for place in places]
    copied = dict(zip(heads, qapp.clipboard().text().split("\t"), strict=True))  # the columns that are in sight
    assert (copied["Name"], copied["Kind"]) == ("model.layers.0.input_layernorm", "norm")
