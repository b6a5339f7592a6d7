"""The inspector: SQNR of every layer, and the selected layer's weights."""

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QButtonGroup,
    QHBoxLayout,
    QLabel,
    QSplitter,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import text, theme
from mono_quant_gui.models.layers import LOW_SQNR_DB
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import ElidedLabel, Pane, label

if TYPE_CHECKING:
    from mono_quant_gui.plots.histogram import HistogramPlot
    from mono_quant_gui.plots.sqnr_bars import SqnrBars


class InspectorPane(Pane):
    """Plots come with ``load_plots``, after the window is on the screen: matplotlib takes half a second."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Inspector", parent)
        self._session = session
        self.bars: SqnrBars | None = None
        self.histogram: HistogramPlot | None = None
        self._log = session.settings.flag("histogram_log", True)
        self._split = QSplitter(Qt.Orientation.Vertical)
        self._split.setChildrenCollapsible(False)
        self._bars_stack, self._empty_bars = _stacked("")
        self._layer_stack, self._empty_layer = _stacked("Select a layer to see its weights.")
        self._split.addWidget(self._bars_section())
        self._split.addWidget(self._layer_section())
        self._split.setSizes([260, 340])
        self.body.addWidget(self._split, 1)
        self.hover = ElidedLabel(role="hint")
        self.body.addWidget(self.hover)
        self._draw_bars()
        session.model_changed.connect(self.refresh)
        session.runs_changed.connect(self._draw_bars)
        session.run_layers.connect(self.refresh)
        session.selection_changed.connect(self.refresh_layer)
        session.histogram_changed.connect(self.refresh_layer)

    def load_plots(self) -> None:
        """Import matplotlib and put the plots in place."""
        from mono_quant_gui.plots.histogram import HistogramPlot
        from mono_quant_gui.plots.sqnr_bars import SqnrBars

        if self.bars is None:
            self.bars = SqnrBars(self._session.select, self.hover.set_text)
            self.bars.setAccessibleName("SQNR of every layer in network order")
            self.histogram = HistogramPlot(self.hover.set_text)
            self.histogram.setAccessibleName("Histogram of the selected layer's weights")
            self._bars_stack.addWidget(self.bars)
            self._layer_stack.addWidget(self.histogram)
            self.refresh()

    def refresh(self, *_: object) -> None:
        """Draw everything again, also after a change of theme."""
        self._draw_bars()
        self.refresh_layer()

    def set_log(self, log: bool) -> None:
        self._log = log
        self._session.settings.set_flag("histogram_log", log)
        self.refresh_layer()

    def refresh_layer(self) -> None:
        """The selected layer's words and histogram, and its mark among the bars."""
        session = self._session
        row, report = session.row_of(session.selected), session.report_of(session.selected)
        self._layer_name.set_text(text.plain(row.name) if row else "")
        self._layer_note.set_text(self._words())
        floats = session.float_histogram(session.selected)
        histogram = report.histogram if report else floats[0] if floats else None
        if self.histogram is not None:
            self._layer_stack.setCurrentIndex(1 if histogram else 0)
            self.histogram.show_histogram(histogram, log=self._log)
        self._empty_layer.setText(self._why_empty())
        if self.bars is not None:
            self.bars.select(session.selected)

    def _draw_bars(self, *_: object) -> None:
        run = self._session.shown_run
        shown = [(r.name, r.sqnr_db) for r in run.reports.values() if r.sqnr_db is not None] if run else []
        self._bars_note.set_text(f"run {run.number} · {run.name}, network order" if run and shown else "")
        self._bars_stack.setCurrentIndex(1 if shown and self.bars is not None else 0)
        self._empty_bars.setText(
            "Quantize to see the SQNR of every layer here."
            if run is None or run.state == "cancelled"
            else "Measuring…"
            if run.state == "running"
            else "No layer could be measured."
            if run.state == "failed"
            else "Every quantized layer is exact: nothing was lost."
        )
        if shown and self.bars is not None:
            names, values = zip(*shown, strict=True)
            self.bars.show_layers(names, values, LOW_SQNR_DB, self._session.selected)

    def _words(self) -> str:
        session = self._session
        row, report = session.row_of(session.selected), session.report_of(session.selected)
        if row is None:
            return ""
        words = [text.shape(row.shape), row.dtype]
        if report:
            sqnr = "exact" if report.sqnr_db is None else f"{report.sqnr_db:.2f} dB"
            algorithm = [] if report.algorithm == "rtn" else [report.algorithm]
            words += [
                report.scheme,
                *algorithm,
                sqnr,
                f"largest error {report.max_error:.3g}",
                f"clipped {text.share(report.clipped)}",
            ]
            words += [extra for extra in (report.reason, report.note) if extra]
        elif floats := session.float_histogram(row.name):
            words.append(f"largest weight {floats[0].limit:.4g}")
        return " · ".join(words)

    def _why_empty(self) -> str:
        row = self._session.row_of(self._session.selected)
        if row is None:
            return "Select a layer to see its weights."
        if not row.plain:
            return "This layer is already quantized; decode the model to see its weights."
        if row.dtype not in ("BF16", "F16", "F32", "F64"):
            return f"A tensor of {row.dtype} has no histogram."
        if reason := self._session.unreadable(row.name):
            return text.plain(reason)
        return "This tensor is empty." if not row.parameters else "Reading the weights…"

    def _bars_section(self) -> QWidget:
        section = QWidget()
        column = QVBoxLayout(section)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        line = QHBoxLayout()
        line.addWidget(label("SQNR by layer", "strong"))
        self._bars_note = ElidedLabel(role="muted")
        line.addWidget(self._bars_note, 1)
        column.addLayout(line)
        column.addWidget(self._bars_stack, 1)
        return section

    def _layer_section(self) -> QWidget:
        section = QWidget()
        column = QVBoxLayout(section)
        column.setContentsMargins(0, 8, 0, 0)
        column.setSpacing(4)
        line = QHBoxLayout()
        self._layer_name = ElidedLabel(role="strong")
        self._layer_name.setFont(theme.monospace())
        line.addWidget(self._layer_name, 1)
        group = QButtonGroup(self)
        for words, log in (("linear", False), ("log", True)):
            button = QToolButton()
            button.setText(words)
            button.setCheckable(True)
            button.setChecked(log == self._log)
            button.setProperty("kind", "choice")
            button.setToolTip(f"Counts on a {'logarithmic' if log else 'linear'} axis")
            button.clicked.connect(lambda _=False, log=log: self.set_log(log))
            group.addButton(button)
            line.addWidget(button)
        column.addLayout(line)
        self._layer_note = ElidedLabel(role="muted", mode=Qt.TextElideMode.ElideRight)
        column.addWidget(self._layer_note)
        column.addWidget(self._layer_stack, 1)
        return section


def _stacked(empty: str) -> tuple[QStackedWidget, QLabel]:
    """A place for a plot, with the sentence that stands there while there is nothing to show."""
    stack = QStackedWidget()
    words = label(empty, "empty")
    words.setAlignment(Qt.AlignmentFlag.AlignCenter)
    words.setWordWrap(True)
    stack.addWidget(words)
    stack.setMinimumHeight(140)
    return stack, words
