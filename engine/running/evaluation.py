"""A quantized model beside the float one on the same data: what each layer's output lost, and what the whole model's did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional

from engine.calibration.batches import Batch
from engine.calibration.collect import Products, is_routed
from engine.calibration.data import Data
from engine.calibration.sites import Operator, Sites, Watched, in_layout
from engine.calibration.units import call
from engine.decoding import decoded, stored_name
from engine.errors import DataError
from engine.layer_inputs import LayerInput, inputs_of
from engine.measure.tally import sqnr_db
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.readers.source import TensorFiles
from engine.records.calibration import Evaluation, Scores
from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo, ModelSummary
from engine.records.progress import Monitor, Progress
from engine.records.report import OutputNoise

ROWS = 256
"""Predictions compared at once."""
JUDGED = ("logits", "scores", "class_logits", "prediction_logits", "start_logits")
KEPT_VALUES = 64_000_000
"""Output values of one batch that are kept for comparison; layers with more are compared on their first positions."""


Inputs = Mapping[str, LayerInput]
Arranged = Callable[[LayerInput, torch.Tensor], torch.Tensor]
"""What a runtime does to layers' inputs, by layer."""


class Twins:
    """A running model with two sets of weights: as it is, and as a file has them. One is in place at a time; both stay in
    memory."""

    def __init__(self, model: RunnableModel, layers: list[LayerInfo]) -> None:
        self.model = model
        self.sites = Sites(model, layers)
        self._sets: dict[str, dict[str, torch.Tensor]] = {}
        self._now = "float"
        self._names: dict[int, str] = {}

    def add(self, kind: str, values: Iterator[tuple[str, torch.Tensor]], over: str = "float") -> None:
        """Another set: tensors by stored name, the rest as in the set ``over``."""
        made: dict[str, torch.Tensor] = dict(self._sets.get(over, {}))
        fresh: set[str] = set()
        for name, value in values:
            place = self.model.places.get(name)
            if place is None:
                continue
            parameter = self.model.parameter(place.parameter)
            self._sets.setdefault("float", {}).setdefault(place.parameter, parameter.data)
            if place.parameter not in fresh:
                made[place.parameter] = made.get(place.parameter, parameter.data).clone()
                fresh.add(place.parameter)
            before, parameter.data = parameter.data, made[place.parameter]
            self.model.put(name, value)
            parameter.data = before
        self._sets[kind] = made

    def use(self, kind: str) -> None:
        """Put one set in place."""
        whole = self._now_of(kind)
        for name, value in whole.items():
            self.model.parameter(name).data = value
        self._now, self._names = kind, {value.untyped_storage().data_ptr(): name for name, value in whole.items()}
        self.sites.refresh()

    def other(self, weight: torch.Tensor, kind: str) -> torch.Tensor:
        """The same view of another set's parameter."""
        name = self._names.get(weight.untyped_storage().data_ptr())
        if name is None:
            return weight
        here = self._now_of(self._now)[name]
        found = self._now_of(kind)[name]
        offset = weight.storage_offset() - here.storage_offset() + found.storage_offset()
        return found.as_strided(weight.shape, weight.stride(), offset)

    def _now_of(self, kind: str) -> dict[str, torch.Tensor]:
        return self._sets.get("float", {}) | self._sets.get(kind, {})

    def run(self, operator: Operator, x: torch.Tensor, kind: str) -> torch.Tensor:
        """The operator with weight and bias of another set."""
        return operator.run(x, self.other(operator.weight, kind), others=lambda tensor: self.other(tensor, kind))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The model comes back as it was, whatever happens."""
        try:
            with running(self.model.module):
                yield
        finally:
            for name, value in self._sets.get("float", {}).items():
                self.model.parameter(name).data = value


# -- what a file holds -------------------------------------------------------------------------------------------


def values_of(summary: ModelSummary, names: set[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint by the name of the float weight it stands for, decoded."""
    with TensorFiles(summary) as files:
        for layer in summary.layers:
            name = stored_name(layer)
            if names is not None and name not in names:
                continue
            if layer.dtype in FLOATS and layer.parameters:
                yield name, decoded(files, layer)


