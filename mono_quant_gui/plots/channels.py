"""Range of every output channel, and below it the channel's SQNR: one channel that is unlike the others shows at once."""

from collections.abc import Sequence

import numpy as np

from engine.records.look import LayerDetail
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.plots.canvas import BOTTOM, TOP, PlotCanvas, inside

NAMED_PX = 190
"""Two axes lower than this have no room for their names."""


class ChannelsPlot(PlotCanvas):
    """Bands of channels from left to right."""

    def _build(self) -> None:
        self._shown: LayerDetail | None = None
        self._compared = False
        # The outline keeps a channel's band in sight beside a far wider one.
        self._range = self.axes.stairs([0], [0.0, 1.0], fill=True, linewidth=0.8, alpha=0.6)
        self.axes.set_ylabel(tr("range"))
        self._below = self.figure.add_axes((0.1, 0.1, 0.8, 0.3), sharex=self.axes)
        self._style(self._below)
        self._below.set_ylabel(tr("SQNR dB"))
        self._below.set_xlabel(tr("output channel"))
        (self._sqnr,) = self._below.plot([], [], drawstyle="steps-post", linewidth=1.1)

    def _paint(self, colors: theme.Theme) -> None:
        self._range.set_color(colors.float_)
        self._sqnr.set_color(colors.quantized)

    def place(self, width: float, height: float) -> None:
        self._compared = compared = self._shown is not None and bool(self._shown.sqnr_db)
        head, foot = theme.px(TOP), theme.px(BOTTOM)
        split = foot + (height - head - foot) * 0.42 if compared else foot
        self.axes.set_position(inside(width, height, split + (10 if compared else 0), height - head))
        self._below.set_position(inside(width, height, foot, max(split - 6, foot + 1)))
        for axes in (self.axes, self._below):
            self.fix_labels(axes, width, height)
        self._below.set_visible(compared)
        self.scales[self.axes].numbers_below = not compared
        self.axes.set_xlabel("" if compared else tr("output channel"))
        named = height >= theme.px(NAMED_PX) or not compared  # the legend says the same
        self.axes.set_ylabel(tr("range") if named else "")
        self._below.set_ylabel(tr("SQNR dB") if named else "")

    def show_detail(self, detail: LayerDetail | None) -> None:
        """Draw, or leave what was there when there is nothing."""
        self._shown = detail
        if detail is not None and detail.ranges.low:
            self._update(detail)
        self.refresh()

    def _update(self, detail: LayerDetail) -> None:
        width, count = detail.ranges.channels_per_band, len(detail.ranges.low)
        left = np.arange(count) * width
        low, high = np.asarray(detail.ranges.low), np.asarray(detail.ranges.high)
        self._range.set_data(high, np.append(left, detail.rows), low)  # pyright: ignore[reportArgumentType]
        room = 0.06 * max(float(high.max() - low.min()), 1e-12)
        self.axes.set_ylim(low.min() - room, high.max() + room)
        if bool(detail.sqnr_db) != self._compared:
            self.place(self.width(), self.height())
        colors = theme.current()
        shown = [(colors.float_, tr("range {low} to {high}").format(low=text.figure(low.min()), high=text.figure(high.max())))]
        if detail.sqnr_db:
            values = np.array([np.nan if value is None else value for value in detail.sqnr_db])
            self._sqnr.set_data(np.append(left, detail.rows), np.append(values, values[-1]))
            finite = values[np.isfinite(values)]
            if finite.size:
                spread = max(float(finite.max() - finite.min()), 1.0)
                self._below.set_ylim(finite.min() - 0.15 * spread, finite.max() + 0.15 * spread)
                shown.append((colors.quantized, tr("worst channel {db} dB").format(db=f"{finite.min():.1f}")))
        self.zoom.set_home(0, max(detail.rows, 1))
        self.legend(shown)

    def _describe(self, event) -> str:
        detail = self._shown
        if detail is None:
            return ""
        width = detail.ranges.channels_per_band
        place = int(event.xdata // width)
        if not 0 <= place < len(detail.ranges.low):
            return ""
        last = min((place + 1) * width, detail.rows) - 1
        which = f"{place * width}" if width == 1 else f"{place * width}–{last}"
        words = tr("channel {which}: {low} to {high}").format(
            which=which, low=f"{detail.ranges.low[place]:.4g}", high=f"{detail.ranges.high[place]:.4g}"
        )
        return words + (f", {text.output_db(detail.sqnr_db[place])}" if detail.sqnr_db else "")

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        detail = self._shown
        if detail is None:
            return (), ()
        errors = detail.sqnr_db or (None,) * len(detail.ranges.low)
        rows = zip(detail.ranges.low, detail.ranges.high, errors, strict=True)
        heads = (tr("first channel"), tr("least"), tr("greatest"), tr("SQNR dB"))
        return heads, [(n * detail.ranges.channels_per_band, *row) for n, row in enumerate(rows)]
