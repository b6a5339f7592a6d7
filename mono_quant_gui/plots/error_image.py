"""The |error| of a weight as an image: rows are output channels, columns what they are multiplied with."""

import base64
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from engine.records.look import LayerDetail
from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import LEFT, RIGHT, TOP, PlotCanvas


class Cells(Artist):
    """Numbers from 0 to 255 as colours over the whole of the axes, the first row on top; three times as fast as AxesImage."""

    def __init__(self, axes: Axes) -> None:
        super().__init__()
        self.set_figure(axes.figure)
        self._over = axes
        self.values = np.zeros((1, 1), np.uint8)
        self.colors = np.zeros((256, 4), np.uint8)

    def draw(self, renderer) -> None:
        place, finer = self._over.get_window_extent(renderer), renderer.get_image_magnification()
        high, wide = max(round(place.height * finer), 1), max(round(place.width * finer), 1)
        rows = np.arange(high)[::-1] * len(self.values) // high
        columns = np.arange(wide) * self.values.shape[1] // wide
        gc = renderer.new_gc()
        renderer.draw_image(gc, round(place.x0), round(place.y0), self.colors[self.values[rows][:, columns]])
        gc.restore()
        self.stale = False


class ErrorImage(PlotCanvas):
    """Means of cells; the pointer says which rows and columns a cell stands for."""

    def _build(self) -> None:
        self._shown: LayerDetail | None = None
        self._cells = np.zeros((1, 1), np.uint8)
        self._image = Cells(self.axes)
        self.axes.add_artist(self._image)
        self.scales[self.axes].grid = False
        self.axes.set_xlabel(tr("input"))
        self.axes.set_ylabel(tr("output channel"))

    def _paint(self, colors: theme.Theme) -> None:
        ramp = LinearSegmentedColormap.from_list("error", [colors.panel, colors.quantized, colors.warning, colors.bad])
        self._image.colors = ramp(np.arange(256), bytes=True)

    def show_detail(self, detail: LayerDetail | None) -> None:
        """Draw; where nothing was quantized there is nothing to draw."""
        self._shown = detail if detail is not None and detail.image else None
        if self._shown is not None:
            self._cells = np.frombuffer(base64.b64decode(self._shown.image), np.uint8).reshape(self._shown.image_shape)
            self._show_cells(self.width(), self.height())
            self.axes.set_xlim(0, self._shown.cols)
            self.axes.set_ylim(self._shown.rows, 0)
            words = tr("mean |error| of {rows} × {cols} weights, up to {high}").format(
                rows=self._shown.cell_rows, cols=self._shown.cell_cols, high=f"{self._shown.image_high:.3g}"
            )
            self.legend([(theme.current().bad, words)])
        self.refresh()

    def place(self, width: float, height: float) -> None:
        super().place(width, height)
        self._show_cells(width, height)

    def _show_cells(self, width: float, height: float) -> None:
        """Where there are more cells than pixels, a pixel shows the worst of its cells: one bad row is not lost."""
        pixels = max(int(height) - theme.px(TOP + self.foot), 1), max(int(width) - theme.px(LEFT + RIGHT), 1)
        shown = self._cells
        for axis, (cells, most) in enumerate(zip(shown.shape, pixels, strict=True)):
            if cells > most:
                shown = np.maximum.reduceat(shown, np.arange(most) * cells // most, axis=axis)
        self._image.values = shown

    def _describe(self, event) -> str:
        shown = self._shown
        if shown is None:
            return ""
        row, col = int(event.ydata // shown.cell_rows), int(event.xdata // shown.cell_cols)
        if not (0 <= row < self._cells.shape[0] and 0 <= col < self._cells.shape[1]):
            return ""
        error = self._cells[row, col] / 255 * shown.image_high
        return tr("rows {rows}, columns {cols}: mean |error| {error}").format(
            rows=_span(row, shown.cell_rows, shown.rows), cols=_span(col, shown.cell_cols, shown.cols), error=f"{error:.3g}"
        )

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        shown = self._shown
        if shown is None:
            return (), ()
        values = self._cells / 255 * shown.image_high
        heads = (tr("row"), *(str(n * shown.cell_cols) for n in range(values.shape[1])))
        return heads, [(n * shown.cell_rows, *row) for n, row in enumerate(values.tolist())]


def _span(place: int, size: int, total: int) -> str:
    first, last = place * size, min((place + 1) * size, total) - 1
    return str(first) if first == last else f"{first}–{last}"
