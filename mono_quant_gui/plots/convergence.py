"""Range of one layer's input against the number of samples seen: were there enough?"""

from collections.abc import Callable

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PySide6.QtWidgets import QWidget

from engine.records.calibration import Activity
from mono_quant_gui import theme
from mono_quant_gui.plots.canvas import PlotCanvas


class ConvergencePlot(PlotCanvas):
    """Two steps, the least and the greatest value so far; ``on_hover`` gets a sentence."""

    def __init__(self, on_hover: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._on_hover = on_hover
        self._shown: Activity | None = None
        self.mpl_connect("motion_notify_event", self._moved)
        self.mpl_connect("axes_leave_event", lambda event: self._on_hover(""))

    def show_activity(self, activity: Activity | None) -> None:
        """Draw, or empty the axes when there is nothing."""
        self._shown = activity
        axes = self.clear()
        if activity is not None and activity.steps:
            self._draw(axes, activity)
        self.draw_idle()

    def _draw(self, axes, activity: Activity) -> None:
        colors = theme.current()
        steps = np.asarray(activity.steps, float)
        lows, highs = np.asarray(activity.step_lows, float), np.asarray(activity.step_highs, float)
        axes.fill_between(steps, lows, highs, step="post", color=colors.quantized, alpha=0.12, linewidth=0)
        for values in (lows, highs):
            axes.plot(steps, values, drawstyle="steps-post", color=colors.quantized, linewidth=1.4, marker="o", markersize=2.5)
        half = activity.samples / 2
        axes.axvline(half, color=colors.muted, linewidth=1, linestyle=(0, (4, 3)))
        span = max(float(highs.max() - lows.min()), 1e-12)
        axes.set_ylim(lows.min() - 0.08 * span, highs.max() + 0.08 * span)
        axes.set_xlim(0, max(activity.samples, 1) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("samples", color=colors.muted, fontsize=8)
        axes.set_ylabel("range so far", color=colors.muted, fontsize=8)
        handles = [Line2D([], [], color=colors.quantized), Line2D([], [], color=colors.muted, linestyle=(0, (4, 3)))]
        self.legend(axes, handles, ["least and greatest", "half of the samples"])

    def _moved(self, event) -> None:
        shown = self._shown
        if shown is None or event.xdata is None or not shown.steps:
            return
        place = int(np.searchsorted(shown.steps, event.xdata, side="right")) - 1
        if place >= 0:
            self._on_hover(f"after {shown.steps[place]:,} samples: {shown.step_lows[place]:.4g} to {shown.step_highs[place]:.4g}")
