"""One layer's weights: float against quantized on shared edges, what was clipped, what fell below half a step, and the levels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.markers import TICKUP
from matplotlib.transforms import blended_transform_factory

from engine.records.report import Histogram
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas

LEVEL_TICK = 5.0
"""Height of a level's mark in points."""
MANY = 64
"""More levels than this get finer marks, so that they do not become a bar."""


class HistogramPlot(PlotCanvas):
    """256 bins; counts linear or logarithmic."""

    def _build(self) -> None:
        self._shown: Histogram | None = None
        self._below: Sequence[int] = ()
        axes, edges = self.axes, np.array([0.0, 1.0])
        self._float = axes.stairs([0], edges, fill=True, alpha=0.55, linewidth=0)
        self._quantized = axes.stairs([0], edges, linewidth=1.1)
        self._underflow = axes.stairs([0], edges, fill=True, alpha=0.75, linewidth=0)
        self._clipped = axes.stairs([0], edges, fill=True, linewidth=0)
        foot = blended_transform_factory(axes.transData, axes.transAxes)
        (self._levels,) = axes.plot([], [], linestyle="", marker=TICKUP, markersize=LEVEL_TICK, transform=foot)
        axes.set_xlabel(tr("weight"))
        axes.set_ylabel(tr("weights per bin"))

    def _paint(self, colors: theme.Theme) -> None:
        self._float.set_facecolor(colors.float_)
        self._quantized.set_edgecolor(colors.quantized)
        self._underflow.set_facecolor(colors.warning)
        self._clipped.set_facecolor(colors.bad)
        self._levels.set_color(colors.text)

    def show_histogram(
        self, histogram: Histogram | None, *, log: bool, below: Sequence[int] = (), levels: Sequence[float] = ()
    ) -> None:
        """``below``: nonzero weights that become zero, by bin; ``levels``: representable values to mark."""
        self._shown, self._below = histogram, below if histogram and histogram.quantized_counts else ()
        if histogram is not None:
            self._update(histogram, log, levels)
        self.refresh()

    def _update(self, histogram: Histogram, log: bool, levels: Sequence[float]) -> None:
        limit = histogram.limit or 1.0
        bins = len(histogram.float_counts)
        edges = np.linspace(-limit, limit, bins + 1)
        # On a logarithmic axis an empty bin has no place; half a count puts it at the foot.
        floor = 0.5 if log else 0.0
        nothing = np.zeros(bins)
        for patch, counts in (
            (self._float, histogram.float_counts),
            (self._quantized, histogram.quantized_counts or nothing),
            (self._underflow, self._below or nothing),
            (self._clipped, histogram.clipped_counts or nothing),
        ):
            patch.set_data(np.maximum(np.asarray(counts, float), floor), edges, floor)
        self._quantized.set_visible(bool(histogram.quantized_counts))
        self._levels.set_data(levels, np.zeros(len(levels)))
        self._levels.set_markeredgewidth(0.8 if len(levels) <= MANY else 0.3)
        top = max(*histogram.float_counts, *(histogram.quantized_counts or (0,)), 1)
        self.set_counts_scale(log, top)
        self.zoom.set_home(-limit, limit)
        self._say(histogram)

    def _say(self, histogram: Histogram) -> None:
        colors, total = theme.current(), max(sum(histogram.float_counts), 1)
        shown = [(colors.float_, tr("float"))]
        if histogram.quantized_counts:
            clipped = sum(histogram.clipped_counts) / total
            shown += [(colors.quantized, tr("quantized")), (colors.bad, tr("clipped {share}").format(share=text.share(clipped)))]
        if self._below:
            share = text.share(sum(self._below) / total)
            shown.append((colors.warning, tr("below ½ step {share}").format(share=share)))
        self.legend(shown)

    def _describe(self, event) -> str:
        shown = self._shown
        if shown is None or shown.limit <= 0:
            return ""
        bins = len(shown.float_counts)
        place = int((event.xdata + shown.limit) / (2 * shown.limit) * bins)
        if not 0 <= place < bins:
            return ""
        words = [tr("{count} float").format(count=f"{shown.float_counts[place]:,}")]
        if shown.quantized_counts:
            words.append(tr("{count} quantized").format(count=f"{shown.quantized_counts[place]:,}"))
        if shown.clipped_counts and shown.clipped_counts[place]:
            words.append(tr("{count} clipped").format(count=f"{shown.clipped_counts[place]:,}"))
        if self._below and self._below[place]:
            words.append(tr("{count} below half a step").format(count=f"{self._below[place]:,}"))
        return f"{self._middle(place):+.4g}: " + ", ".join(words)

    def _middle(self, place: int) -> float:
        assert self._shown
        return -self._shown.limit + (place + 0.5) * 2 * self._shown.limit / len(self._shown.float_counts)

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        shown = self._shown
        if shown is None:
            return (), ()
        nothing = [0] * len(shown.float_counts)
        columns = (shown.float_counts, shown.quantized_counts or nothing, shown.clipped_counts or nothing, self._below or nothing)
        heads = (tr("weight"), tr("float"), tr("quantized"), tr("clipped"), tr("below half a step"))
        return heads, [(self._middle(n), *row) for n, row in enumerate(zip(*columns, strict=True))]
