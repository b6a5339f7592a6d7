"""What quantizing with data does to weights, wherever its statistics come from: transforms, solving, corrections."""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine import chunks
from engine.algorithms import Chain, chain
from engine.algorithms.base import Inputs, Scaling, Solution
from engine.calibration import observers
from engine.calibration.sites import in_layout, in_rows
from engine.calibration.structure import Movable
from engine.errors import DataError, Paused
from engine.numerics import activations
from engine.quantizing.encoding import Prepared
from engine.quantizing.rounding import Solved, WeightRounding
from engine.readers.header import read_header
from engine.readers.source import TensorFiles
from engine.records.calibration import Activity
from engine.records.model import LayerInfo
from engine.records.plan import LayerPlan, Plan
from engine.records.progress import Monitor, Progress
from engine.running.saved import SavedSolutions
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


class Preparation(ABC):
    """What both ways share: weights as they stand, transforms, solving, and what is written."""

    def __init__(self, plan: Plan, files: TensorFiles, folder: str, workers: chunks.Workers, monitor: Monitor) -> None:
        self.plan, self.files, self.folder, self.workers, self.monitor = plan, files, folder, workers, monitor
        self.lines = {line.layer.name: line for line in plan.layers}
        self.chains: dict[str, Chain] = {line.layer.name: chain(line.algorithm) for line in plan.layers if is_rounded(line)}
        self.by_tensor = {line.layer.tensor.name: line.layer for line in plan.layers if len(line.layer.parts) == 1}
        self.moved: dict[str, torch.Tensor] = {}
        self.moved_files: dict[str, str] = {}
        self.saved = SavedSolutions(folder)
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


def is_rounded(line: LayerPlan) -> bool:
    return not line.kept and any(part.role == "codes" for part in line.parts)
