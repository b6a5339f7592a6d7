"""Quantizing with data: the model is run part by part, and what its layers are given decides how they are rounded.

For each part: gather moments; move scale between layers (transforms); choose codes (solvers); repair (corrections); go on with
what the quantized part gives. Results go to a private folder layer by layer, from where the pipeline writes them: memory holds
one part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from engine import chunks
from engine.algorithms import Chain, chain
from engine.algorithms.base import Inputs, Scaling, Solution
from engine.calibration import observers
from engine.calibration.batches import Batch
from engine.calibration.collect import Collector, Products, Unshared, Wanted
from engine.calibration.data import Data
from engine.calibration.sites import Operator, Sites, in_layout, in_rows
from engine.calibration.statistics import Statistics
from engine.calibration.structure import Movable, movable
from engine.calibration.units import Part, parts, row_of
from engine.errors import DataError, Paused
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.numerics import activations
from engine.quantizing.encoding import Prepared
from engine.quantizing.rounding import Solved, WeightRounding
from engine.readers.header import read_header
from engine.readers.source import TensorFiles
from engine.records.calibration import Activity
from engine.records.model import LayerInfo
from engine.records.plan import LayerPlan, Plan
from engine.records.progress import Monitor, Progress
from engine.schemes import family_of
from engine.schemes.activations import STORED
from engine.schemes.grouping import Matrix
from engine.schemes.scaled import ScaledFamily

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


@dataclass(slots=True)
class Findings:
    """What a calibrated preparation found: what the pipeline writes, and what people look at."""

    prepared: Prepared
    activities: tuple[Activity, ...] = ()
    warnings: tuple[str, ...] = ()


def prepare(
    plan: Plan, source: RunnableModel | Statistics, data: Data | None, folder: str, monitor: Monitor, memory: int
) -> Findings:
    """Carry out the calibrated part of a plan. ``folder`` is private to this run; ``memory`` bytes may hold activations.

    ``source`` is a model to run on ``data``, or what an earlier run gathered from the float model. The model comes back as it
    was. Raises DataError (layer named) for inputs that cannot be used, Cancelled.
    """
    with chunks.Workers() as workers, TensorFiles(plan.summary) as files:
        if isinstance(source, Statistics):
            return _FromStatistics(plan, files, folder, workers, monitor, source).carry_out()
        assert data is not None
        with running(source.module), torch.no_grad():
            return _Running(plan, files, folder, workers, monitor, source, data, memory).carry_out()


class _Saved(Mapping[str, Solved]):
    """Codes of solved layers in files of the private folder, one read at a time.

    What a killed process solved is there already (``has``): its files tell their layers, and zip's own sums that they are whole.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.known: dict[str, tuple[str, Solved]] = {}
        for entry in os.listdir(folder):
            path = os.path.join(folder, entry)
            if not entry.startswith(("solved-", "moved-")):
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
                if entry.startswith("solved-"):
                    name, solved = _stored_solution(path)
                    self.known[name] = (path, replace(solved, levels=np.empty(0, np.float32)))
                    continue
            os.unlink(path)  # torn, or found again in a moment
        self.earlier = frozenset(self.known)

    def put(self, name: str, levels: np.ndarray, solved: Solved) -> None:
        path = os.path.join(self._folder, f"solved-{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz")
        whole = np.array_equal(levels, levels.astype(np.int8))
        told = {"name": name} | {key: getattr(solved, key) for key in _TOLD}
        with open(f"{path}.tmp", "wb") as file:
            np.savez(
                file, levels=levels.astype(np.int8) if whole else levels, scale=solved.scale, zero=solved.zero,
                told=np.frombuffer(json.dumps(told).encode(), np.uint8),
            )  # fmt: skip
        os.replace(f"{path}.tmp", path)
        self.known[name] = (path, solved)

    def __getitem__(self, name: str) -> Solved:
        path, _ = self.known[name]
        return _stored_solution(path)[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


_TOLD = ("limit", "algorithm", "note", "before", "after")


def _stored_solution(path: str) -> tuple[str, Solved]:
    with np.load(path, allow_pickle=False) as found:
        told = json.loads(found["told"].tobytes())
        name = told.pop("name")
        return name, Solved(found["levels"], found["scale"], found["zero"], **told)


class _Preparation(ABC):
    """What both ways share: weights as they stand, transforms, solving, and what is written."""

    def __init__(self, plan: Plan, files: TensorFiles, folder: str, workers: chunks.Workers, monitor: Monitor) -> None:
        self.plan, self.files, self.folder, self.workers, self.monitor = plan, files, folder, workers, monitor
        self.lines = {line.layer.name: line for line in plan.layers}
        self.chains: dict[str, Chain] = {line.layer.name: chain(line.algorithm) for line in plan.layers if _is_rounded(line)}
        self.by_tensor = {line.layer.tensor.name: line.layer for line in plan.layers if len(line.layer.parts) == 1}
        self.moved: dict[str, torch.Tensor] = {}
        self.moved_files: dict[str, str] = {}
        self.saved = _Saved(folder)
        self.stored: dict[str, bytes] = {}
        self.notes: dict[str, list[str]] = {}
        self.warnings: list[str] = []
        self.uncorrected: dict[str, torch.Tensor] = {}
        self._clock = time.perf_counter()

    # -- weights -----------------------------------------------------------------------------------------------

    def value(self, layer: LayerInfo) -> torch.Tensor:
        """A stored tensor in its own layout, float32, with what transforms did to it."""
        name = layer.tensor.name
        if name in self.moved:
            return self.moved[name].float()
        if name in self.moved_files:
            from safetensors.torch import load_file

            return load_file(self.moved_files[name])[name].float()
        raw = torch.from_numpy(self.files.read(layer.tensor))
        return raw.view(DTYPES[layer.dtype]).reshape(layer.shape).float()

    def matrix(self, name: str) -> torch.Tensor:
        layer = self.lines[name].layer
        found = in_rows(self.value(layer), layer).contiguous()
        if not all(map(math.isfinite, torch.aminmax(found))):  # which NaN goes through, at a fraction of isfinite's time
            raise DataError(f"{layer.tensor.name} holds NaN or Inf; repair the checkpoint or keep this layer.")
        return found

    def move(self, layer: LayerInfo, value: torch.Tensor) -> None:
        """Give a stored tensor other values, rounded to the type in which it is stored."""
        self.moved[layer.tensor.name] = value.reshape(layer.shape).to(DTYPES[layer.dtype])
        self.moved_files.pop(layer.tensor.name, None)

    def spill(self) -> None:
        """Moved tensors to files: only those of one part stay in memory."""
        from safetensors.torch import save_file

        for name, value in self.moved.items():
            path = os.path.join(self.folder, f"moved-{len(os.listdir(self.folder))}.safetensors")
            save_file({name: value.contiguous()}, path)
            self.moved_files[name] = path
        self.moved.clear()

    # -- transforms --------------------------------------------------------------------------------------------

    def transform(self, pairs: Sequence[Movable], step: str, inputs: dict[str, Inputs]) -> set[str]:
        """Move scale at every place whose quantized consumers all ask for ``step``; returns the layers touched."""
        touched: set[str] = set()
        for pair in pairs:
            chosen = [
                found
                for name in pair.consumers
                for found in (self.chains[name].transforms if name in self.chains else ())
                if found.algorithm.name == step
            ]
            asked = [name for name in pair.consumers if name in self.chains]
            if not chosen or len(chosen) < len(asked) or (step == "equalize" and not pair.layer):
                continue
            if step == "smoothquant" and pair.layer:
                continue
            if step != "equalize" and any(repeats != 1 for repeats in pair.consumers.values()):
                self._leave_out([pair], f"{step} knows linear layers only")
                continue
            first = next(iter(pair.consumers))
            if step != "equalize" and (first not in inputs or not getattr(inputs[first], "count", 0)):
                continue
            self.monitor.check()
            scale = self._scale(pair, chosen[0], inputs)
            if not bool((scale == 1).all()):
                touched |= self._apply(pair, scale, inputs, step)
        return touched

    def _leave_out(self, pairs: Sequence[Movable], why: str) -> None:
        """Say of which layers the scale stays where it is."""
        for name in {name for pair in pairs for name in pair.consumers if name in self.chains and self.chains[name].transforms}:
            self.notes.setdefault(name, []).append(f"its scale was not moved: {why}")

    def _scale(self, pair: Movable, chosen, inputs: dict[str, Inputs]) -> torch.Tensor:
        weights, roundings = [], []
        for name, repeats in pair.consumers.items():
            matrix = self.matrix(name)
            weights.append(_per_channel(matrix, pair.channels, repeats))
            roundings.append(self.rounding(name, matrix) if name in self.chains and repeats == 1 else None)
        first = next(iter(pair.consumers))
        source = self.matrix(pair.layer) if pair.layer else None
        return chosen.algorithm.scale(Scaling(weights, roundings, inputs.get(first), source), chosen.options)  # type: ignore[arg-type]

    def _apply(self, pair: Movable, scale: torch.Tensor, inputs: dict[str, Inputs], step: str) -> set[str]:
        for name, repeats in pair.consumers.items():
            layer, matrix = self.lines[name].layer, self.matrix(name)
            wide = scale[:, None] if not repeats else scale.repeat_interleave(repeats)[None]
            self.move(layer, in_layout(matrix * wide, layer))
            if name in inputs:
                inputs[name] = inputs[name].divided(scale[:, None] if not repeats else wide[0])  # type: ignore[attr-defined]
            if name in self.chains:
                self.notes.setdefault(name, []).append(f"scaled by {step}")
        for parameter in self.sources(pair):
            value = self.value(parameter)
            self.move(parameter, value / scale.view(-1, *[1] * (value.dim() - 1)))
        return {*pair.consumers, pair.layer} - {""}

    @abstractmethod
    def sources(self, pair: Movable) -> list[LayerInfo]:
        """The stored tensors that scale is taken from."""

    # -- solving -----------------------------------------------------------------------------------------------

    def rounding(self, name: str, matrix: torch.Tensor) -> WeightRounding:
        line = self.lines[name]
        limits = [_reach(matrix), *(_reach(self.matrix(other)) for other in line.fused)]
        return WeightRounding(line, max(limits), self.workers, self.monitor.check)

    def solve(self, name: str, inputs: Inputs | None) -> torch.Tensor:
        """Round one layer as its chain says; returns the decoded weight (rows, cols) and keeps what is to be written."""
        line, steps, matrix = self.lines[name], self.chains[name], self.matrix(name)
        solver = steps.solver
        seen = inputs is not None and sum(inputs.counts) > 0
        if not isinstance(family_of(line.scheme), ScaledFamily):
            return matrix.to(DTYPES[{"fp16": "F16", "bf16": "BF16"}.get(line.scheme.family, "F32")]).float()
        rounding = self.rounding(name, matrix)
        if name in self.saved.earlier:  # by a process that was killed or paused
            known = self.saved[name]
            levels, parameters = torch.from_numpy(known.levels.astype(np.float32)), (known.scale, known.zero)
            solution = Solution(levels, parameters, rounding.decoded(levels, parameters))
        elif solver.algorithm.solve and seen and inputs is not None:
            solution = solver.algorithm.solve(rounding, matrix, inputs, solver.options)
            self._keep(name, solution, rounding, inputs, str(steps))
        else:
            text = str(solver) if not solver.algorithm.data else "rtn"
            parameters = rounding.fitted(matrix, text)
            levels, decoded = rounding.nearest(matrix, parameters)
            solution = Solution(levels, parameters, decoded)
            if solver.algorithm.data:
                what = "no data reached it: rounded to nearest"
                self.warnings.append(f"{name}: {what}.")
                solution.note = what
                self._keep(name, solution, rounding, None, "rtn")
        if seen and inputs is not None:
            for correction in steps.corrections:
                self._correct(name, correction, matrix, solution.decoded, inputs)
        return solution.decoded

    def _keep(self, name: str, solution: Solution, rounding: WeightRounding, inputs: Inputs | None, words: str) -> None:
        notes = [solution.note] if solution.note else []
        if inputs is not None and 0 < max(inputs.counts) < inputs.size:
            notes.append(f"only {max(inputs.counts):,} input vectors for {inputs.size:,} inputs: more data would do better")
        if inputs is not None and min(inputs.counts) == 0:
            notes.append(f"{inputs.counts.count(0)} of {len(inputs.counts)} experts saw no data and are rounded to nearest")
        scale, zero = solution.parameters
        solved = Solved(
            np.empty(0, np.float32), scale, zero, rounding.limit, words, "; ".join(notes), solution.before, solution.after
        )
        self.saved.put(name, solution.levels.numpy(), solved)

    def _correct(self, name: str, correction, matrix: torch.Tensor, decoded: torch.Tensor, inputs: Inputs) -> None:
        layer = self.lines[name].layer
        bias = self.by_tensor.get(layer.tensor.name.removesuffix("weight") + "bias")
        if bias is None or not layer.tensor.name.endswith("weight") or bias.shape != (Matrix.of(layer).rows,):
            self.notes.setdefault(name, []).append("no bias to correct")
            return
        self.uncorrected[bias.tensor.name] = self.value(bias)
        self.move(bias, self.value(bias) + correction.algorithm.correct(matrix, decoded, inputs))
        self.notes.setdefault(name, []).append("bias corrected")

    # -- activations -------------------------------------------------------------------------------------------

    def store_ranges(self, name: str, low: torch.Tensor, high: torch.Tensor) -> None:
        """What static activations store beside one layer, from the range of its input."""
        line = self.lines[name]
        given = [part for part in line.parts if part.role == "given"]
        dtype = DTYPES[given[0].dtype] if given and given[0].dtype in DTYPES else torch.float32
        found = activations.static_parameters(self.plan.recipe.activations, low, high, dtype)
        for part in given:
            value = found[part.name.rsplit(".", 1)[-1]].contiguous()
            self.stored[part.name] = value.view(torch.uint8).numpy().tobytes()

    def observed(self) -> dict[str, observers.Observer]:
        """A fresh observer for every layer whose input has stored scales."""
        name = self.plan.recipe.activations
        if not STORED.get(name):
            return {}
        target = observers.Target.of(activations.format_of(name))
        return {
            line.layer.name: observers.make(self.plan.recipe.observer, target)
            for line in self.plan.layers
            if any(part.role == "given" for part in line.parts)
        }

    # -- the end -----------------------------------------------------------------------------------------------

    def progress(self, stage: str, layer: str, done: int, total: int) -> None:
        self.monitor.check()
        if self.monitor.paused():
            raise Paused("Paused while the model was being calibrated; layers that are solved are kept for going on.")
        seconds = time.perf_counter() - self._clock
        left = seconds * (total - done) / done if done and seconds > 0.5 else None
        self.monitor.progress(Progress(stage, layer, done, total, seconds, left))

    def findings(self, activities: Sequence[Activity] = ()) -> Findings:
        self.spill()
        missing = [
            part.name for line in self.plan.layers for part in line.parts if part.role == "given" and part.name not in self.stored
        ]
        if missing:
            layer = missing[0].rsplit(".", 1)[0]
            raise DataError(f"No data reached {layer}, so the range of its input is unknown; use other data, or keep the layer.")
        notes = {name: "; ".join(dict.fromkeys(words)) for name, words in self.notes.items()}
        prepared = Prepared(self._moved_plan(), self.saved, self.stored, notes, self.uncorrected)
        return Findings(prepared, tuple(activities), tuple(self.warnings))

    def _moved_plan(self) -> Plan:
        """The plan over a summary whose moved tensors lie in the private folder."""
        infos = list(self.plan.summary.files)
        places = {}
        for name, path in self.moved_files.items():
            header = read_header(path, len(infos))
            infos.append(header.file)
            places[name] = header.tensors[0]
        if not places:
            return self.plan

        def moved(layer: LayerInfo) -> LayerInfo:
            first = layer.parts[0]
            return replace(layer, parts=(places[first.name], *layer.parts[1:])) if first.name in places else layer

        layers = tuple(replace(line, layer=moved(line.layer)) for line in self.plan.layers)
        summary = replace(self.plan.summary, files=tuple(infos), layers=tuple(line.layer for line in layers))
        return replace(self.plan, summary=summary, layers=layers)

    def steps_named(self) -> list[str]:
        """Transforms that any layer asks for, equalization first: it changes what the others see."""
        names = {step.algorithm.name for steps in self.chains.values() for step in steps.transforms}
        return sorted(names, key=lambda name: (name != "equalize", name))

    def equalize(self, pairs: Sequence[Movable], inputs: dict[str, Inputs] | None = None) -> None:
        """Go through all pairs until nothing moves; ``inputs`` gathered before are moved along."""
        rounds = max(
            (
                step.options.rounds
                for steps in self.chains.values()
                for step in steps.transforms
                if step.algorithm.name == "equalize"
            ),
            default=0,
        )
        for _ in range(rounds):
            before = {name: value.clone() for name, value in self.moved.items()}
            self.transform(pairs, "equalize", {} if inputs is None else inputs)
            same = before.keys() == self.moved.keys() and all(
                torch.allclose(before[name].float(), self.moved[name].float(), rtol=1e-4) for name in before
            )
            if same:
                break


class _Running(_Preparation):
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
        decoded: dict[str, torch.Tensor] = {}
        for number, name in enumerate(here):
            self.progress("solving", name, number, len(here))
            matrix = self.solve(name, inputs.get(name))
            if sequential:
                layer = self.lines[name].layer
                decoded[layer.tensor.name] = in_layout(matrix, layer)
            inputs.pop(name, None)
        collector.forget()
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


class _FromStatistics(_Preparation):
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


def _reach(matrix: torch.Tensor) -> float:
    """Largest magnitude, without a copy of the matrix."""
    low, high = torch.aminmax(matrix)
    return max(-float(low), float(high))


def _per_channel(matrix: torch.Tensor, channels: int, repeats: int) -> torch.Tensor:
    """A consumer's weights by input channel: (others, channels)."""
    if repeats == 1:
        return matrix
    if not repeats:  # depthwise: row i belongs to channel i
        return matrix.T
    return matrix.view(len(matrix), channels, repeats).transpose(1, 2).reshape(-1, channels)


def _is_rounded(line: LayerPlan) -> bool:
    return not line.kept and any(part.role == "codes" for part in line.parts)
