"""How the layers' SQNR is distributed."""

from collections.abc import Sequence

import numpy as np

from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas

BINS = 32


class SpreadPlot(PlotCanvas):
    """Layers by dB; those below the limit are counted apart."""

    def _build(self) -> None:
        self._counts, self._edges = np.zeros(1, int), np.array([0.0, 1.0])
        self._good = self.axes.stairs([0], self._edges, fill=True, linewidth=0)
        self._hurt = self.axes.stairs([0], self._edges, fill=True, linewidth=0)
        self.axes.set_xlabel("dB")
        self.axes.set_ylabel(tr("layers"))

    def _paint(self, colors: theme.Theme) -> None:
        self._good.set_facecolor(colors.quantized)
        self._hurt.set_facecolor(colors.bad)

    def show_values(self, values: Sequence[float], low: float) -> None:
        """Counts of layers in bins of dB."""
        if values:
            found = np.asarray(values)
            least, most = min(float(found.min()), low) - 1, max(float(found.max()), low) + 1
            self._edges = np.linspace(least, most, BINS + 1)
            hurt, _ = np.histogram(found[found < low], self._edges)
            good, _ = np.histogram(found[found >= low], self._edges)
            self._counts = good + hurt
            self._good.set_data(self._counts, self._edges, 0)
            self._hurt.set_data(hurt, self._edges, 0)
            self.axes.set_ylim(0, max(self._counts.max() * 1.08, 1))
            self.zoom.set_home(least, most)
            colors = theme.current()
            below = tr("below {low} dB: {count}").format(low=f"{low:.0f}", count=int(hurt.sum()))
            self.legend([(colors.quantized, tr("median {db} dB").format(db=f"{np.median(found):.1f}")), (colors.bad, below)])
        self.refresh()

    def _describe(self, event) -> str:
        place = int(np.searchsorted(self._edges, event.xdata, side="right")) - 1
        if not 0 <= place < len(self._counts):
            return ""
        low, high = self._edges[place], self._edges[place + 1]
        return tr("{low} to {high} dB: {count} layers").format(
            low=f"{low:.1f}", high=f"{high:.1f}", count=int(self._counts[place])
        )

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        rows = list(zip(self._edges[:-1].tolist(), self._edges[1:].tolist(), self._counts.tolist(), strict=True))
        return (tr("from dB"), tr("to dB"), tr("layers")), rows
