"""Quantizing with what an earlier run gathered from the float model."""

from __future__ import annotations

from typing import Any

from engine.algorithms.base import Inputs
from engine.calibration.statistics import Statistics
from engine.calibration.structure import Movable
from engine.errors import DataError
from engine.records.model import LayerInfo
from engine.running.preparation import Findings, Preparation


class FromStatistics(Preparation):
    """With what an earlier run gathered from the float model."""

    def __init__(self, plan, files, folder, workers, monitor, statistics: Statistics) -> None:
        super().__init__(plan, files, folder, workers, monitor)
        self.statistics = statistics

    def carry_out(self) -> Findings:
        statistics = self.statistics
        pairs = [pair for pair in statistics.pairs if all(name in self.lines for name in pair.consumers)]
        names = list(self.chains)
        inputs: dict[str, Inputs] = _Loaded(statistics)
        if "equalize" in self.steps_named():
            self.equalize(pairs, inputs)
        for step in self.steps_named():
            if step != "equalize":
                self.transform(pairs, step, inputs)
        for number, name in enumerate(names):
            self.progress("solving", name, number, len(names))
            self.solve(name, inputs.get(name))
            if any(part.role == "given" for part in self.lines[name].parts):
                self._range(name, inputs)
            self.spill()
        return self.findings(statistics.report.layers)

    def _range(self, name: str, inputs: dict[str, Inputs]) -> None:
        if self.notes.get(name) and "scaled by" in " ".join(self.notes[name]):
            moments = inputs.get(name)
            if moments is None:
                return
            if self.plan.recipe.observer != "minmax":
                what = f"{name}: after a transform its range by {self.plan.recipe.observer} cannot be had from statistics"
                raise DataError(f"{what}; give --data, or take the observer minmax.")
            self.store_ranges(name, moments.low.min(), moments.high.max())
            return
        found = self.statistics.range_of(name, self.plan.recipe.observer, self.plan.recipe.activations)
        if found:
            self.store_ranges(name, *found)

    def sources(self, pair: Movable) -> list[LayerInfo]:
        return [self.by_tensor[parameter] for parameter in pair.parameters]


class _Loaded(dict):
    """Moments of layers, read when they are asked for; what transforms changed stays."""

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        self._statistics = statistics

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._statistics.moments

    def __missing__(self, name: str) -> Inputs:
        return self._statistics.moments_of(name)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401  (dict's own get does not ask __missing__)
