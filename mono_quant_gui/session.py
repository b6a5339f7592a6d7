"""The single holder of state: intents come in as calls, changes go out as signals. No widgets here."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QUndoCommand, QUndoStack

import engine
from engine.records.calibration import Activity
from engine.records.codec import from_data
from engine.records.plan import RuleEffect
from engine.records.recipe import Recipe
from engine.records.report import ChannelRanges, Histogram, LayerReport
from engine.records.trust import Factory
from mono_quant_gui.calibrating import Calibrating
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.host import EngineHost, Failure
from mono_quant_gui.looking import Looking
from mono_quant_gui.mending import Mending
from mono_quant_gui.plan_time import PlanTime
from mono_quant_gui.presets import UserPresets
from mono_quant_gui.recipe_file import RecipeFile
from mono_quant_gui.run import Run
from mono_quant_gui.running import Running
from mono_quant_gui.searching import Searching
from mono_quant_gui.settings import Settings
from mono_quant_gui.state import How, LayerRow, Model, PlanState
from mono_quant_gui.surveying import Surveying

NOT_OPENED = "Not opened: its code was not trusted."
PLAN_DELAY_MS = 60
"""Pause after an edit before the plan is asked for, so that typing asks once."""


class Session(Running):
    """State of one window."""

    model_changed = Signal()
    opening = Signal(str)
    plan_changed = Signal()
    histogram_changed = Signal()
    selection_set_changed = Signal()

    def __init__(
        self, settings: Settings, parent: QObject | None = None, *, warm: bool = True, peeks: EngineHost | None = None
    ) -> None:
        """``warm``: load the engine's arithmetic at once, and not with the first call that needs it.

        ``peeks``: a host that was started before.
        """
        super().__init__(settings, saved_recipe(settings), parent, peeks)
        self._floats: dict[str, tuple[Histogram, ChannelRanges]] = {}
        self._unreadable: dict[str, str] = {}
        self._plan_call: int | None = None
        self._histogram_call: int | None = None
        self._open_call: int | None = None
        self.calibrating = Calibrating(self)
        self.undo = QUndoStack(self)
        self.recipe_file = RecipeFile(self)
        self.presets = UserPresets(settings.presets_folder())
        self._plan_timer = QTimer(self)
        self._plan_timer.setSingleShot(True)
        self._plan_timer.setInterval(PLAN_DELAY_MS)
        self._plan_timer.timeout.connect(self.ask_plan)
        self.heavy.died.connect(self.notice)
        self.selected: str | None = None
        self.selection: tuple[str, ...] = ()
        self.looking = Looking(self)
        self.surveying = Surveying(self)
        self.mending = Mending(self)
        self.plan_time = PlanTime(self)
        self.searching = Searching(self)
        self.run_finished.connect(self._look_at_worst)
        self.viewing_changed.connect(self._plan_timer.start)
        for ended in (self.calibrating.finished, self.searching.changed):
            ended.connect(lambda *_: self.start_next())
        if warm:
            self.warm_up()

    def warm_up(self) -> None:
        """Load the engine's arithmetic, after what was asked for before."""
        for host in (self.heavy, self.peeks):
            host.call("warm_up", {})

    def close(self) -> None:
        """Stop everything that runs; returns when no process and no thread is left."""
        self.settings.set_text("recipe", engine.recipe_to_text(self.own_recipe))
        self.recipe_file.remember()
        self._plan_timer.stop()
        self.plan_time.stop()
        self._new_layers.stop()
        for host in (self.heavy, self.peeks):
            host.close()
        self._leave()
        self.kept.close()

    # -- the model ---------------------------------------------------------------------------------------------

    def open(self, path: str, then: Callable[[], None] | None = None, how: How | None = None) -> None:
        """Open a file or folder; the model there now stays if that fails."""
        path = os.path.abspath(os.path.expanduser(path))  # as the ledger knows it
        chosen = how or How()
        self.opening.emit(path)
        self.peeks.drop(self._open_call)
        rows: list[LayerRow] = []
        index: dict[str, int] = {}

        def more(batch: list[list[Any]]) -> None:
            for row in batch:  # indexed as they come: all at once would take longer than a frame
                index[row[0]] = len(rows)
                rows.append(LayerRow(row[0], row[1], row[2], tuple(row[3]), *row[4:]))

        def done(data: dict[str, Any]) -> None:
            self._opened(data, rows, index, chosen)
            if then:
                then()

        def again(sha256: str) -> None:
            self.open(path, then, chosen.trusting(sha256))

        def failed(failure: Failure) -> None:
            if not self.ask_trust(failure, chosen, again, declined=lambda: self.notice.emit(NOT_OPENED)):
                self.report_failure(failure)

        self._open_call = self.peeks.call("open", {"path": path, **chosen.params()}, done, failed, rows=more)

    def set_network(self, factory: Factory | None, fold: bool) -> None:
        """Open the model again with the network that a Python function builds."""
        if self.model:
            self.open(self.model.path, how=How(factory, (), fold))

    def _opened(self, data: dict[str, Any], rows: list[LayerRow], index: dict[str, int], how: How) -> None:
        self.model = Model(
            data["path"], data["name"], rows, data["parameters"], data["bytes"], data["quantized"],
            data["problems"], data["has_config"], index, data["runs"], how,
        )  # fmt: skip
        self._floats.clear()
        self._unreadable.clear()
        self.plan, self.selected, self.shown_run, self._shown_before = PlanState(), None, None, None
        self.set_selection(())
        self._view(None, None)
        if self.running and self.running.model_path == data["path"]:
            self.shown_run = self.running
        self.kept.list_model(data["path"])
        self.model_changed.emit()
        self.calibrating.changed.emit()
        self.runs_changed.emit()
        self.selection_changed.emit()
        self.ask_plan()
        self.settings.add_recent(data["path"])

    # -- the recipe --------------------------------------------------------------------------------------------

    def edit_recipe(self, recipe: Recipe, words: str, file: str | None = None) -> None:
        """Replace the recipe, undoably; the plan follows. ``words`` are for the menu; ``file`` is its new file, if any."""
        if recipe != self.own_recipe:
            self.undo.push(_RecipeEdit(self, recipe, words, file))
            return
        if self.viewed:
            self._set_recipe(recipe)
        if file is not None:
            self.recipe_file.belong(file)

    def use_viewed(self) -> None:
        """Make the viewed run's recipe the current one, undoably."""
        if self.viewed:
            self.edit_recipe(self.recipe, tr("recipe of run {number}").format(number=self.viewed.number))

    def _set_recipe(self, recipe: Recipe, file: str | None = None) -> None:
        """An edit of a viewed recipe is an edit of the current one, which then is shown."""
        self.own_recipe, self._viewed_recipe = recipe, None
        if file is not None:
            self.recipe_file.path = file
        self.recipe_changed.emit()
        self._plan_timer.start()
        self._view(None, None)

    def ask_plan(self) -> None:
        """Ask the engine what the recipe would do; ``plan_changed`` follows."""
        if self.model is None:
            return
        self.peeks.drop(self._plan_call)
        plan = PlanState(recipe=self.recipe)

        def more(batch: list[list[Any]]) -> None:
            for scheme, nbytes, rule, algorithm, decided_by in batch:
                plan.schemes.append(scheme)
                plan.algorithms.append(algorithm)
                plan.nbytes.append(nbytes)
                plan.rules.append(rule)
                plan.decided_by.append(decided_by)

        def done(totals: dict[str, Any]) -> None:
            plan.predicted, plan.bits_per_weight = totals["predicted_bytes"], totals["bits_per_weight"]
            plan.quantized, plan.problems = totals["quantized"], totals["problems"]
            plan.consumers = totals["consumers"]
            plan.is_folder, plan.calibration = totals["is_folder"], totals["calibration"]
            plan.takes = totals["takes"]
            plan.needs = _needs(totals["calibration"])
            plan.effects = [from_data(RuleEffect, effect) for effect in totals["rules"]]
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

        params = {
            "path": self.model.path, "recipe": engine.recipe_to_text(self.recipe), "runs": str(self.settings.runs_folder()),
            **self.memory_limit(), **self.model.how.params(),
        }  # fmt: skip
        self._plan_call = self.peeks.call("plan", params, done, failed, rows=more)

    # -- looking -----------------------------------------------------------------------------------------------

    def select(self, name: str | None) -> None:
        """Select a layer; its histogram follows."""
        if name != self.selected:
            self.selected = name
            self.selection_changed.emit()
            self._ask_histogram()

    def set_selection(self, names: Sequence[str]) -> None:
        """Layers that are selected together; the current one is ``selected``."""
        if tuple(names) != self.selection:
            self.selection = tuple(names)
            self.selection_set_changed.emit()

    def _look_at_worst(self, run: Run) -> None:
        """The layer that one would look at first, where none was chosen."""
        worst = run.totals["worst_layer"] if run.totals else None
        if run.state == "done" and self.selected is None and self.shown_run is run and worst:
            self.select(worst)

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


