"""Every plot and table is saved as it is shown: PNG and SVG of a size, CSV with the record's own figures."""

import csv
import math
import os
import stat
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib.image
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QContextMenuEvent, QGuiApplication
from PySide6.QtWidgets import QApplication, QFileDialog, QMenu, QTableWidget, QWidget
from pytestqt.qtbot import QtBot

import engine
from mono_quant_gui import exporting
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import SQNR
from tests.gui.conftest import PATIENCE, edit, open_model

RECIPE = """
scheme = "keep"
[[rules]]
match = "*layers.0.mlp*"
scheme = "int4:g64"
algorithm = "gptq"
"""
LAYER = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def window(shared_window: MainWindow) -> MainWindow:
    return shared_window


def measured(qtbot: QtBot, window: MainWindow, model: Path) -> None:
    """A run with data, once for the module, and its worst layer looked at."""
    session = window.session
    if session.shown_run is None:
        open_model(qtbot, window, model)
        session.calibrating.choose(engine.DataSpec(str(model / "calibration.txt"), samples=2, length=32))
        edit(qtbot, window, engine.recipe_from_text(RECIPE))
        with qtbot.waitSignal(session.run_finished, timeout=3 * PATIENCE):
            assert not session.obstacle, session.obstacle
            session.quantize()
        assert session.shown_run and session.shown_run.state == "done"
    session.select(LAYER)
    qtbot.waitUntil(lambda: bool(session.looking.detail and session.looking.detail.image), timeout=PATIENCE)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plots(window: MainWindow) -> dict[str, QWidget]:
    """Every plot of the inspector and the intent that shows it."""
    pane, found = window.inspector, {}
    for order in ("network", "spread", "sizes"):
        pane.set_order(order)
        found[order] = pane._bars_stack.currentWidget()
        assert found[order] in exporting.exportable(window)
    for view in ("weights", "channels", "error", "inputs", "convergence"):
        pane.set_view(view)
        found[view] = pane._layer_stack.currentWidget()
        assert found[view] in exporting.exportable(window), f"{view}: {pane._empty_layer.text()}"
    return found


def test_every_plot_there_is_can_be_saved_in_all_three_ways(
    qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path
) -> None:
    from mono_quant_gui.plots.canvas import PlotCanvas

    measured(qtbot, window, language_model)
    found = plots(window)
    assert {type(plot) for plot in found.values()} == {type(plot) for plot in window.findChildren(PlotCanvas)}
    for name, plot in found.items():
        size = plot.size()
        for suffix in exporting.kinds(plot):
            assert window.exports.save(plot, str(tmp_path / f"{name}{suffix}"))
        pixels = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert abs(pixels.shape[1] - 2 * size.width()) <= 2 and abs(pixels.shape[0] - 2 * size.height()) <= 2, name
        assert pixels[..., :3].std() > 0.01, f"{name} is empty"
        assert ET.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
        rows = read(tmp_path / f"{name}.csv")
        assert rows and len(rows) == len(plot.table()[1]), name
        assert plot.figure.canvas is plot and plot.figure.dpi == 100, "the screen's own picture stays"
    once = (tmp_path / "spread.svg").read_bytes()
    window.exports.save(found["spread"], str(tmp_path / "spread.svg"))
    assert (tmp_path / "spread.svg").read_bytes() == once, "the same picture is the same file"
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".svg", ".csv"}, "nothing else is left there"


def test_values_are_the_records_own(qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path) -> None:
    measured(qtbot, window, language_model)
    run = window.session.shown_run
    assert run
    found = plots(window)
    for plot in ("network", "weights", "sizes"):
        window.exports.save(found[plot], str(tmp_path / f"{plot}.csv"))
    bars = {row["layer"]: row for row in read(tmp_path / "network.csv")}
    assert bars.keys() == run.reports.keys()
    assert {layer: float(row["SQNR dB"]) for layer, row in bars.items()} == {n: r.sqnr_db for n, r in run.reports.items()}
    counts = [list(map(float, row.values())) for row in read(tmp_path / "weights.csv")]
    assert sum(row[2] for row in counts) == sum(run.reports[LAYER].histogram.float_counts)
    sizes = read(tmp_path / "sizes.csv")
    before = next(key for key in sizes[0] if "before" in key)
    assert window.session.model and sum(int(row[before]) for row in sizes) == window.session.model.nbytes


def test_the_table_is_saved_as_it_is_filtered_and_sorted_with_all_digits(
    qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path
) -> None:
    measured(qtbot, window, language_model)
    run, table = window.session.shown_run, window.layers.table
    assert run
    window.layers.filter.setText("layers.0.mlp")
    table.sortByColumn(SQNR, Qt.SortOrder.AscendingOrder)
    assert window.exports.save(table, str(tmp_path / "t.csv"))
    rows = read(tmp_path / "t.csv")
    wanted = sorted((r.sqnr_db, n) for n, r in run.reports.items() if "layers.0.mlp" in n and r.sqnr_db)
    assert [(float(r["SQNR dB"]), r["Name"]) for r in rows] == wanted
    window.layers.filter.clear()
    table.sortByColumn(-1, Qt.SortOrder.AscendingOrder)


