"""The float model run on data, and what its layers are given."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil

from engine.errors import PlanError
from engine.identity import files as identity
from engine.planning import budget
from engine.records.calibration import Activity, CalibrationReport
from engine.records.progress import Monitor, Progress

if TYPE_CHECKING:
    import torch

    from engine.calibration.collect import Collector
    from engine.calibration.data import Data
    from engine.calibration.observers import Observer
    from engine.models.base import RunnableModel


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
    require_memory(
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


def free_room(limit: int | None = None) -> int:
    """Bytes that this process may still take. A third of them may hold activations; the rest of those go to files."""
    free = budget.free_memory()
    return free if limit is None else max(0, min(free, limit - psutil.Process().memory_info().rss))


def require_memory(nbytes: int, what: str, room: int) -> None:
    if nbytes > 0.9 * room:
        raise PlanError(f"Not enough memory: {nbytes / 1e9:.1f} GB are needed and {room / 1e9:.1f} GB may be used ({what}).")


def _by_stored_name(pairs: list[Any], model: RunnableModel) -> list[Any]:
    """Places from which scale can be moved, their parameters under the names they have on disk."""
    stored = {place.parameter: name for name, place in model.places.items()}
    known = {layer.tensor.name for layer in model.summary.layers if len(layer.parts) == 1}
    names = [tuple(p if p in known else stored.get(p, "") for p in pair.parameters) for pair in pairs]
    return [replace(pair, parameters=found) for pair, found in zip(pairs, names, strict=True) if all(found)]
