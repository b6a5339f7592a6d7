"""Search in a session: the table layer × scheme, the front, a budget, and the recipe that comes of it. No widgets here."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Signal

import engine
from engine.records.calibration import DataSpec
from engine.records.codec import from_data, to_data
from engine.records.search import DEFAULT_MEASURES, Allocation, Attempt, CostEstimate, Outcome, SearchSpace, SensitivityRow
from mono_quant_gui.front import Front
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.host import Failure

if TYPE_CHECKING:
    from mono_quant_gui.run import Run
    from mono_quant_gui.session import Session

SETTLED_MS = 250
"""The budget has not moved for so long: it is solved exactly."""


class Searching(QObject):
    """What is known of the open model; forgotten when another is opened, and remembered by the engine."""

    changed = Signal()
    """A pass began or ended, or the choices changed."""
    rows_changed = Signal()
    front_changed = Signal()
    budget_changed = Signal()
    """Another point of the front is chosen, or it was solved exactly."""
    outcomes_changed = Signal()
    trials_changed = Signal()
    progressed = Signal()

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self.space = SearchSpace()
        self._by = self.base = ""
        """The error to minimise where one was chosen; the scheme of all others while one layer is left float, "" for not."""
        self._data: DataSpec | None = None
        self._settled = QTimer(self, singleShot=True, interval=SETTLED_MS)
        self._settled.timeout.connect(self._solve)
        self._calls: dict[str, int | None] = {}
        self._awake = self._due = False
        self._forget()
        session.model_changed.connect(self._opened)
        session.plan_changed.connect(self._planned)
        session.calibrating.changed.connect(self._data_changed)
        for changed in (session.runs_changed, session.kept.changed):
            changed.connect(self._ask_outcomes)

    def _forget(self) -> None:
        self.state, self.message = "idle", ""
        """Of the pass: idle, running, done, cancelled or failed; and why it failed."""
        self.progress: dict[str, Any] | None = None
        self.rows: dict[str, SensitivityRow] = {}
        self.cost: CostEstimate | None = None
        self.dropped: dict[str, str] = {}
        self.problem = ""
        """Why nothing can be measured with these choices."""
        self.front: Front | None = None
        self.limit, self.point = START_BITS, 0
        """Bits per weight that are allowed, and the point of the front within them."""
        self.exact: Allocation | None = None
        """The exact answer to the budget where the slider stands, once it is there."""
        self.outcomes: dict[str, Outcome] = {}
        self.trials: list[tuple[Attempt, int]] = []
        """Of the newest search by accuracy, each with the count of layers relaxed."""
        self.table = ""
        """The file of the table, where the model was run for it."""
        self._heavy_call: int | None = None

    # -- the pass ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.state == "running"

    def choose(self, space: SearchSpace) -> None:
        """Search among other schemes; what is known of them is shown again."""
        if space != self.space and not self.running:
            self.space = space
            self.base = self.base if self.base in space.schemes else ""
            self._opened()

    @property
    def by(self) -> str:
        """The error that is minimised: the one that was chosen, or what the model's data allow."""
        return self._by or ("weight" if self._session.calibrating.data is None else DEFAULT_MEASURES[-1])

    def _data_changed(self) -> None:
        """Other data: what was measured on the ones before says nothing of them."""
        data = self._session.calibrating.data
        if data != self._data:
            self._data = data
            if not self.running and (self._runs or self.table or not self._by):
                self._opened()

    @property
    def lacks(self) -> str:
        """What the error to be minimised needs before it can be measured; empty when nothing."""
        if not self._runs or self._session.calibrating.data is not None:
            return ""
        return tr("Choose calibration data first: to measure this, the model must be run.")

    @property
    def _runs(self) -> bool:
        """Whether the model is run for what was chosen."""
        return self.by != "weight" or bool(self.base)

    def leave_float(self, base: str) -> None:
        """Also measure what leaving one layer float is worth while all others have the scheme ``base``; "" for not."""
        if base != self.base and not self.running:
            self.base = base
            self._opened()

    def minimise(self, by: str) -> None:
        """Another error: of the weights, of layers' outputs, or of the whole model."""
        if by != self.by and not self.running:
            self._by = by
            self._opened()

    def start(self) -> None:
        """Measure what is not known yet."""
        session = self._session
        if session.model is None or session.busy or self.problem or self.lacks:
            return
        self.state, self.message, self.progress = "running", "", None
        model = session.model

        def done(found: dict[str, Any]) -> None:
            self.table = found["table"]
            self._ended("cancelled" if found["stopped"] else "done", "")

        def failed(failure: Failure) -> None:
            self._ended("cancelled" if failure.cancelled else "failed", failure.message)
            session.report_failure(failure)

        def progress(data: dict[str, Any]) -> None:
            self.progress = data
            self.progressed.emit()

        params = {"path": model.path, "space": to_data(self.space), **self._with_data(), **model.how.params()}
        self._heavy_call = session.heavy.call("sensitivity", params, done, failed, progress=progress, rows=self._take)
        self.changed.emit()
        session.runs_changed.emit()

    def _with_data(self) -> dict[str, Any]:
        """What running the model takes, where this error asks for it."""
        data = self._session.calibrating.data
        if not self._runs or data is None:
            return {}
        return {"data": to_data(data), "measures": [] if self.by == "weight" else [self.by], "base": self.base}

    def cancel(self) -> None:
        """Stop the pass; what it found stays."""
        if self.running and self._heavy_call is not None:
            self._session.heavy.cancel(self._heavy_call)

    def _take(self, rows: list[dict[str, Any]]) -> None:
        for data in rows:
            row = from_data(SensitivityRow, data)
            self.rows[row.layer] = row
        self.rows_changed.emit()

    def _ended(self, state: str, message: str) -> None:
        self.state, self.message, self._heavy_call = state, message, None
        self.changed.emit()
        self._session.runs_changed.emit()
        self._ask_cost()
        self._ask_front()

    def _opened(self) -> None:
        """Another model or other choices."""
        self.cancel()
        for call in self._calls.values():
            self._session.peeks.drop(call)
        self._forget()
        for signal in (self.changed, self.rows_changed, self.front_changed, self.outcomes_changed, self.trials_changed):
            signal.emit()
        self._due = self._awake
        self._planned()

    def _planned(self) -> None:
        """What a pass costs is asked for behind the plan: it plans for every scheme, and a run waits for the recipe's plan."""
        if self._due and (self._session.plan.recipe is not None or self._session.plan.error):
            self._due = False
            self._ask_cost()
            self._ask_known()

    def wake(self) -> None:
        """Somebody looks: from now on, what a model's pass would cost is asked for when it is opened."""
        if not self._awake:
            self._awake = True
            self._opened()

    def _ask(self, name: str, extra: dict[str, Any], done: Any, failed: Any = None, rows: Any = None) -> None:
        """A peek whose stale answers are dropped."""
        session = self._session
        if session.model is None:
            return
        session.peeks.drop(self._calls.get(name))
        params = {"path": session.model.path, "space": to_data(self.space), **extra, **session.model.how.params()}
        options = {} if rows is None else {"rows": rows}
        self._calls[name] = session.peeks.call(name, params, done, failed or (lambda failure: None), **options)

    def _ask_cost(self) -> None:
        def done(data: dict[str, Any]) -> None:
            self.cost, self.dropped = from_data(CostEstimate, data["cost"]), data["dropped"]
            self.changed.emit()

        def failed(failure: Failure) -> None:
            if not failure.cancelled:
                self.problem = failure.message
                self.changed.emit()

        self._ask("sensitivity_cost", self._with_data(), done, failed)

    def _ask_known(self) -> None:
        """What earlier passes found is shown at once."""
        self._ask("known_sensitivity", {}, lambda found: self._ask_front() if found["layers"] else None, rows=self._take)

    # -- the budget ----------------------------------------------------------------------------------------------------

    def _of_table(self) -> dict[str, Any]:
        return {"by": self.by, **({"table": self.table} if self.table else {})}

    def _ask_front(self) -> None:
        if self.by != "weight" and not self.table:
            return  # stopped before there was one
        steps: list[list[Any]] = []

        def done(data: dict[str, Any]) -> None:
            self.front = Front(data, steps)
            self.front_changed.emit()
            self.set_limit(self.limit)
            self._ask_outcomes()

        self._ask("front", self._of_table(), done, rows=steps.extend)

    def set_limit(self, bits: float) -> None:
        """Allow so many bits per weight; the exact answer follows when it has settled."""
        if self.front is not None:
            self.limit = min(max(bits, self.front.bits_at(0)), self.front.bits_at(len(self.front) - 1))
            self._move(self.front.within_bits(self.limit))

    def set_point(self, point: int) -> None:
        """Allow as much as a point of the front takes."""
        if self.front is not None:
            point = max(0, min(point, len(self.front) - 1))
            self.limit = self.front.bits_at(point)
            self._move(point)

    def _move(self, point: int) -> None:
        self.point, self.exact = point, None
        self.budget_changed.emit()
        self._settled.start()

    def schemes(self) -> dict[str, str]:
        """What the budget gives every layer searched."""
        if self.exact is not None:
            return dict(self.exact.schemes)
        return self.front.schemes_at(self.point) if self.front else {}

    def _solve(self) -> None:
        if self.front is None or self.running:
            return
        limit = self.limit

        def done(data: dict[str, Any]) -> None:
            if limit == self.limit:
                self.exact = from_data(Allocation, data)
                self.budget_changed.emit()

        budget = {"kind": "bits", "value": math.nextafter(limit, math.inf)}
        self._ask("allocate", {**self._of_table(), "budget": budget}, done)

    def use(self) -> None:
        """Make the exact answer the recipe, undoably; an algorithm that the recipe has stays where it goes with every scheme."""
        if self.exact is None:
            return
        made, mine = engine.recipe_from_text(self.exact.recipe), self._session.recipe.algorithm
        schemes = [made.default, *(rule.scheme for rule in made.rules)]
        if not any(engine.algorithm_problem(mine, scheme) for scheme in schemes if engine.scheme_name(scheme) != "keep"):
            rules = tuple(replace(rule, algorithm=mine) for rule in made.rules)
            made = replace(made, algorithm=mine, rules=rules)
        words = tr("search: {bits} bits per weight").format(bits=f"{self.exact.bits:.2f}")
        self._session.edit_recipe(replace(made, name=words), words)

    # -- driven by accuracy --------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything goes on that a search waits for."""
        return self._session.busy

    @property
    def can_try(self) -> bool:
        """Whether the model can be run on data, and there is a front to walk."""
        return self.front is not None and self._session.calibrating.data is not None

    def find_within(self, tolerance: float) -> None:
        """The smallest model on the front that is measured at most so much worse than the float one becomes the budget's answer.

        ``tolerance``: 0.01 is one per cent; nats of divergence where the data tell neither perplexity nor accuracy.
        """
        session, model, data = self._session, self._session.model, self._session.calibrating.data
        if model is None or data is None or not self.can_try or session.busy:
            return
        self.state, self.message, self.progress, self.trials = "running", "", None, []

        def ended(state: str, message: str = "") -> None:
            self.state, self.message, self._heavy_call = state, message, None
            self.changed.emit()
            session.runs_changed.emit()

        def done(found: dict[str, Any]) -> None:
            ended("done")
            answer = from_data(Allocation, found)
            if self.front is not None:
                self.set_limit(answer.bits)
                self._settled.stop()
                self.exact = answer
                self.budget_changed.emit()

        def failed(failure: Failure) -> None:
            ended("cancelled" if failure.cancelled else "failed", failure.message)
            session.report_failure(failure)

        def rows(found: list[Any]) -> None:
            self.trials += [(from_data(Attempt, trial), relaxed) for trial, relaxed in found]
            self.trials_changed.emit()

        def progress(data: dict[str, Any]) -> None:
            self.progress = data
            self.progressed.emit()

        params = {
            "path": model.path, "space": to_data(self.space), "tolerance": tolerance, "data": to_data(data), **self._of_table(),
            **model.how.params(),
        }  # fmt: skip
        self._heavy_call = session.heavy.call("search_within", params, done, failed, progress=progress, rows=rows)
        self.changed.emit()
        self.trials_changed.emit()
        session.runs_changed.emit()

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def _ask_outcomes(self) -> None:
        """Every finished run in the terms of this table."""
        folders = [str(run.folder) for run in self._session.runs if run.state == "done" and run.model_path == self._path()]
        folders = [folder for folder in folders if folder not in self.outcomes]
        if self.front is None or not folders:
            return

        def rows(found: list[Any]) -> None:
            self.outcomes |= {folder: from_data(Outcome, data) for folder, data in found if data is not None}
            self.outcomes_changed.emit()

        self._ask("outcomes", {**self._of_table(), "folders": folders}, lambda _: None, rows=rows)

    def measured(self, run: "Run") -> float | None:
        """What a run came to in the error that is minimised: its layers' errors, or what it did to the whole model."""
        outcome = self.outcomes.get(str(run.folder))
        if outcome is None or outcome.measured is not None or not run.evaluation:
            return outcome.measured if outcome else None
        if self.by == "divergence":
            return run.evaluation.get("kl_divergence")
        after, before = ((run.evaluation.get(key) or {}).get("perplexity") for key in ("quantized", "original"))
        return math.log(after / before) if self.by in ("fisher", "loss") and after and before else None

    def _path(self) -> str:
        return self._session.model.path if self._session.model else ""

    def decibel(self, error: float | None) -> float | None:
        """An error as SQNR in dB, mean over the weights searched; of the loss, dB below one nat. None where it is none or not
        known."""
        if self.front is None or not error or error < 0:
            return None
        return -10 * math.log10(error / (self.front.parameters if self.by in ("weight", "output") else 1.0))


START_BITS = 4.5
"""Where the slider stands at first."""
