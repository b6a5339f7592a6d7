"""Calibration in a session: which data each model is run on, looking at them, and running the float model on them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from engine.records.calibration import Activity, DataPreview, DataSpec
from engine.records.codec import from_data, to_data
from mono_quant_gui import text
from mono_quant_gui.jobs.host import Failure
from mono_quant_gui.state import Calibration

if TYPE_CHECKING:
    from mono_quant_gui.session import Session


class Calibrating(QObject):
    """Data belong to the model they were chosen for, and come back with it until the window closes."""

    changed = Signal()
    """Other data, or a calibration began or ended."""
    progressed = Signal()
    finished = Signal(object)

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self._chosen: dict[str, tuple[DataSpec, str]] = {}
        self._last: dict[str, Calibration] = {}
        self._check_call: int | None = None

    # -- which data --------------------------------------------------------------------------------------------

    @property
    def data(self) -> DataSpec | None:
        """What the open model is run on; None where nothing was chosen or the model does not run."""
        model = self._session.model
        return self._chosen[model.path][0] if model and model.runs and model.path in self._chosen else None

    @property
    def words(self) -> str:
        """The chosen data in two words; empty where there are none."""
        model = self._session.model
        return self._chosen[model.path][1] if model and self.data else ""

    def choose(self, spec: DataSpec | None, words: str = "") -> None:
        """Run the open model on these data from now on; None for none."""
        model = self._session.model
        if model is None:
            return
        if spec is None:
            self._chosen.pop(model.path, None)
        else:
            self._chosen[model.path] = (spec, words or text.data(spec))
        self.changed.emit()

    # -- looking at them ---------------------------------------------------------------------------------------

    def check(self, spec: DataSpec, done: Callable[[DataPreview], None], failed: Callable[[Failure], None]) -> None:
        """Read data and run one forward of their first batch, off the window."""
        session = self._session
        if session.model is None:
            return
        how = session.model.how
        params = {"path": session.model.path, "data": to_data(spec), **how.params()}

        def again(sha256: str) -> None:
            session.trust_model(sha256)
            self.check(spec, done, failed)

        def ended(failure: Failure) -> None:
            self._check_call = None
            if failure.kind == "HostDied":  # the plan that waited behind it went with it
                session.ask_plan()
            if not session.ask_trust(failure, how, again, lambda: failed(NOT_TRUSTED)):
                failed(failure)

        def found(data: dict[str, Any]) -> None:
            self._check_call = None
            done(from_data(DataPreview, data))

        self._check_call = session.peeks.call("preview_data", params, found, ended)

    def cancel_check(self) -> None:
        """Stop looking: a forward that does not end is ended with its process."""
        if self._check_call is not None:
            self._session.peeks.cancel(self._check_call)

    # -- running the model on them -----------------------------------------------------------------------------

    @property
    def last(self) -> Calibration | None:
        """The open model's newest calibration, in progress or ended."""
        model = self._session.model
        return self._last.get(model.path) if model else None

    @property
    def running(self) -> Calibration | None:
        return next((found for found in self._last.values() if found.state == "running"), None)

    def start(self) -> None:
        """Run the float model on the chosen data, and keep what its layers were given."""
        session, spec = self._session, self.data
        if session.model is None or spec is None or session.busy:
            return
        made = self._last[session.model.path] = Calibration(session.model.path, spec)
        self._call(made)
        self.changed.emit()

    def _call(self, made: Calibration) -> None:
        session = self._session
        assert session.model
        how = session.model.how
        params = {"path": made.model_path, "data": to_data(made.data), **how.params()}

        def again(sha256: str) -> None:
            session.trust_model(sha256)
            self._call(made)

        def ended(failure: Failure) -> None:
            if not session.ask_trust(failure, how, again, lambda: self._failed(made, NOT_TRUSTED)):
                self._failed(made, failure)

        made.call = session.heavy.call(
            "calibrate", params, lambda report: self._done(made, report), ended,
            progress=lambda data: self._progressed(made, data), rows=lambda rows: take_activities(made.activities, rows),
        )  # fmt: skip

    def cancel(self) -> None:
        """Stop the calibration in progress."""
        running = self.running
        if running and running.call is not None:
            self._session.heavy.cancel(running.call)

    def forget(self) -> None:
        """Drop the open model's calibration that has ended."""
        last = self.last
        if last and last.state != "running":
            del self._last[last.model_path]
            self.changed.emit()

    def _progressed(self, made: Calibration, data: dict[str, Any]) -> None:
        made.progress = data
        self.progressed.emit()

    def _done(self, made: Calibration, report: dict[str, Any]) -> None:
        made.state, made.report = "done", report
        self._end(made)

    def _failed(self, made: Calibration, failure: Failure) -> None:
        made.state = "cancelled" if failure.cancelled else "failed"
        made.message = failure.message
        made.activities.clear()
        self._end(made)
        if not failure.cancelled:
            self._session.failed.emit(failure.message, failure.details)

    def _end(self, made: Calibration) -> None:
        self.changed.emit()
        self.finished.emit(made)


NOT_TRUSTED = Failure("Cancelled", "Not run: the code was not trusted.")


def take_activities(activities: dict[str, Activity], rows: list[dict[str, Any]]) -> None:
    for row in rows:
        activity = from_data(Activity, row)
        activities[activity.name] = activity
