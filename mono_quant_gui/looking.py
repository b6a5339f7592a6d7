"""Looking at one layer: a scheme tried on it, where its error lies, and what a Gaussian layer would have."""

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

import engine
from engine.records.codec import from_data, to_data
from engine.records.look import Diagnosis, LayerDetail, Trial
from mono_quant_gui.jobs.host import Failure

if TYPE_CHECKING:
    from mono_quant_gui.session import Session

FLOATS = ("BF16", "F16", "F32", "F64")
EXPECTED = 200
"""Layers whose Gaussian figure is asked for at a time, so that other questions are not kept waiting."""


class Looking(QObject):
    """Belongs to the selected layer: everything here is forgotten with the selection, and a stale answer never arrives."""

    trial_changed = Signal()
    detail_changed = Signal()
    expected_changed = Signal()

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self.trial: Trial | None = None
        """What was tried last on the selected layer, of a sample at first."""
        self.planned: Trial | None = None
        """The recipe's own scheme, tried: what others are compared with."""
        self.wanted: tuple[str, str] | None = None
        """Scheme and algorithm of the what-if strip; None while it shows the recipe's."""
        self.detail: LayerDetail | None = None
        self.diagnosis = Diagnosis()
        self.problem = ""
        """Why the layer's detail cannot be shown."""
        self._expected: dict[tuple[Any, ...], float | None] = {}
        self._trial_call: int | None = None
        self._detail_call: int | None = None
        self._expected_call: int | None = None
        session.model_changed.connect(self._forget_all)
        session.selection_changed.connect(self._selected)
        session.plan_changed.connect(self._planned)
        session.runs_changed.connect(self._ask_expected)
        session.run_finished.connect(self._run_finished)

    # -- what is shown ------------------------------------------------------------------------------------------------

    @property
    def recipe_scheme(self) -> tuple[str, str] | None:
        """Scheme and algorithm that the recipe gives the selected layer; None before there is a plan."""
        session = self._session
        model, plan, name = session.model, session.plan, session.selected
        if model is None or name not in model.index or model.index[name] >= len(plan.schemes):
            return None
        place = model.index[name]
        return plan.schemes[place], plan.algorithms[place] if place < len(plan.algorithms) else "rtn"

    @property
    def shows_trial(self) -> bool:
        """Whether plots show what was tried: a run's own figures come first while the strip stands at the recipe's scheme."""
        return self.trial is not None and self.trial.report is not None and (self.wanted is not None or self._report() is None)

    def expected_db(self, name: str, scheme: str, algorithm: str) -> float | None:
        """SQNR of a Gaussian layer of this one's shape; None where it is not known (yet)."""
        row = self._session.row_of(name)
        return self._expected.get((scheme, algorithm, row.kind, row.shape, row.dtype)) if row else None

    def shortfall(self, name: str) -> float | None:
        """By how many dB a layer of the shown run is worse than a Gaussian one."""
        report = self._session.report_of(name)
        if report is None or report.sqnr_db is None:
            return None
        expected = self.expected_db(name, report.scheme, report.algorithm)
        return None if expected is None else expected - report.sqnr_db

    # -- trying -------------------------------------------------------------------------------------------------------

    def try_scheme(self, scheme: str, algorithm: str) -> None:
        """Try a scheme on the selected layer; ``trial_changed`` follows, twice for a large layer."""
        self.wanted = (scheme, algorithm)
        self._try(scheme, algorithm)

    def back_to_recipe(self) -> None:
        """Show the recipe's scheme again."""
        self.wanted = None
        self.trial = self.planned
        self.trial_changed.emit()
        self._planned()

    def _try(self, scheme: str, algorithm: str) -> None:
        session = self._session
        model, row = session.model, session.row_of(session.selected)
        session.peeks.drop(self._trial_call)
        session.peeks.drop(self._detail_call)
        if model is None or row is None or not self._has_weights():
            return
        text = without_data(algorithm)
        key = self.wanted

        def answer(data: dict[str, Any]) -> None:
            trial = from_data(Trial, data)
            if key is None:
                self.planned = trial
            self.trial = trial
            self.trial_changed.emit()
            if trial.exact:
                self._ask_detail()

        def failed(failure: Failure) -> None:
            if not failure.cancelled:
                answer(to_data(Trial(row.name, scheme, text, problem=failure.message)))

        known = session.float_histogram(row.name)
        params = {
            "path": model.path, "layer": row.name, "scheme": scheme, "algorithm": text,
            "limit": known[0].limit if known else 0.0, **model.how.params(),
        }  # fmt: skip
        self._trial_call = session.peeks.call("try_scheme", params, answer, failed, layer=answer)

    # -- where the error lies ------------------------------------------------------------------------------------------

    def _ask_detail(self) -> None:
        """Of what was tried, of the shown run's artifact, or of the float weights."""
        session = self._session
        model, name = session.model, session.selected
        session.peeks.drop(self._detail_call)
        if model is None or name is None or not self._has_weights():
            return

        def done(data: dict[str, Any]) -> None:
            self.detail, self.diagnosis = from_data(LayerDetail, data["detail"]), from_data(Diagnosis, data["diagnosis"])
            self.problem = ""
            self.detail_changed.emit()

        def failed(failure: Failure) -> None:
            if not failure.cancelled:
                self.detail, self.diagnosis, self.problem = None, Diagnosis(), failure.message
                self.detail_changed.emit()

        params: dict[str, Any] = {"path": model.path, "layer": name, **model.how.params()}
        run, report = session.shown_run, self._report()
        if not self.shows_trial and run and report and run.state == "done":
            params |= {"artifact": str(run.artifact), "report": to_data(report)}
        self._detail_call = session.peeks.call("look", params, done, failed)

    def _report(self) -> Any:
        """The shown run's report of the selected layer, where it is of the scheme that the recipe has."""
        return self._session.report_of(self._session.selected)

    def _has_weights(self) -> bool:
        row = self._session.row_of(self._session.selected)
        return row is not None and row.plain and row.parameters > 0 and row.dtype in FLOATS

    # -- what changes around it ----------------------------------------------------------------------------------------

    def _forget_all(self) -> None:
        self._expected.clear()
        self._selected()

    def _selected(self) -> None:
        """Another layer, or other measurements of it."""
        session = self._session
        for call in (self._trial_call, self._detail_call):
            session.peeks.drop(call)
        self.trial, self.planned, self.wanted, self.detail, self.diagnosis, self.problem = None, None, None, None, Diagnosis(), ""
        self.trial_changed.emit()
        self.detail_changed.emit()
        self._planned()

    def _planned(self) -> None:
        """The recipe's scheme of the selected layer, tried where no run measured it."""
        chosen = self.recipe_scheme
        if self.wanted is not None or chosen is None or not self._has_weights():
            return
        report = self._report()
        if report is not None and report.scheme == chosen[0]:
            if self.detail is None:
                self._ask_detail()
        elif chosen[0] == "keep":
            self.trial = self.planned = None
            self.trial_changed.emit()
            self._ask_detail()
        elif self.planned is None or (self.planned.scheme, self.planned.algorithm) != (chosen[0], without_data(chosen[1])):
            self._try(*chosen)

    def _run_finished(self, run: Any) -> None:
        if run is self._session.shown_run:
            self._ask_expected()
            self._selected()

    def _ask_expected(self) -> None:
        """Gaussian figures of the shown run's layers, one for all layers alike."""
        session = self._session
        model, run = session.model, session.shown_run
        session.peeks.drop(self._expected_call)
        if model is None or run is None or run.state != "done":
            return
        asked: dict[tuple[Any, ...], list[str]] = {}
        for report in run.reports.values():
            row = session.row_of(report.name)
            if row:
                key = (report.scheme, report.algorithm, row.kind, row.shape, row.dtype)
                if key not in self._expected:
                    asked.setdefault(key, [row.name, report.scheme, report.algorithm])
        keys = list(asked)[:EXPECTED]
        if not keys:
            return
        found: list[float | None] = []

        def done(_: Any) -> None:
            self._expected.update(zip(keys, found, strict=True))
            self.expected_changed.emit()
            self._ask_expected()

        params = {"path": model.path, "lines": [asked[key] for key in keys], **model.how.params()}
        self._expected_call = session.peeks.call("expected", params, done, rows=found.extend)


def without_data(algorithm: str) -> str:
    """An algorithm as far as weights alone can carry it out."""
    needy = {info.name for info in engine.algorithm_choices() if info.data}
    steps = [step for step in algorithm.split("+") if step.split(":")[0] not in needy]
    return "+".join(steps) or "rtn"
