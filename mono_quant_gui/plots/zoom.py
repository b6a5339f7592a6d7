"""How a plot's x axis is zoomed: the wheel about the pointer, a drag into a range, a double click back to all of it."""

from typing import TYPE_CHECKING

from matplotlib.backend_bases import MouseButton
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

if TYPE_CHECKING:
    from mono_quant_gui.plots.canvas import PlotCanvas

STEP = 1.25
"""By how much one notch of the wheel zooms."""
DRAG_PX = 4
"""A shorter way is a click."""
FINEST = 500
"""The narrowest range is this small a part of the whole axis: two bins of a histogram of a thousand."""


class Zoom:
    """Of one canvas. ``drags``: whether a drag chooses a range; plots in which it selects something have none."""

    def __init__(self, canvas: "PlotCanvas", *, drags: bool) -> None:
        self._canvas = canvas
        self.home: tuple[float, float] | None = None
        """Limits of the x axis that show everything; None where zooming makes no sense."""
        self._from: float | None = None
        self.band = Rectangle((0, 0), 0, 0, alpha=0.2, visible=False, clip_on=False)
        self.band.set_transform(blended_transform_factory(canvas.axes.transData, canvas.figure.transFigure))
        canvas.axes.add_artist(self.band)
        canvas.overlay.append(self.band)
        canvas.mpl_connect("scroll_event", self._turned)
        canvas.mpl_connect("button_press_event", self._pressed)
        if drags:
            canvas.mpl_connect("motion_notify_event", self._moved)
            canvas.mpl_connect("button_release_event", self._released)

    def set_home(self, low: float, high: float) -> None:
        """Show all of the x axis, unless the same range is zoomed into already."""
        if self.home != (low, high):
            self.home = (low, high)
            self._canvas.axes.set_xlim(low, high)

    def by(self, factor: float, at: float | None = None) -> None:
        """Show ``factor`` times as much, with ``at`` (or the middle) where it is."""
        if self.home is None:
            return
        low, high = self._canvas.axes.get_xlim()
        factor = max(factor, self._least / (high - low))
        center = (low + high) / 2 if at is None else at
        self._show(center + (low - center) * factor, center + (high - center) * factor)

    def all(self) -> None:
        """Show everything."""
        if self.home is not None:
            self._show(*self.home)

    @property
    def _least(self) -> float:
        return (self.home[1] - self.home[0]) / FINEST if self.home else 0.0

    def _show(self, low: float, high: float) -> None:
        assert self.home is not None
        if high - low < self._least:
            low, high = (low + high - self._least) / 2, (low + high + self._least) / 2
        self._canvas.axes.set_xlim(max(low, self.home[0]), min(high, self.home[1]))
        self._canvas.draw_idle()

    # -- the mouse -----------------------------------------------------------------------------------------------------

    def _turned(self, event) -> None:
        if event.xdata is not None:
            self.by(1 / STEP if event.button == "up" else STEP, event.xdata)

    def _pressed(self, event) -> None:
        self._from = None
        if event.button != MouseButton.LEFT or not event.inaxes or self.home is None:
            return
        if event.dblclick:
            self.all()
        else:
            self._from = event.x

    def _range(self, event) -> tuple[float, float] | None:
        """What lies between the press and the pointer, as far as it is in sight; None for a click."""
        if self._from is None or abs(event.x - self._from) <= DRAG_PX:
            return None
        axes = self._canvas.axes
        ends = sorted(axes.transData.inverted().transform((x, 0))[0] for x in (self._from, event.x))
        low, high = axes.get_xlim()
        return max(ends[0], low), min(ends[1], high)

    def _moved(self, event) -> None:
        chosen = self._range(event)
        if chosen is None and not self.band.get_visible():
            return
        self.band.set_visible(chosen is not None)
        if chosen is not None:
            places = [axes.get_position() for axes in self._canvas.figure.axes if axes.get_visible()]
            bottom, top = min(place.y0 for place in places), max(place.y1 for place in places)
            self.band.set_bounds(chosen[0], bottom, chosen[1] - chosen[0], top - bottom)
        self._canvas.refresh_overlay()

    def _released(self, event) -> None:
        chosen, self._from = self._range(event), None
        self.band.set_visible(False)
        if chosen is not None:
            self._show(*chosen)
