"""What all plots share: one pair of axes in the window's palette whose artists are updated and never made anew."""

import time
from collections.abc import Callable, Sequence

import shiboken6
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from PySide6.QtCore import QSize, QTimer, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from mono_quant_gui import theme
from mono_quant_gui.plots.scale import Scale
from mono_quant_gui.plots.words import Legend, Renderer
from mono_quant_gui.plots.zoom import Zoom

LEFT, RIGHT, TOP, BOTTOM = 60, 10, 26, 36
"""Pixels around the axes: a layout engine would take longer than the drawing."""
ASIDE, BELOW = 42, 20
"""Where the names of the axes begin, in pixels from the axes."""
SMALL, LARGER = 8.0, 8.5
"""Points of numbers and names, and of the legend."""
TURN_MS = 8
"""Pause between two plots' drawings: each takes most of a frame, and the window answers in between."""


class PlotCanvas(FigureCanvasQTAgg):
    """A figure without frames and with a horizontal grid only, and an x axis that can be zoomed (``Zoom``).

    ``foot``: pixels below the axes. ``drag_zooms``: whether a drag chooses what is zoomed into. Plots make their artists in
    ``_build`` and change them afterwards; ``_paint`` gives them the theme's colours. Artists in ``overlay`` move over the
    finished picture: ``refresh_overlay`` does not draw the rest again.
    """

    hovered = Signal(str)
    """What lies under the pointer, in words."""

    foot = BOTTOM
    drag_zooms = True
    _last_drawn = 0.0
    _turn: QTimer | None = None
    _rendered: tuple[float, ...] = ()

    def __init__(self, on_hover: Callable[[str], None], parent: QWidget | None = None) -> None:
        self.figure = Figure()
        super().__init__(self.figure)
        self.setParent(parent)
        self._turn = QTimer(self, singleShot=True)
        self._turn.timeout.connect(self._draw_idle)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(120)
        self.hovered.connect(on_hover)
        self.overlay: list[Artist] = []
        self._beneath = None
        self._theme: theme.Theme | None = None
        self.scales: dict[Axes, Scale] = {}
        self.axes = self.figure.add_axes((0.1, 0.15, 0.85, 0.75))
        self._style(self.axes)
        self._legend = Legend(self.axes, LARGER * theme.scale())
        self.figure.add_artist(self._legend)
        self._build()
        self.zoom = Zoom(self, drags=self.drag_zooms)
        for artist in self.overlay:
            artist.set_animated(True)
        # A signal, not a call: a label that is gone when the pointer leaves is simply not told.
        self.mpl_connect("motion_notify_event", lambda event: self._tell(self._describe(event) if event.inaxes else ""))
        self.mpl_connect("axes_leave_event", lambda event: self._tell(""))

    # -- what a plot says ----------------------------------------------------------------------------------------

    def _tell(self, words: str) -> None:
        """The pointer may leave a plot that is gone already, with its window."""
        if shiboken6.isValid(self):
            self.hovered.emit(words)

    def _build(self) -> None:
        """Make the artists."""

    def _paint(self, colors: theme.Theme) -> None:
        """Give the artists their colours."""

    def _describe(self, event) -> str:
        """What lies under the pointer, in words."""
        return ""

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        """Heads and rows of what is shown, to be saved."""
        return (), ()

    # -- drawing ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Draw soon, in the theme in force."""
        if self._theme is not theme.current():
            self._theme = theme.current()
            self.figure.set_facecolor(self._theme.panel)
            for axes in self.figure.axes:
                self._color(axes, self._theme)
            self._paint(self._theme)
            self.zoom.band.set_facecolor(self._theme.accent)
            self._legend.color, self._legend.points = self._theme.text, LARGER * theme.scale()
        self.draw_idle()

    def refresh_overlay(self) -> None:
        """Show the overlay where it is now."""
        if self._beneath is None or self._theme is not theme.current() or getattr(self, "_draw_pending", False):
            self.refresh()
            return
        self.restore_region(self._beneath)
        self._draw_overlay()
        self.update()

    def _draw_overlay(self) -> None:
        for artist in self.overlay:
            self.axes.draw_artist(artist)

    def draw(self) -> None:
        super().draw()
        if self.overlay:
            self._beneath = self.copy_from_bbox(self.figure.bbox)
            self._draw_overlay()

    def draw_idle(self) -> None:
        """Draw in a turn of its own, once however often it is asked for."""
        self._draw_pending = True
        if self._turn is not None and not self._turn.isActive():
            self._turn.start(0)

    def _draw_idle(self) -> None:
        """Also called when painted: one plot a turn; a hidden one waits until it is painted."""
        if self._turn is None or not self._draw_pending or not self.isVisible():
            return
        left = TURN_MS - 1000 * (time.monotonic() - PlotCanvas._last_drawn)
        if left > 0:
            self._turn.start(round(left) + 1)
            return
        super()._draw_idle()
        PlotCanvas._last_drawn = time.monotonic()

    def legend(self, shown: Sequence[tuple[str, str]]) -> None:
        """(colour, words) above the axes, to the right."""
        self._legend.entries = tuple(shown)

    def get_renderer(self) -> Renderer:
        """One that keeps words."""
        size = (*self.get_width_height(physical=True), self.figure.dpi)
        if self._rendered != size:
            self.renderer, self._rendered = Renderer(*size), size
        return self.renderer

    def set_counts_scale(self, log: bool, top: float) -> None:
        """A linear or logarithmic axis of counts up to ``top``; half a count is the foot of a logarithmic one."""
        scale = "log" if log else "linear"
        if self.axes.get_yscale() != scale:
            self.axes.set_ylim(0.5, max(top, 1.0))  # a logarithmic axis has no place for zero
            self.axes.set_yscale(scale)
            self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count_words(value)))
            self.axes.yaxis.set_minor_locator(NullLocator())  # decades are enough, and every mark takes its time
        self.axes.set_ylim(0.5 if log else 0.0, max(top, 1.0) * (1.6 if log else 1.06))

    def place(self, width: float, height: float) -> None:
        """Put the axes where pixels leave room for words."""
        self.axes.set_position(inside(width, height, theme.px(self.foot), height - theme.px(TOP)))
        self.fix_labels(self.axes, width, height)

    def fix_labels(self, axes: Axes, width: float, height: float) -> None:
        """Where the names of the axes stand."""
        share, scale = axes.get_position(), self.scales[axes]
        scale.aside = theme.px(ASIDE) / max(share.width * width, 1)
        scale.below = theme.px(BELOW) / max(share.height * height, 1)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._beneath = None
        if event.size().width() > theme.px(LEFT + RIGHT) and event.size().height() > theme.px(TOP + BOTTOM):
            self.place(event.size().width(), event.size().height())

    def sizeHint(self) -> QSize:
        return QSize(400, 200)

    def minimumSizeHint(self) -> QSize:
        return QSize(160, 120)

    def _style(self, axes) -> None:
        for side in axes.spines.values():
            side.set_visible(False)
        self.scales[axes] = Scale(axes, SMALL * theme.scale())
        self.figure.add_artist(self.scales[axes])

    def _color(self, axes, colors: theme.Theme) -> None:
        axes.patch.set_visible(False)  # the grid lies behind it
        scale = self.scales[axes]
        scale.ink, scale.line, scale.points = colors.muted, colors.line, SMALL * theme.scale()


def count_words(value: float) -> str:
    """1, 10, 2.5k, 1M: as short as powers of ten, and drawn in a fraction of their time."""
    size = next(((name, by) for name, by in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if value >= by), ("", 1.0))
    return f"{value / size[1]:g}{size[0]}"


def inside(width: float, height: float, bottom: float, top: float) -> tuple[float, float, float, float]:
    left, right = theme.px(LEFT), theme.px(RIGHT)
    return left / width, bottom / height, (width - left - right) / width, (top - bottom) / height
