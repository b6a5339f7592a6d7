"""The inspector: SQNR of every layer, and the selected layer's weights and inputs."""

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QMenu, QPushButton, QSplitter, QStackedWidget, QVBoxLayout, QWidget

from mono_quant_gui import text, theme
from mono_quant_gui.models.layers import LOW_SQNR_DB
from mono_quant_gui.panes import layer_words
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import Choice, ElidedLabel, Pane, label

if TYPE_CHECKING:
    from mono_quant_gui.plots.activation_range import ActivationRangePlot
    from mono_quant_gui.plots.convergence import ConvergencePlot
    from mono_quant_gui.plots.histogram import HistogramPlot
    from mono_quant_gui.plots.sqnr_bars import SqnrBars

BARS = {
    "weight": ("weights", "SQNR of the weights"),
    "alone": ("output alone", "SQNR of the output, when this layer alone is quantized"),
    "so_far": ("so far", "SQNR of the output, when all layers before it are quantized too"),
}
VIEWS = {
    "weights": ("weights", "Histogram of the layer's weights"),
    "inputs": ("inputs", "Histogram of what the layer is given"),
    "convergence": ("convergence", "Range of what the layer is given, against the number of samples"),
}
SCALES = {"linear": ("linear", "Counts on a linear axis"), "log": ("log", "Counts on a logarithmic axis")}
LISTED = 40
"""Layers that were never reached and that the menu names."""


