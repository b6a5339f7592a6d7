"""What the plots draw by their own means is what matplotlib draws: words on the screen and in files, and the error image."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from pytestqt.qtbot import QtBot

from mono_quant_gui import exporting, theme
from mono_quant_gui.plots.canvas import ASIDE, BELOW, BOTTOM, TOP
from mono_quant_gui.plots.error_image import ErrorImage
from mono_quant_gui.plots.spread import SpreadPlot
from mono_quant_gui.plots.words import Renderer
from tests.gui.test_looking import detail_with


@pytest.fixture
def plot(qtbot: QtBot) -> Iterator[SpreadPlot]:
    made = SpreadPlot(lambda words: None)
    qtbot.addWidget(made)
    made.resize(500, 240)
    made.show()
    made.show_values([16.0, 18.5, 22.25, 31.0], 20.0)
    yield made


@pytest.mark.parametrize("angle", [0, 90])
@pytest.mark.parametrize("words", ["−0.25", "weights per bin", "quantized ½ gjy|"])
def test_kept_words_look_as_matplotlib_draws_them(words: str, angle: float) -> None:
    sheets = []
    for kind in (RendererAgg, Renderer, Renderer):  # the last one puts down what was kept
        sheet = kind(200, 200, 100)
        gc = sheet.new_gc()
        gc.set_foreground("#335577")
        sheet.draw_text(gc, 60, 150, words, FontProperties(size=9), angle)
        sheets.append(np.asarray(sheet.buffer_rgba()).astype(int))
    assert sheets[0][..., 3].max() == 255 and np.array_equal(sheets[1], sheets[2])
    seen = [sheet * (sheet[..., 3:] > 0) for sheet in sheets]  # the colour of what is not there means nothing
    assert np.abs(seen[0] - seen[1]).max() <= 3


class Writing(RendererAgg):
    """Notes every word with the place where it begins."""

    def __init__(self, *size: float) -> None:
        super().__init__(*size)  # pyright: ignore[reportArgumentType]
        self.said: list[tuple[str, float, float, float]] = []

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        self.said.append((s, x, y, angle))


@pytest.mark.parametrize("limits", [(0.0, 7.4), (-0.31, 0.31), (0.0, 3.2e-7), (12_000.0, 2_450_000.0)])
def test_numbers_and_names_stand_where_matplotlib_puts_them(limits: tuple[float, float], plot: SpreadPlot) -> None:
    plot.axes.set_xlim(*limits)
    plot.axes.set_ylim(*limits)
    ours = Writing(500, 240, 100)
    plot.scales[plot.axes].draw(ours)
    figure = Figure(figsize=(5, 2.4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(plot.axes.get_position().bounds)
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlabel("dB", fontsize=8)
    axes.set_ylabel("layers", fontsize=8)
    axes.yaxis.set_label_coords(-ASIDE / (0.86 * 500), 0.5)
    axes.xaxis.set_label_coords(0.5, -BELOW / (240 - TOP - BOTTOM))
    figure.canvas.draw()
    seen = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label]
    places = {}
    for word in seen:
        box = word.get_window_extent()
        if word.get_text() and (word in (axes.xaxis.label, axes.yaxis.label) or on_axis(word, limits)):
            places.setdefault(word.get_text(), []).append(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
    powers = {axis.get_offset_text().get_text() for axis in (axes.xaxis, axes.yaxis)} - {""}
    said = {word for word, *_ in ours.said}
    assert said == set(places) | powers
    for word, x, y, angle in ours.said:
        if word in places:
            width, height, deep = ours.get_text_width_height_descent(word, FontProperties(size=8), False)
            middle = (
                (x + width / 2, 240 - y + (height / 2 - deep)) if angle == 0 else (x - (height / 2 - deep), 240 - y + width / 2)
            )
            nearest = min(np.hypot(middle[0] - at[0], middle[1] - at[1]) for at in places[word])
            assert nearest <= 3, (word, middle, places[word])


def on_axis(label: Text, limits: tuple[float, float]) -> bool:
    """Matplotlib keeps a number beyond each end that it does not show."""
    value = label.get_position()[0] if label.get_position()[1] == 0 else label.get_position()[1]
    return limits[0] <= value <= limits[1]


def test_the_grid_lies_behind_what_is_shown(plot: SpreadPlot) -> None:
    plot.draw()
    drawn = np.asarray(plot.buffer_rgba())[..., :3]
    colors = theme.current()
    seen = (colors.quantized, colors.line, colors.panel, colors.bad)
    bars, line, panel, hurt = ([int(color[n : n + 2], 16) for n in (1, 3, 5)] for color in seen)
    y = 240 - round(plot.axes.transData.transform((0, 0.4))[1])
    half = drawn[y, 60:490]
    assert (half == bars).all(axis=-1).any()
    for value in (0.2, 0.4, 0.6, 0.8):
        rows = drawn[240 - round(plot.axes.transData.transform((0, value))[1]) + np.array([-1, 0, 1]), 60:490]
        lined = (rows == line).all(axis=-1)
        assert lined.any(axis=1).sum() == 1, "one pixel high"
        beside = rows[~lined.any(axis=1)]
        assert (beside == panel).all(axis=-1).any(axis=1).all() and not lined[:, (half == bars).all(axis=-1)].any()
        assert {tuple(pixel) for pixel in beside.reshape(-1, 3)} <= {tuple(panel), tuple(bars), tuple(hurt)}, (
            "and no blur beside it"
        )
        assert not lined[:, (half == bars).all(axis=-1)].any(), "a bar hides it"


def test_an_error_image_is_what_matplotlib_shows(qtbot: QtBot) -> None:
    cells = np.random.default_rng(3).integers(0, 256, (30, 40)).astype(np.uint8)
    plot = ErrorImage(lambda words: None)
    qtbot.addWidget(plot)
    plot.resize(60 + 400 + 10, 26 + 300 + 36)  # axes of 400 × 300 pixels: every cell is 10 × 10
    plot.show()
    plot.show_detail(detail_with(cells))
    plot.draw()
    drawn = np.asarray(plot.buffer_rgba())[26:326, 60:460]
    assert np.array_equal(drawn, plot._image.colors[np.kron(cells, np.ones((10, 10), np.uint8))])
    figure = Figure(figsize=(4, 3), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False)
    axes.set_axis_off()
    axes.imshow(cells, aspect="auto", vmin=0, vmax=255, interpolation="nearest", cmap=ListedColormap(plot._image.colors / 255))
    canvas.draw()
    assert np.abs(np.asarray(canvas.buffer_rgba()).astype(int) - drawn).max() <= 1


def test_the_legend_is_in_the_picture_and_in_the_file(plot: SpreadPlot, tmp_path: Path) -> None:
    plot.draw()
    above = np.asarray(plot.buffer_rgba())[:26]
    color = [int(theme.current().quantized[n : n + 2], 16) for n in (1, 3, 5)]
    assert (above[..., :3] == color).all(axis=-1).sum() >= 40  # its box is there in its colour
    exporting.save(plot, tmp_path / "plot.svg")
    assert theme.current().quantized.lower() in (tmp_path / "plot.svg").read_text().lower()


def test_a_legend_that_is_too_wide_becomes_smaller_and_stays_inside(plot: SpreadPlot) -> None:
    words = [(theme.current().quantized, f"{n} things of some length") for n in range(4)]
    for entries in (words[:1], words):
        plot.legend(entries)
        plot.draw()
        above = np.asarray(plot.buffer_rgba())[:24].astype(int)
        ink = np.flatnonzero((np.abs(above[..., :3] - above[0, 0, :3]).sum(axis=-1) > 60).any(axis=0))
        assert ink[0] >= 1 and ink[-1] <= 499
