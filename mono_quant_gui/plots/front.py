"""The size–error front: bits per weight against SQNR, with every run and every uniform recipe as points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backend_bases import MouseButton
from matplotlib.ticker import MaxNLocator
from PySide6.QtWidgets import QWidget

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import PlotCanvas

NEAR_PX = 8
ROOM = 1.5
"""Bits per weight shown beyond the widest scheme but keep, where nothing is of interest any more."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point beside the front: a run, or one scheme for all layers."""

    words: str
    bits: float
    db: float
    is_run: bool


class FrontPlot(PlotCanvas):
    """A click chooses the budget under the pointer."""

    drag_zooms = False

    def __init__(
        self, on_choose: Callable[[float], None], on_hover: Callable[[str], None], parent: QWidget | None = None
    ) -> None:
        self._on_choose = on_choose
        self._bits, self._db = np.empty(0), np.empty(0)
        self._marks: list[Mark] = []
        super().__init__(on_hover, parent)
        self.mpl_connect("button_release_event", self._released)

    def _build(self) -> None:
        (self._line,) = self.axes.plot([], [], linewidth=1.6)
        (self._uniform,) = self.axes.plot([], [], linestyle="", marker="s", markersize=4.5)
        (self._runs,) = self.axes.plot([], [], linestyle="", marker="D", markersize=6)
        self._budget = self.axes.axvline(0, linewidth=1.2)
        (self._here,) = self.axes.plot([], [], linestyle="", marker="o", markersize=7)
        self.overlay = [self._budget, self._here]
        self.axes.xaxis.set_major_locator(MaxNLocator(8))
        self.axes.set_xlabel(tr("bits per weight"))
        self.axes.set_ylabel(tr("SQNR dB"))

    def _paint(self, colors: theme.Theme) -> None:
        self._line.set_color(colors.quantized)
        self._uniform.set_color(colors.float_)
        self._runs.set_color(colors.good)
        for artist in (self._budget, self._here):
            artist.set_color(colors.accent)

    def name_errors(self, words: str) -> None:
        """What the y axis is of."""
        self.axes.set_ylabel(words)

    def show_front(self, bits: np.ndarray, db: np.ndarray, marks: Sequence[Mark]) -> None:
        """Draw; points without error (everything kept) lie beyond any axis and are left out."""
        seen = np.isfinite(db)
        self._bits, self._db, self._marks = bits[seen], db[seen], list(marks)
        self._line.set_data(self._bits, self._db)
        for line, of_runs in ((self._uniform, False), (self._runs, True)):
            chosen = [mark for mark in self._marks if mark.is_run is of_runs and np.isfinite(mark.db)]
            line.set_data([mark.bits for mark in chosen], [mark.db for mark in chosen])
        if len(self._bits):
            self._fit()
        self.refresh()

    def _fit(self) -> None:
        shown = [mark.bits for mark in self._marks if np.isfinite(mark.db)]
        right = min(float(self._bits[-1]), max(shown, default=float(self._bits[-1])) + ROOM)
        left = min(float(self._bits[0]), *shown) if shown else float(self._bits[0])
        self.zoom.set_home(left - 0.15, max(right, left + 0.5))
        heights = [*self._db[self._bits <= right], *(mark.db for mark in self._marks if np.isfinite(mark.db))]
        low, high = min(heights), max(heights)
        self.axes.set_ylim(low - 0.06 * (high - low) - 0.5, high + 0.08 * (high - low) + 0.5)
        colors = theme.current()
        legend = [(colors.quantized, tr("best by search")), (colors.float_, tr("one scheme for all"))]
        self.legend([*legend, *([(colors.good, tr("runs"))] if any(mark.is_run for mark in self._marks) else [])])

    def show_budget(self, bits: float, db: float | None) -> None:
        """Move the mark of the budget; the rest stays as it is drawn."""
        self._budget.set_xdata([bits, bits])
        self._here.set_data([bits], [db] if db is not None else [np.nan])
        self.refresh_overlay()

    def _released(self, event) -> None:
        if event.button == MouseButton.LEFT and event.xdata is not None and len(self._bits):
            self._on_choose(float(event.xdata))

    def _describe(self, event) -> str:
        for mark in self._marks:
            place = self.axes.transData.transform((mark.bits, mark.db))
            if np.isfinite(mark.db) and np.hypot(place[0] - event.x, place[1] - event.y) < NEAR_PX:
                words = tr("{what}: {bits} bits per weight, {db} dB")
                return words.format(what=text.plain(mark.words), bits=f"{mark.bits:.2f}", db=f"{mark.db:.2f}")
        if not len(self._bits) or event.xdata is None:
            return ""
        place = int(np.clip(np.searchsorted(self._bits, event.xdata, side="right") - 1, 0, len(self._bits) - 1))
        words = tr("best by search: {bits} bits per weight, {db} dB")
        return words.format(bits=f"{self._bits[place]:.2f}", db=f"{self._db[place]:.2f}")

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        rows = [(tr("best by search"), bits, db) for bits, db in zip(self._bits.tolist(), self._db.tolist(), strict=True)]
        return (tr("what"), tr("bits per weight"), tr("SQNR dB")), [*rows, *((m.words, m.bits, m.db) for m in self._marks)]
