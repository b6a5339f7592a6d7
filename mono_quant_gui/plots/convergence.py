"""Range of one layer's input against the number of samples seen: were there enough?"""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from engine.records.calibration import Activity
from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas


class ConvergencePlot(PlotCanvas):
    """Two steps, the least and the greatest value so far."""

    def _build(self) -> None:
        self._shown: Activity | None = None
        self._lines = [
            self.axes.plot([], [], drawstyle="steps-post", linewidth=1.4, marker="o", markersize=2.5)[0] for _ in range(2)
        ]
        self._half = self.axes.axvline(0, linewidth=1, linestyle=(0, (4, 3)))
        self.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        self.axes.set_xlabel(tr("samples"))
        self.axes.set_ylabel(tr("range so far"))

    def _paint(self, colors: theme.Theme) -> None:
        for line in self._lines:
            line.set_color(colors.quantized)
        self._half.set_color(colors.muted)

    def show_activity(self, activity: Activity | None) -> None:
        """Draw; what has no steps is not drawn."""
        self._shown = activity
        if activity is not None and activity.steps:
            lows, highs = np.asarray(activity.step_lows, float), np.asarray(activity.step_highs, float)
            for line, values in zip(self._lines, (lows, highs), strict=True):
                line.set_data(activity.steps, values)
            self._half.set_xdata([activity.samples / 2] * 2)
            span = max(float(highs.max() - lows.min()), 1e-12)
            self.axes.set_ylim(lows.min() - 0.08 * span, highs.max() + 0.08 * span)
            self.zoom.set_home(0, max(activity.samples, 1) * 1.02)
            colors = theme.current()
            self.legend([(colors.quantized, tr("least and greatest")), (colors.muted, tr("half of the samples"))])
        self.refresh()

    def _describe(self, event) -> str:
        shown = self._shown
        if shown is None or not shown.steps:
            return ""
        place = int(np.searchsorted(shown.steps, event.xdata, side="right")) - 1
        if place < 0:
            return ""
        return tr("after {count} samples: {low} to {high}").format(
            count=f"{shown.steps[place]:,}", low=f"{shown.step_lows[place]:.4g}", high=f"{shown.step_highs[place]:.4g}"
        )

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        shown = self._shown
        rows = list(zip(shown.steps, shown.step_lows, shown.step_highs, strict=True)) if shown else []
        return (tr("samples"), tr("least"), tr("greatest")), rows
