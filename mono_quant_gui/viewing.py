"""Which run's figures are shown, and whose recipe: the current one, or that of a run that was picked."""

from typing import Any

from PySide6.QtCore import QObject, Signal

import engine
from engine.records.calibration import Activity
from engine.records.codec import from_data
from engine.records.recipe import Recipe
from engine.records.report import LayerReport
from mono_quant_gui.calibrating import take_activities
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.host import EngineHost, Failure
from mono_quant_gui.kept_runs import KeptRuns
from mono_quant_gui.run import Run
from mono_quant_gui.settings import Settings
from mono_quant_gui.state import PlanState
from mono_quant_gui.trusting import Trusting


class Viewing(Trusting):
    """While a picked run is viewed, ``recipe`` is that run's; an edit of it becomes the current recipe."""

    selection_changed = Signal()
    runs_changed = Signal()
    """Other figures are shown, or a run began or ended."""
    recipe_changed = Signal()
    run_layers = Signal(object)
    viewing_changed = Signal()

    def __init__(self, settings: Settings, recipe: Recipe, parent: QObject | None, peeks: EngineHost | None) -> None:
        super().__init__(parent)
        self.settings = settings
        self.own_recipe = recipe
        """The one that is edited, saved and brought back next time."""
        self.heavy = EngineHost("heavy", self)
        self.peeks = peeks or EngineHost("peeks")
        self.peeks.setParent(self)
        self.kept = KeptRuns(settings.runs_folder, self)
        self.kept.failed.connect(lambda words: self.failed.emit(words, ""))
        self.plan = PlanState()
        self.shown_run: Run | None = None
        self.viewed: Run | None = None
        """The run that was picked, where its recipe is not the current one."""
        self._viewed_recipe: Recipe | None = None
        self._shown_before: Run | None = None
        self._read_call: int | None = None

    @property
    def recipe(self) -> Recipe:
        """What is shown and would be run."""
        return self._viewed_recipe or self.own_recipe

    @property
    def runs(self) -> list[Run]:
        """Those that are listed, newest first."""
        return self.kept.runs

    def show_run(self, run: Run | None) -> None:
        """Show what a run measured, and its recipe where that is not the current one. A run of another model shows nothing."""
        if run is None:
            self.back()
        elif self.model is None or run.model_path == self.model.path:
            self._view(run, _recipe_of(run))
            self._show(run)

    def back(self) -> None:
        """To the current recipe, and to the figures that were shown with it."""
        before = self._shown_before if self.viewed else None
        self._view(None, None)
        self._show(before)

    def _view(self, run: Run | None, recipe: Recipe | None) -> None:
        """Let a run bring its recipe along, or none."""
        if recipe is None or recipe == self.own_recipe:
            run = recipe = None
        if run and not self.viewed:
            self._shown_before = self.shown_run
        shown, self._viewed_recipe, changed = self.recipe, recipe, run is not self.viewed
        self.viewed = run
        if self.recipe != shown:
            self.recipe_changed.emit()
        if changed:
            self.viewing_changed.emit()

    def _show(self, run: Run | None) -> None:
        """Show a run's figures; they are read from its folder the first time."""
        self.peeks.drop(self._read_call)
        self.shown_run = run
        if run is not None and not run.going and not run.read:
            self._read(run)
        self.runs_changed.emit()
        self.selection_changed.emit()

    def _read(self, run: Run) -> None:
        reports: dict[str, LayerReport] = {}
        activities: dict[str, Activity] = {}

        def rows(batch: list[tuple[str, Any]]) -> None:
            for kind, data in batch:
                if kind == "layer":
                    reports[data["name"]] = from_data(LayerReport, data)
                else:
                    take_activities(activities, [data])

        def done(_: Any) -> None:
            run.reports, run.activities, run.read = reports, activities, True
            if self.shown_run is run:
                self.runs_changed.emit()
                self.selection_changed.emit()

        def failed(failure: Failure) -> None:
            if not failure.cancelled:
                words = tr("What run {number} measured cannot be shown: {message}")
                self.failed.emit(words.format(number=run.number, message=failure.message), failure.details)

        self._read_call = self.peeks.call("read_run", {"folder": str(run.folder)}, done, failed, rows=rows)


def _recipe_of(run: Run) -> Recipe | None:
    """None where it was written by a later version."""
    try:
        return engine.recipe_from_text(run.recipe)
    except engine.EngineError:
        return None
