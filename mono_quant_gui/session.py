"""The single holder of state: intents come in as calls, changes go out as signals. No widgets here."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QUndoCommand, QUndoStack

import engine
from engine.records.calibration import Activity
from engine.records.codec import from_data, to_data
from engine.records.recipe import Recipe, Rule
from engine.records.report import ChannelRanges, Histogram, LayerReport
from engine.records.trust import Factory
from mono_quant_gui.calibrating import NOT_TRUSTED, Calibrating, take_activities
from mono_quant_gui.jobs.host import EngineHost, Failure
from mono_quant_gui.runs_store import Run, clear_unfinished, earlier_runs, load_run, new_folder, save_run
from mono_quant_gui.settings import Settings
from mono_quant_gui.state import How, LayerRow, Model, PlanState, Trust

NOT_OPENED = "Not opened: its code was not trusted."
PLAN_DELAY_MS = 60
"""Pause after an edit before the plan is asked for, so that typing asks once."""


class Session(QObject):
    """State of one window."""

    model_changed = Signal()
    opening = Signal(str)
    failed = Signal(str, str)
    """(sentence, details) of something that went wrong."""
    notice = Signal(str)
    recipe_changed = Signal()
    plan_changed = Signal()
    selection_changed = Signal()
    histogram_changed = Signal()
    runs_changed = Signal()
    run_progress = Signal(object)
    run_layers = Signal(object)
    run_finished = Signal(object)
    trust_wanted = Signal(object)
    """Code would run (a Trust): the user is to be asked."""

    def __init__(self, settings: Settings, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.settings = settings
        self.heavy = EngineHost("heavy", self)
        self.peeks = EngineHost("peeks", self)
        self.model: Model | None = None
        self.plan = PlanState()
        self.runs: list[Run] = []
        self.shown_run: Run | None = None
        self.selected: str | None = None
        self.recipe: Recipe = self._saved_recipe()
        self._floats: dict[str, tuple[Histogram, ChannelRanges]] = {}
        self._unreadable: dict[str, str] = {}
        self._plan_call: int | None = None
        self._histogram_call: int | None = None
        self._open_call: int | None = None
        self._agreed: set[tuple[str, str]] = set()
        self.calibrating = Calibrating(self)
        self.undo = QUndoStack(self)
        self._plan_timer = QTimer(self)
        self._plan_timer.setSingleShot(True)
        self._plan_timer.setInterval(PLAN_DELAY_MS)
        self._plan_timer.timeout.connect(self.ask_plan)
        self.heavy.died.connect(self.notice)
        clear_unfinished(self.settings.runs_folder())
        for host in (self.heavy, self.peeks):
            host.call("warm_up", {})

    def close(self) -> None:
        """Stop everything that runs; returns when no process and no thread is left."""
        self.settings.set_text("recipe", engine.recipe_to_text(self.recipe))
        self._plan_timer.stop()
        unfinished = self.running
        for host in (self.heavy, self.peeks):
            host.close()
        if unfinished:
            shutil.rmtree(unfinished.folder, ignore_errors=True)

    # -- the model ---------------------------------------------------------------------------------------------

    def open(self, path: str, then: Callable[[], None] | None = None, how: How | None = None) -> None:
        """Open a file or folder; the model there now stays if that fails."""
        path = str(Path(path).expanduser().absolute())
        chosen = how or How()
        self.opening.emit(path)
        self.peeks.drop(self._open_call)
        rows: list[LayerRow] = []

        def more(batch: list[list[Any]]) -> None:
            rows.extend(LayerRow(r[0], r[1], r[2], tuple(r[3]), *r[4:]) for r in batch)

        def done(data: dict[str, Any]) -> None:
            self._opened(data, rows, chosen)
            if then:
                then()

        def again(sha256: str) -> None:
            self.open(path, then, chosen.trusting(sha256))

        def failed(failure: Failure) -> None:
            if not self.ask_trust(failure, chosen, again, declined=lambda: self.notice.emit(NOT_OPENED)):
                self._report_failure(failure)

        self._open_call = self.peeks.call("open", {"path": path, **chosen.params()}, done, failed, rows=more)

    def set_network(self, factory: Factory | None, fold: bool) -> None:
        """Open the model again with the network that a Python function builds."""
        if self.model:
            self.open(self.model.path, how=How(factory, (), fold))

    def ask_trust(self, failure: Failure, how: How, accept: Callable[[str], None], declined: Callable[[], None]) -> bool:
        """Ask the user whether code may run, if that is why a call failed; what was agreed to in this window is not asked again.

        ``how`` is what the call was made with: the same code asked for twice is a failure and no question.
        """
        if failure.kind != "TrustNeeded":
            return False
        asked = json.loads(failure.details)
        path, sha256 = asked["path"], asked["sha256"]
        if sha256 in how.trusted:
            return False

        def agree() -> None:
            self._agreed.add((path, sha256))
            accept(sha256)

        if (path, sha256) in self._agreed:
            accept(sha256)
        else:
            self.trust_wanted.emit(Trust(path, sha256, asked["what"], agree, declined))
        return True

    def trust_model(self, sha256: str) -> None:
        """The open model may run this code."""
        if self.model:
            self.model.how = self.model.how.trusting(sha256)

    def _opened(self, data: dict[str, Any], rows: list[LayerRow], how: How) -> None:
        self.model = Model(
            data["path"], data["name"], rows, data["parameters"], data["bytes"], data["quantized"],
            data["problems"], data["has_config"], {row.name: i for i, row in enumerate(rows)}, data["runs"], how,
        )  # fmt: skip
        self._floats.clear()
        self._unreadable.clear()
        self.plan, self.selected, self.shown_run = PlanState(), None, None
        running = self.running
        self.runs = earlier_runs(self.settings.runs_folder(), data["path"])
        if running:
            if running.model_path == data["path"]:
                self.shown_run = running
            if running.number in {run.number for run in self.runs}:
                running.number = self._next_number()
            self.runs.insert(0, running)
        self.model_changed.emit()
        self.calibrating.changed.emit()
        self.runs_changed.emit()
        self.selection_changed.emit()
        self.ask_plan()
        self.settings.add_recent(data["path"])

    # -- the recipe --------------------------------------------------------------------------------------------

    def edit_recipe(self, recipe: Recipe, words: str) -> None:
        """Replace the recipe, undoably; the plan follows. ``words`` name the edit in the menu."""
        if recipe != self.recipe:
            self.undo.push(_RecipeEdit(self, recipe, words))

    def _set_recipe(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.recipe_changed.emit()
        self._plan_timer.start()

    def assign(self, names: list[str], scheme: str) -> Recipe:
        """The recipe with rules that give these layers a scheme; an earlier rule for the same layer goes."""
        chosen = engine.parse_scheme(scheme)
        patterns = set(map(exact_pattern, names))
        others = tuple(rule for rule in self.recipe.rules if rule.match not in patterns)
        added = tuple(Rule(chosen, match=exact_pattern(name)) for name in names)
        return dataclasses.replace(self.recipe, rules=added + others)

    def unassign(self, names: list[str]) -> Recipe:
        """The recipe without rules made for exactly these layers."""
        patterns = set(map(exact_pattern, names))
        return dataclasses.replace(self.recipe, rules=tuple(r for r in self.recipe.rules if r.match not in patterns))

    def _saved_recipe(self) -> Recipe:
        saved = self.settings.text("recipe")
        try:
            return engine.recipe_from_text(saved) if saved else engine.recipe("W4A16")
        except engine.EngineError:  # written by another version: start from the default
            return engine.recipe("W4A16")

    def ask_plan(self) -> None:
        """Ask the engine what the recipe would do; ``plan_changed`` follows."""
        if self.model is None:
            return
        self.peeks.drop(self._plan_call)
        plan = PlanState()

        def more(batch: list[list[Any]]) -> None:
            for scheme, nbytes, rule in batch:
                plan.schemes.append(scheme)
                plan.nbytes.append(nbytes)
                plan.rules.append(rule)

        def done(totals: dict[str, Any]) -> None:
            plan.predicted, plan.bits_per_weight = totals["predicted_bytes"], totals["bits_per_weight"]
            plan.quantized, plan.problems = totals["quantized"], totals["problems"]
            plan.is_folder, plan.calibration = totals["is_folder"], totals["calibration"]
            plan.needs = _needs(totals["calibration"])
            for problem in plan.problems:
                if problem["layer"] and problem["severity"] == "error":
                    plan.problem_of[problem["layer"]] = problem
                elif problem["layer"]:
                    plan.problem_of.setdefault(problem["layer"], problem)
            self.plan = plan
            self.plan_changed.emit()

        def failed(failure: Failure) -> None:
            if not failure.cancelled:
                self.plan = PlanState(error=failure.message)
                self.plan_changed.emit()

        params = {"path": self.model.path, "recipe": engine.recipe_to_text(self.recipe), **self.model.how.params()}
        self._plan_call = self.peeks.call("plan", params, done, failed, rows=more)

    # -- looking -----------------------------------------------------------------------------------------------

    def select(self, name: str | None) -> None:
        """Select a layer; its histogram follows."""
        if name != self.selected:
            self.selected = name
            self.selection_changed.emit()
            self._ask_histogram()

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

    def report_of(self, name: str | None) -> LayerReport | None:
        return self.shown_run.reports.get(name) if self.shown_run and name else None

    def activity_of(self, name: str | None) -> Activity | None:
        """What a layer was given: in the shown run, or in the newest calibration."""
        if not name:
            return None
        last = self.calibrating.last
        seen = self.shown_run.activities if self.shown_run else {}
        return seen.get(name) or (last.activities.get(name) if last else None)

    @property
    def unreached(self) -> list[str]:
        """Layers that no sample reached, in the shown run or the newest calibration."""
        last = self.calibrating.last
        if self.shown_run and self.shown_run.activities:
            return [seen.name for seen in self.shown_run.activities.values() if not seen.samples]
        return last.unreached if last else []

    def float_histogram(self, name: str | None) -> tuple[Histogram, ChannelRanges] | None:
        return self._floats.get(name) if name else None

    def unreadable(self, name: str) -> str:
        """Why this layer's weights cannot be shown; empty when they can."""
        return self._unreadable.get(name, "")

    def row_of(self, name: str | None) -> LayerRow | None:
        if self.model is None or name is None or name not in self.model.index:
            return None
        return self.model.layers[self.model.index[name]]

    def _ask_histogram(self) -> None:
        row = self.row_of(self.selected)
        self.peeks.drop(self._histogram_call)
        known = row is None or row.name in self._floats or self.report_of(row.name)
        if self.model is None or row is None or known or not row.plain or not row.parameters:
            return
        if row.dtype not in ("BF16", "F16", "F32", "F64"):
            return

        def done(data: dict[str, Any]) -> None:
            self._floats[row.name] = (from_data(Histogram, data["histogram"]), from_data(ChannelRanges, data["ranges"]))
            if self.selected == row.name:
                self.histogram_changed.emit()

        def failed(failure: Failure) -> None:
            # Said where the histogram would be: looking at a layer must not open boxes.
            if not failure.cancelled:
                self._unreadable[row.name] = failure.message
                self.histogram_changed.emit()

        params = {"path": self.model.path, "layer": row.name, **self.model.how.params()}
        self._histogram_call = self.peeks.call("histogram", params, done, failed)

    # -- runs --------------------------------------------------------------------------------------------------

    @property
    def running(self) -> Run | None:
        return next((run for run in self.runs if run.state == "running"), None)

    @property
    def busy(self) -> bool:
        """Whether a run or a calibration is in progress."""
        return self.running is not None or self.calibrating.running is not None

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
        """Stop the run or calibration in progress."""
        self.calibrating.cancel()
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
        if self.selected is None and self.shown_run is run and totals["worst_layer"]:
            self.select(totals["worst_layer"])  # the layer that one would look at first

    def _run_failed(self, run: Run, failure: Failure) -> None:
        run.state = "cancelled" if failure.cancelled else "failed"
        run.message = failure.message
        shutil.rmtree(run.folder, ignore_errors=True)
        if self.shown_run is run and not run.failures:  # what was measured of the other layers stays in sight
            self.show_run(self._newest_done())
        self._end(run)
        if not failure.cancelled:
            self._report_failure(failure)

    def _end(self, run: Run) -> None:
        if self.model and run.model_path != self.model.path:
            # It belongs to a model opened before; it is in the runs folder and comes back with that model.
            self.runs = [other for other in self.runs if other is not run]
        self.runs_changed.emit()
        self.selection_changed.emit()
        self.run_finished.emit(run)

    def _report_failure(self, failure: Failure) -> None:
        if not failure.cancelled:
            self.failed.emit(failure.message, failure.details)


class _RecipeEdit(QUndoCommand):
    """One edit of the recipe: the record before and after."""

    def __init__(self, session: Session, recipe: Recipe, words: str) -> None:
        super().__init__(words)
        self._session, self._before, self._after = session, session.recipe, recipe

    def redo(self) -> None:
        self._session._set_recipe(self._after)

    def undo(self) -> None:
        self._session._set_recipe(self._before)


def exact_pattern(name: str) -> str:
    """A rule's pattern that matches this one layer."""
    return f"re:{re.escape(name)}$" if any(c in name for c in "*?[") else name


def _needs(calibration: dict[str, Any] | None) -> str:
    """What a plan cannot do without data, in words."""
    if calibration is None:
        return ""
    titles = {info.name: info.title for info in engine.algorithm_choices()}
    chosen = [str(titles.get(name, name)) for name in calibration["algorithms"]]
    static = str(calibration["activations"])
    words = " and ".join([*chosen, static] if static else chosen)
    return f"{words[:1].upper()}{words[1:]} {'needs' if len(chosen) == 1 and not static else 'need'}"
