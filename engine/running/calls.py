"""Calls that run a model: calibrate, quantize with data, evaluate, look at data."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.algorithms import chain
from engine.errors import Cancelled, DataError, InputError, OutputError, PlanError
from engine.identity import bytes_of
from engine.identity import files as identity
from engine.measure.memory import forget_peak_memory
from engine.planning import budget
from engine.records.calibration import DataPreview, Evaluation
from engine.records.model import ModelSummary
from engine.records.plan import Plan
from engine.records.progress import Monitor
from engine.records.report import RunReport
from engine.running.gathering import free_room, require_memory
from engine.running.kept_statistics import named_tensors, source_of

if TYPE_CHECKING:
    from engine.calibration.data import Data
    from engine.calibration.statistics import Statistics
    from engine.models.base import RunnableModel
    from engine.quantizing.pipeline import Continuing
    from engine.writers.workspace import Workspace

MEASURED = 16
"""Samples on which layers' output errors are measured after a run, unless told otherwise."""


def preview(model: RunnableModel, data: Data, *, forward: bool = True) -> DataPreview:
    """What the data hold, and whether one forward of their first batch works. Raises DataError."""
    import torch

    from engine.calibration.units import call
    from engine.models.state import running

    found = replace(data.preview(), unmatched=model.unmatched)
    if not forward:
        return found
    batch = next(iter(data.batches()))
    started = time.perf_counter()
    with running(model.module), torch.no_grad():
        output = call(model, batch)
    words = tuple(f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in named_tensors(output))
    return replace(found, outputs=words, seconds=time.perf_counter() - started)


