"""One layer's weights as several runs quantized them, on shared edges."""

from collections.abc import Sequence

import numpy as np

from engine.records.report import Histogram
from mono_quant_gui import theme
from mono_quant_gui.comparing import MOST
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas


class BothHistogramsPlot(PlotCanvas):
    """Float weights filled, every side's quantized ones as an outline; counts on a logarithmic axis."""

    def _build(self) -> None:
        self._shown: list[tuple[str, Histogram]] = []
        axes, edges = self.axes, np.array([0.0, 1.0])
        self._float = axes.stairs([0], edges, fill=True, alpha=0.55, linewidth=0)
        self._sides = [axes.stairs([0], edges, linewidth=1.2) for _ in range(MOST)]
        axes.set_xlabel(tr("weight"))
        axes.set_ylabel(tr("weights per bin"))

    def _paint(self, colors: theme.Theme) -> None:
        self._float.set_facecolor(colors.float_)
        for patch, color in zip(self._sides, self._colors(colors), strict=True):
            patch.set_edgecolor(color)

    def _colors(self, colors: theme.Theme) -> tuple[str, ...]:
        return colors.quantized, colors.warning, colors.good, colors.bad

    def show_histograms(self, shown: Sequence[tuple[str, Histogram]]) -> None:
        """(name of the side, its histogram): all of one float layer, so on the same edges."""
        self._shown = list(shown[:MOST])
        if self._shown:
            first = self._shown[0][1]
            limit, bins = first.limit or 1.0, len(first.float_counts)
            edges = np.linspace(-limit, limit, bins + 1)
            self._float.set_data(np.maximum(np.asarray(first.float_counts, float), 0.5), edges, 0.5)
            top = float(max(first.float_counts))
            for patch in self._sides:
                patch.set_visible(False)
            for patch, (_, one) in zip(self._sides, self._shown, strict=False):
                if one.quantized_counts:
                    span = np.linspace(-(one.limit or 1.0), one.limit or 1.0, len(one.quantized_counts) + 1)
                    patch.set_data(np.maximum(np.asarray(one.quantized_counts, float), 0.5), span, 0.5)
                    patch.set_visible(True)
                    top = max(top, float(max(one.quantized_counts)))
            self.set_counts_scale(True, top)
            self.zoom.set_home(-limit, limit)
            colors = theme.current()
            names = zip(self._colors(colors), (name for name, _ in self._shown), strict=False)
            self.legend([(colors.float_, tr("float")), *names])
        self.refresh()

    def _describe(self, event) -> str:
        if not self._shown:
            return ""
        limit, counts = self._shown[0][1].limit or 1.0, self._shown[0][1].float_counts
        place = int((event.xdata + limit) / (2 * limit) * len(counts))
        if not 0 <= place < len(counts):
            return ""
        said = [tr("{count} float").format(count=f"{counts[place]:,}")]
        said += [f"{one.quantized_counts[place]:,} {name}" for name, one in self._shown if len(one.quantized_counts) > place]
        return f"{-limit + (place + 0.5) * 2 * limit / len(counts):+.4g}: " + ", ".join(said)

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        if not self._shown:
            return (), ()
        first = self._shown[0][1]
        limit, bins = first.limit or 1.0, len(first.float_counts)
        columns = [first.float_counts, *(one.quantized_counts or [0] * bins for _, one in self._shown)]
        middles = [-limit + (n + 0.5) * 2 * limit / bins for n in range(bins)]
        heads = (tr("weight"), tr("float"), *(name for name, _ in self._shown))
        return heads, [(middle, *row) for middle, row in zip(middles, zip(*columns, strict=False), strict=False)]
