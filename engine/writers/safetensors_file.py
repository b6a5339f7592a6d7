"""One self-describing ``.safetensors`` file: the quantization_config travels in its header's metadata."""

import json
from collections.abc import Sequence
from typing import Any

from engine.readers.prequantized import AXES_KEY, CONFIG_KEY
from engine.records.model import ModelSummary
from engine.records.plan import Consumer, FilePlan, LayerPlan, Problem
from engine.schemes import family_of
from engine.writers.base import Format
from engine.writers.layout import ALGORITHMS_KEY, algorithms, tensor_file


class SafetensorsFile(Format):
    name = "safetensors"
    title = "safetensors file"
    summary = "One file that describes itself; for any model, convolutions too. Read it back with engine.load_tensors."
    is_folder = False

    def problems(self, summary: ModelSummary, layers: Sequence[LayerPlan]) -> list[Problem]:
        return []

    def files(
        self,
        summary: ModelSummary,
        layers: Sequence[LayerPlan],
        quantization: dict[str, Any] | None,
        shard_size: int | None,
    ) -> tuple[FilePlan, ...]:
        carried = {k: v for k, v in summary.metadata.items() if k not in (CONFIG_KEY, AXES_KEY, ALGORITHMS_KEY)}
        metadata = carried | {"format": "pt"} | algorithms(summary, layers)
        if quantization:
            metadata[CONFIG_KEY] = json.dumps(quantization, separators=(",", ":"))
        axes = {line.layer.name: line.layer.axis for line in layers if line.layer.axis and len(line.parts) > 1}
        if axes:
            metadata[AXES_KEY] = json.dumps(axes, separators=(",", ":"))
        return (tensor_file("", [part for line in layers for part in line.parts], metadata),)

    def consumers(self, summary: ModelSummary, layers: Sequence[LayerPlan], activations: str) -> tuple[Consumer, ...]:
        plain = all(family_of(line.scheme).quantization_args(line.scheme) is None for line in layers)
        anyone = (
            Consumer("safetensors, torch", "yes", "plain tensors")
            if plain
            else Consumer("safetensors, torch", "no", "stores codes and scales; decode with engine.load_tensors")
        )
        return (Consumer("Mono Quant", "yes", "opens, decodes and exports it"), anyone)
