"""What a sensitivity pass will take, told before it starts: one of its layers is timed."""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from engine.algorithms import chain
from engine.errors import DataError
from engine.quantizing.clock import Clock
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import LayerPlan
from engine.records.progress import Monitor
from engine.records.search import CostEstimate
from engine.searching.candidates import Candidates
from engine.searching.sensitivity import weight_cache

ENOUGH = 1 << 20
"""Bytes of a layer whose time says something about others."""


def weights_cost(
    summary: ModelSummary, found: Candidates, monitor: Monitor, alike: Mapping[str, Sequence[str]] | None = None
) -> CostEstimate:
    """Layers, cells and seconds of the weight errors still missing. ``alike``: names of all layers that each of ``found`` stands
    for. Raises Cancelled."""
    from engine.searching.weights import WeightErrors  # brings the arithmetic: not at the import of the command line

    names = {name: (alike or {}).get(name, (name,)) for name in found.lines}
    layers = sum(map(len, names.values()))
    if chain(found.space.algorithm).data:
        return CostEstimate(layers, 0, 0, 0, 0.0)  # measured when the model is run
    known = {layer: row.get("noise", {}) for layer, row in weight_cache(summary, found.space.algorithm).known.items()}
    cells, total, probes = 0, 0.0, dict[str, tuple[float, dict[str, LayerPlan]]]()
    for name, lines in found.lines.items():
        schemes = [scheme for scheme in lines if scheme != "keep"]
        unknown = Counter(tuple(s for s in schemes if s not in known.get(one, {})) for one in names[name])
        for missing, count in unknown.items():
            cost = WeightErrors.cost(lines["keep"].layer, len(missing)) if missing else 0
            cells, total = cells + count * len(missing), total + count * cost
            if missing:
                probes[name] = cost, {scheme: lines[scheme] for scheme in missing}
    cached = sum(len(names[name]) * (len(lines) - 1) for name, lines in found.lines.items()) - cells
    if not cells:
        return CostEstimate(layers, 0, cached, 0, 0.0)
    probe = min(probes, key=lambda name: (probes[name][0] < ENOUGH, abs(probes[name][0] - ENOUGH)))
    cost, missing = probes[probe]
    seconds = _seconds(summary, found.lines[probe]["keep"].layer, missing, monitor) * total / cost
    return CostEstimate(layers, cells, cached, 0, seconds)


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
