"""The mouse on the layer's plots: zooming, and what is said of the place under the pointer. All figures worked out by hand."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot
from safetensors.torch import save_file

import engine
from engine.records.look import LayerDetail
from engine.records.report import ChannelRanges, Histogram
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.plots.canvas import BOTTOM, LEFT, RIGHT, TOP
from mono_quant_gui.plots.error_image import ErrorImage
from mono_quant_gui.plots.histogram import HistogramPlot
from tests.gui.conftest import PATIENCE, edit, open_model

WIDTH = 400
"""Pixels of the axes: with limits of ±1 a pixel is a two-hundredth."""
Left = Qt.MouseButton.LeftButton


def turn_wheel(widget: QWidget, at: QPoint, notches: int) -> None:
    event = QWheelEvent(
        QPointF(at), QPointF(widget.mapToGlobal(at)), QPoint(), QPoint(0, 120 * notches), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(widget, event)


@pytest.fixture
def words() -> list[str]:
    """What the plot says of the place under the pointer."""
    return []


@pytest.fixture
def histogram(qtbot: QtBot, words: list[str]) -> Iterator[HistogramPlot]:
    """Weights from −1 to 1 in 8 bins: bin n counts n."""
    plot = HistogramPlot(words.append)
    qtbot.addWidget(plot)
    plot.resize(LEFT + WIDTH + RIGHT, 300)
    plot.show()
    plot.show_histogram(Histogram(1.0, tuple(range(8)), (), ()), log=False)
    yield plot


def test_the_wheel_zooms_about_the_pointer_and_never_beyond_all(histogram: HistogramPlot) -> None:
    at = QPoint(LEFT + 300, 100)  # 300 of 400 pixels from −1 to 1: at 0.5
    turn_wheel(histogram, at, 1)
    # A notch shows 0.8 of the range, and 0.5 stays where it is: 0.5 − 0.8 · 1.5, and 0.5 + 0.8 · 0.5.
    assert histogram.axes.get_xlim() == pytest.approx((-0.7, 0.9))
    turn_wheel(histogram, at, 1)
    assert histogram.axes.get_xlim() == pytest.approx((-0.46, 0.82))
    for _ in range(3):
        turn_wheel(histogram, at, -1)
    assert histogram.axes.get_xlim() == (-1, 1)
    for _ in range(60):
        turn_wheel(histogram, at, 1)
    low, high = histogram.axes.get_xlim()
    assert low < 0.5 < high and high - low == pytest.approx(2 / 500)  # no further: the axis keeps its numbers apart


def test_a_drag_zooms_into_its_range_and_a_double_click_shows_all(
    qtbot: QtBot, histogram: HistogramPlot, words: list[str]
) -> None:
    start, end = QPoint(LEFT + 100, 80), QPoint(LEFT + 200, 120)
    qtbot.mousePress(histogram, Left, pos=start)
    qtbot.mouseMove(histogram, QPoint(LEFT + 150, 90))
    qtbot.mouseMove(histogram, end)
    band = histogram.zoom.band
    assert band.get_visible() and (band.get_x(), band.get_width()) == pytest.approx((-0.5, 0.5))
    qtbot.mouseRelease(histogram, Left, pos=end)
    assert histogram.axes.get_xlim() == pytest.approx((-0.5, 0.0)) and not band.get_visible()
    qtbot.mouseMove(histogram, QPoint(LEFT + 300, 100))  # −0.5 + 0.75 · 0.5 = −0.125: bin 3, whose middle it is
    assert words[-1].startswith("-0.125: 3 float")
    # A second drag, out of the window on the left: it ends where the axis ends.
    qtbot.mousePress(histogram, Left, pos=QPoint(LEFT + 80, 100))
    qtbot.mouseMove(histogram, QPoint(2, 100))
    qtbot.mouseRelease(histogram, Left, pos=QPoint(2, 100))
    assert histogram.axes.get_xlim() == pytest.approx((-0.5, -0.4))
    qtbot.mouseClick(histogram, Left, pos=QPoint(LEFT + 200, 100))
    assert histogram.axes.get_xlim() == pytest.approx((-0.5, -0.4))  # a click alone zooms nothing
    qtbot.mouseDClick(histogram, Left, pos=QPoint(LEFT + 200, 100))
    assert histogram.axes.get_xlim() == (-1, 1)


def test_other_counts_on_the_same_axis_stay_zoomed_into(histogram: HistogramPlot) -> None:
    turn_wheel(histogram, QPoint(LEFT + 200, 100), 1)
    histogram.show_histogram(Histogram(1.0, tuple(range(8)), tuple(range(8)), (0,) * 8), log=True)
    assert histogram.axes.get_xlim() == pytest.approx((-0.8, 0.8))
    histogram.show_histogram(Histogram(2.0, tuple(range(8)), (), ()), log=True)
    assert histogram.axes.get_xlim() == (-2, 2)


def test_the_pointer_over_the_error_image_says_rows_and_columns(qtbot: QtBot, words: list[str]) -> None:
    """191 × 256 weights in cells of 2 × 4: 96 rows of cells, the last of one row only."""
    cells = np.zeros((96, 64), np.uint8)
    cells[25, 24], cells[95, 63] = 51, 255
    image = base64.b64encode(cells.tobytes()).decode()
    ranges = ChannelRanges(1, (-1.0,) * 191, (1.0,) * 191)
    detail = LayerDetail("one", 191, 256, ranges, (9.0,) * 191, image, (96, 64), 2, 4, 10.0, (), 1.0, (), 0.0, 0.0, 1.0, 0.0)
    plot = ErrorImage(words.append)
    qtbot.addWidget(plot)
    plot.resize(LEFT + WIDTH + RIGHT, TOP + 191 + BOTTOM)  # a pixel a row, 1.5625 pixels a column
    plot.show()
    plot.show_detail(detail)
    qtbot.mouseMove(plot, QPoint(LEFT + 152, TOP + 51))  # row 51 and column 97.28: cell 25, 24
    assert words[-1] == "rows 50–51, columns 96–99: mean |error| 2"  # 51 of 255 parts of 10
    qtbot.mouseMove(plot, QPoint(LEFT + 399, TOP + 190))
    assert words[-1] == "rows 190, columns 252–255: mean |error| 10"
    qtbot.mouseMove(plot, QPoint(LEFT + 1, TOP + 1))
    assert words[-1] == "rows 0–1, columns 0–3: mean |error| 0"
    qtbot.mouseMove(plot, QPoint(LEFT - 20, TOP + 51))
    assert words[-1] == ""  # beside the axes


def test_the_only_wrong_weight_is_found_with_the_pointer(qtbot: QtBot, window: MainWindow, tmp_path: Path) -> None:
    """Zeros are exact; a lone 1 decodes to 127 steps of 1/127.5, which is off by half a step: 0.00392."""
    weight = torch.zeros(64, 64)
    weight[37, 11] = 1.0
    save_file({"lone.weight": weight}, tmp_path / "lone.safetensors")
    open_model(qtbot, window, tmp_path / "lone.safetensors")
    edit(qtbot, window, engine.Recipe(engine.parse_scheme("int8:tensor"), builtin=False))
    looking, inspector = window.session.looking, window.inspector
    with qtbot.waitSignal(looking.detail_changed, timeout=PATIENCE, check_params_cb=lambda: bool(looking.detail)):
        window.session.select("lone")
    inspector.set_view("error")
    plot = inspector.error
    assert plot is not None and inspector._layer_stack.currentWidget() is plot
    QApplication.processEvents()  # laid out
    across, down = plot.width() - LEFT - RIGHT, plot.height() - TOP - BOTTOM
    qtbot.mouseMove(plot, QPoint(LEFT + round(11.5 / 64 * across), TOP + round(37.5 / 64 * down)))
    assert inspector.hover.full_text() == "rows 37, columns 11: mean |error| 0.00392"
    inspector.set_view("weights")
    for key, limits in (("zoom_in", 1 / 1.5), ("zoom_out", 1.0), ("zoom_in", 1 / 1.5), ("zoom_all", 1.0)):
        window.actions_[key].trigger()
        assert inspector.histogram and inspector.histogram.axes.get_xlim() == pytest.approx((-limits, limits))
