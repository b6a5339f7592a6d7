"""The queue of a session: what can be quantized and why not, what runs, what waits, and what comes of it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

import engine
from engine.records.codec import from_data, to_data
from engine.records.recipe import Recipe
from engine.records.report import LayerReport
from engine.records.trust import Factory
from mono_quant_gui.calibrating import NOT_TRUSTED, Calibrating, take_activities
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.host import EngineHost, Failure
from mono_quant_gui.mending import difference, mends
from mono_quant_gui.run import Run
from mono_quant_gui.searching import Searching
from mono_quant_gui.settings import Settings
from mono_quant_gui.state import How
from mono_quant_gui.viewing import Viewing

LAYERS_MS = 100
"""Layers that end within this time are shown together."""
AGAIN = ("unfinished", "failed", "cancelled")
"""States of runs that may go into the queue once more as they are."""


class Running(Viewing):
    """Runs wait in a queue and go one at a time on the heavy host; each is in the ledger from the beginning."""

    run_progress = Signal(object)
    run_finished = Signal(object)

    def __init__(self, settings: Settings, recipe: Recipe, parent: QObject | None, peeks: EngineHost | None) -> None:
        super().__init__(settings, recipe, parent, peeks)
        self.queue: list[Run] = []
        """What waits here, the next one first."""
        self.running: Run | None = None
        self.calibrating: Calibrating
        self.searching: Searching
        self._new_layers = QTimer(self)
        self._new_layers.setSingleShot(True)
        self._new_layers.setInterval(LAYERS_MS)
        self._new_layers.timeout.connect(lambda: self.running and self.run_layers.emit(self.running))

    # -- what can be run ---------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a run, a calibration or a sensitivity pass is in progress."""
        return self.running is not None or self.calibrating.running is not None or self.searching.running

    @property
    def can_quantize(self) -> bool:
        return not self.obstacle

    @property
    def obstacle(self) -> str:
        """Why nothing can be quantized now, in one sentence; empty when something can."""
        plan = self.plan
        if self.model is None:
            return tr("Open a model first.")
        if plan.error or plan.errors:
            return plan.error or str(plan.errors[0]["message"])
        if plan.predicted is None:
            return tr("The plan is being made.")
        if self.missing_data:
            return self.missing_data
        if plan.quantized <= 0:
            return tr("This recipe quantizes no layer of this model.")
        going = [*([self.running] if self.running else []), *self.queue]
        asked = (self.model.path, engine.recipe_to_text(self.recipe), self._data())
        if any((run.model_path, run.recipe, run.record.arguments.get("data")) == asked for run in going):
            return tr("This recipe runs already, or waits to: change it to queue another run.")
        return ""

    @property
    def missing_data(self) -> str:
        """What a recipe that needs calibration still lacks; empty when nothing."""
        if not self.plan.needs or self.model is None or self.calibrating.data:
            return ""
        if not self.model.runs:
            return f"{self.plan.needs} calibration, but this file has weights only: add the network that runs them."
        return f"{self.plan.needs} calibration: choose the data to run the model on."

    def _data(self) -> dict[str, Any] | None:
        return to_data(self.calibrating.data) if self.calibrating.data else None

    # -- the queue ---------------------------------------------------------------------------------------------

    def quantize(self) -> None:
        """Put a run of the recipe into the queue; its artifact goes to the runs folder until it is exported or deleted."""
        if not self.can_quantize or self.model is None:
            return
        recipe, data, parent = self.recipe, self._data(), self._parent()
        name = recipe.name or engine.scheme_name(recipe.default)
        if parent:
            name = f"{name}: {difference(engine.recipe_from_text(parent.recipe), recipe)}"
        stem = Path(self.model.name).stem.strip() or "model"
        arguments = ({"data": data} if data else {}) | self.model.how.params()
        try:
            run = self.kept.begin(
                self.model.path, engine.recipe_to_text(recipe), stem if self.plan.is_folder else f"{stem}.safetensors",
                name=name, parent=parent.id if parent else "", data=self.calibrating.words,
                seed=self.calibrating.data.seed if self.calibrating.data else None, arguments=arguments,
            )  # fmt: skip
        except engine.EngineError as error:
            self.failed.emit(str(error), error.details)
            return
        if self.viewed:
            self._view(run, recipe)
        self._enqueue(run)

    def _parent(self) -> Run | None:
        """The shown run, where the recipe is its own with other schemes for single layers."""
        shown = self.shown_run
        if shown is None or shown.state != "done" or self.model is None or shown.model_path != self.model.path:
            return None
        try:
            return shown if mends(engine.recipe_from_text(shown.recipe), self.recipe) else None
        except engine.EngineError:  # of a later version
            return None

    def run_again(self, run: Run) -> None:
        """Put a run that did not come to its end into the queue once more, or do a finished one anew."""
        record = run.record
        if run.going or (run.data and not record.arguments.get("data")):
            self.failed.emit(tr("It is not known what run {number} was calibrated on.").format(number=run.number), "")
            return
        try:
            if run.state in AGAIN:
                self.kept.update(run, state="queued", message="")
                run.here, run.resume, run.read, run.progress = True, True, False, None
                run.reports, run.activities, run.failing = {}, {}, {}
            else:
                name = Path(record.artifact).name
                run = self.kept.begin(
                    record.model_path, record.recipe, name, name=record.name, parent=record.parent, data=record.data,
                    seed=record.seed, arguments=record.arguments,
                )  # fmt: skip
        except engine.EngineError as error:
            self.failed.emit(str(error), error.details)
            return
        self._enqueue(run)

    def _enqueue(self, run: Run) -> None:
        self.queue.append(run)
        self.kept.changed.emit()
        if not self.start_next():
            self.notice.emit(tr("Run #{number} waits until others are done").format(number=run.number))
            self.runs_changed.emit()

    def start_next(self) -> bool:
        """Begin the next run where nothing else goes on; returns whether one began."""
        if self.busy or not self.queue:
            return False
        run = self.queue.pop(0)
        try:
            self.kept.update(run, state="running")
        except engine.EngineError as error:
            self._run_failed(run, Failure(type(error).__name__, str(error), error.details))
            return False
        self.running = run
        here = self.model is not None and run.model_path == self.model.path
        if here and (self.viewed is None or self.viewed is run):
            self._show(run)
        self._call_run(run, self._how(run))
        self.kept.changed.emit()
        self.runs_changed.emit()
        return True

    def move(self, run: Run, by: int) -> None:
        """Let a waiting run go earlier (-1) or later (1)."""
        if run in self.queue:
            place = self.queue.index(run)
            self.queue.insert(max(place + by, 0), self.queue.pop(place))
            self.kept.changed.emit()

    def memory_limit(self) -> dict[str, int]:
        """What a plan and a run take along of the preference; nothing where the machine's free memory is the limit."""
        limit = self.settings.memory_limit()
        return {"memory_limit": limit} if limit else {}

    def _how(self, run: Run) -> How:
        """How its model comes to run; what was agreed to in this window holds for the open model."""
        asked = run.record.arguments.get("how") or {}
        factory = from_data(Factory, asked["factory"]) if asked.get("factory") else None
        how = How(factory, (), bool(asked.get("fold_batch_norm")))
        own = self.model.how if self.model and self.model.path == run.model_path else How()
        return own if (own.factory, own.fold) == (how.factory, how.fold) else how

    def _call_run(self, run: Run, how: How) -> None:
        def again(sha256: str) -> None:
            if self.model and self.model.path == run.model_path:
                self.trust_model(sha256)
            self._call_run(run, how.trusting(sha256))

        def failed(failure: Failure) -> None:
            if not self.ask_trust(failure, how, again, lambda: self._run_failed(run, NOT_TRUSTED)):
                self._run_failed(run, failure)

        data = run.record.arguments.get("data")
        params = {
            "path": run.model_path, "recipe": run.recipe, "output": str(run.artifact), "run_folder": str(run.folder),
            "resume": run.resume, **({"data": data} if data else {}), **self.memory_limit(), **how.params(),
        }  # fmt: skip
        mended = self.kept.find(run.record.parent)
        if mended and mended.state == "done":
            params["reuse"] = str(mended.folder)
        run.call = self.heavy.call(
            "quantize", params, lambda totals: self._run_done(run, totals), failed,
            progress=lambda data: self._run_progressed(run, data), layer=lambda data: self._run_layer(run, data),
            rows=lambda rows: take_activities(run.activities, rows),
        )  # fmt: skip

    # -- stopping ----------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop the run, calibration or pass in progress; what waits goes on."""
        self.calibrating.cancel()
        self.searching.cancel()
        if self.running:
            self.cancel_run(self.running)

    def cancel_run(self, run: Run) -> None:
        """Stop a run, or take it out of the queue."""
        if run in self.queue:
            self.queue.remove(run)
            self._run_failed(run, Failure("Cancelled", tr("Taken out of the queue.")))
        elif run is self.running and run.call is not None:
            self.heavy.cancel(run.call)

    def pause_run(self, run: Run) -> None:
        """Let a run end after the layer it is at, to go on later."""
        if run is self.running and run.call is not None:
            self.heavy.pause(run.call)
            self.notice.emit(tr("Run #{number} pauses after the layer it is at").format(number=run.number))

    def delete_runs(self, runs: Sequence[Run]) -> None:
        """Remove runs and their files from disk; those that wait or run stay."""
        gone = [run for run in runs if not run.here]
        self.kept.delete(gone)
        if self.viewed in gone:
            self.back()
        if self._shown_before in gone:
            self._shown_before = None
        if self.shown_run in gone:
            self._show(self._newest_done())

    def _newest_done(self) -> Run | None:
        path = self.model.path if self.model else ""
        return next((run for run in self.runs if run.state == "done" and run.model_path == path), None)

    def _leave(self) -> None:
        """What waits or runs when the window closes can go on at the next start."""
        going, self.running, self.queue = [self.running, *self.queue], None, []
        for run in going:
            if run:
                with contextlib.suppress(engine.EngineError):  # its process will be found gone
                    self.kept.update(run, state="unfinished", message=tr("the window was closed"))

    # -- what the engine says ----------------------------------------------------------------------------------

    def _run_progressed(self, run: Run, data: dict[str, Any]) -> None:
        run.progress = data
        self.run_progress.emit(run)

    def _run_layer(self, run: Run, data: dict[str, Any]) -> None:
        if "message" in data:
            run.failing[data["name"]] = data["message"]
        else:
            report = from_data(LayerReport, data)
            run.reports[report.name] = report
        if not self._new_layers.isActive():
            self._new_layers.start()

    def _run_done(self, run: Run, totals: dict[str, Any]) -> None:
        self._end(run, "done", totals=totals)

    def _run_failed(self, run: Run, failure: Failure) -> None:
        states = {"Cancelled": "cancelled", "Paused": "unfinished", "HostDied": "unfinished"}
        message = tr("paused") if failure.kind == "Paused" else failure.message
        if failure.kind not in ("Cancelled", "Paused"):
            self.report_failure(failure)  # first: writing it down and drawing what there is may take a while on a busy machine
        self._end(run, states.get(failure.kind, "failed"), message=message, failures=dict(run.failing))

    def _end(self, run: Run, state: str, **what: Any) -> None:
        run.here, run.read, run.call = False, True, None
        if run is self.running:
            self.running = None
            self._new_layers.stop()
        try:
            self.kept.finish(run, state, **what)
        except engine.EngineError as error:
            words = tr("Run {number} has ended, but that could not be written down: {message}")
            self.failed.emit(words.format(number=run.number, message=error), error.details)
        if self.model and run.model_path != self.model.path:
            self.kept.refresh()  # it belongs to a model opened before, and comes back with that
        elif self.shown_run is run and not run.reports and not run.failures and run is not self.viewed:
            self._show(self._newest_done())
        elif self.shown_run is run:
            self.selection_changed.emit()
        self.kept.changed.emit()
        self.runs_changed.emit()
        self.run_finished.emit(run)
        self.start_next()
