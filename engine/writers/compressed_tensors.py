"""A Hugging Face folder in the compressed-tensors format, as transformers and vLLM load it."""

import os
from collections.abc import Sequence
from typing import Any

from engine.readers.kinds import FUSED
from engine.readers.prequantized import CONFIG_KEY
from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import FilePlan, LayerPlan, Problem
from engine.schemes import family_of
from engine.schemes.base import OWN
from engine.schemes.half import NAMES
from engine.writers.base import Consumer, Format
from engine.writers.configuration import targets_by_name
from engine.writers.layout import split, tensor_file, text_file

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
        if _reads_weights_itself(summary, layers):
            problems.append(Problem("warning", f"{READS_WO}; keep the wo layers if it must load there."))
        if _names_may_differ(summary, layers):
            problems.append(Problem("warning", RENAMED))
        return problems + _fused(layers)

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
        files = [tensor_file(path, parts, {"format": "pt"}) for path, parts in zip(paths, shards, strict=True)]
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
        schemes = [line.scheme for line in layers if _is_quantized(line)]
        transformers = Consumer("transformers", "yes", "with the compressed-tensors package")
        if any(not s.symmetric for s in schemes):
            transformers = Consumer("transformers", "no", "its default load fails on packed zero points; dequantize=True works")
        elif activations != "none" and any(".experts." in line.layer.name for line in layers if not line.kept):
            transformers = Consumer("transformers", "no", "int-quantized experts fail in its conversion")
        elif _reads_weights_itself(summary, layers):
            transformers = Consumer("transformers", "no", READS_WO)
        elif _names_may_differ(summary, layers):
            transformers = Consumer("transformers", "untested", "its module names may differ from those on disk")
        vllm = Consumer("vLLM", "yes", "")
        families = {s.family for s in schemes}
        if any(s.bits not in (4, 8) for s in schemes if s.family == "int"):
            vllm = Consumer("vLLM", "no", "it has kernels for 4 and 8 bits only")
        elif _fused(layers):
            vllm = Consumer("vLLM", "no", "fused layers have unlike schemes")
        elif any(line.layer.kind == "embedding" and not line.kept for line in layers):
            vllm = Consumer("vLLM", "untested", "quantized embeddings")
        elif "mxfp6" in families:
            vllm = Consumer("vLLM", "untested", "mxfp6 weights")
        elif families & {"mxfp8", "mxfp4", "nvfp4"}:
            vllm = Consumer("vLLM", "yes", "on a GPU")
        elif any(s.granularity == "block" for s in schemes) and any(_ragged_block(line) for line in layers):
            vllm = Consumer("vLLM", "untested", "blocks do not divide every layer")
        elif any(s.granularity in ("block", "group") and s.bits == 8 for s in schemes) and families != {"fp8_e4m3"}:
            vllm = Consumer("vLLM", "untested", "8-bit weights in groups or blocks")
        elif any(s.bits == 8 for s in schemes) and activations == "none":
            vllm = Consumer("vLLM", "yes", "on a GPU; it has no CPU kernel for 8-bit weights alone")
        elif not all(s.symmetric for s in schemes):
            vllm = Consumer("vLLM", "untested", "asymmetric weights")
        return (transformers, vllm, Consumer("Mono Quant", "yes", "opens, decodes and exports it"))


READS_WO = "transformers' T5 reads wo.weight itself, which a compressed layer does not have"
T5_MODELS = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "pix2struct")


def _reads_weights_itself(summary: ModelSummary, layers: Sequence[LayerPlan]) -> bool:
    """T5's feed-forward asks for the dtype of its second matrix and fails on a quantized one (transformers 5.23)."""
    model_type = (summary.config or {}).get("model_type")
    return model_type in T5_MODELS and any(line.layer.name.endswith(".wo") for line in layers if not line.kept)


RENAMED = (
    "Some layers are told apart by name, and transformers may call its modules otherwise than the file does; "
    "check the loaded model, or quantize all linear layers alike."
)


def _names_may_differ(summary: ModelSummary, layers: Sequence[LayerPlan]) -> bool:
    """Decoders keep the names they have on disk; ViT and other encoders do not, and layers found by name are then missed."""
    architectures = (summary.config or {}).get("architectures") or []
    decoder = any(str(name).endswith("ForCausalLM") for name in architectures)
    return not decoder and targets_by_name(layers)


def _config(config: dict[str, Any], layers: Sequence[LayerPlan], quantization: dict[str, Any] | None) -> dict[str, Any]:
    result = {key: value for key, value in config.items() if key not in (CONFIG_KEY, "compression_config")}
    floats = {part.dtype for line in layers for part in line.parts if part.dtype in FLOATS}
    if len(floats) == 1 and any(line.scheme.family in NAMES for line in layers):
        key = "torch_dtype" if "torch_dtype" in result else "dtype"
        result[key] = DTYPES[floats.pop()]
    return result | ({CONFIG_KEY: quantization} if quantization else {})


def _is_quantized(line: LayerPlan) -> bool:
    return family_of(line.scheme).quantization_args(line.scheme) is not None


def _ragged_block(line: LayerPlan) -> bool:
    scheme, shape = line.scheme, line.layer.shape
    return scheme.granularity == "block" and bool(shape[0] % (scheme.block_rows or 1) or shape[1] % (scheme.group or 1))


def _layer_problems(line: LayerPlan) -> list[Problem]:
    name, kind, scheme = line.layer.name, line.layer.kind, line.scheme
    if not _is_quantized(line):
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


def _fused(layers: Sequence[LayerPlan]) -> list[Problem]:
    """Layers that one runtime fuses must share one scheme."""
    names = {line.layer.name: line for line in layers}
    problems = []
    for members in FUSED:
        for name in names:
            if not name.endswith(f".{members[0]}"):
                continue
            stem = name[: -len(members[0])]
            found = [names[stem + member] for member in members if stem + member in names]
            schemes = {line.scheme_name for line in found}
            if len(schemes) > 1:
                what = ", ".join(f"{line.layer.name.rsplit('.', 1)[-1]} {line.scheme_name}" for line in found)
                problems.append(Problem("warning", f"{stem[:-1]}: {what}; vLLM fuses them and needs one scheme.", name))
    return problems
