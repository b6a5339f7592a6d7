"""An artifact as transformers loads it by itself, beside what its decoded weights compute here."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math

import psutil
import torch

from engine.calibration.batches import Batch
from engine.calibration.data import open_data
from engine.calibration.sites import Sites, Watched
from engine.calibration.units import call
from engine.decoding import decoded, stored_name
from engine.errors import EngineError
from engine.layer_inputs import LayerInput, inputs_of
from engine.models import hugging_face, load_runnable
from engine.models.state import running
from engine.readers.prequantized import configuration
from engine.readers.source import TensorFiles
from engine.records.calibration import DataSpec
from engine.records.certificate import Check
from engine.records.model import ModelSummary
from engine.records.progress import Monitor, Progress
from engine.running.evaluation import logits_of, quantizing_inputs
from engine.schemes.base import OWN

LEAST_DB = 30.0
"""SQNR of outputs below which two ways to load a file do not agree: sums of another order leave far more, a scale that was
missed leaves nothing."""
SAMPLES = 2
TOKENS = 128
"""Of a sample of text, where the model takes so many."""
PER_TOKEN = ("int8:token", "fp8:token")
COARSE = (
    " Where inputs are not (batch, token, channel), compressed-tensors gives tokens a common scale; other runtimes give each"
    " its own."
)
COPIES = 3
"""Of the decoded weights, which two loaded models and their loading may take in memory."""


def check(summary: ModelSummary, loads: str, monitor: Monitor) -> Check:
    """Whether transformers with compressed-tensors computes from the folder what the engine does, on made-up inputs.

    ``loads``: what is known of transformers and this artifact. Raises Cancelled.
    """
    reason = _obstacle(summary, loads)
    if reason:
        return Check("forward", "not run", reason)
    monitor.progress(Progress("loading in transformers", "", 0, 1, 0.0, None))
    try:
        ours, batch, coarse = _ours(summary)
    except EngineError as error:
        return Check("forward", "not run", f"The model does not run here: {error}")
    monitor.check()
    try:
        theirs = _theirs(summary, batch)
    except EngineError as error:
        return Check("forward", "failed", "transformers does not load it.", (str(error),))
    monitor.check()
    if theirs.shape != ours.shape:
        return Check("forward", "failed", "transformers computes something else.", ("Its outputs have another shape.",))
    noise = float((ours - theirs).double().square().sum())
    db = 10 * math.log10(float(ours.double().square().sum()) / noise) if noise else math.inf
    if not db >= LEAST_DB:  # NaN too
        what = f"Its outputs are {db:.1f} dB from those of the decoded weights."
        return Check("forward", "failed", "transformers computes something else.", (what,))
    words = "exactly what" if noise == 0 else f"within {db:.0f} dB what"
    said = f"Loaded by transformers with compressed-tensors, it computes {words} the decoded weights do."
    return Check("forward", "passed", said + COARSE * coarse)


def _obstacle(summary: ModelSummary, loads: str) -> str:
    """Why it is not run; empty when it is."""
    config = configuration(summary.config, summary.metadata) or {}
    if summary.source != "folder" or summary.config is None or not any(layer.scheme for layer in summary.layers):
        return "It is no quantized model folder, whose network transformers would know."
    if config.get("quant_method") == OWN:
        return "transformers does not know this number format."
    if not all(importlib.util.find_spec(name) for name in ("transformers", "compressed_tensors")):
        return "transformers and compressed-tensors are not both installed."
    if loads == "no":
        return "transformers is known not to load it; see who does."
    if summary.config.get("auto_map"):
        return "The folder holds code of its own, which is not run here."
    need = COPIES * sum(4 * layer.parameters for layer in summary.layers)
    free = psutil.virtual_memory().available
    return f"It would need {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free." if need > free else ""


def _ours(summary: ModelSummary) -> tuple[torch.Tensor, Batch, bool]:
    """Outputs of the decoded weights, what was put in, and whether tokens shared scales."""
    with TensorFiles(summary) as files:
        weights = {stored_name(layer): decoded(files, layer) for layer in summary.layers}
    with load_runnable(summary.path, weights=weights) as model:
        text = any(info.role == "tokens" for info in model.inputs.arguments)
        length = min(TOKENS, model.inputs.max_length or TOKENS) if text else None
        data = open_data(DataSpec(kind="synthetic", samples=SAMPLES, batch=SAMPLES, length=length), model.inputs)
        batch = next(iter(data.batches()))
        by_name = {layer.name: layer for layer in model.summary.layers}
        sites = Sites(model, [by_name[layer.name] for layer in summary.layers if layer.scheme and layer.name in by_name])
        arranged = _AsCompressedTensors(model.module)
        with running(model.module), torch.no_grad(), Watched(sites, quantizing_inputs(inputs_of(summary), arranged)):
            return logits_of(call(model, batch)), batch, arranged.coarse


def _theirs(summary: ModelSummary, batch: Batch) -> torch.Tensor:
    bars = contextlib.redirect_stderr(io.StringIO())  # compressed-tensors draws progress bars whatever it is told
    with bars, torch.no_grad():
        module = hugging_face.as_stored(summary.path)
        with running(module):
            return logits_of(batch(module))


class _AsCompressedTensors:
    """Inputs in the shape in which their last axis shares a dynamic scale.

    compressed-tensors 0.20 (``compute_dynamic_scales_and_zp``) gives scales "per token" to the first two axes of whatever comes:
    right for (batch, token, channel), but one for all of (token, channel), and one for columns and channels of an image.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.coarse = False
        """Whether tokens had to share a scale."""
        self._shape = torch.Size()
        for part in module.modules():
            if isinstance(part, torch.nn.Linear):
                part.register_forward_pre_hook(self._entered)

    def _entered(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Products below a module see tokens in a row, whatever its input's shape."""
        self._shape = inputs[0].shape if inputs else torch.Size()

    def __call__(self, how: LayerInput, x: torch.Tensor) -> torch.Tensor:
        shape = self._shape
        if how.name not in PER_TOKEN or how.group is not None or len(shape) in (0, 3) or shape.numel() != x.numel():
            return x
        self.coarse = True
        return x.reshape(1, -1) if len(shape) < 3 else x.reshape(shape[0] * shape[1], -1)
