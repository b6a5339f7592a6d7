"""The numbers and names beside a pair of axes, and the horizontal grid behind them.

Matplotlib's own ticks are artists by the dozen, each measured twice for every drawing: here its locators and formatters say
which numbers there are, and they are drawn in one go.
"""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

PAD, LINE = 3.5, 0.8
"""Points between the axes and the numbers, and the width of a line of the grid."""
SLACK = 1e-9
"""Of the range: a number at the very end of the axis is in sight."""


class Scale(Artist):
    """Stands in for both axes' ticks. ``aside`` and ``below``: where the names stand, in widths and heights of the axes."""

    zorder = -1  # behind everything in the axes, which are at 0

    def __init__(self, axes: Axes, points: float) -> None:
        super().__init__()
        self.set_figure(axes.figure)
        self._of, self.points = axes, points
        self.ink = self.line = "gray"
        self.grid = self.numbers_below = True
        self.aside = self.below = 0.1
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_visible(False)
            axis.set_tick_params(labelsize=points)  # by which locators know how many numbers there is room for

    def draw(self, renderer) -> None:
        if not self._of.get_visible():
            return
        box, font = self._of.get_window_extent(renderer), FontProperties(size=self.points)
        pad: float = renderer.points_to_pixels(PAD)  # pyright: ignore[reportAssignmentType]
        digit = renderer.get_text_width_height_descent("0", font, False)[1]
        ink = renderer.new_gc()
        ink.set_foreground(self.ink)

        def write(words: str, x: float, y: float, angle: float = 0) -> None:
            across = renderer.get_canvas_width_height()[1] - y if renderer.flipy() else y
            renderer.draw_text(ink, x, across, words, font, angle)

        def width(words: str) -> float:
            return renderer.get_text_width_height_descent(words, font, False)[0]

        values, words = _numbers(self._of.yaxis, self._of.get_ylim())
        places = self._of.get_yaxis_transform().transform(np.column_stack([np.zeros(len(values)), values]))[:, 1]
        if self.grid and len(places):
            self._draw_grid(renderer, box, places)
        for word, y in zip(words, places, strict=True):
            write(word, box.x0 - pad - width(word), y - digit / 2)
        if power := self._of.yaxis.get_major_formatter().get_offset():
            write(power, box.x0, box.y1 + pad)
        foot = box.y0 - self.below * box.height
        if self.numbers_below:
            values, words = _numbers(self._of.xaxis, self._of.get_xlim())
            places = self._of.get_xaxis_transform().transform(np.column_stack([values, np.zeros(len(values))]))[:, 0]
            for word, x in zip(words, places, strict=True):
                write(word, x - width(word) / 2, box.y0 - pad - digit)
            if power := self._of.xaxis.get_major_formatter().get_offset():
                write(power, box.x1 - width(power), foot - digit)
        _, high, deep = renderer.get_text_width_height_descent("lp", font, False)
        if name := self._of.get_ylabel():
            write(name, box.x0 - self.aside * box.width - deep, (box.y0 + box.y1 - width(name)) / 2, 90)
        if name := self._of.get_xlabel():
            write(name, (box.x0 + box.x1 - width(name)) / 2, foot - (high - deep))
        ink.restore()
        self.stale = False

    def _draw_grid(self, renderer, box, places: np.ndarray) -> None:
        gc = renderer.new_gc()
        gc.set_foreground(self.line)
        pixel: float = renderer.points_to_pixels(1.0)  # pyright: ignore[reportAssignmentType]
        gc.set_linewidth(max(round(LINE * pixel), 1) / pixel)  # whole pixels are drawn without a blur
        gc.set_snap(True)
        ends = np.column_stack([np.tile([box.x0, box.x1], len(places)), np.repeat(places, 2)])
        codes = np.tile([Path.MOVETO, Path.LINETO], len(places)).astype(Path.code_type)
        renderer.draw_path(gc, Path(ends, codes), IdentityTransform())
        gc.restore()


def _numbers(axis: Axis, limits: tuple[float, float]) -> tuple[np.ndarray, list[str]]:
    """Values in sight, and their words."""
    low, high = sorted(limits)
    values = np.asarray(axis.get_majorticklocs(), float)
    slack = SLACK * (high - low)
    words = axis.get_major_formatter().format_ticks(values)  # pyright: ignore[reportArgumentType]
    seen = (values >= low - slack) & (values <= high + slack)
    return values[seen], [word for word, there in zip(words, seen, strict=True) if there]
