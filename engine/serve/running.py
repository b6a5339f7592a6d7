"""Plans and runs over JSON lines."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine import api, choices
from engine.errors import Cancelled, EngineError, OutputError, PlanError
from engine.history import read_measurements, save_measurements
from engine.planning import budget, duration
from engine.records.calibration import DataSpec
from engine.records.codec import from_data, to_data
from engine.records.plan import Plan, Problem
from engine.serve.channel import BATCH, FEW, Channel, Keeper, Quiet
from engine.serve.opened import Opened
from engine.writers import format_named


class RunCalls:
    """``keeping`` names the call whose work stays for a later process when the window is gone; None where there is none.

    ``warm``: whether the arithmetic is loaded; None while nothing has asked for it.
    """

    def __init__(self, opened: Opened, keeping: Callable[[int | None], None], warm: Callable[[], bool | None]) -> None:
        self._opened, self._keeping, self._warm = opened, keeping, warm
        self._number = 0
        self._outline: duration.Outline | None = None
        """Of the newest plan; None where its time is known, or cannot be."""

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        """By name."""
        return {
            "plan": self._plan,
            "plan_time": self._plan_time,
            "preview_data": self._preview_data,
            "calibrate": self._calibrate,
            "quantize": self._quantize,
            "read_run": self._read_run,
        }

    def _plan(
        self, channel: Channel, path: str, recipe: str, format: str | None = None, how: dict[str, Any] | None = None,
        runs: str = "", memory_limit: int | None = None,
    ) -> Any:  # fmt: skip
        """``runs``: the folder of the ledger by which its time is reckoned."""
        plan = api.plan(self._opened.summary(path, how), choices.recipe_from_text(recipe), format=format)
        for start in range(0, len(plan.layers), BATCH):
            if channel.cancelled():
                raise Cancelled()
            lines = plan.layers[start : start + BATCH]
            channel.rows([[x.scheme_name, x.nbytes, x.rule, x.algorithm, x.decided_by] for x in lines])
        takes = _plan_takes(plan, runs, memory_limit)
        self._number, self._outline = self._number + 1, None
        if takes["takes"] and takes["takes"]["seconds"] is None:
            self._outline = duration.outline(plan)
        return plan_totals(plan) | takes | ({"takes": takes["takes"] | {"number": self._number}} if takes["takes"] else {})

    def _plan_time(self, channel: Channel, number: int) -> Any:
        """About how long the newest plan would take, by timing; nothing while the arithmetic is ``loading``."""
        loading, seconds = self._warm() is False, None
        if self._outline and number == self._number and self._warm():
            from engine.quantizing import timing

            found = timing.timed(self._outline, Quiet(channel))
            seconds, self._outline = found.seconds if found else None, None
        return {"seconds": seconds, "loading": loading}

    def _preview_data(self, channel: Channel, path: str, data: dict[str, Any], how: dict[str, Any] | None = None) -> Any:
        """What data hold, and one forward of their first batch."""
        return to_data(api.preview_data(self._opened.network(path, how), from_data(DataSpec, data)))

    def _calibrate(self, channel: Channel, path: str, data: dict[str, Any], how: dict[str, Any] | None = None) -> Any:
        """Run the float model; layers' activities come in batches of rows."""
        loaded = self._opened.network(path, how)
        report = api.calibrate(loaded, from_data(DataSpec, data), monitor=channel)
        for start in range(0, len(report.layers), 20):
            channel.rows([to_data(layer) for layer in report.layers[start : start + 20]])
        return {key: value for key, value in to_data(report).items() if key != "layers"}

    def _quantize(
        self, channel: Channel, path: str, recipe: str, output: str, format: str | None = None,
        data: dict[str, Any] | None = None, how: dict[str, Any] | None = None, run_folder: str = "",
        resume: bool = False, reuse: str | None = None, memory_limit: int | None = None,
    ) -> Any:  # fmt: skip
        """With data, the recipe is calibrated on them and outputs are measured; activities come as rows.

        What was measured is put into ``run_folder``, also of a run that ends early. ``resume``: go on with what a killed or
        paused call left of the same output. ``reuse``: id or folder of a run whose unchanged layers are taken over.
        """
        plan = api.plan(self._opened.summary(path, how), choices.recipe_from_text(recipe), format=format)
        chosen = from_data(DataSpec, data) if data else None
        loaded = self._opened.network(path, how) if data else None
        keeper = Keeper(channel)
        self._keeping(channel.call if run_folder else None)
        # The run's own artifact is there already where the process ended between giving it its name and telling of it.
        again = resume and bool(run_folder) and Path(output).parent == Path(run_folder)
        try:
            report = api.quantize_to(
                plan, output, monitor=keeper, data=chosen, runnable=loaded, record=False, resume=resume, reuse=reuse,
                memory_limit=memory_limit, overwrite=again,
            )  # fmt: skip
        except EngineError:
            if run_folder and keeper.reports:
                with contextlib.suppress(OutputError):  # why it ended matters more
                    save_measurements(Path(run_folder), list(keeper.reports.values()), [])
            raise
        finally:
            self._keeping(None)
        if run_folder:
            try:
                save_measurements(Path(run_folder), list(report.layers), list(report.activities))
            except OutputError as error:
                report = replace(report, warnings=(*report.warnings, str(error)))
        for start in range(0, len(report.activities), 20):
            channel.rows([to_data(activity) for activity in report.activities[start : start + 20]])
        return {key: value for key, value in to_data(report).items() if key not in ("layers", "activities")}

    def _read_run(self, channel: Channel, folder: str) -> Any:
        """What was measured in a run, from its folder: layers and activities as rows of [kind, record]."""
        layers, activities = read_measurements(Path(folder))
        for kind, records in (("layer", layers), ("activity", activities)):
            for start in range(0, len(records), FEW):
                channel.check()
                channel.rows([[kind, record] for record in records[start : start + FEW]])
        return {"layers": len(layers), "activities": len(activities)}


def _plan_takes(plan: Plan, runs: str, memory_limit: int | None) -> dict[str, Any]:
    """Memory, disk and seconds of a run; what cannot fit is an error of the plan."""
    if plan.errors:
        return {"takes": None}
    try:
        needs = budget.within(plan, memory_limit)
    except PlanError as error:
        problems = [Problem("error", str(error)), *plan.problems[:999]]
        return {"takes": None, "problems": [to_data(problem) for problem in problems]}
    time = duration.expected(plan, runs) if runs else None
    seconds, earlier = (time.seconds, time.runs) if time else (None, 0)
    return {"takes": {"memory": needs.memory, "disk": needs.disk, "seconds": seconds, "runs": earlier}}


def plan_totals(plan: Plan) -> dict[str, Any]:
    return {
        "format": plan.format,
        "is_folder": format_named(plan.format).is_folder,
        "calibration": to_data(plan.calibration),
        "predicted_bytes": plan.predicted_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "quantized": sum(not line.kept for line in plan.layers),
        "problems": [to_data(problem) for problem in plan.problems[:1000]],
        "rules": [to_data(effect) for effect in plan.rules],
        "consumers": [to_data(consumer) for consumer in api.consumers(plan)] if plan.files else [],
    }
