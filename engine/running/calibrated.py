"""Quantizing with data: the model is run part by part, and what its layers are given decides how they are rounded.

For each part: gather moments; move scale between layers (transforms); choose codes (solvers); repair (corrections); go on with
what the quantized part gives. Results go to a private folder layer by layer, from where the pipeline writes them: memory holds
one part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from engine import chunks
from engine.allocator import give_back_freed_memory
from engine.calibration import observers
from engine.calibration.batches import Batch
from engine.calibration.collect import Collector, Products, Unshared, Wanted
from engine.calibration.data import Data
from engine.calibration.sites import Operator, Sites, in_layout
from engine.calibration.statistics import Statistics
from engine.calibration.structure import Movable, movable
from engine.calibration.units import Part, parts, row_of
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.readers.source import TensorFiles
from engine.records.calibration import Activity
from engine.records.model import LayerInfo
from engine.records.plan import Plan
from engine.records.progress import Monitor
from engine.running.from_statistics import FromStatistics
from engine.running.preparation import Findings, Preparation


def prepare(
    plan: Plan, source: RunnableModel | Statistics, data: Data | None, folder: str, monitor: Monitor, memory: int
) -> Findings:
    """Carry out the calibrated part of a plan. ``folder`` is private to this run; ``memory`` bytes may hold activations.

    ``source`` is a model to run on ``data``, or what an earlier run gathered from the float model. The model comes back as it
    was. Raises DataError (layer named) for inputs that cannot be used, Cancelled.
    """
    with chunks.Workers() as workers, TensorFiles(plan.summary) as files:
        if isinstance(source, Statistics):
            return FromStatistics(plan, files, folder, workers, monitor, source).carry_out()
        assert data is not None
        with running(source.module), torch.no_grad():
            return _Running(plan, files, folder, workers, monitor, source, data, memory).carry_out()


class _Running(Preparation):
    """With a model that runs."""

    def __init__(self, plan, files, folder, workers, monitor, model: RunnableModel, data: Data, memory: int) -> None:
        super().__init__(plan, files, folder, workers, monitor)
        self.model, self.data, self.memory = model, data, memory
        self.sites = Sites(model, [line.layer for line in plan.layers if len(line.layer.parts) == 1])
        self._originals: dict[str, torch.Tensor] = {}
        self._stored_of = {place.parameter: name for name, place in model.places.items()}

    def carry_out(self) -> Findings:
        try:
            return self._carry_out()
        finally:
            for name, value in self._originals.items():
                self.model.parameter(name).data = value

    def _carry_out(self) -> Findings:
        names = [name for name in self.chains if self.lines[name].layer.tensor.name in self.model.places]
        lost = [name for name in self.chains if name not in names and self.chains[name].data]
        if lost:
            self.warnings.append(f"{len(lost)} layers are not found in the running model ({lost[0]}, ...): rounded to nearest.")
        self._row = row_of(self.model, self.data, self.sites) if self.steps_named() else ""
        pairs = self._pairs()
        watching = self.observed()
        sequential = self.plan.recipe.sequential
        activities: dict[str, Activity] = {}
        upfront = self._upfront(pairs)
        total = max(len(names), 1)
        done = 0
        sequence = parts(self.model, self.data, self.sites, names, sequential=sequential, folder=self.folder, limit=self.memory)
        for part in sequence:
            here = [name for name in names if name in part.layers]
            self.progress("calibrating", here[0] if here else "", done, total)
            local = [pair for pair in pairs if pair not in upfront and self._is_local(pair)]
            inside = [pair for pair in local if set(pair.consumers) <= part.layers]
            activities |= self._one_part(part, here, inside, watching, sequential, last=done + len(here) == len(names))
            done += len(here)
            if done == len(names):
                break  # what follows has nothing to calibrate
        unreached = [name for name in names if name not in activities]
        for name in [*lost, *unreached]:
            self.solve(name, None)
        for name, observer in watching.items():
            if name in activities and activities[name].samples:
                self.store_ranges(name, *observer.range())
        return self.findings([activities.get(name, Activity(name, 0)) for name in names])

    def _pairs(self) -> list[Movable]:
        if not self.steps_named():
            return []
        batch = next(iter(self.data.batches()))
        return [pair for pair in movable(self.model, self.sites, batch) if self._complete(pair)]

    def _is_local(self, pair: Movable) -> bool:
        """Whether what makes the channels and what takes them in belong to one and the same block (or to none)."""
        found = {self._block_of(parameter) for parameter in pair.parameters}
        for name in pair.consumers:
            found.add(self._block_of(self.model.places[self.lines[name].layer.tensor.name].parameter))
        return len(found) == 1

    def _block_of(self, parameter: str) -> str:
        prefix = f"{self._row}."
        return parameter.removeprefix(prefix).split(".")[0] if self._row and parameter.startswith(prefix) else ""

    def _complete(self, pair: Movable) -> bool:
        names = [self._stored(parameter) for parameter in pair.parameters]
        return all(name in self.by_tensor for name in names) and all(name in self.lines for name in pair.consumers)

    def _stored(self, parameter: str) -> str:
        return parameter if parameter in self.by_tensor else self._stored_of.get(parameter, "")

    def sources(self, pair: Movable) -> list[LayerInfo]:
        return [self.by_tensor[self._stored(parameter)] for parameter in pair.parameters]

    def _upfront(self, pairs: Sequence[Movable]) -> list[Movable]:
        """Transforms between layers of different parts are done beforehand, from one pass through the whole float model."""
        steps = self.steps_named()
        if "equalize" in steps:
            self.equalize(pairs)
            self._show(list(self.moved))
        if not any(step != "equalize" for step in steps):
            return list(pairs)
        if self._row:
            self._leave_out([pair for pair in pairs if not self._is_local(pair)], "it lies between two blocks")
            return []
        wanted = {name: Wanted(moments=True, second="awq" in steps) for pair in pairs for name in pair.consumers}
        sequence = parts(self.model, self.data, self.sites, list(wanted), sequential=False, folder=self.folder, limit=self.memory)
        for part in sequence:
            collector = self._collect(part, wanted)
            inputs = {name: moments for name in wanted for moments in [collector.moments(name)] if moments}
            for step in steps:
                if step != "equalize":
                    self.transform(pairs, step, inputs)  # type: ignore[arg-type]
        self._show(list(self.moved))
        return list(pairs)

    def _one_part(
        self,
        part: Part,
        here: Sequence[str],
        pairs: Sequence[Movable],
        watching: dict[str, observers.Observer],
        sequential: bool,
        *,
        last: bool,
    ) -> dict[str, Activity]:
        steps = [step for step in self.steps_named() if step != "equalize"]
        moving = bool(pairs and steps)
        wanted = {name: self._wanted(name, moving) for name in here}
        for pair in pairs if moving else ():
            for name in pair.consumers:
                want = wanted.setdefault(name, Wanted())
                want.moments, want.second = True, want.second or "awq" in steps
        self.watching = watching
        for name in here:
            if name in watching and not moving:
                wanted[name].observe = partial(self._observe, name)
        collector = self._collect(part, wanted, keep=not sequential and not moving)
        inputs = {name: moments for name in wanted for moments in [collector.moments(name)] if moments}
        if moving:
            for step in steps:
                self.transform(pairs, step, inputs)  # type: ignore[arg-type]
            self._show(list(self.moved))
            again = {name: Wanted(observe=partial(self._observe, name)) for name in here if name in watching}
            if again or not sequential:
                self._collect(part, again, keep=not sequential)
        activities = {name: collector.activity(name) for name in here}
        collector.settle()
        give_back_freed_memory()
        decoded: dict[str, torch.Tensor] = {}
        for number, name in enumerate(here):
            self.progress("solving", name, number, len(here))
            matrix = self.solve(name, inputs.get(name))
            if sequential:
                layer = self.lines[name].layer
                decoded[layer.tensor.name] = self._as_held(layer.tensor.name, in_layout(matrix, layer))
            inputs.pop(name, None)
            collector.forget(name)
            del matrix
            give_back_freed_memory()
        if sequential:
            corrected = [name for name in self.moved if name not in decoded]
            self._show(corrected)
            for name, value in decoded.items():
                self._put(name, value)
            self.sites.refresh()
            if not last:
                self._advance(part)
        self.spill()
        return activities

    def _observe(self, name: str, x: torch.Tensor) -> None:
        self.watching[name].observe(x)

    def _advance(self, part: Part) -> None:
        part.run(_Passing(), self.monitor.check, keep=True)

    def _wanted(self, name: str, moving: bool) -> Wanted:
        steps = self.chains[name].steps
        data = [step.algorithm for step in steps if step.algorithm.data and step.algorithm.stage != "transform"]
        return Wanted(moments=bool(data), second=any(a.second for a in data), activity=True)

    def _collect(self, part: Part, wanted: Mapping[str, Wanted], *, keep: bool = False) -> Collector:
        collector = Collector(wanted)
        try:
            part.run(collector, self.monitor.check, keep=keep)
        except Unshared:
            fresh = self.observed()
            self.watching.update({name: fresh[name] for name in wanted if name in fresh})
            collector = Collector(wanted, shared=False)
            part.run(collector, self.monitor.check, keep=keep)
        return collector

    def _show(self, names: Sequence[str]) -> None:
        """The running module takes on moved values."""
        for name in names:
            if name in self.model.places:
                self._put(name, self.moved[name])
        self.sites.refresh()

    def _as_held(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """In the type in which the running module holds a stored tensor, where it has it."""
        place = self.model.places.get(name)
        return value.to(self.model.parameter(place.parameter).dtype) if place else value

    def _put(self, name: str, value: torch.Tensor) -> None:
        place = self.model.places.get(name)
        if place is None:
            return
        if place.parameter not in self._originals:
            parameter = self.model.parameter(place.parameter)
            self._originals[place.parameter] = parameter.data
            parameter.data = parameter.data.clone()
        self.model.put(name, value)


class _Passing:
    """Visits without looking."""

    def __init__(self) -> None:
        self._products = Products()

    def begin(self, batch: Batch) -> None:
        pass

    def look(self, operator: Operator) -> None:
        pass

    def visit(self, operator: Operator) -> torch.Tensor:
        return self._products.run(operator)
