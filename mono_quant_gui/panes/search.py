"""The search pane: measure every layer under every scheme, move a budget, and use the recipe that comes of it."""

import math
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QModelIndex, QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QDoubleSpinBox, QHBoxLayout, QProgressBar, QSlider, QSplitter, QStackedWidget, QWidget

from engine.records.search import CostEstimate, SearchSpace
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.sensitivity import SensitivityModel
from mono_quant_gui.panes.heat_map import HeatMap
from mono_quant_gui.panes.search_choices import ChoicesMenu
from mono_quant_gui.panes.search_trials import Trials
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.empty import Empty
from mono_quant_gui.widgets.parts import ElidedLabel, MenuButton, Pane, WrappedLabel, action_button, label, roomy

if TYPE_CHECKING:
    from mono_quant_gui.plots.front import FrontPlot, Mark


LEAST_TABLE = 130
"""Pixels of the heat map's head and some rows, whatever else is shown."""


class SearchPane(Pane):
    """Asks for nothing until it is seen: a pass over a large model is a long one. The plot comes with it."""

    open_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(tr("Search"), parent)
        self._session, self._searching = session, session.searching
        self.plot: FrontPlot | None = None
        self._painted = False
        self.choices = ChoicesMenu(self._chosen, self._searching.minimise, self._searching.leave_float, self)
        self.choices.refused = session.notice.emit  # type: ignore[method-assign]
        self.choices_button = MenuButton()
        self.choices_button.setMenu(self.choices)
        self.choices_button.setAccessibleName(tr("What the search may choose from"))
        self.measure_button = action_button(
            tr("Measure"), self._searching.start, tr("Measure the error of every layer under every scheme"), primary=True
        )
        self.cancel_button = action_button(tr("Stop"), self._searching.cancel, tr("Stop; what was measured stays"))
        self.status = WrappedLabel(role="muted")
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.model = SensitivityModel(self._searching)
        self.table = HeatMap(self.model, session.notice.emit)
        self.table.setAccessibleName(tr("SQNR of every layer under every scheme"))
        self.table.setMinimumHeight(LEAST_TABLE)
        self.table.selectionModel().currentRowChanged.connect(self._row_changed)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setAccessibleName(tr("Budget"))
        self.slider.valueChanged.connect(self._searching.set_point)
        self.bits = QDoubleSpinBox()
        self.bits.setAccessibleName(tr("Budget in bits per weight"))
        self.bits.setDecimals(2)
        self.bits.setSingleStep(0.1)
        self.bits.setKeyboardTracking(False)
        roomy(self.bits)
        self.bits.valueChanged.connect(self._bits_typed)
        self.trials = Trials(self._searching)
        self.budget = WrappedLabel()
        self.afterwards = WrappedLabel(role="muted")
        self.use_button = action_button(tr("Use this"), self._searching.use, tr("Make these schemes the recipe; can be undone"))
        self._lay_out()
        self._connect()
        self._update()

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self.choices_button, 1)
        top.addWidget(self.measure_button)
        top.addWidget(self.cancel_button)
        self._empty = Empty()
        self._stack = QStackedWidget()
        self._stack.addWidget(self._empty)
        self._split = QSplitter(Qt.Orientation.Vertical)
        self._split.setChildrenCollapsible(False)
        self._split.addWidget(self.table)
        self._stack.addWidget(self._split)
        self._foot = QWidget()
        foot = QHBoxLayout(self._foot)
        foot.setContentsMargins(0, 0, 0, 0)
        foot.setSpacing(8)
        foot.addWidget(label(tr("Budget"), "muted"))
        foot.addWidget(self.slider, 1)
        foot.addWidget(self.bits)
        foot.addWidget(label(tr("bits per weight"), "muted"))
        foot.addWidget(self.use_button)
        self.hover = ElidedLabel(role="hint")
        self.body.addLayout(top)
        for widget in (self.bar, self.status):
            self.body.addWidget(widget)
        self.body.addWidget(self._stack, 1)
        for widget in (self._foot, self.budget, self.trials, self.afterwards, self.hover):
            self.body.addWidget(widget)

    def _connect(self) -> None:
        searching = self._searching
        calibrating = self._session.calibrating
        for signal in (searching.changed, searching.rows_changed, searching.progressed, self._session.runs_changed,
                       calibrating.changed):  # fmt: skip
            signal.connect(self._update)
        searching.front_changed.connect(self._front_changed)
        searching.budget_changed.connect(self._budget_changed)
        searching.outcomes_changed.connect(self._draw)
        self._session.selection_changed.connect(self._follow_selection)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Painted is looked at; shown is not, for a pane behind another is shown for a moment as the window is made."""
        super().paintEvent(event)
        if not self._painted:
            self._painted = True
            QTimer.singleShot(0, self, self._searching.wake)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        searching, session = self._searching, self._session
        self.choices.space, self.choices.by, self.choices.base = searching.space, searching.by, searching.base
        self.choices_button.set_text(self.choices.words())
        cost = searching.cost
        obstacle = self._obstacle()
        files_tell = searching.by == "weight" and not searching.base
        known = cost is not None and cost.cells == 0 and (files_tell or bool(searching.table))
        ready = not obstacle and not session.busy and not known and not searching.lacks
        self.measure_button.setEnabled(ready)
        self.measure_button.setVisible(not searching.running)
        self.cancel_button.setVisible(searching.running)
        self.choices_button.setEnabled(session.model is not None and not searching.running)
        self.bar.setVisible(searching.running)
        self.status.set_text(self._status())
        words = obstacle or tr("Measure every layer under every scheme: then a budget gives each its own.")
        self._empty.say(words, (tr("Open…"), self.open_wanted.emit) if session.model is None else None)
        self._stack.setCurrentIndex(1 if searching.rows else 0)
        self._foot.setVisible(searching.front is not None)
        self.trials.refresh()
        self.budget.setVisible(searching.front is not None)
        if searching.running and searching.progress:
            done, total = searching.progress["done"], searching.progress["total"]
            self.bar.setValue(round(1000 * done / total) if total else 1000)
        elif searching.running:
            self.bar.setValue(0)

    def _obstacle(self) -> str:
        model = self._session.model
        if model is None:
            return tr("Open a model to search schemes for its layers.")
        if model.quantized:
            return tr("This model is quantized already.")
        return text.plain(self._searching.problem)

    def _status(self) -> str:
        searching = self._searching
        progress = searching.progress
        if searching.running:
            if searching.trials:
                return tr("trial {number} ended").format(number=len(searching.trials))
            if not progress:
                return tr("starting")
            left = progress["seconds_left"]
            words = text.plain(progress["layer"], 60)
            return words + (tr(" · {time} left").format(time=text.duration(left)) if left is not None else "")
        said = [searching.message] if searching.state == "failed" else []
        said += [tr("stopped")] if searching.state == "cancelled" and searching.rows else []
        cost = searching.cost
        if searching.lacks:
            said.append(searching.lacks)
        elif cost is not None and not self._obstacle():
            said.append(_cost(cost))
        if (searching.by != "weight" or searching.base) and not searching.lacks:
            words = tr("measured on {data}") if searching.table else tr("run on {data}")
            said.append(words.format(data=self._session.calibrating.words))
        said += [tr("{scheme} left out: {why}").format(scheme=s, why=text.plain(w)) for s, w in searching.dropped.items()]
        return " · ".join(said)

    # -- the budget ----------------------------------------------------------------------------------------------------

    def _front_changed(self) -> None:
        front = self._searching.front
        self._update()
        if front is None:
            return
        self._load_plot()
        with QSignalBlocker(self.slider), QSignalBlocker(self.bits):
            self.slider.setRange(0, len(front) - 1)
            self.slider.setPageStep(max(len(front) // 20, 1))
            self.bits.setRange(math.ceil(100 * front.bits_at(0)) / 100, front.bits_at(len(front) - 1))
        self._draw()

    def _load_plot(self) -> None:
        """matplotlib takes half a second: it comes with the first front."""
        if self.plot is None:
            from mono_quant_gui.plots.front import FrontPlot

            self.plot = FrontPlot(self._bits_typed, self.hover.set_text)
            self.plot.setAccessibleName(tr("Size and error of the best choices"))
            self._split.addWidget(self.plot)
            self._split.setSizes([360, 220])

    def _bits_typed(self, bits: float) -> None:
        self._searching.set_limit(bits)

    def _budget_changed(self) -> None:
        searching, front = self._searching, self._searching.front
        if front is None:
            return
        bits = front.bits_at(searching.point)
        with QSignalBlocker(self.slider), QSignalBlocker(self.bits):
            self.slider.setValue(searching.point)
            self.bits.setValue(searching.limit)
        exact = searching.exact
        error = exact.error if exact else float(front.errors[searching.point])
        db = searching.decibel(error)
        said = [tr("{bits} bits per weight").format(bits=f"{exact.bits if exact else bits:.2f}")]
        said += [tr("{db} dB").format(db=f"{db:.2f}")] if db is not None else []
        if exact:
            said.append(text.size(exact.predicted_bytes))
            self.budget.setToolTip(text.exact_bytes(exact.predicted_bytes))
            gap = exact.error / exact.bound - 1 if exact.bound else 0.0
            proof = tr("proven best") if exact.exact else tr("not proven best")
            said.append(tr("{proof}, {gap} from the bound").format(proof=proof, gap=text.share(gap)))
        else:
            self.budget.setToolTip("")
            said.append(tr("about {size}").format(size=text.size(int(front.nbytes[searching.point]) + front.other_bytes)))
        self.budget.set_text(" · ".join(said))
        self.use_button.setEnabled(exact is not None)
        if self.plot is not None:
            self.plot.show_budget(exact.bits if exact else bits, db)

    def _draw(self) -> None:
        """The front, the uniform recipes and the runs; and what the newest run came to."""
        searching, front = self._searching, self._searching.front
        self.afterwards.set_text(self._gap())
        if front is None or self.plot is None:
            return
        errors = front.errors / (front.parameters if searching.by in ("weight", "output") else 1.0)
        with np.errstate(divide="ignore"):
            db = np.where(errors > 0, -10 * np.log10(errors), np.inf)
        self.plot.name_errors(tr("SQNR dB") if searching.by in ("weight", "output") else tr("dB below 1 nat"))
        self.plot.show_front(front.bits, db, self._marks())

    def _marks(self) -> list["Mark"]:
        from mono_quant_gui.plots.front import Mark

        searching, front = self._searching, self._searching.front
        assert front is not None
        marks = [Mark(scheme, bits, _or_nan(searching.decibel(error)), False) for scheme, bits, error in front.uniform]
        for run in self._session.runs:
            outcome = searching.outcomes.get(str(run.folder))
            measured = searching.measured(run)
            if outcome is not None and measured is not None:
                words = tr("run {number}, {name}").format(number=run.number, name=run.name)
                db = _or_nan(searching.decibel(measured))
                marks.append(Mark(words, 8 * outcome.nbytes / front.parameters, db, True))
        return marks

    def _gap(self) -> str:
        """Predicted beside measured, of the run that is shown or the newest one that can be told."""
        searching = self._searching
        shown = self._session.shown_run
        for run in [*([shown] if shown else []), *self._session.runs]:
            outcome = searching.outcomes.get(str(run.folder))
            if outcome is None:
                continue
            before, after, unit = outcome.predicted, searching.measured(run), tr("nats")
            if searching.by in ("weight", "output"):
                before, after, unit = searching.decibel(before), searching.decibel(after), tr("dB")
            if before is not None and after is not None:
                words = tr("Run {number}: predicted {before} {unit}, measured {after} {unit}, gap {gap} {unit}")
                places = ".2f" if unit == tr("dB") else ".4f"
                numbers = {"before": f"{before:{places}}", "after": f"{after:{places}}", "gap": f"{after - before:+{places}}"}
                said = words.format(number=run.number, unit=unit, **numbers)
                unlike = tr(" ({count} layers by another algorithm)").format(count=outcome.unlike) if outcome.unlike else ""
                return said + unlike
        return ""

    # -- what the user does --------------------------------------------------------------------------------------------

    def _chosen(self, space: SearchSpace) -> None:
        self._searching.choose(space)

    def _row_changed(self, current: QModelIndex, _before: QModelIndex) -> None:
        name = self.model.name_at(current.row()) if current.isValid() else None
        if name:
            self._session.select(name)

    def _follow_selection(self) -> None:
        row = self.model.row_of(self._session.selected)
        if row is not None and not self.table.selectionModel().isRowSelected(row):
            self.table.selectRow(row)

    def refresh(self) -> None:
        """In another theme."""
        self._draw()
        self.table.viewport().update()


def _cost(cost: CostEstimate) -> str:
    """What a pass will take, before it starts."""
    if not cost.cells and not cost.forwards:
        return tr("{layers} layers, all {cells} errors known").format(layers=cost.layers, cells=f"{cost.cached:,}")
    layers = "" if cost.forwards else tr("{layers} layers, ").format(layers=cost.layers)
    words = layers + tr("{cells} errors to measure").format(cells=f"{cost.cells:,}")
    words += tr(", {count} known").format(count=f"{cost.cached:,}") if cost.cached else ""
    words += tr(", {count} passes").format(count=f"{cost.forwards:,}") if cost.forwards else ""
    return words + ("" if cost.seconds is None else tr(", about {time}").format(time=text.duration(cost.seconds)))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