class InspectorPane(Pane):
    """Plots come with ``load_plots``, after the window is on the screen: matplotlib takes half a second."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Inspector", parent)
        self._session = session
        self.bars: SqnrBars | None = None
        self.histogram: HistogramPlot | None = None
        self.activation: ActivationRangePlot | None = None
        self.convergence: ConvergencePlot | None = None
        self._log = session.settings.flag("histogram_log", True)
        self._bars_of, self._view = "weight", "weights"
        self._split = QSplitter(Qt.Orientation.Vertical)
        self._split.setChildrenCollapsible(False)
        self._bars_stack, self._empty_bars = _stacked("")
        self._layer_stack, self._empty_layer = _stacked("Select a layer to see its weights.")
        self._split.addWidget(self._bars_section())
        self._split.addWidget(self._layer_section())
        self._split.setSizes([240, 360])
        self.body.addWidget(self._split, 1)
        self.hover = ElidedLabel(role="hint")
        self.body.addWidget(self.hover)
        self._draw_bars()
        session.model_changed.connect(self.refresh)
        session.runs_changed.connect(self._draw_bars)
        session.run_layers.connect(self.refresh)
        session.selection_changed.connect(self.refresh_layer)
        session.histogram_changed.connect(self.refresh_layer)
        session.calibrating.changed.connect(self.refresh)

    def load_plots(self) -> None:
        """Import matplotlib and put the plots in place."""
        from mono_quant_gui.plots.activation_range import ActivationRangePlot
        from mono_quant_gui.plots.convergence import ConvergencePlot
        from mono_quant_gui.plots.histogram import HistogramPlot
        from mono_quant_gui.plots.sqnr_bars import SqnrBars

        if self.bars is None:
            self.bars = SqnrBars(self._session.select, self.hover.set_text)
            self.bars.setAccessibleName("SQNR of every layer in network order")
            self.histogram = HistogramPlot(self.hover.set_text)
            self.activation = ActivationRangePlot(self.hover.set_text)
            self.convergence = ConvergencePlot(self.hover.set_text)
            self._bars_stack.addWidget(self.bars)
            plots = (self.histogram, self.activation, self.convergence)
            for plot, (_, tip) in zip(plots, VIEWS.values(), strict=True):
                plot.setAccessibleName(tip)
                self._layer_stack.addWidget(plot)
            self.refresh()

    def refresh(self, *_: object) -> None:
        """Draw everything again, also after a change of theme."""
        self._draw_bars()
        self.refresh_layer()

    def set_log(self, log: bool) -> None:
        self._log = log
        self._scale.choose("log" if log else "linear")
        self._session.settings.set_flag("histogram_log", log)
        self.refresh_layer()

    def set_view(self, view: str) -> None:
        """What the layer section shows: weights, inputs or convergence."""
        self._view = view
        self._views.choose(view)
        self.refresh_layer()

    def set_bars(self, of: str) -> None:
        """What the bars are of: weight, alone or so_far."""
        self._bars_of = of
        self._bars_choice.choose(of)
        self._draw_bars()

    def refresh_layer(self) -> None:
        """The selected layer's words and plot, and its mark among the bars."""
        session = self._session
        row = session.row_of(session.selected)
        self._layer_name.set_text(text.plain(row.name) if row else "")
        self._layer_note.set_text(
            layer_words.about(session) if self._view == "weights" else layer_words.about_inputs(session, self._view)
        )
        outputs = layer_words.about_outputs(session)
        self._output_note.setText(_unbroken(outputs))
        self._output_note.setVisible(bool(outputs))
        self._scale.setEnabled(self._view != "convergence")
        self._draw_layer()
        if self.bars is not None:
            self.bars.select(session.selected)

    def _draw_layer(self) -> None:
        session = self._session
        report, floats = session.report_of(session.selected), session.float_histogram(session.selected)
        activity = session.activity_of(session.selected)
        histogram = report.histogram if report else floats[0] if floats else None
        shown = histogram is not None if self._view == "weights" else activity is not None and activity.samples > 0
        page = 1 + list(VIEWS).index(self._view)
        self._layer_stack.setCurrentIndex(page if shown and self.histogram is not None else 0)
        self._empty_layer.setText(
            layer_words.why_no_weights(session) if self._view == "weights" else layer_words.why_no_inputs(session)
        )
        if self._view == "weights" and self.histogram is not None:
            self.histogram.show_histogram(histogram, log=self._log)
        elif self._view == "inputs" and self.activation is not None:
            self.activation.show_activity(activity, log=self._log)
        elif self.convergence is not None:
            self.convergence.show_activity(activity)

    def _draw_bars(self, *_: object) -> None:
        run = self._session.shown_run
        self._bars_choice.setVisible(bool(run and run.has_outputs))
        of = self._bars_of if run and run.has_outputs else "weight"
        shown = layer_words.decibels(run, of)
        self._bars_note.setText(_unbroken(text.plain(layer_words.about_run(run))) if shown else "")
        self._show_unreached()
        self._bars_stack.setCurrentIndex(1 if shown and self.bars is not None else 0)
        self._empty_bars.setText(layer_words.why_no_bars(run))
        if shown and self.bars is not None:
            names, values = zip(*shown, strict=True)
            self.bars.show_layers(names, values, LOW_SQNR_DB, self._session.selected)

    def _show_unreached(self) -> None:
        missed = self._session.unreached
        self._unreached.setVisible(bool(missed))
        layers = "layer was" if len(missed) == 1 else "layers were"
        self._unreached.setText(f"⚠ {len(missed):,} {layers} never reached by the data")

    def _list_unreached(self) -> None:
        missed = self._session.unreached
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for name in missed[:LISTED]:
            action = menu.addAction(text.plain(name, 80).replace("&", "&&"))
            action.triggered.connect(lambda _=False, name=name: self._session.select(name))
        if len(missed) > LISTED:
            menu.addAction(f"… and {len(missed) - LISTED:,} more: filter the table by “unreached”").setEnabled(False)
        menu.popup(self._unreached.mapToGlobal(self._unreached.rect().bottomLeft()))

    def _bars_section(self) -> QWidget:
        section = QWidget()
        column = QVBoxLayout(section)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        line = QHBoxLayout()
        line.addWidget(label("SQNR by layer", "strong"))
        line.addStretch()
        self._bars_choice = Choice(BARS, self._bars_of, self.set_bars)
        line.addWidget(self._bars_choice)
        column.addLayout(line)
        self._bars_note = _wrapped()
        column.addWidget(self._bars_note)
        column.addWidget(self._bars_stack, 1)
        self._unreached = QPushButton()
        self._unreached.setProperty("kind", "link")
        self._unreached.setToolTip("Nothing is known of their inputs: show which")
        self._unreached.clicked.connect(self._list_unreached)
        column.addWidget(self._unreached, 0, Qt.AlignmentFlag.AlignLeft)
        return section

    def _layer_section(self) -> QWidget:
        section = QWidget()
        column = QVBoxLayout(section)
        column.setContentsMargins(0, 8, 0, 0)
        column.setSpacing(4)
        self._layer_name = ElidedLabel(role="strong")
        self._layer_name.setFont(theme.monospace())
        self._layer_note = ElidedLabel(role="muted", mode=Qt.TextElideMode.ElideRight)
        self._output_note = _wrapped()
        line = QHBoxLayout()
        self._views = Choice(VIEWS, self._view, self.set_view)
        self._scale = Choice(SCALES, "log" if self._log else "linear", lambda key: self.set_log(key == "log"))
        line.addWidget(self._views)
        line.addStretch()
        line.addWidget(self._scale)
        for widget in (self._layer_name, self._layer_note, self._output_note):
            column.addWidget(widget)
        column.addLayout(line)
        column.addWidget(self._layer_stack, 1)
        return section


def _wrapped() -> QLabel:
    made = label("", "muted")
    made.setWordWrap(True)
    return made


def _unbroken(words: str) -> str:
    """No line begins with a unit."""
    return words.replace(" %", "\u00a0%").replace(" dB", "\u00a0dB")


def _stacked(empty: str) -> tuple[QStackedWidget, QLabel]:
    """A place for a plot, with the sentence that stands there while there is nothing to show."""
    stack = QStackedWidget()
    words = label(empty, "empty")
    words.setAlignment(Qt.AlignmentFlag.AlignCenter)
    words.setWordWrap(True)
    stack.addWidget(words)
    stack.setMinimumHeight(120)
    return stack, words
