"""One layer's weights: float before a run; float against quantized, and what was clipped, after."""

from collections.abc import Callable

import numpy as np
from matplotlib.patches import Patch
from PySide6.QtWidgets import QWidget

from engine.records.report import Histogram
from mono_quant_gui import theme
from mono_quant_gui.plots.canvas import PlotCanvas


class HistogramPlot(PlotCanvas):
    """256 bins on shared edges; counts linear or logarithmic; ``on_hover`` gets a sentence."""

    def __init__(self, on_hover: Callable[[str], None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._on_hover = on_hover
        self._shown: Histogram | None = None
        self.mpl_connect("motion_notify_event", self._moved)
        self.mpl_connect("axes_leave_event", lambda event: self._on_hover(""))

    def show_histogram(self, histogram: Histogram | None, *, log: bool) -> None:
        """Draw, or empty the axes when there is nothing."""
        self._shown = histogram
        axes = self.clear()
        if histogram is not None:
            self._draw(axes, histogram, log)
        self.draw_idle()

    def _draw(self, axes, histogram: Histogram, log: bool) -> None:
        colors = theme.current()
        limit = histogram.limit or 1.0
        edges = np.linspace(-limit, limit, len(histogram.float_counts) + 1)
        # On a logarithmic axis an empty bin has no place; half a count puts it at the foot.
        floor = 0.5 if log else 0.0
        floats = np.maximum(np.asarray(histogram.float_counts, float), floor)
        axes.stairs(floats, edges, baseline=floor, fill=True, color=colors.float_, alpha=0.55, linewidth=0)
        handles, labels = [Patch(color=colors.float_, alpha=0.55)], ["float"]
        if histogram.quantized_counts:
            quantized = np.maximum(np.asarray(histogram.quantized_counts, float), floor)
            axes.stairs(quantized, edges, baseline=floor, color=colors.quantized, linewidth=1.1)
            handles.append(Patch(color=colors.quantized))
            labels.append("quantized")
        clipped = sum(histogram.clipped_counts)
        if histogram.quantized_counts:
            counts = np.maximum(np.asarray(histogram.clipped_counts, float), floor)
            axes.stairs(counts, edges, baseline=floor, fill=True, color=colors.bad, linewidth=0)
            total = max(sum(histogram.float_counts), 1)
            handles.append(Patch(color=colors.bad))
            labels.append(f"clipped {100 * clipped / total:.3f} %" if clipped else "clipped 0 %")
        axes.set_yscale("log" if log else "linear")
        axes.tick_params(which="both", length=0)  # changing the scale makes new ticks
        axes.set_xlim(-limit, limit)
        axes.set_ylim(bottom=floor)
        axes.set_xlabel("weight", color=colors.muted, fontsize=8)
        axes.set_ylabel("weights per bin", color=colors.muted, fontsize=8)
        self.legend(axes, handles, labels)

    def _moved(self, event) -> None:
        shown = self._shown
        if shown is None or event.xdata is None or shown.limit <= 0:
            return
        bins = len(shown.float_counts)
        place = int((event.xdata + shown.limit) / (2 * shown.limit) * bins)
        if not 0 <= place < bins:
            return
        middle = -shown.limit + (place + 0.5) * 2 * shown.limit / bins
        words = f"{middle:+.4g}: {shown.float_counts[place]:,} float"
        if shown.quantized_counts:
            words += f", {shown.quantized_counts[place]:,} quantized"
        self._on_hover(words)
