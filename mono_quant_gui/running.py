"""The runs of a session: what can be quantized and why not, what runs, and what came of it."""

import re
import shutil
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, Signal

import engine
from engine.records.codec import from_data, to_data
from engine.records.recipe import Recipe
from engine.records.report import LayerReport
from mono_quant_gui.calibrating import NOT_TRUSTED, Calibrating, take_activities
from mono_quant_gui.jobs.host import EngineHost, Failure
from mono_quant_gui.runs_store import Run, load_run, new_folder, save_run
from mono_quant_gui.searching import Searching
from mono_quant_gui.settings import Settings
from mono_quant_gui.state import How, PlanState
from mono_quant_gui.trusting import Trusting


class Running(Trusting):
    """Starts runs on the heavy host, keeps them, and says which one is shown."""

    selection_changed = Signal()
    runs_changed = Signal()
    run_progress = Signal(object)
    run_layers = Signal(object)
    run_finished = Signal(object)

    def __init__(self, settings: Settings, recipe: Recipe, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.settings, self.recipe = settings, recipe
        self.heavy = EngineHost("heavy", self)
        self.peeks = EngineHost("peeks", self)
        self.plan = PlanState()
        self.runs: list[Run] = []
        self.shown_run: Run | None = None
        self.calibrating: Calibrating
        self.searching: Searching

    @property
    def running(self) -> Run | None:
        return next((run for run in self.runs if run.state == "running"), None)

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
            return "Open a model first."
        if plan.error or plan.errors:
            return plan.error or str(plan.errors[0]["message"])
        if plan.predicted is None:
            return "The plan is being made."
        if self.missing_data:
            return self.missing_data
        if self.busy:
            return "Something runs already: wait, or stop it."
        return "" if plan.quantized > 0 else "This recipe quantizes no layer of this model."

    @property
    def missing_data(self) -> str:
        """What a recipe that needs calibration still lacks; empty when nothing."""
        if not self.plan.needs or self.model is None or self.calibrating.data:
            return ""
        if not self.model.runs:
            return f"{self.plan.needs} calibration, but this file has weights only: add the network that runs them."
        return f"{self.plan.needs} calibration: choose the data to run the model on."

    def quantize(self) -> None:
        """Start a run of the recipe; its artifact goes to the runs folder until it is exported or deleted."""
        if not self.can_quantize or self.model is None:
            return
        number = self._next_number()
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.model.name).stem)[:80] or "model"
        try:
            folder = new_folder(self.settings.runs_folder(), stem)
        except OSError as error:
            self.failed.emit(f"Cannot create a folder for the run: {error.strerror}.", "")
            return
        artifact = folder / (stem if self.plan.is_folder else f"{stem}.safetensors")
        recipe = engine.recipe_to_text(self.recipe)
        run = Run(number, self.recipe.name or engine.scheme_name(self.recipe.default), self.model.path, folder, artifact, recipe)
        run.data = self.calibrating.words
        params = {
            "path": self.model.path, "recipe": recipe, "output": str(artifact),
            **({"data": to_data(self.calibrating.data)} if self.calibrating.data else {}),
        }  # fmt: skip
        self._call_run(run, params, self.model.how)
        self.runs.insert(0, run)
        self.shown_run = run
        self.runs_changed.emit()
        self.selection_changed.emit()

    def _call_run(self, run: Run, params: dict[str, Any], how: How) -> None:
        def again(sha256: str) -> None:
            self.trust_model(sha256)
            self._call_run(run, params, how.trusting(sha256))

        def failed(failure: Failure) -> None:
            if not self.ask_trust(failure, how, again, lambda: self._run_failed(run, NOT_TRUSTED)):
                self._run_failed(run, failure)

        run.call = self.heavy.call(
            "quantize", params | how.params(), lambda totals: self._run_done(run, totals), failed,
            progress=lambda data: self._run_progressed(run, data), layer=lambda data: self._run_layer(run, data),
            rows=lambda rows: take_activities(run.activities, rows),
        )  # fmt: skip

    def _next_number(self) -> int:
        return 1 + max((run.number for run in self.runs), default=0)

    def cancel(self) -> None:
        """Stop the run, calibration or pass in progress."""
        self.calibrating.cancel()
        self.searching.cancel()
        run = self.running
        if run and run.call is not None:
            self.heavy.cancel(run.call)

    def delete_run(self, run: Run) -> None:
        """Remove a run and its artifact from disk."""
        if run.state == "running":
            return
        shutil.rmtree(run.folder, ignore_errors=True)
        self.runs = [other for other in self.runs if other is not run]
        if self.shown_run is run:
            self.show_run(self._newest_done())
        self.runs_changed.emit()

    def _newest_done(self) -> Run | None:
        path = self.model.path if self.model else ""
        return next((run for run in self.runs if run.state == "done" and run.model_path == path), None)

    def _run_progressed(self, run: Run, data: dict[str, Any]) -> None:
        run.progress = data
        self.run_progress.emit(run)

    def _run_layer(self, run: Run, data: dict[str, Any]) -> None:
        if "message" in data:
            run.failures[data["name"]] = data["message"]
            self.run_layers.emit(run)
            return
        report = from_data(LayerReport, data)
        run.reports[report.name] = report
        self.run_layers.emit(run)

    def _run_done(self, run: Run, totals: dict[str, Any]) -> None:
        run.state, run.totals = "done", totals
        try:
            save_run(run)
        except OSError as error:
            self.failed.emit(f"The run is done, but its report could not be saved: {error.strerror}.", "")
        self._end(run)

    def _run_failed(self, run: Run, failure: Failure) -> None:
        run.state = "cancelled" if failure.cancelled else "failed"
        run.message = failure.message
        shutil.rmtree(run.folder, ignore_errors=True)
        if self.shown_run is run and not run.failures:  # what was measured of the other layers stays in sight
            self.show_run(self._newest_done())
        self._end(run)
        if not failure.cancelled:
            self.report_failure(failure)

    def _end(self, run: Run) -> None:
        if self.model and run.model_path != self.model.path:
            # It belongs to a model opened before; it is in the runs folder and comes back with that model.
            self.runs = [other for other in self.runs if other is not run]
        self.runs_changed.emit()
        self.selection_changed.emit()
        self.run_finished.emit(run)

    def show_run(self, run: Run | None) -> None:
        """Which run's measurements the table and plots show; a run of another model shows nothing."""
        if run is not None and self.model and run.model_path != self.model.path:
            return
        if run is not None and run.state == "done" and not run.reports:
            try:
                load_run(run)
            except (OSError, ValueError, engine.EngineError) as error:
                self.failed.emit(f"The measurements of run {run.number} cannot be read: {error}.", "")
        self.shown_run = run
        self.runs_changed.emit()
        self.selection_changed.emit()