def quantize(
    plan: Plan, output: str, model: RunnableModel | None, data: Data | None, statistics: Statistics | None, *,
    overwrite: bool, monitor: Monitor, measure: int = MEASURED, how: Continuing | None = None,
) -> RunReport:  # fmt: skip
    """Carry out a plan that needs calibration, or whose outputs are to be measured. Raises as ``engine.quantize_to``."""
    from engine.planning.planner import require_runnable
    from engine.quantizing import pipeline
    from engine.running import calibrated

    how, started = how or pipeline.Continuing(), time.perf_counter()
    forget_peak_memory()
    require_runnable(plan)
    _require_data(plan, data, statistics)
    pipeline.check_output(plan, output, overwrite=overwrite)
    if model is not None and data is not None and not plan.calibration:
        _try(model, data)
    given = [data.hash if data else "", bytes_of([statistics.path]) if statistics else "", repr(measure > 0)]
    with _private(pipeline.workspace(plan, output, how, *given), output) as space:
        found = None
        if plan.calibration:
            source = statistics or source_of(plan, model, data, monitor)
            _check_statistics(source, plan)
            room = free_room(how.memory_limit)
            require_memory(budget.calibrating(plan), "calibrating this recipe; leave layers out, or use rtn, mse or hqq", room)
            found = calibrated.prepare(plan, source, data, str(space.calibrated), monitor, room // 3)
        prepared = found.prepared if found else None
        report = pipeline.run(plan, output, overwrite=overwrite, monitor=monitor, prepared=prepared, how=how, space=space)
        if model is not None and data is not None:
            report = _with_outputs(report, plan, model, data, monitor, measure, found)
    seconds = time.perf_counter() - started
    return replace(
        report, data=_described(data, statistics), activities=found.activities if found else (),
        warnings=(found.warnings if found else ()) + report.warnings, seconds=seconds, started=time.time() - seconds,
    )  # fmt: skip


def _with_outputs(
    report: RunReport, plan: Plan, model: RunnableModel, data: Data, monitor: Monitor, measure: int, found: Any
) -> RunReport:
    """The report with what the file does to outputs. The file is written: whatever stops this is a warning, not a failure."""
    if measure <= 0:
        return report
    try:
        return _measured(report, plan, model, data, _Ending(monitor), measure, found)
    except Cancelled:
        return replace(report, warnings=("Measuring the outputs was stopped; the model is written.",))
    except DataError as error:
        return replace(report, warnings=(f"The outputs could not be measured: {error}",))


class _Ending(Monitor):
    """For work that is not gone on with later: a pause ends it."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.progress = monitor.progress  # type: ignore[method-assign]
        self.layer_done = monitor.layer_done  # type: ignore[method-assign]

    def cancelled(self) -> bool:
        return self._monitor.cancelled() or self._monitor.paused()


def _measured(
    report: RunReport, plan: Plan, model: RunnableModel, data: Data, monitor: Monitor, measure: int, found: Any
) -> RunReport:
    from engine.readers import open_path, safetensors_file
    from engine.running import evaluation, layer_noise, twins

    # By what it is, not by its name: a file may be called anything.
    artifact = open_path(report.output) if os.path.isdir(report.output) else safetensors_file.READER.open(report.output)
    moved = {}
    if found:
        prepared = found.prepared
        names = {layer.tensor.name for before, layer in zip(plan.summary.layers, prepared.plan.summary.layers, strict=True)
                 if before != layer and layer.tensor.name not in prepared.uncorrected}  # fmt: skip
        moved = dict(twins.values_of(prepared.plan.summary, names)) | dict(prepared.uncorrected)
    clipped = {layer.name for layer in report.layers if layer.clipped}
    noise = layer_noise.measure_layers(model, artifact, data, monitor, samples=measure, reference=moved, clipped=clipped)
    layers = tuple(replace(layer, output=noise.get(layer.name)) for layer in report.layers)
    for layer in layers:
        monitor.layer_done(layer)
    scores = evaluation.evaluate(model, artifact, data, monitor, samples=measure)
    return replace(report, layers=layers, evaluation=scores)


def evaluate(
    model: RunnableModel, artifact: ModelSummary | None, data: Data, monitor: Monitor, *, compare: bool = True
) -> Evaluation:
    """A quantized model beside the float one. Raises DataError, Cancelled."""
    from engine.running import evaluation

    if artifact and compare:
        _require_kin(model.summary, artifact)
    return evaluation.evaluate(model, artifact, data, monitor, compare=compare)


def _require_kin(original: ModelSummary, artifact: ModelSummary) -> None:
    """Raise InputError unless an artifact can have been made of a model."""
    if not artifact.quantized:
        raise InputError(f"{artifact.name} is not quantized; name an artifact, and the float model to compare it with.")
    known = {layer.name: layer.shape for layer in original.layers}
    other = [layer for layer in artifact.layers if layer.scheme and known.get(layer.name) != layer.shape]
    if other:
        raise InputError(f"{artifact.name} was not made of {original.name}: that has no {other[0].name} of the same shape.")


def _try(model: RunnableModel, data: Data) -> None:
    """One forward, so that data the model cannot run on are found before anything is written. Raises DataError."""
    import torch

    from engine.calibration.units import call
    from engine.models.state import running

    with running(model.module), torch.no_grad():
        call(model, next(iter(data.batches())))


# -- what is asked before ------------------------------------------------------------------------------------------


def _require_data(plan: Plan, data: Data | None, statistics: Statistics | None) -> None:
    if plan.calibration and data is None and statistics is None:
        raise PlanError(needs_calibration(plan))


def needs_calibration(plan: Plan) -> str:
    """The sentence for a plan that has no data."""
    need = plan.calibration
    if need is None:
        return ""
    what = " and ".join([*need.algorithms, *([need.activations] if need.activations else [])])
    return f"This recipe needs calibration ({what}, {need.layers} layers): give data or statistics, or choose rtn, mse or hqq."


def _check_statistics(source: Any, plan: Plan) -> None:
    from engine.calibration.statistics import Statistics

    if not isinstance(source, Statistics):
        return
    if source.report.input_hash != identity(plan.summary):
        raise InputError(f"The statistics {source.path} are of another model ({source.report.model}); calibrate this one.")
    second = any(step.algorithm.second for line in plan.layers if line.algorithm for step in chain(line.algorithm).steps)
    if second and not source.second:
        raise InputError(
            f"The statistics {source.path} have no second moments, which this recipe needs; calibrate with --second."
        )


@contextlib.contextmanager
def _private(space: Workspace, output: str) -> Iterator[Workspace]:
    """The folder beside the output; what goes wrong with itself is said of the output."""
    try:
        space.__enter__()
    except OSError as error:
        raise OutputError(f"Cannot write to {os.path.dirname(os.path.abspath(output))}: {error.strerror}.") from None
    with contextlib.ExitStack() as stack:
        stack.push(space.__exit__)
        yield space


def _described(data: Data | None, statistics: Statistics | None) -> str:
    if data is not None:
        return f"{data.title}{', synthetic' if data.synthetic and 'synthetic' not in data.title else ''}, seed {data.spec.seed}"
    if statistics is not None:
        return f"statistics of {statistics.report.data}"
    return ""
