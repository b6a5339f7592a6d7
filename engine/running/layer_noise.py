"""What each layer's output lost: alone, with everything before it, by clipping and by rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from engine.calibration.batches import Batch
from engine.calibration.collect import Products, is_routed
from engine.calibration.data import Data
from engine.calibration.sites import Operator, Watched
from engine.calibration.units import call
from engine.layer_inputs import inputs_of
from engine.measure.tally import sqnr_db
from engine.models.base import RunnableModel
from engine.records.model import LayerInfo, ModelSummary
from engine.records.progress import Monitor, Progress
from engine.records.report import OutputNoise
from engine.running.twins import Inputs, Twins, clipped_values, values_of

KEPT_VALUES = 64_000_000
"""Output values of one batch that are kept for comparison; layers with more are compared on their first positions."""


@dataclass(slots=True)
class _Sums:
    signal: float = 0.0
    alone_signal: float = 0.0
    alone: float = 0.0
    total: float = 0.0
    inherited: float = 0.0
    clipping: float = 0.0
    rounding: float = 0.0
    cross: float = 0.0
    quantized: float = 0.0
    values: int = 0
    alone_values: int = 0
    comparable: bool = True

    def noise(self) -> OutputNoise:
        compared = self.comparable and self.values > 0
        signal = self.signal or 1.0
        share = (lambda part: part / signal) if compared else (lambda part: 0.0)
        length = math.sqrt(self.signal * self.quantized)
        return OutputNoise(
            sqnr_db(self.alone_signal, self.alone),
            sqnr_db(self.signal, self.total) if compared else None,
            self.cross / length if compared and length else 1.0,
            self.total / self.values if compared else self.alone / max(self.alone_values, 1),
            share(self.clipping), share(self.rounding), share(self.inherited), compared,
        )  # fmt: skip


class _Float:
    """First pass: the float model; each layer alone is quantized beside it, and its output kept."""

    def __init__(self, twins: Twins, inputs: Inputs, sums: dict[str, _Sums], keep: int) -> None:
        self._twins, self._inputs, self._sums, self._keep = twins, inputs, sums, keep
        self._products = Products()
        self.kept: dict[str, list[torch.Tensor]] = {}

    def begin(self, batch: Batch) -> None:
        self.kept.clear()

    def visit(self, operator: Operator) -> torch.Tensor:
        y = self._products.run(operator)
        uses = [use for use in operator.uses if use.layer.name in self._sums]
        if uses:
            x = operator.input if operator.kind == "embedding" else _coded(self._inputs, uses[0].layer, operator.input)
            other = self._twins.run(operator, x, "quantized")
            for use in uses:
                sums, here = self._sums[use.layer.name], operator.output_of(y, use)
                error = here.float() - operator.output_of(other, use).float()
                sums.alone_signal += power(here)
                sums.alone += power(error)
                sums.alone_values += here.numel()
                self.kept.setdefault(use.layer.name, []).append(here.reshape(len(here), -1)[: self._rows(here)].clone())
        return y

    def _rows(self, y: torch.Tensor) -> int:
        return max(1, self._keep // max(y[0].numel(), 1)) if y.dim() else 1


class _Quantized:
    """Second pass: the quantized model; what came with the input, and what the layer adds."""

    def __init__(self, twins: Twins, inputs: Inputs, sums: dict[str, _Sums], kept: dict[str, list[torch.Tensor]]) -> None:
        self._twins, self._inputs, self._sums, self._kept = twins, inputs, sums, kept
        self._calls: dict[str, int] = {}

    def begin(self, batch: Batch) -> None:
        self._calls.clear()

    def visit(self, operator: Operator) -> torch.Tensor:
        uses = operator.uses
        plain = operator.input
        x = plain if operator.kind == "embedding" else _coded(self._inputs, uses[0].layer, plain)
        y = operator.run(x)
        wanted = [use for use in uses if use.layer.name in self._sums]
        if wanted:
            inherited = self._twins.run(operator, plain, "reference")
            found = self._inputs.get(uses[0].layer.name)
            clipped_x = found.clipped(plain) if found and operator.kind != "embedding" else plain
            clipped = self._twins.run(operator, clipped_x, "clipped")
            for use in wanted:
                self._compare(use.layer.name, *(operator.output_of(t, use) for t in (y, inherited, clipped)))
        return y

    def _compare(self, name: str, y: torch.Tensor, inherited: torch.Tensor, clipped: torch.Tensor) -> None:
        number = self._calls[name] = self._calls.get(name, -1) + 1
        sums, kept = self._sums[name], self._kept.get(name, [])
        if is_routed(name) or number >= len(kept) or y.dim() == 0 or y.reshape(len(y), -1).shape[1] != kept[number].shape[1]:
            sums.comparable = False
            return
        float_y = kept[number].float()
        here, before, cut = (t.reshape(len(t), -1)[: len(float_y)].float() for t in (y, inherited, clipped))
        if here.shape != float_y.shape:
            sums.comparable = False
            return
        sums.signal += power(float_y)
        sums.quantized += power(here)
        sums.cross += float((float_y.double() * here.double()).sum())
        sums.total += power(float_y - here)
        sums.inherited += power(float_y - before)
        sums.clipping += power(before - cut)
        sums.rounding += power(cut - here)
        sums.values += here.numel()


def _coded(inputs: Inputs, layer: LayerInfo, x: torch.Tensor) -> torch.Tensor:
    """A layer's input as a runtime sees it."""
    return inputs[layer.name].quantized(x) if layer.name in inputs else x


