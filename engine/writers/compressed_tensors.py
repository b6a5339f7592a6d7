"""A Hugging Face folder in the compressed-tensors format, as transformers and vLLM load it."""

import os
from collections.abc import Sequence
from typing import Any

from engine.readers.prequantized import CONFIG_KEY
from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import Consumer, FilePlan, LayerPlan, Problem
from engine.schemes import family_of
from engine.schemes.base import OWN
from engine.schemes.half import NAMES
from engine.writers import consumers
from engine.writers.base import Format
from engine.writers.layout import algorithms, split, tensor_file, text_file

DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


class CompressedTensors(Format):
    name = "compressed-tensors"
    title = "compressed-tensors folder"
    summary = "A Hugging Face folder that transformers and vLLM load; configuration and tokenizer are carried over."
    is_folder = True

    def keeps(self, layer: LayerInfo) -> str:
        return "" if layer.kind in ("linear", "embedding") else f"readers of this format know no quantized {layer.kind}"

    def problems(self, summary: ModelSummary, layers: Sequence[LayerPlan]) -> list[Problem]:
        if summary.config is None:
            return [
                Problem("error", f"{summary.name} has no config.json, which the {self.title} needs; use --format safetensors.")
            ]
        problems = [problem for line in layers if not line.kept for problem in _layer_problems(line)]
        if consumers.reads_weights_itself(summary, layers):
            problems.append(Problem("warning", f"{consumers.READS_WO}; keep the wo layers if it must load there."))
        if consumers.names_may_differ(summary, layers):
            problems.append(Problem("warning", consumers.RENAMED))
        return problems + consumers.expert_problems(layers) + consumers.unlike_fused(layers)

    def files(
        self,
        summary: ModelSummary,
        layers: Sequence[LayerPlan],
        quantization: dict[str, Any] | None,
        shard_size: int | None,
    ) -> tuple[FilePlan, ...]:
        shards = split([part for line in layers for part in line.parts], shard_size)
        width = f"-of-{len(shards):05d}"
        paths = (
            [f"model-{n:05d}{width}.safetensors" for n in range(1, len(shards) + 1)] if len(shards) > 1 else ["model.safetensors"]
        )
        metadata = {"format": "pt"} | algorithms(summary, layers)
        files = [tensor_file(path, parts, metadata) for path, parts in zip(paths, shards, strict=True)]
        if len(shards) > 1:
            weight_map = {part.name: path for path, parts in zip(paths, shards, strict=True) for part in parts}
            total = sum(part.nbytes for parts in shards for part in parts)
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            files.append(text_file("model.safetensors.index.json", index))
        files.append(text_file("config.json", _config(summary.config or {}, layers, quantization)))
        for name in summary.carried:
            source = os.path.join(summary.path, name)
            files.append(FilePlan(name, os.path.getsize(source), source=source))
        return tuple(files)

    def consumers(self, summary: ModelSummary, layers: Sequence[LayerPlan], activations: str) -> tuple[Consumer, ...]:
        ours = Consumer("Mono Quant", "yes", "opens, decodes and exports it")
        return (consumers.transformers(summary, layers, activations), consumers.vllm(layers, activations), ours)


def _config(config: dict[str, Any], layers: Sequence[LayerPlan], quantization: dict[str, Any] | None) -> dict[str, Any]:
    result = {key: value for key, value in config.items() if key not in (CONFIG_KEY, "compression_config")}
    floats = {part.dtype for line in layers for part in line.parts if part.dtype in FLOATS}
    if len(floats) == 1 and any(line.scheme.family in NAMES for line in layers):
        key = "torch_dtype" if "torch_dtype" in result else "dtype"
        result[key] = DTYPES[floats.pop()]
    return result | ({CONFIG_KEY: quantization} if quantization else {})


def _layer_problems(line: LayerPlan) -> list[Problem]:
    name, kind, scheme = line.layer.name, line.layer.kind, line.scheme
    if not consumers.is_quantized(line):
        return []
    family = family_of(scheme)
    if family.storage(scheme, line.parts, "none") == OWN and line.layer.axis == 0 and len(line.layer.shape) == 2:
        what = f"{name}: compressed-tensors has no {line.scheme_name}; use --format safetensors, or another scheme."
        return [Problem("error", what, name)]
    if ragged := family.ragged(scheme, line.layer):
        return [Problem("error", f"{name}: {ragged}.", name)]
    if scheme.family == "int" and scheme.granularity == "block":
        return [Problem("error", f"{name}: readers know blocks of fp8 only, not {line.scheme_name}; use int8:channel.", name)]
    if kind not in ("linear", "embedding") or line.layer.axis:
        what = "transformers' own Conv1D" if kind == "linear" else kind
        return [Problem("error", f"{name} is a {what} layer, which no reader of compressed-tensors understands; keep it.", name)]
    if line.layer.tied:
        return [Problem("error", f"{name} is tied to {line.layer.tied[0]}, which readers would leave float; keep it.", name)]
    if kind == "embedding" and line.parts[0].name.endswith("_packed"):
        return [Problem("warning", f"{name}: transformers' default load fails on packed embeddings; use int8.", name)]
    return []