def clipped_values(
    summary: ModelSummary, originals: Mapping[str, torch.Tensor], names: set[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights moved into the range that their codes reach, not rounded."""
    from engine.calibration.sites import in_rows
    from engine.clipping import representable

    with TensorFiles(summary) as files:
        for layer in summary.layers:
            if layer.scheme and layer.name in names:
                name = layer.parts[0].name.removesuffix("_packed")
                low, high = (torch.from_numpy(end) for end in representable(files, layer))
                matrix = in_rows(originals[name].float(), layer)
                yield name, in_layout(torch.minimum(torch.maximum(matrix, low), high), layer)


# -- layer by layer ----------------------------------------------------------------------------------------------


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
        power = (lambda part: part / signal) if compared else (lambda part: 0.0)
        length = math.sqrt(self.signal * self.quantized)
        return OutputNoise(
            sqnr_db(self.alone_signal, self.alone),
            sqnr_db(self.signal, self.total) if compared else None,
            self.cross / length if compared and length else 1.0,
            self.total / self.values if compared else self.alone / max(self.alone_values, 1),
            power(self.clipping), power(self.rounding), power(self.inherited), compared,
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
                sums.alone_signal += _power(here)
                sums.alone += _power(error)
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
        sums.signal += _power(float_y)
        sums.quantized += _power(here)
        sums.cross += float((float_y.double() * here.double()).sum())
        sums.total += _power(float_y - here)
        sums.inherited += _power(float_y - before)
        sums.clipping += _power(before - cut)
        sums.rounding += _power(cut - here)
        sums.values += here.numel()


def _coded(inputs: Inputs, layer: LayerInfo, x: torch.Tensor) -> torch.Tensor:
    """A layer's input as a runtime sees it."""
    return inputs[layer.name].quantized(x) if layer.name in inputs else x


def _power(values: torch.Tensor) -> float:
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
        for done, batch in _first(data, samples):
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


def _first(data: Data, samples: int) -> Iterator[tuple[int, Batch]]:
    done = 0
    for batch in data.batches():
        if done >= samples:
            return
        yield done, batch
        done += batch.size


# -- the whole model ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Whole:
    """Sums over all predictions of one or two models."""

    signal: float = 0.0
    noise: float = 0.0
    agreed: int = 0
    divergence: float = 0.0
    predictions: int = 0
    correct: dict[str, int] = field(default_factory=dict)
    labelled: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    samples: int = 0


def evaluate(
    model: RunnableModel,
    artifact: ModelSummary | None,
    data: Data,
    monitor: Monitor,
    *,
    compare: bool = True,
    samples: int | None = None,
) -> Evaluation:
    """How a quantized model does beside the float one: ``model`` is the float model, or (``compare`` False) the only one to
    judge.

    Predictions are positions of the output's last axis (tokens, images). Raises DataError, Cancelled.
    """
    started = time.perf_counter()
    layers = [layer for layer in (artifact or model.summary).layers if layer.scheme]
    by_name = {layer.name: layer for layer in model.summary.layers}
    twins = Twins(model, [by_name[layer.name] for layer in layers if layer.name in by_name] if artifact else [])
    inputs, sums = inputs_of(artifact) if artifact else {}, _Whole()
    kinds = (["float"] if compare else []) + (["quantized"] if artifact else [])
    kinds = kinds or ["float"]
    with twins.entered():
        if artifact and compare:
            twins.add("quantized", values_of(artifact))
        for _, batch in _first(data, samples or data.count):
            monitor.check()
            monitor.progress(Progress("evaluating", "", sums.samples, samples or data.count, time.perf_counter() - started, None))
            outputs = {}
            for kind in kinds:
                twins.use(kind)
                visit = quantizing_inputs(inputs if kind == "quantized" else {})
                with Watched(twins.sites, visit):
                    outputs[kind] = logits_of(call(model, batch))
            _add(sums, batch, outputs)
    both = len(kinds) == 2
    words = data.title if sums.samples >= data.count else f"the first {sums.samples} of {data.title}"
    last = kinds[-1]
    return Evaluation(
        words, sums.samples, sums.predictions, data.synthetic, _scores(sums, last), _scores(sums, "float") if both else None,
        sqnr_db(sums.signal, sums.noise) if both else None,
        sums.agreed / sums.predictions if both and sums.predictions else None,
        max(sums.divergence / sums.predictions, 0.0) if both and sums.predictions else None,
        time.perf_counter() - started,
    )  # fmt: skip


def quantizing_inputs(inputs: Inputs, arranged: Arranged | None = None) -> Callable[[Operator], torch.Tensor]:
    """Operators with their inputs as codes decode them. ``arranged``: how a runtime sees inputs that it finds scales for."""
    products = Products()

    def visit(operator: Operator) -> torch.Tensor:
        layer = operator.uses[0].layer
        if operator.kind == "embedding" or layer.name not in inputs:
            return products.run(operator)
        how, x = inputs[layer.name], operator.input
        shown = arranged(how, x) if arranged else x
        return operator.run(how.quantized(shown).reshape(x.shape))

    return visit


def logits_of(output: Any) -> torch.Tensor:
    """The tensor that a model is judged by, in float32 and apart from its gradients."""
    return judged(output).detach().float()


def judged(output: Any) -> torch.Tensor:
    """What is called logits or scores, else the first tensor. Raises DataError where there is none."""
    for name in JUDGED:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, torch.Tensor):
            return found
    while not isinstance(output, torch.Tensor):
        if isinstance(output, Mapping):
            values: list[Any] = list(output.values())
        else:
            values = list(output) if isinstance(output, (list, tuple)) else list(getattr(output, "to_tuple", tuple)())
        if not values:
            raise DataError(f"The model gives a {type(output).__name__}, in which no tensor to compare was found.")
        output = values[0]
    return output


def _add(sums: _Whole, batch: Batch, outputs: dict[str, torch.Tensor]) -> None:
    sums.samples += batch.size
    mask = batch.keywords.get("attention_mask")
    some = next(iter(outputs.values()))
    keep = (mask != 0).reshape(-1) if mask is not None and some.dim() == 3 and mask.numel() == some[..., 0].numel() else None
    flat = {}
    for kind, logits in outputs.items():
        if not bool(torch.isfinite(logits).all()):
            which = "quantized" if kind == "quantized" else "float"
            raise DataError(f"The output of the {which} model holds NaN or Inf at sample {batch.indices[0]}; look at its layers.")
        rows = logits.reshape(-1, logits.shape[-1]) if logits.dim() else logits.reshape(1, 1)
        flat[kind] = rows if keep is None else rows[keep]
    sums.predictions += len(next(iter(flat.values())))
    if len(flat) == 2:
        original, quantized = flat["float"], flat["quantized"]
        for first, second in zip(original.split(ROWS), quantized.split(ROWS), strict=True):
            _compare(sums, first, second)
    _judge(sums, batch, outputs)


def _compare(sums: _Whole, original: torch.Tensor, quantized: torch.Tensor) -> None:
    """Some predictions of both models."""
    sums.signal += _power(original)
    sums.noise += _power(original - quantized)
    if original.shape[-1] > 1:
        sums.agreed += int((original.argmax(-1) == quantized.argmax(-1)).sum())
        logs = functional.log_softmax(original, -1), functional.log_softmax(quantized, -1)
        sums.divergence += float((logs[0].exp() * (logs[0] - logs[1])).sum(dtype=torch.float64))


def _judge(sums: _Whole, batch: Batch, outputs: dict[str, torch.Tensor]) -> None:
    tokens = batch.keywords.get("input_ids")
    mask = batch.keywords.get("attention_mask")
    counted = 0
    for kind, logits in outputs.items():
        classes = logits.dim() == 2 and logits.shape[1] > 1
        if batch.labels is not None and classes and batch.labels.numel() == len(logits) and not batch.labels.is_floating_point():
            sums.correct[kind] = sums.correct.get(kind, 0) + int((logits.argmax(-1) == batch.labels.reshape(-1)).sum())
        elif tokens is not None and logits.dim() == 3 and logits.shape[1] == tokens.shape[1] > 1 and _is_causal(tokens, logits):
            targets = tokens[:, 1:].clone()
            if mask is not None:
                targets[mask[:, 1:] == 0] = -100
            loss = functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="sum")
            sums.losses[kind] = sums.losses.get(kind, 0.0) + float(loss)
            counted = int((targets != -100).sum())
    sums.tokens += counted
    if batch.labels is not None:
        sums.labelled += int(batch.labels.numel())


def _is_causal(tokens: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether each position has a logit for every token that occurs; hidden states mostly do not."""
    return int(tokens.max()) < logits.shape[-1]


def _scores(sums: _Whole, kind: str) -> Scores:
    accuracy = sums.correct[kind] / sums.labelled if kind in sums.correct and sums.labelled else None
    perplexity = math.exp(min(sums.losses[kind] / sums.tokens, 700)) if kind in sums.losses and sums.tokens else None
    return Scores(accuracy, perplexity)
