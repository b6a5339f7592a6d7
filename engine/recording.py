"""Runs in the ledger: what is asked for when one begins, and what came of it. A run never fails because of its record."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import Cancelled, DataError, EngineError, Paused
from engine.history import Ledger, runs_folder
from engine.planning import recipe_files
from engine.records.codec import to_data
from engine.records.plan import Plan
from engine.records.progress import Monitor, Progress
from engine.records.report import LayerFailure, LayerReport, RunReport
from engine.records.run import RunRecord
from engine.schemes import format_scheme

if TYPE_CHECKING:
    from engine.calibration.data import Data


class Recorded(Monitor):
    """The monitor of a run that is recorded: passes everything on, and keeps what is lost when the run fails."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.layers: dict[str, LayerReport] = {}
        self.failures: dict[str, str] = {}
        self.report: RunReport | None = None
        self.folder = ""
        """The run's own in the ledger, where it is recorded."""

    def progress(self, progress: Progress) -> None:
        self._monitor.progress(progress)

    def layer_done(self, report: LayerReport) -> None:
        self.layers[report.name] = report
        self._monitor.layer_done(report)

    def layer_failed(self, failure: LayerFailure) -> None:
        self.failures[failure.name] = failure.message
        self._monitor.layer_failed(failure)

    def cancelled(self) -> bool:
        return self._monitor.cancelled()

    def paused(self) -> bool:
        return self._monitor.paused()

    def check(self) -> None:
        self._monitor.check()


@contextlib.contextmanager
def recorded(
    plan: Plan, output: str, monitor: Monitor, arguments: Mapping[str, Any], *, data: "Data | None" = None, parent: str = "",
    resume: bool = False,
) -> Iterator[Recorded]:  # fmt: skip
    """Record what happens inside; the block sets ``report`` of what it is given, which then knows its run.

    ``arguments``: see ``RunRecord``; ``data`` is added to them. ``resume``: an unfinished run of the same model and recipe to the
    same output goes on, if there is one.
    """
    watch = Recorded(monitor)
    try:
        ledger = Ledger(runs_folder())
    except EngineError as error:
        yield watch
        watch.report = _warned(watch.report, error)
        return
    with ledger:
        run, trouble = "", None
        try:
            ledger.take_over()
            begun = _unfinished(ledger, plan, output) if resume else None
            begun = begun or _begin(ledger, plan, output, arguments, data, parent)
            run, watch.folder = begun.id, begun.folder
        except EngineError as error:
            trouble = error
        try:
            yield watch
        except BaseException as error:
            if run:
                _failed(ledger, run, watch, error)
            raise
        if run and watch.report:
            watch.report = replace(watch.report, run=run)
            try:
                totals = {key: value for key, value in to_data(watch.report).items() if key not in ("layers", "activities")}
                ledger.finish(run, totals=totals, layers=watch.report.layers, activities=watch.report.activities)
            except EngineError as error:
                trouble = error
        if trouble:
            watch.report = _warned(watch.report, trouble)


def _begin(ledger: Ledger, plan: Plan, output: str, arguments: Mapping[str, Any], data: "Data | None", parent: str) -> RunRecord:
    recipe = plan.recipe
    asked = {"format": plan.format} | {key: value for key, value in arguments.items() if value not in (None, {}, "", False)}
    if not os.path.exists(plan.summary.path):
        asked["in_memory"] = True
    if data is not None:
        spec = replace(data.spec, path=os.path.abspath(data.spec.path) if data.spec.path else "", kind=data.kind)
        asked["data"] = {"in_memory": True} if data.kind == "iterable" else to_data(spec)
    return ledger.begin(
        plan.summary.path, recipe_files.dumps(recipe), os.path.abspath(os.path.expanduser(output)), parent=parent,
        name=recipe.name or format_scheme(recipe.default), data=data.title if data else "", data_hash=data.hash if data else "",
        seed=data.spec.seed if data else None, arguments=asked,
    )  # fmt: skip


def _unfinished(ledger: Ledger, plan: Plan, output: str) -> RunRecord | None:
    place, recipe = os.path.abspath(os.path.expanduser(output)), recipe_files.dumps(plan.recipe)
    found = ledger.find(model=plan.summary.path, states=("unfinished",))
    run = next((run for run in found if run.artifact == place and run.recipe == recipe), None)
    return ledger.update(run.id, state="running", message="") if run else None


def _failed(ledger: Ledger, run: str, watch: Recorded, error: BaseException) -> None:
    paused, stopped = isinstance(error, Paused), isinstance(error, (Cancelled, KeyboardInterrupt))
    known = isinstance(error, EngineError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    layers = error.report.layers if isinstance(error, DataError) and error.report else watch.layers.values()
    with contextlib.suppress(EngineError):  # why the run failed matters more
        ledger.finish(
            run,
            "unfinished" if paused else "cancelled" if stopped else "failed",
            layers=layers,
            message=message.partition("\n")[0],
            failures=watch.failures,
        )


def _warned(report: RunReport | None, error: EngineError) -> RunReport | None:
    return replace(report, warnings=(*report.warnings, f"The run was not recorded: {error}")) if report else None
