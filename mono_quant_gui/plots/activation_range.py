"""What one layer is given: the histogram of its input over its range, and the samples that set the range."""

from collections.abc import Callable

import numpy as np
from matplotlib.patches import Patch
from PySide6.QtWidgets import QWidget

from engine.records.calibration import Activity
from mono_quant_gui import theme
from mono_quant_gui.plots.canvas import PlotCanvas


class ActivationRangePlot(PlotCanvas):
    """128 bins over [low, high]; counts linear or logarithmic; ``on_hover`` gets a sentence."""

    def __init__(self, on_hover: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._on_hover = on_hover
        self._shown: Activity | None = None
        self.mpl_connect("motion_notify_event", self._moved)
        self.mpl_connect("axes_leave_event", lambda event: self._on_hover(""))

    def show_activity(self, activity: Activity | None, *, log: bool) -> None:
        """Draw, or empty the axes when there is nothing."""
        self._shown = activity
        axes = self.clear()
        if activity is not None and activity.counts:
            self._draw(axes, activity, log)
        self.draw_idle()

    def _draw(self, axes, activity: Activity, log: bool) -> None:
        colors = theme.current()
        low, high = activity.low, activity.high
        width = (high - low) or max(abs(high), 1.0) * 1e-3  # a constant input still gets a bar to see
        edges = np.linspace(low, low + width, len(activity.counts) + 1)
        floor = 0.5 if log else 0.0
        counts = np.maximum(np.asarray(activity.counts, float), floor)
        axes.stairs(counts, edges, baseline=floor, fill=True, color=colors.float_, alpha=0.55, linewidth=0)
        axes.axvline(low, color=colors.quantized, linewidth=1.2)
        axes.axvline(low + width, color=colors.quantized, linewidth=1.2)
        axes.set_yscale("log" if log else "linear")
        axes.tick_params(which="both", length=0)
        axes.set_xlim(low - 0.04 * width, low + 1.04 * width)
        axes.set_ylim(bottom=floor)
        axes.set_xlabel("input of the layer", color=colors.muted, fontsize=8)
        axes.set_ylabel("values per bin", color=colors.muted, fontsize=8)
        handles = [Patch(color=colors.float_, alpha=0.55), Patch(color=colors.quantized)]
        self.legend(
            axes, handles, ["input", f"{low:.4g}{_sample(activity.low_sample)} to {high:.4g}{_sample(activity.high_sample)}"]
        )

    def _moved(self, event) -> None:
        shown = self._shown
        if shown is None or event.xdata is None or not shown.counts or shown.high <= shown.low:
            return
        bins = len(shown.counts)
        place = int((event.xdata - shown.low) / (shown.high - shown.low) * bins)
        if 0 <= place < bins:
            middle = shown.low + (place + 0.5) * (shown.high - shown.low) / bins
            self._on_hover(f"{middle:+.4g}: {shown.counts[place]:,} values")


def _sample(index: int) -> str:
    return f" (sample {index})" if index >= 0 else ""