def power(values: torch.Tensor) -> float:
    return float(values.double().square().sum())


def measure_layers(
    model: RunnableModel, artifact: ModelSummary, data: Data, monitor: Monitor, *, samples: int,
    reference: Mapping[str, torch.Tensor] | None = None, clipped: set[str] | None = None,
) -> dict[str, OutputNoise]:  # fmt: skip
    """Output errors of every quantized layer of an artifact, over the first ``samples`` of the data.

    ``reference``: float weights that transforms moved, by stored name: the float model that computes the same as ``model``.
    ``clipped``: layers with weights beyond the range of their codes. Raises DataError, Cancelled.
    """
    quantized = [layer for layer in artifact.layers if layer.scheme]
    by_name = {layer.name: layer for layer in model.summary.layers}
    layers = [by_name[layer.name] for layer in quantized if layer.name in by_name]
    inputs = inputs_of(artifact)
    twins = Twins(model, layers)
    sums = {layer.name: _Sums() for layer in layers}
    with twins.entered():
        twins.add("reference", iter((reference or {}).items()))
        twins.add("quantized", values_of(artifact))
        originals = _Originals(model, reference or {})
        twins.add("clipped", clipped_values(artifact, originals, clipped or set()), over="reference")
        keep = KEPT_VALUES // max(len(layers), 1)
        for done, batch in first_batches(data, samples):
            monitor.check()
            monitor.progress(Progress("measuring outputs", "", done, samples, 0.0, None))
            twins.use("reference")
            first = _Float(twins, inputs, sums, keep)
            first.begin(batch)
            with Watched(twins.sites, first.visit):
                call(model, batch)
            twins.use("quantized")
            second = _Quantized(twins, inputs, sums, first.kept)
            with Watched(twins.sites, second.visit):
                call(model, batch)
    return {name: found.noise() for name, found in sums.items() if found.alone_values}


class _Originals(Mapping[str, torch.Tensor]):
    """Float weights by stored name, moved where a transform moved them."""

    def __init__(self, model: RunnableModel, moved: Mapping[str, torch.Tensor]) -> None:
        self._model, self._moved = model, moved
        self._layers = {layer.tensor.name: layer for layer in model.summary.layers if len(layer.parts) == 1}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._moved:
            return self._moved[name]
        return next(value for _, value in values_of(self._model.summary, {name}))

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def first_batches(data: Data, samples: int) -> Iterator[tuple[int, Batch]]:
    done = 0
    for batch in data.batches():
        if done >= samples:
            return
        yield done, batch
        done += batch.size
