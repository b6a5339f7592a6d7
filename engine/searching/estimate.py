"""What a sensitivity pass will take, told before it starts: one of its layers is timed."""

import contextlib
import math
import time
from collections.abc import Mapping

from engine.algorithms import chain
from engine.errors import DataError
from engine.quantizing.clock import Clock
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import LayerPlan
from engine.records.progress import Monitor
from engine.records.search import CostEstimate
from engine.searching.candidates import Candidates
from engine.searching.sensitivity import missing_weights

ENOUGH = 1 << 20
"""Bytes of a layer whose time says something about others."""


def weights_cost(summary: ModelSummary, found: Candidates, monitor: Monitor) -> CostEstimate:
    """Layers, cells and seconds of the weight errors still missing. Raises Cancelled."""
    from engine.searching.weights import WeightErrors  # brings the arithmetic: not at the import of the command line

    if chain(found.space.algorithm).data:
        return CostEstimate(len(found.lines), 0, 0, 0, 0.0)  # measured when the model is run
    missing = missing_weights(summary, found)
    cells = sum(map(len, missing.values()))
    cached = sum(len(lines) - 1 for lines in found.lines.values()) - cells
    if not cells:
        return CostEstimate(len(found.lines), 0, cached, 0, 0.0)
    costs = {name: WeightErrors.cost(found.lines[name]["keep"].layer, len(lines)) for name, lines in missing.items() if lines}
    probe = min(costs, key=lambda name: (costs[name] < ENOUGH, costs[name] if costs[name] >= ENOUGH else -costs[name]))
    seconds = (
        _seconds(summary, found.lines[probe]["keep"].layer, missing[probe], monitor) * math.fsum(costs.values()) / costs[probe]
    )
    return CostEstimate(len(found.lines), cells, cached, 0, seconds)


def _seconds(summary: ModelSummary, layer: LayerInfo, lines: Mapping[str, LayerPlan], monitor: Monitor) -> float:
    """Of one layer, the second time: the first time after an installation the arithmetic is compiled."""
    from engine.searching.weights import WeightErrors

    with WeightErrors(summary, Clock(_Quiet(monitor), "timing", 1)) as errors, contextlib.suppress(DataError):
        errors.of(layer, lines)
        started = time.perf_counter()
        errors.of(layer, lines)
        return time.perf_counter() - started
    return 0.0


class _Quiet(Monitor):
    """Cancellation alone: a timing is no progress."""

    def __init__(self, monitor: Monitor) -> None:
        self.cancelled = monitor.cancelled  # type: ignore[method-assign]
