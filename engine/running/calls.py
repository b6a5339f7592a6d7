"""Calls that run a model: calibrate, quantize with data, evaluate, look at data."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import platformdirs
import psutil

from engine.algorithms import chain
from engine.errors import Cancelled, DataError, InputError, OutputError, PlanError
from engine.identity import bytes_of
from engine.identity import files as identity
from engine.planning import budget
from engine.records.calibration import Activity, CalibrationReport, DataPreview, DataSpec, Evaluation
from engine.records.model import ModelSummary
from engine.records.plan import Plan
from engine.records.progress import Monitor, Progress
from engine.records.report import RunReport
from engine.version import VERSION

if TYPE_CHECKING:
    import torch

    from engine.calibration.collect import Collector
    from engine.calibration.data import Data
    from engine.calibration.observers import Observer
    from engine.calibration.statistics import Statistics
    from engine.models.base import RunnableModel
    from engine.quantizing.pipeline import Continuing
    from engine.writers.workspace import Workspace

MEASURED = 16
"""Samples on which layers' output errors are measured after a run, unless told otherwise."""
CACHED = 1 << 30
"""Statistics up to this size are kept for later recipes; ``CACHE`` is what all of them may take."""
CACHE = 4 << 30


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
    words = tuple(f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in _named_tensors(output))
    return replace(found, outputs=words, seconds=time.perf_counter() - started)


def calibrate(
    model: RunnableModel, data: Data, output: str | None, monitor: Monitor, *, observers: Sequence[str] = ("minmax",),
    second: bool = False, overwrite: bool = False,
) -> CalibrationReport:  # fmt: skip
    """Run the float model on data and gather what its layers are given; ``output`` keeps it in a file.

    Raises DataError (layer and sample named), OutputError, Cancelled.
    """
    from engine.calibration import statistics
    from engine.calibration.sites import Sites
    from engine.calibration.structure import movable
    from engine.models.state import running
    from engine.schemes.grouping import Matrix

    if output:
        statistics.check_place(output, [file.path for file in model.summary.files], overwrite=overwrite)
    layers = [layer for layer in model.summary.layers if len(layer.shape) >= 2 and layer.tensor.name in model.places]
    sizes = sum(4 * Matrix.of(layer).slices * Matrix.of(layer).cols ** 2 for layer in layers) if second else 0
    _require_memory(
        sizes,
        "second moments of all layers; leave them out, or quantize with --data, which holds one part at a time",
        free_room(),
    )
    started = time.perf_counter()
    sites = Sites(model, layers)
    import torch

    with tempfile.TemporaryDirectory(prefix="mono-quant-") as folder, running(model.module), torch.no_grad():
        gathered = _Gathered(observers, second)
        pairs = movable(model, sites, next(iter(data.batches()))) if output else []
        gathered.run(model, data, sites, [layer.name for layer in layers], folder, monitor)
    report = CalibrationReport(
        model.summary.name, data.title, data.kind, data.synthetic, data.count, data.spec.seed, data.hash,
        identity(model.summary), tuple(gathered.activities), data.skipped, model.unmatched, time.perf_counter() - started,
        output or "",
    )  # fmt: skip
    if output:
        statistics.save(output, report, gathered.moments, gathered.ranges(), _by_stored_name(pairs, model))
    return report


