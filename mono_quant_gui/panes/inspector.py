"""The inspector: the whole model's errors and sizes above, and the selected layer below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QHBoxLayout,
    QMenu,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.layers import LOW_SQNR_DB
from mono_quant_gui.panes import inspector_choices, layer_words
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.empty import Action, Empty
from mono_quant_gui.widgets.outliers import OutlierTable
from mono_quant_gui.widgets.parts import Choice, ChoiceBox, ElidedLabel, Pane, TallArea, WrappedLabel
from mono_quant_gui.widgets.remedies import Remedies
from mono_quant_gui.widgets.what_if import WhatIfStrip

if TYPE_CHECKING:
    from mono_quant_gui.plots.activation_range import ActivationRangePlot
    from mono_quant_gui.plots.channels import ChannelsPlot
    from mono_quant_gui.plots.convergence import ConvergencePlot
    from mono_quant_gui.plots.error_image import ErrorImage
    from mono_quant_gui.plots.histogram import HistogramPlot
    from mono_quant_gui.plots.sizes import SizesPlot
    from mono_quant_gui.plots.spread import SpreadPlot
    from mono_quant_gui.plots.sqnr_bars import SqnrBars

REFRESH_MS = 150
"""Layers that finish fast are drawn together."""
LEAST_PX = 120
"""Height of a plot that can be read."""
LISTED = 40
"""Layers that were never reached and that the menu names."""


class InspectorPane(Pane):
    """Plots come with ``load_plots``, after the window is on the screen: matplotlib takes half a second."""

    open_wanted = Signal()
    data_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(tr("Inspector"), parent)
        self._session, self._looking = session, session.looking
        self.bars: SqnrBars | None = None
        self.spread: SpreadPlot | None = None
        self.sizes: SizesPlot | None = None
        self.histogram: HistogramPlot | None = None
        self.channels: ChannelsPlot | None = None
        self.error: ErrorImage | None = None
        self.activation: ActivationRangePlot | None = None
        self.convergence: ConvergencePlot | None = None
        self.outliers = OutlierTable()
        self._log = session.settings.flag("histogram_log", True)
        self._bars_of, self._order, self._view = "weight", "network", "weights"
        self.what_if = WhatIfStrip(session)
        self.remedies = Remedies(session)
        self._split = QSplitter(Qt.Orientation.Vertical)
        self._split.setChildrenCollapsible(False)
        self._bars_stack, self._empty_bars = _stacked()
        self._layer_stack, self._empty_layer = _stacked()
        self._split.addWidget(self._bars_section())
        self._split.addWidget(TallArea(self._layer_section()))
        self._split.setSizes([180, 430])
        self.body.addWidget(self._split, 1)
        self.hover = ElidedLabel(role="hint")
        self.body.addWidget(self.hover)
        self._draw_model()
        self._connect(session)

    def _connect(self, session: Session) -> None:
        self._soon = QTimer(self, interval=REFRESH_MS, singleShot=True)
        self._soon.timeout.connect(self.refresh)
        session.model_changed.connect(self.refresh)
        session.runs_changed.connect(self._draw_model)
        session.plan_changed.connect(self._plan_changed)
        session.run_layers.connect(lambda _run: self._soon.isActive() or self._soon.start())
        session.selection_changed.connect(self.refresh_layer)
        session.selection_set_changed.connect(self._mark_selected)
        session.histogram_changed.connect(self.refresh_layer)
        session.calibrating.changed.connect(self.refresh)
        self._looking.trial_changed.connect(self.refresh_layer)
        self._looking.detail_changed.connect(self.refresh_layer)

    def load_plots(self) -> None:
        """Import matplotlib and put the plots in place."""
        if self.bars is not None:
            return
        from mono_quant_gui.plots.activation_range import ActivationRangePlot
        from mono_quant_gui.plots.channels import ChannelsPlot
        from mono_quant_gui.plots.convergence import ConvergencePlot
        from mono_quant_gui.plots.error_image import ErrorImage
        from mono_quant_gui.plots.histogram import HistogramPlot
        from mono_quant_gui.plots.sizes import SizesPlot
        from mono_quant_gui.plots.spread import SpreadPlot
        from mono_quant_gui.plots.sqnr_bars import SqnrBars

        say = self.hover.set_text
        self.bars = SqnrBars(self._select, say)
        self.bars.setAccessibleName(tr("SQNR of every layer"))
        self.spread, self.sizes = SpreadPlot(say), SizesPlot(say)
        for plot, key in ((self.spread, "spread"), (self.sizes, "sizes")):
            plot.setAccessibleName(inspector_choices.orders()[key][1])
        for plot in (self.bars, self.spread, self.sizes):
            self._bars_stack.addWidget(plot)
        self.histogram, self.channels, self.error = HistogramPlot(say), ChannelsPlot(say), ErrorImage(say)
        self.activation, self.convergence = ActivationRangePlot(say), ConvergencePlot(say)
        pages = (self.histogram, self.channels, self.error, self.outliers, self.activation, self.convergence)
        for page, (_, tip) in zip(pages, inspector_choices.views().values(), strict=True):
            page.setAccessibleName(tip)
            self._layer_stack.addWidget(page)
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Draw everything again, also after a change of theme."""
        self._draw_model()
        self.refresh_layer()

    # -- what the user picks ---------------------------------------------------------------------------------------

    def set_log(self, log: bool) -> None:
        self._log = log
        self._scale.choose("log" if log else "linear")
        self._session.settings.set_flag("histogram_log", log)
        self.refresh_layer()

    def set_view(self, view: str) -> None:
        """What the layer section shows: weights, channels, error, outliers, inputs or convergence."""
        self._view = view
        self._view_choice.choose(view)
        self.refresh_layer()

    def set_bars(self, of: str) -> None:
        """What the bars are of: weight, alone or so_far."""
        self._bars_of = of
        self._bars_choice.choose(of)
        self._draw_model()

    def set_order(self, order: str) -> None:
        """What the model section shows: network, sorted, spread or sizes."""
        self._order = order
        self._order_choice.choose(order)
        self._draw_model()

    def zoom(self, factor: float | None) -> None:
        """Show ``factor`` times as much of the layer's plot, or all of it."""
        plot = self._layer_stack.currentWidget()
        zoom = getattr(plot, "zoom", None)
        if zoom is None or zoom.home is None:
            self._session.notice.emit(tr("No plot of a layer with an axis to zoom is shown."))
        elif factor is None:
            zoom.all()
        else:
            zoom.by(factor)

    def _select(self, names: Sequence[str], more: bool) -> None:
        """Layers picked among the bars; ``more``: beside those selected already."""
        session = self._session
        kept = [name for name in session.selection if name not in names] if more else []
        if not more or session.selected is None:
            session.select(names[0])
        session.set_selection([*kept, *names])

    # -- the selected layer ------------------------------------------------------------------------------------------

    def refresh_layer(self) -> None:
        """The selected layer's words and plot, and its mark among the bars."""
        session = self._session
        row = session.row_of(session.selected)
        self._layer_name.set_text(text.plain(row.name) if row else "")
        inputs = self._view in ("inputs", "convergence")
        self._layer_note.set_text(layer_words.about_inputs(session, self._view) if inputs else layer_words.about(session))
        self._output_note.set_text("" if inputs else layer_words.about_outputs(session))
        self._scale.setVisible(self._view in ("weights", "inputs"))
        self._draw_layer()
        self._mark_selected()

    def _draw_layer(self) -> None:
        session, looking = self._session, self._looking
        activity = session.activity_of(session.selected)
        shown, empty = self._what_is_there()
        page = 1 + list(inspector_choices.views()).index(self._view)
        self._layer_stack.setCurrentIndex(page if shown and self.histogram is not None else 0)
        self._empty_layer.say(empty, self._way_on())
        if self.histogram is None or not shown:
            return
        if self._view == "weights":
            self._draw_histogram()
        elif self._view == "channels" and self.channels is not None:
            self.channels.show_detail(looking.detail)
        elif self._view == "error" and self.error is not None:
            self.error.show_detail(looking.detail)
        elif self._view == "outliers" and looking.detail is not None:
            self.outliers.show_outliers(looking.detail.outliers)
        elif self._view == "inputs" and self.activation is not None:
            self.activation.show_activity(activity, log=self._log)
        elif self._view == "convergence" and self.convergence is not None:
            self.convergence.show_activity(activity)

    def _what_is_there(self) -> tuple[bool, str]:
        """Whether the chosen view has something to show, and what is said if not."""
        session, detail = self._session, self._looking.detail
        activity = session.activity_of(session.selected)
        if self._view in ("inputs", "convergence"):
            return activity is not None and activity.samples > 0, layer_words.why_no_inputs(session)
        if self._view == "weights":
            return self._histogram_shown() is not None, layer_words.why_no_weights(session)
        found = detail is not None and (bool(detail.image) or self._view != "error")
        return found, layer_words.why_no_detail(session)

    def _way_on(self) -> Action | None:
        """What leads to something to see, where nothing is shown of a layer."""
        session = self._session
        if session.model is None:
            return tr("Open…"), self.open_wanted.emit
        if session.selected is None:
            first = next((row.name for row in session.model.layers if row.plain and row.parameters), None)
            return (tr("Show the first layer"), lambda: session.select(first)) if first else None
        if self._view not in ("inputs", "convergence") or session.activity_of(session.selected) or session.busy:
            return None
        if session.calibrating.data is None or not session.model.runs:
            return tr("Calibration…"), self.data_wanted.emit
        return tr("Calibrate"), session.calibrating.start

    def _histogram_shown(self):
        session, looking = self._session, self._looking
        if looking.shows_trial and looking.trial and looking.trial.report:
            return looking.trial.report.histogram
        report, floats = session.report_of(session.selected), session.float_histogram(session.selected)
        return report.histogram if report else floats[0] if floats else None

    def _draw_histogram(self) -> None:
        looking, histogram = self._looking, self._histogram_shown()
        detail, trial = looking.detail, looking.trial
        fits = detail is not None and histogram is not None and detail.limit == histogram.limit and bool(detail.sqnr_db)
        levels = trial.levels if trial and looking.shows_trial else detail.levels if fits and detail else ()
        if self.histogram is not None:
            below = detail.underflow_counts if fits and detail else ()
            self.histogram.show_histogram(histogram, log=self._log, below=below, levels=levels)

    # -- the whole model ------------------------------------------------------------------------------------------------

    def _draw_model(self, *_: object) -> None:
        run = self._session.shown_run
        measured = bool(run and run.has_outputs)
        self._bars_choice.setVisible(measured and self._order != "sizes")
        of = self._bars_of if measured else "weight"
        shown = layer_words.decibels(run, of)
        self._tell_run(layer_words.about_run(run) if shown else ())
        self._show_unreached()
        if self._order == "sizes":
            self._draw_sizes()
            return
        page = 2 if self._order == "spread" else 1
        self._bars_stack.setCurrentIndex(page if shown and self.bars is not None else 0)
        quantize = (tr("Quantize"), self._session.quantize) if self._session.can_quantize and not self._session.busy else None
        words = tr("The plots are being loaded…") if shown else layer_words.why_no_bars(run)
        self._empty_bars.say(words, None if shown or (run and run.state == "done") else quantize)
        if shown and self._order == "spread" and self.spread is not None:
            self.spread.show_values([value for _, value in shown], LOW_SQNR_DB)
        elif shown and self.bars is not None:
            layers, second = layer_words.bars(run, of)
            if self._order == "sorted":
                layers = sorted(layers, key=lambda layer: layer[2])
            self._show_bars(layers, second)

    def _plan_changed(self) -> None:
        """What a run measured does not change with the recipe."""
        if self._order == "sizes" or self._session.shown_run is None:
            self._draw_model()

    def _tell_run(self, words: Sequence[str]) -> None:
        """Which run is shown stands in the head; what was evaluated of it has a line of its own."""
        self.note.set_text(text.plain(words[0]) if words else "")
        self._bars_note.set_text(text.plain(" · ".join(words[1:])))

    def _show_bars(self, layers: Sequence[tuple[str, str, float, float]], second: str) -> None:
        from mono_quant_gui.plots.sqnr_bars import Layer

        assert self.bars
        self.bars.show_layers([Layer(*layer) for layer in layers], LOW_SQNR_DB, self._selected_names(), second)

    def _draw_sizes(self) -> None:
        rows = layer_words.sizes(self._session)
        self._bars_stack.setCurrentIndex(3 if rows and self.sizes is not None else 0)
        self._empty_bars.say(tr("Open a model to see its bytes by kind of layer."))
        if rows and self.sizes is not None:
            self.sizes.show_sizes(rows)

    def _selected_names(self) -> Sequence[str]:
        session = self._session
        return session.selection or ([session.selected] if session.selected else [])

    def _mark_selected(self) -> None:
        if self.bars is not None:
            self.bars.select(self._selected_names())

    def _show_unreached(self) -> None:
        missed = self._session.unreached
        self._unreached.setVisible(bool(missed))
        words = (
            tr("⚠ {count} layer was never reached by the data")
            if len(missed) == 1
            else tr("⚠ {count} layers were never reached by the data")
        )
        self._unreached.setText(words.format(count=f"{len(missed):,}"))

    def _list_unreached(self) -> None:
        missed = self._session.unreached
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for name in missed[:LISTED]:
            action = menu.addAction(text.plain(name, 80).replace("&", "&&"))
            action.triggered.connect(lambda _=False, name=name: self._session.select(name))
        if len(missed) > LISTED:
            more = tr("… and {count} more: filter the table by “unreached”").format(count=f"{len(missed) - LISTED:,}")
            menu.addAction(more).setEnabled(False)
        menu.popup(self._unreached.mapToGlobal(self._unreached.rect().bottomLeft()))

    # -- building -------------------------------------------------------------------------------------------------------

    def _bars_section(self) -> QWidget:
        section = QWidget()
        column = QVBoxLayout(section)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self._order_choice = Choice(inspector_choices.orders(), self._order, self.set_order)
        self.head.addWidget(self._order_choice)  # beside the title: the plots below need the height
        line = QHBoxLayout()
        self._bars_note = WrappedLabel("muted")
        line.addWidget(self._bars_note, 1)
        what = tr("What the bars are of")
        self._bars_choice = ChoiceBox(inspector_choices.bars(), self._bars_of, self.set_bars, what)
        line.addWidget(self._bars_choice)
        column.addLayout(line)
        column.addWidget(self._bars_stack, 1)
        self._unreached = QPushButton()
        self._unreached.setProperty("kind", "link")
        self._unreached.setToolTip(tr("Nothing is known of their inputs: show which"))
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
        self._output_note = WrappedLabel("muted")
        line = QHBoxLayout()
        self._view_choice = Choice(inspector_choices.views(), self._view, self.set_view)
        self._scale = Choice(inspector_choices.scales(), "log" if self._log else "linear", lambda key: self.set_log(key == "log"))
        head = QHBoxLayout()
        head.addWidget(self._layer_name, 1)
        head.addWidget(self._scale)
        line.addWidget(self._view_choice)
        line.addStretch()
        column.addLayout(head)
        for widget in (self._layer_note, self._output_note):
            column.addWidget(widget)
        column.addLayout(line)
        column.addWidget(self._layer_stack, 1)
        column.addWidget(self.what_if)
        column.addWidget(self.remedies)
        return section


class _Stack(QStackedWidget):
    """A plot takes what is left, and asks for no more."""

    def sizeHint(self) -> QSize:
        return self.minimumSizeHint().expandedTo(QSize(160, LEAST_PX))

    def minimumSizeHint(self) -> QSize:
        return super().minimumSizeHint().expandedTo(QSize(160, LEAST_PX))


def _stacked() -> tuple[QStackedWidget, Empty]:
    """A place for a plot, with what stands there while there is nothing to show."""
    stack, empty = _Stack(), Empty()
    stack.addWidget(empty)
    stack.setMinimumHeight(120)
    # A plot takes what is left, and asks for no more.
    stack.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)
    return stack, empty
