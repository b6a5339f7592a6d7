"""A quantized model beside the float one on the same data: what each layer's output lost, and what the whole model's did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional

from engine.calibration.batches import Batch
from engine.calibration.collect import Products
from engine.calibration.data import Data
from engine.calibration.sites import Operator, Watched
from engine.calibration.units import call
from engine.errors import DataError
from engine.layer_inputs import LayerInput, inputs_of
from engine.measure.tally import sqnr_db
from engine.models.base import RunnableModel
from engine.records.calibration import Evaluation, Scores
from engine.records.model import ModelSummary
from engine.records.progress import Monitor, Progress
from engine.running.layer_noise import first_batches, power
from engine.running.twins import Inputs, Twins, values_of

ROWS = 256
"""Predictions compared at once."""
JUDGED = ("logits", "scores", "class_logits", "prediction_logits", "start_logits")


Arranged = Callable[[LayerInput, torch.Tensor], torch.Tensor]
"""What a runtime does to layers' inputs, by layer."""


# -- what a file holds -------------------------------------------------------------------------------------------


# -- layer by layer ----------------------------------------------------------------------------------------------


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
        for _, batch in first_batches(data, samples or data.count):
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
    sums.signal += power(original)
    sums.noise += power(original - quantized)
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