def test_what_is_in_sight_stands_in_the_menu_and_the_palette(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    measured(qtbot, window, language_model)
    window.inspector.set_order("network")
    window.inspector.set_view("outliers")
    listed = {command.title for command in window.commands()}
    saves = {title.rpartition(" ▸ ")[2] for title in listed if title.startswith("File ▸ Save Plot or Table ▸ ")}
    assert {"SQNR of every layer…", "The largest weights…", "Layers…"} <= saves
    assert "Range and SQNR of every output channel…" not in saves, "it is not in sight"


def test_context_menus_ask_where_to(
    qtbot: QtBot, window: MainWindow, language_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured(qtbot, window, language_model)
    window.inspector.set_order("network")
    bars = window.inspector.bars
    assert bars
    asked: list[tuple[str, str]] = []

    def answer(_parent: QWidget, _title: str, start: str, filters: str) -> tuple[str, str]:
        asked.append((start, filters))
        return str(tmp_path / "chosen"), filters.split(";;")[1]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    middle = bars.mapTo(window, bars.rect().center())
    event = QContextMenuEvent(QContextMenuEvent.Reason.Mouse, middle, window.mapToGlobal(middle))
    QApplication.sendEvent(window, event)
    menu = QApplication.activePopupWidget()
    assert isinstance(menu, QMenu)
    menu.actions()[0].trigger()
    menu.close()
    assert Path(asked[0][0]).name == "docstring_lm-sqnr-of-every-layer.png"
    assert (tmp_path / "chosen.svg").exists(), "the chosen kind gives the suffix"
    assert window.session.settings.text("saved_folder") == str(tmp_path)


def test_a_dialogs_table_is_saved_too(qtbot: QtBot, window: MainWindow, tmp_path: Path) -> None:
    dialog = window.about()
    table = dialog.findChild(QTableWidget)
    assert table
    table.customContextMenuRequested.emit(table.rect().center())
    menu = QApplication.activePopupWidget()
    assert isinstance(menu, QMenu) and len(menu.actions()) == 1
    menu.close()
    window.exports.save(table, str(tmp_path / "v.csv"))
    table.selectRow(0)
    dialog.activateWindow()
    table.setFocus()
    qtbot.waitUntil(table.hasFocus)
    qtbot.keyClick(table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text().splitlines()[0] == "Name\tVersion\tLicence"
    assert len(QGuiApplication.clipboard().text().splitlines()) == 2
    assert {row["Name"]: row["Version"] for row in read(tmp_path / "v.csv")}["Mono Quant"] == engine.__version__
    dialog.close()


def test_runs_are_saved_as_a_table_and_each_as_a_page(
    qtbot: QtBot, window: MainWindow, language_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured(qtbot, window, language_model)
    run = window.session.shown_run
    assert run and run.totals and window.actions_["report"].isEnabled()
    assert window.exports.save(window.runs.view, str(tmp_path / "runs.csv"))
    (row,) = read(tmp_path / "runs.csv")
    assert float(row["SQNR"]) == run.totals["sqnr_db"] and int(row["Size"]) == run.totals["bytes_after"]
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "page"), ""))
    with qtbot.waitSignal(window.session.notice, timeout=PATIENCE):
        window.actions_["report"].trigger()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(name in page for name in run.reports) and run.record.model_hash in page
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "nowhere" / "x.html"), ""))
    with qtbot.waitSignal(window.session.failed, timeout=PATIENCE) as failed:
        window.actions_["report"].trigger()
    assert "x.html cannot be written: No such file or directory." in failed.args[0]
    box = QApplication.activeModalWidget()
    assert box
    box.close()


# -- writing -----------------------------------------------------------------------------------------------------------


def test_names_from_a_file_are_no_formulas_and_come_back_unharmed_otherwise(tmp_path: Path) -> None:
    rows = [["=cmd()", -1.5], ["-0.25", None], ['a,"b"\nc', math.nan], ["@x", math.inf], ["é", 10**18]]
    exporting.write_csv(tmp_path / "x.csv", ("name", "value"), rows)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert found[1:] == [["'=cmd()", "-1.5"], ["-0.25", ""], ['a,"b"\nc', ""], ["'@x", "inf"], ["é", str(10**18)]]


def test_a_failure_is_one_sentence_and_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("before")

    def rows():
        yield [1]
        raise OSError(28, "No space left on device")

    with pytest.raises(exporting.SavingError, match=r"Cannot write .*x\.csv: No space left on device\.$"):
        exporting.write_csv(target, ("a",), rows())
    assert target.read_text() == "before" and os.listdir(tmp_path) == ["x.csv"]
    with pytest.raises(exporting.SavingError, match=r"^Cannot write .*nowhere.*: No such file or directory\.$"):
        exporting.write_csv(tmp_path / "nowhere" / "x.csv", ("a",), [])
    exporting.write_csv(target, ("a",), [[1]])
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask, "as readable as any other file"
