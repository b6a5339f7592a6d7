"""What schemes do to layers' outputs, and what that is expected to cost: one pass of the float model, all schemes at once.

``‖(W - W')X‖²`` comes from the second moment ``XXᵀ`` of a layer's inputs; the expected rise of the loss from the Fisher
information's diagonal, ``½ Σ F (w - w')²`` (LeCun et al. 1990, "Optimal Brain Damage"; Sung et al. 2021 for F from squared
gradients).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as functional

from engine.calibration.batches import Batch
from engine.calibration.collect import Wanted
from engine.calibration.data import Data
from engine.calibration.sites import Sites, in_layout
from engine.calibration.units import call, parts
from engine.models.base import Place, RunnableModel
from engine.models.state import running
from engine.quantizing.clock import Clock
from engine.records.progress import Monitor
from engine.running.gathering import collected, free_room
from engine.searching.cache import RowCache
from engine.searching.decoded import DecodedLayers
from engine.searching.predictions import predictions_of
from engine.searching.sensitivity import Table
from engine.searching.solved import SolvedLayers

Missing = Mapping[str, list[str]]
"""By layer, the schemes to be measured."""


def measure_outputs(
    model: RunnableModel, data: Data, table: Table, missing: Missing, cache: RowCache, decoded: DecodedLayers, monitor: Monitor
) -> None:
    """Output errors, part by part as the model runs. Raises DataError, Cancelled."""
    names = list(missing)
    layers = [layer for layer in table.found.layers if layer.name in missing]
    clock = Clock(monitor, "output errors", sum(layer.nbytes * (1 + len(missing[layer.name])) for layer in layers))
    sites, sizes = Sites(model, layers), {layer.name: layer.nbytes for layer in layers}
    with tempfile.TemporaryDirectory(prefix="mono-quant-") as folder, running(model.module):
        for part in parts(model, data, sites, names, sequential=False, folder=folder, limit=free_room() // 3):
            here = [name for name in names if name in part.layers]
            clock.layer = here[0] if here else ""
            collector = collected(part, {name: Wanted(True, True) for name in here}, monitor, lambda names: None)
            for name in here:
                clock.layer = name
                clock.advance(sizes[name])
                moments = collector.moments(name)
                second = moments.second if moments is not None else None
                if second is None:
                    continue  # never reached: nothing is known of it
                whole = decoded.original(name)
                found = {"output_signal": _power(whole, second), "output": {}}
                for scheme in missing[name]:
                    found["output"][scheme] = _power(whole - decoded.under(name, scheme), second)
                    clock.advance(sizes[name])
                cache.put(name, found)
                table.measured += len(missing[name])
                table.add(name, cache.known[name])


def measure_solved(table: Table, missing: Missing, cache: RowCache, decoded: SolvedLayers, monitor: Monitor) -> None:
    """Weight and output errors of what an algorithm with data makes of every layer. Raises DataError, Cancelled."""
    layers = {layer.name: layer for layer in table.found.layers}
    clock = Clock(monitor, "solving", sum(layers[name].nbytes * len(schemes) for name, schemes in missing.items()))

    def advance(name: str) -> None:
        clock.layer = name
        clock.advance(layers[name].nbytes)

    def solved(name: str, values: Mapping[str, torch.Tensor], second: torch.Tensor | None) -> None:
        whole = decoded.original(name)
        noise = {scheme: float((whole - value).square().sum(dtype=torch.float64)) for scheme, value in values.items()}
        found: dict[str, Any] = {"signal": float(whole.square().sum(dtype=torch.float64)), "noise": noise}
        if second is not None:
            output = {scheme: _power(whole - value, second) for scheme, value in values.items()}
            found |= {"output_signal": _power(whole, second), "output": output}
        cache.put(name, found)
        table.measured += len(values)
        table.add(name, cache.known[name])

    decoded.prepare(missing, solved, advance)


def _power(matrix: torch.Tensor, second: torch.Tensor) -> float:
    """``‖M X‖²`` from ``XXᵀ`` of each group of inputs, (groups, size, size); rows of the matrix belong to the groups in turn."""
    split = matrix.view(second.shape[0], -1, matrix.shape[1])
    return max(float(((split @ second) * split).sum(dtype=torch.float64)), 0.0)


def measure_fisher(
    model: RunnableModel, data: Data, table: Table, missing: Missing, cache: RowCache, decoded: DecodedLayers, monitor: Monitor
) -> None:
    """The expected rise of the loss: gradients of the labels' loss, or of the model's own predictions where there are none.

    Raises DataError, Cancelled.
    """
    layers = {layer.name: layer for layer in table.found.layers if layer.name in missing}
    clock = Clock(monitor, "gradients", data.count)
    with running(model.module):
        squares = _fisher(model, data, [model.places[layer.tensor.name].parameter for layer in layers.values()], clock)
    clock = Clock(monitor, "expected losses", sum(layer.nbytes * len(missing[name]) for name, layer in layers.items()))
    for name, layer in layers.items():
        clock.layer = name
        place = model.places[layer.tensor.name]
        fisher = _part(squares[place.parameter], place)
        whole, found = decoded.original(name), {}
        for scheme in missing[name]:
            lost = in_layout(whole - decoded.under(name, scheme), layer).reshape(-1, place.columns)
            found[scheme] = 0.5 * float((fisher * lost.square()).sum(dtype=torch.float64))
            clock.advance(layer.nbytes)
        cache.put(name, {"fisher": found})
        table.measured += len(found)
        table.add(name, cache.known[name])


def _part(whole: torch.Tensor, place: Place) -> torch.Tensor:
    """A stored tensor's share of a parameter, as ``RunnableModel.weight`` has it."""
    whole = whole.transpose(-1, -2) if place.transposed else whole
    return whole.reshape(-1, place.columns)[place.first : place.first + place.rows]


def _fisher(model: RunnableModel, data: Data, names: list[str], clock: Clock) -> dict[str, torch.Tensor]:
    """The diagonal by parameter, for the mean loss of a prediction.

    A sample's predictions are taken as independent: the square of their summed gradient stands for the sum of its squares.
    """
    parameters = {name: model.parameter(name) for name in dict.fromkeys(names)}
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    squares = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    predictions = 0
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for sample in _samples(data):
            clock.monitor.check()
            with torch.enable_grad():
                rows, targets = predictions_of(call(model, sample), sample)
                targets = rows.argmax(-1) if targets is None else targets
                loss = functional.cross_entropy(rows, targets, reduction="sum")
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            predictions += len(targets)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    squares[name] += gradient.detach().float().square()
            clock.advance(1)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return {name: square / max(predictions, 1) for name, square in squares.items()}


def _samples(data: Data) -> Iterator[Batch]:
    """One sample a batch: squares of gradients do not add up over several."""
    for batch in data.batches():
        for number in range(batch.size):
            cut = slice(number, number + 1)
            yield replace(
                batch, arguments=tuple(value[cut] for value in batch.arguments),
                keywords={name: value[cut] for name, value in batch.keywords.items()},
                labels=None if batch.labels is None else batch.labels[cut], indices=batch.indices[cut],
            )  # fmt: skip