class _Gathered:
    """Moments, ranges and observers of every layer, over a whole model."""

    def __init__(self, observers: Sequence[str], second: bool) -> None:
        from engine.calibration.statistics import targets

        self._observers, self._second, self._targets = tuple(observers), second, targets()
        self._watching: dict[str, dict[str, Observer]] = {}
        self.moments: dict[str, Any] = {}
        self.activities: list[Activity] = []

    def run(self, model: RunnableModel, data: Data, sites: Any, names: list[str], folder: str, monitor: Monitor) -> None:
        from engine.calibration.collect import Wanted
        from engine.calibration.units import parts

        started, seen = time.perf_counter(), 0
        for part in parts(model, data, sites, names, sequential=False, folder=folder, limit=free_room() // 3):
            here = [name for name in names if name in part.layers]
            seconds = time.perf_counter() - started
            left = seconds * (len(names) - seen) / seen if seen else None
            monitor.progress(Progress("calibrating", here[0] if here else "", seen, len(names), seconds, left))
            wanted = {name: Wanted(True, self._second, True, self._observer(name)) for name in here}
            self._take(collected(part, wanted, monitor, self._reset), here)
            seen += len(here)
        reached = {activity.name for activity in self.activities}
        self.activities += [Activity(name, 0) for name in names if name not in reached]

    def _reset(self, names: Sequence[str]) -> None:
        for name in names:
            self._watching.pop(name, None)

    def _observer(self, name: str) -> Any:
        from engine.calibration.observers import make

        def observe(x: torch.Tensor) -> None:
            if name not in self._watching:
                self._watching[name] = {
                    f"{text}/{key}": make(text, target) for text in self._observers for key, target in self._targets.items()
                }
            for observer in self._watching[name].values():
                observer.observe(x)

        return observe

    def _take(self, collector: Collector, names: Sequence[str]) -> None:
        for name in names:
            found = collector.moments(name)
            if found is not None:
                self.moments[name] = found
            self.activities.append(collector.activity(name))

    def ranges(self) -> dict[str, dict[str, tuple[float, float]]]:
        return {
            name: {key: (float(low), float(high)) for key, observer in known.items() for low, high in [observer.range()]}
            for name, known in self._watching.items()
        }


def collected(part: Any, wanted: Any, monitor: Monitor, reset: Any) -> Collector:
    """What the layers of a part are given; ``reset`` forgets what observers saw where it has to begin again."""
    from engine.calibration.collect import Collector, Unshared

    collector = Collector(wanted)
    try:
        part.run(collector, monitor.check, keep=True)
    except Unshared:
        reset(list(wanted))
        collector = Collector(wanted, shared=False)
        part.run(collector, monitor.check, keep=True)
    return collector


def quantize(
    plan: Plan, output: str, model: RunnableModel | None, data: Data | None, statistics: Statistics | None, *,
    overwrite: bool, monitor: Monitor, measure: int = MEASURED, how: Continuing | None = None,
) -> RunReport:  # fmt: skip
    """Carry out a plan that needs calibration, or whose outputs are to be measured. Raises as ``engine.quantize_to``."""
    from engine.planning.planner import require_runnable
    from engine.quantizing import pipeline
    from engine.running import calibrated

    how = how or pipeline.Continuing()

    started = time.perf_counter()
    require_runnable(plan)
    _require_data(plan, data, statistics)
    pipeline.check_output(plan, output, overwrite=overwrite)
    if model is not None and data is not None and not plan.calibration:
        _try(model, data)
    given = [data.hash if data else "", bytes_of([statistics.path]) if statistics else "", repr(measure > 0)]
    with _private(pipeline.workspace(plan, output, how, *given), output) as space:
        found = None
        if plan.calibration:
            source = statistics or _source(plan, model, data, monitor)
            _check_statistics(source, plan)
            room = free_room(how.memory_limit)
            _require_memory(plan.calibration.nbytes, "calibrating this recipe; leave layers out, or use rtn, mse or hqq", room)
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
    from engine.running import evaluation

    # By what it is, not by its name: a file may be called anything.
    artifact = open_path(report.output) if os.path.isdir(report.output) else safetensors_file.READER.open(report.output)
    moved = {}
    if found:
        prepared = found.prepared
        names = {layer.tensor.name for before, layer in zip(plan.summary.layers, prepared.plan.summary.layers, strict=True)
                 if before != layer and layer.tensor.name not in prepared.uncorrected}  # fmt: skip
        moved = dict(evaluation.values_of(prepared.plan.summary, names)) | dict(prepared.uncorrected)
    clipped = {layer.name for layer in report.layers if layer.clipped}
    noise = evaluation.measure_layers(model, artifact, data, monitor, samples=measure, reference=moved, clipped=clipped)
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


def _source(plan: Plan, model: RunnableModel | None, data: Data | None, monitor: Monitor) -> RunnableModel | Statistics:
    """The running model; or statistics of the float model, where nothing depends on layers that are quantized already."""
    from engine.calibration import statistics
    from engine.schemes.grouping import Matrix

    assert model is not None and data is not None
    steps = [step.algorithm for line in plan.layers if line.algorithm for step in chain(line.algorithm).steps]
    if plan.recipe.sequential and any(algorithm.data and algorithm.stage != "transform" for algorithm in steps):
        return model
    second = any(algorithm.second for algorithm in steps)
    layers = [line.layer for line in plan.layers if not line.kept]
    if second and sum(4 * Matrix.of(layer).slices * Matrix.of(layer).cols ** 2 for layer in layers) > CACHED:
        return model
    words = f"{identity(model.summary)} {data.hash} {plan.recipe.observer} {second} {statistics.VERSION} {VERSION}"
    words += fingerprint(model, data)
    path = os.path.join(cache_folder(), f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.safetensors")
    if os.path.exists(path):
        with contextlib.suppress(InputError):
            os.utime(path)
            return statistics.load(path)
    try:
        os.makedirs(cache_folder(), exist_ok=True)
        calibrate(model, data, path, monitor, observers=(plan.recipe.observer,), second=second, overwrite=True)
        _prune(cache_folder())
        return statistics.load(path)
    except (OSError, OutputError):  # a cache that cannot be written is no reason to stop
        return model


def fingerprint(model: RunnableModel, data: Data) -> str:
    """What the forward makes of the first batch: code and configuration count as well as weights."""
    import torch

    from engine.calibration.units import call
    from engine.models.state import running

    found = hashlib.sha256()
    with running(model.module), torch.no_grad():
        for name, tensor in _named_tensors(call(model, next(iter(data.batches())))):
            found.update(f"{name} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def cache_folder() -> str:
    """Where statistics of earlier calibrations are kept."""
    return os.path.join(platformdirs.user_cache_dir("mono-quant"), "statistics")


def _prune(folder: str) -> None:
    """Remove the statistics that were not used for longest, until the rest is small enough."""
    files = sorted((entry for entry in os.scandir(folder) if entry.is_file()), key=lambda entry: -entry.stat().st_mtime)
    total = 0
    for number, entry in enumerate(files):
        total += entry.stat().st_size
        if total > CACHE and number:
            with contextlib.suppress(OSError):  # another process may have been here first
                os.unlink(entry.path)


def free_room(limit: int | None = None) -> int:
    """Bytes that this process may still take. A third of them may hold activations; the rest of those go to files."""
    free = budget.free_memory()
    return free if limit is None else max(0, min(free, limit - psutil.Process().memory_info().rss))


def _require_memory(nbytes: int, what: str, room: int) -> None:
    if nbytes > 0.9 * room:
        raise PlanError(f"Not enough memory: {nbytes / 1e9:.1f} GB are needed and {room / 1e9:.1f} GB may be used ({what}).")


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


def _named_tensors(output: Any) -> list[tuple[str, Any]]:
    import torch

    if isinstance(output, torch.Tensor):
        return [("output", output)]
    items = output.items() if hasattr(output, "items") else enumerate(output) if isinstance(output, (list, tuple)) else ()
    return [(str(name), value) for name, value in items if isinstance(value, torch.Tensor)]


def _by_stored_name(pairs: list[Any], model: RunnableModel) -> list[Any]:
    """Places from which scale can be moved, their parameters under the names they have on disk."""
    stored = {place.parameter: name for name, place in model.places.items()}
    known = {layer.tensor.name for layer in model.summary.layers if len(layer.parts) == 1}
    names = [tuple(p if p in known else stored.get(p, "") for p in pair.parameters) for pair in pairs]
    return [replace(pair, parameters=found) for pair, found in zip(pairs, names, strict=True) if all(found)]


def _described(data: Data | None, statistics: Statistics | None) -> str:
    if data is not None:
        return f"{data.title}{', synthetic' if data.synthetic and 'synthetic' not in data.title else ''}, seed {data.spec.seed}"
    if statistics is not None:
        return f"statistics of {statistics.report.data}"
    return ""


__all__ = ["DataSpec", "calibrate", "evaluate", "identity", "needs_calibration", "preview", "quantize"]