class _RecipeEdit(QUndoCommand):
    """One edit of the recipe: the record before and after."""

    def __init__(self, session: Session, recipe: Recipe, words: str, file: str | None) -> None:
        super().__init__(words)
        self._session, self._before, self._after = session, session.own_recipe, recipe
        self._file_before, self._file_after = None if file is None else session.recipe_file.path, file

    def redo(self) -> None:
        self._session._set_recipe(self._after, self._file_after)

    def undo(self) -> None:
        self._session._set_recipe(self._before, self._file_before)


def saved_recipe(settings: Settings) -> Recipe:
    """The recipe of the last session."""
    saved = settings.text("recipe")
    try:
        return engine.recipe_from_text(saved) if saved else engine.recipe("W4A16")
    except engine.EngineError:  # written by another version: start from the default
        return engine.recipe("W4A16")


def _needs(calibration: dict[str, Any] | None) -> str:
    """What a plan cannot do without data, in words."""
    if calibration is None:
        return ""
    titles = {info.name: info.title for info in engine.algorithm_choices()}
    chosen = [str(titles.get(name, name)) for name in calibration["algorithms"]]
    static = str(calibration["activations"])
    words = " and ".join([*chosen, static] if static else chosen)
    return f"{words[:1].upper()}{words[1:]} {'needs' if len(chosen) == 1 and not static else 'need'}"
