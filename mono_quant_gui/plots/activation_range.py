"""What one layer is given: the histogram of its input over its range, and the samples that set the range."""

from collections.abc import Sequence

import numpy as np

from engine.records.calibration import Activity
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas


class ActivationRangePlot(PlotCanvas):
    """128 bins over [low, high]; counts linear or logarithmic."""

    def _build(self) -> None:
        self._shown: Activity | None = None
        self._counts = self.axes.stairs([0], [0.0, 1.0], fill=True, alpha=0.55, linewidth=0)
        self._ends = [self.axes.axvline(0, linewidth=1.2) for _ in range(2)]
        self.axes.set_xlabel(tr("input of the layer"))
        self.axes.set_ylabel(tr("values per bin"))

    def _paint(self, colors: theme.Theme) -> None:
        self._counts.set_facecolor(colors.float_)
        for line in self._ends:
            line.set_color(colors.quantized)

    def show_activity(self, activity: Activity | None, *, log: bool) -> None:
        """Draw; what has no counts is not drawn."""
        self._shown = activity
        if activity is not None and activity.counts:
            self._update(activity, log)
        self.refresh()

    def _update(self, activity: Activity, log: bool) -> None:
        low, high = activity.low, activity.high
        width = (high - low) or max(abs(high), 1.0) * 1e-3  # a constant input still gets a bar to see
        floor = 0.5 if log else 0.0
        counts = np.maximum(np.asarray(activity.counts, float), floor)
        self._counts.set_data(counts, np.linspace(low, low + width, len(counts) + 1), floor)
        for line, place in zip(self._ends, (low, low + width), strict=True):
            line.set_xdata([place, place])
        self.set_counts_scale(log, float(counts.max()))
        self.zoom.set_home(low - 0.04 * width, low + 1.04 * width)
        colors = theme.current()
        ends = f"{text.figure(low)}{_sample(activity.low_sample)} – {text.figure(high)}{_sample(activity.high_sample)}"
        self.legend([(colors.float_, tr("input")), (colors.quantized, ends)])

    def _describe(self, event) -> str:
        shown = self._shown
        if shown is None or not shown.counts or shown.high <= shown.low:
            return ""
        bins = len(shown.counts)
        place = int((event.xdata - shown.low) / (shown.high - shown.low) * bins)
        if not 0 <= place < bins:
            return ""
        return tr("{value}: {count} values").format(value=f"{self._middle(place):+.4g}", count=f"{shown.counts[place]:,}")

    def _middle(self, place: int) -> float:
        assert self._shown
        return self._shown.low + (place + 0.5) * (self._shown.high - self._shown.low) / len(self._shown.counts)

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        counts = self._shown.counts if self._shown else ()
        return (tr("input"), tr("values")), [(self._middle(n), count) for n, count in enumerate(counts)]


def _sample(index: int) -> str:
    return " " + tr("(sample {index})").format(index=index) if index >= 0 else ""
