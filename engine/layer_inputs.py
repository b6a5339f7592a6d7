"""What a quantized checkpoint asks a runtime to do to the inputs of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from engine.decoding import decoded
from engine.numerics.activations import fake_quantize, format_of
from engine.readers.prequantized import configuration
from engine.readers.source import TensorFiles
from engine.records.model import ModelSummary
from engine.schemes import parse_scheme
from engine.schemes.activations import NONE, STORED, quantizes
from engine.writers.configuration import activations_of


@dataclass(frozen=True, slots=True)
class LayerInput:
    """How one layer's input is quantized. ``stored``: beside its weight; ``group``: columns under a scale (FP8 in blocks)."""

    name: str
    stored: Mapping[str, torch.Tensor] = field(default_factory=dict)
    group: int | None = None

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., columns) as codes decode it, in its own dtype. Raises DataError."""
        return fake_quantize(x, self.name, self.stored, self.group)

    def clipped(self, x: torch.Tensor) -> torch.Tensor:
        """x as far as its codes reach, not rounded; ranges that are found as the model runs clip nothing."""
        if "input_scale" not in self.stored:
            return x
        scale = self.stored["input_scale"].to(x.dtype)
        zero = self.stored["input_zero_point"].to(x.dtype) if "input_zero_point" in self.stored else 0
        low, high = (-128.0, 127.0) if format_of(self.name).codes == "int8" else (-448.0, 448.0)
        return torch.minimum(torch.maximum(x, (low - zero) * scale), (high - zero) * scale)


def inputs_of(summary: ModelSummary) -> dict[str, LayerInput]:
    """The layers whose inputs are quantized, by name; those whose stored scales are missing are left out."""
    config = configuration(summary.config, summary.metadata)
    name = activations_of(config) if config else NONE
    if name == NONE:
        return {}
    wanted = STORED.get(name, ())
    tensors = {layer.tensor.name: layer for layer in summary.layers if not layer.scheme}
    found: dict[str, LayerInput] = {}
    with TensorFiles(summary) as files:
        for layer in summary.layers:
            if not layer.scheme or not quantizes(name, layer, True):
                continue
            beside = {key: tensors.get(f"{layer.name}.{key}") for key in wanted}
            stored = {key: decoded(files, part) for key, part in beside.items() if part is not None}
            if len(stored) == len(wanted):
                scheme = parse_scheme(layer.scheme)
                found[layer.name] = LayerInput(name, stored, scheme.group if scheme.granularity == "block" else None)
    return found
