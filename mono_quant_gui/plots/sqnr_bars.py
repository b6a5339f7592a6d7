"""SQNR of every quantized layer, in network order or sorted, coloured by scheme; clicks and rubber bands select layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backend_bases import MouseButton
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas

MIN_SLOTS = 16
"""A few layers get bars, not walls."""
MOST_BARS = 400
"""More layers than this share bars: a bar shows the worst of its layers."""
DRAG_PX = 4
SCHEMES = 5
"""Schemes that get a colour of their own; the rest share one."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One bar's worth: ``second`` is another figure to show as a mark, NaN where there is none."""

    name: str
    scheme: str
    db: float
    second: float = float("nan")


class SqnrBars(PlotCanvas):
    """``on_select`` gets layers' names, and whether they are added to what is selected."""

    foot = 8
    drag_zooms = False

    def __init__(self, on_select: Callable[[Sequence[str], bool], None], on_hover: Callable[[str], None]) -> None:
        self._on_select = on_select
        super().__init__(on_hover)
        self.mpl_connect("button_press_event", self._pressed)
        self.mpl_connect("motion_notify_event", self._dragged)
        self.mpl_connect("button_release_event", self._released)

    def _build(self) -> None:
        self._layers: Sequence[Layer] = ()
        self._per_bar = 1
        self._tops = np.empty(0)
        self._second_name = ""
        self._press: tuple[float, float, float, float] | None = None
        self._anchor: int | None = None
        self._low = 0.0
        self._bars = PolyCollection([], linewidths=0)
        self._marked = PolyCollection([], linewidths=1.4, facecolors="none")
        self._limit = self.axes.axhline(0, linewidth=0.9, linestyle=(0, (4, 3)))
        (self._second,) = self.axes.plot([], [], linestyle="none", marker="_", markersize=5, markeredgewidth=1.6)
        (self._hurt,) = self.axes.plot([], [], linestyle="none", marker="v", markersize=4.5)
        self._band = Rectangle((0, 0), 0, 0, alpha=0.2, visible=False)
        for artist in (self._bars, self._marked):
            self.axes.add_collection(artist, autolim=False)
        self.axes.add_patch(self._band)
        self.overlay = [self._marked, self._band]
        self.axes.set_ylabel("dB")
        self.axes.set_xticks([])

    def _paint(self, colors: theme.Theme) -> None:
        self._marked.set_edgecolor(colors.text)
        self._limit.set_color(colors.bad)
        self._second.set_color(colors.text)
        self._hurt.set_color(colors.bad)
        self._band.set_facecolor(colors.accent)

    def show_layers(self, layers: Sequence[Layer], low: float, selected: Sequence[str], second: str = "") -> None:
        """Bars of dB; those below ``low`` carry a mark. ``second`` names what the layers' second figures are."""
        self._layers, self._low, self._second_name = layers, low, second
        self._per_bar = -(-len(layers) // MOST_BARS) or 1
        if layers:
            self._update(low)
        self._mark(selected)
        self.refresh()

    def _update(self, low: float) -> None:
        starts = np.arange(0, len(self._layers), self._per_bar)
        worst = np.minimum.reduceat(np.array([layer.db for layer in self._layers]), starts)
        self._tops = np.maximum(worst, 0)
        colors, palette = theme.current(), self._palette()
        self._bars.set_verts(list(_corners(np.arange(len(starts)), self._tops)))
        self._bars.set_facecolor([palette.get(layer.scheme, colors.float_) for layer in self._layers[:: self._per_bar]])
        hurt = np.flatnonzero(worst < low)
        self._hurt.set_data(hurt, self._tops[hurt])
        second = np.array([layer.second for layer in self._layers])
        with np.errstate(invalid="ignore"):
            seconds = np.fmin.reduceat(second, starts)
        self._second.set_data(np.arange(len(starts)), np.maximum(seconds, 0))
        room = max(MIN_SLOTS - len(starts), 0) / 2
        top = max(float(self._tops.max()), float(np.nanmax(seconds)) if np.isfinite(seconds).any() else 0.0, low, 1.0)
        self.axes.set_ylim(0, top * 1.12)
        self._limit.set_ydata([low, low])
        self.zoom.set_home(-0.8 - room, len(starts) - 0.2 + room)
        below = sum(layer.db < low for layer in self._layers)
        shown = [(color, scheme) for scheme, color in palette.items()]
        if len({layer.scheme for layer in self._layers}) > SCHEMES:
            shown.append((colors.float_, tr("others")))
        if self._second_name:
            shown.append((colors.text, f"– {self._second_name}"))
        if below:
            shown.append((colors.bad, tr("▾ below {low} dB: {count}").format(low=f"{low:.0f}", count=below)))
        self.legend(shown)

    def _palette(self) -> dict[str, str]:
        """Colours of the most frequent schemes, the most frequent first."""
        count: dict[str, int] = {}
        for layer in self._layers:
            count[layer.scheme] = count.get(layer.scheme, 0) + 1
        names = sorted(count, key=lambda name: (-count[name], name))[:SCHEMES]
        return dict(zip(names, theme.current().series, strict=False))

    def select(self, names: Sequence[str]) -> None:
        """Outline the bars of these layers."""
        self._mark(names)
        self.refresh_overlay()

    def _mark(self, names: Sequence[str]) -> None:
        wanted = set(names)
        places = sorted({n // self._per_bar for n, layer in enumerate(self._layers) if layer.name in wanted}) if wanted else []
        self._marked.set_verts(list(_corners(np.array(places), self._tops[places])) if places else [])

    # -- the pointer ----------------------------------------------------------------------------------------------

    def _at(self, x: float | None) -> int | None:
        if x is None or not len(self._tops):
            return None
        place = round(x)
        return place if 0 <= place < len(self._tops) else None

    def _of_bar(self, place: int) -> Sequence[Layer]:
        return self._layers[place * self._per_bar : (place + 1) * self._per_bar]

    def _pressed(self, event) -> None:
        if event.inaxes and event.button == MouseButton.LEFT and not event.dblclick:
            self._press = (event.xdata, event.ydata, event.x, event.y)

    def _dragged(self, event) -> None:
        if self._press is None or event.xdata is None or not self._far(event):
            return
        x, y = self._press[:2]
        self._band.set_bounds(min(x, event.xdata), min(y, event.ydata), abs(event.xdata - x), abs(event.ydata - y))
        self._band.set_visible(True)
        self.refresh_overlay()

    def _far(self, event) -> bool:
        assert self._press
        return max(abs(event.x - self._press[2]), abs(event.y - self._press[3])) > DRAG_PX

    def _released(self, event) -> None:
        if self._press is None:
            return
        press, self._press = self._press, None
        was_band = self._band.get_visible()
        self._band.set_visible(False)
        more = "shift" in (event.key or "") or "control" in (event.key or "") or bool(event.modifiers & {"shift", "ctrl"})
        if was_band and event.xdata is not None:
            names = self._inside(*sorted((press[0], event.xdata)), *sorted((press[1], event.ydata)))
            if names:
                self._on_select(names, more)
            self.refresh_overlay()
        elif (place := self._at(press[0])) is not None:
            self._click(place, more)

    def _click(self, place: int, more: bool) -> None:
        """One bar; with Shift all bars from the one clicked before."""
        if more and self._anchor is not None and self._anchor < len(self._tops):
            first, last = sorted((self._anchor, place))
            self._on_select([layer.name for n in range(first, last + 1) for layer in self._of_bar(n)], True)
            return
        self._anchor = place
        self._on_select([min(self._of_bar(place), key=lambda layer: layer.db).name], False)

    def _inside(self, left: float, right: float, bottom: float, top: float) -> list[str]:
        """Layers whose bars end inside a rectangle."""
        first, last = max(round(left), 0), min(round(right), len(self._tops) - 1)
        return [layer.name for n in range(first, last + 1) for layer in self._of_bar(n) if bottom <= max(layer.db, 0) <= top]

    def _describe(self, event) -> str:
        place = self._at(event.xdata)
        if place is None:
            return ""
        layers = self._of_bar(place)
        worst = min(layers, key=lambda layer: layer.db)
        words = f"{text.plain(worst.name)}: {worst.db:.2f} dB · {worst.scheme}"
        if self._second_name and np.isfinite(worst.second):
            words += f" · {self._second_name} {worst.second:.2f} dB"
        return words if len(layers) == 1 else tr("worst of {count} layers, {words}").format(count=len(layers), words=words)

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        heads = (tr("layer"), tr("scheme"), tr("SQNR dB"), self._second_name or tr("output SQNR dB"))
        return heads, [(layer.name, layer.scheme, layer.db, layer.second) for layer in self._layers]


def _corners(places: np.ndarray, tops: np.ndarray) -> np.ndarray:
    corners = np.zeros((len(places), 4, 2))
    corners[:, :, 0] = places[:, None] + np.array([-0.4, -0.4, 0.4, 0.4])
    corners[:, 1:3, 1] = tops[:, None]
    return corners
