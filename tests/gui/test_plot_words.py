"""What the plots draw by their own means is what matplotlib draws: words on the screen and in files, and the error image."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from pytestqt.qtbot import QtBot

from mono_quant_gui import exporting, theme
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
