"""SQNR of every quantized layer in network order; a click selects the layer."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch, Rectangle
from PySide6.QtWidgets import QWidget

from mono_quant_gui import text, theme
from mono_quant_gui.plots.canvas import PlotCanvas

MIN_SLOTS = 16
"""A few layers get bars, not walls."""


class SqnrBars(PlotCanvas):
    """``show_layers`` draws; ``on_select`` is called with a layer's name, ``on_hover`` with a sentence."""

    def __init__(self, on_select: Callable[[str], None], on_hover: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._on_select, self._on_hover = on_select, on_hover
        self._names: Sequence[str] = ()
        self._values = np.empty(0)
        self._mark: Rectangle | None = None
        self.mpl_connect("button_press_event", self._clicked)
        self.mpl_connect("motion_notify_event", self._moved)
        self.mpl_connect("axes_leave_event", lambda event: self._on_hover(""))

    def show_layers(self, names: Sequence[str], values: Sequence[float], low: float, selected: str | None) -> None:
        """Bars of ``values`` (dB); those below ``low`` in their own colour and named so in the legend."""
        colors = theme.current()
        self._names, self._values = names, np.asarray(values, float)
        axes = self.clear()
        axes.set_ylabel("dB", color=colors.muted, fontsize=8)
        if len(names):
            left = np.arange(len(names)) - 0.4
            tops = np.maximum(self._values, 0)
            corners = np.zeros((len(names), 4, 2))
            corners[:, :, 0] = np.stack([left, left, left + 0.8, left + 0.8], axis=1)
            corners[:, 1:3, 1] = tops[:, None]
            hurt = self._values < low
            axes.add_collection(PolyCollection(list(corners), facecolors=np.where(hurt, colors.bad, colors.quantized)))
            room = max(MIN_SLOTS - len(names), 0) / 2
            axes.set_xlim(-0.8 - room, len(names) - 0.2 + room)
            axes.set_ylim(0, max(float(tops.max()) * 1.1, 1.0))
            handles, labels = [Patch(color=colors.quantized)], [f"{len(names)} layers"]
            if hurt.any():
                handles.append(Patch(color=colors.bad))
                labels.append(f"below {low:.0f} dB: {int(hurt.sum())}")
            self.legend(axes, handles, labels)
        axes.set_xticks([])
        self._axes = axes
        self._mark = None
        self.select(selected)

    def select(self, name: str | None) -> None:
        """Outline one bar."""
        if self._mark is not None:
            self._mark.remove()
            self._mark = None
        if name in self._names:
            place = list(self._names).index(name or "")
            self._mark = Rectangle(
                (place - 0.4, 0), 0.8, max(self._values[place], 0), fill=False, linewidth=1.6, edgecolor=theme.current().text
            )
            self._axes.add_patch(self._mark)
        self.draw_idle()

    def _at(self, event) -> int | None:
        if event.xdata is None or not len(self._names):
            return None
        place = round(event.xdata)
        return place if 0 <= place < len(self._names) else None

    def _clicked(self, event) -> None:
        place = self._at(event)
        if place is not None:
            self._on_select(self._names[place])

    def _moved(self, event) -> None:
        place = self._at(event)
        self._on_hover("" if place is None else f"{text.plain(self._names[place])}: {self._values[place]:.2f} dB")
