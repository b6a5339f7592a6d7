"""Bytes by kind of layer, in the file and as planned."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import PolyCollection

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas


class SizesPlot(PlotCanvas):
    """Two bars a kind."""

    foot = 22

    def _build(self) -> None:
        self._rows: Sequence[tuple[str, int, int]] = ()
        self._before, self._after = PolyCollection([], linewidths=0), PolyCollection([], linewidths=0)
        for bars in (self._before, self._after):
            self.axes.add_collection(bars, autolim=False)

    def _paint(self, colors: theme.Theme) -> None:
        self._before.set_facecolor(colors.float_)
        self._after.set_facecolor(colors.quantized)

    def show_sizes(self, rows: Sequence[tuple[str, int, int]]) -> None:
        """(kind, bytes before, bytes after), the largest first."""
        if rows and rows != self._rows:
            self._rows = rows
            unit, name = _unit(max(before for _, before, _ in rows))
            places = np.arange(len(rows))
            for bars, offset, sizes in (
                (self._before, -0.2, [row[1] for row in rows]),
                (self._after, 0.2, [row[2] for row in rows]),
            ):
                bars.set_verts(list(_bars(places + offset, np.array(sizes) / unit)))
            self.axes.set_xticks(places, [kind for kind, _, _ in rows])
            self.axes.set_xlim(-0.7, max(len(rows), 4) - 0.3)
            self.axes.set_ylim(0, max(max(row[1], row[2]) for row in rows) / unit * 1.08 or 1)
            self.axes.set_ylabel(name)
        colors = theme.current()
        before, after = text.size(sum(row[1] for row in self._rows)), text.size(sum(row[2] for row in self._rows))
        self.legend([
            (colors.float_, tr("in the file {size}").format(size=before)),
            (colors.quantized, tr("as planned {size}").format(size=after)),
        ])  # fmt: skip
        self.refresh()

    def _describe(self, event) -> str:
        place = round(event.xdata)
        if not 0 <= place < len(self._rows):
            return ""
        kind, before, after = self._rows[place]
        return f"{kind}: {text.size(before)} → {text.size(after)}"

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        return (tr("kind"), tr("bytes before"), tr("bytes after")), self._rows


def _bars(places: np.ndarray, tops: np.ndarray) -> np.ndarray:
    corners = np.zeros((len(places), 4, 2))
    corners[:, :, 0] = places[:, None] + np.array([-0.18, -0.18, 0.18, 0.18])
    corners[:, 1:3, 1] = tops[:, None]
    return corners


def _unit(most: int) -> tuple[float, str]:
    return next(((scale, name) for name, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if most >= scale), (1.0, "B"))
