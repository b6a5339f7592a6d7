"""Checkpoints that are already quantized: recognized, said, and decoded when the format is one of ours."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.readers.kinds import kind_of, layer_name
from engine.readers.source import TensorFiles
from engine.records.model import LayerInfo, ModelSummary, Quantized, TensorInfo
from engine.records.scheme import Scheme
from engine.schemes import format_scheme, scheme_from_args

CONFIG_KEY = "quantization_config"
AXES_KEY = "mono_quant.axes"
PARTS = ("_packed", "_scale", "_zero_point", "_shape")
READABLE_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "mixed-precision")


def configuration(config: Mapping[str, Any] | None, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The quantization_config of a folder's config.json or of a file's header. Raises InputError."""
    found: Any = (config or {}).get(CONFIG_KEY) or (config or {}).get("compression_config")
    if not found and CONFIG_KEY in metadata:
        try:
            found = json.loads(metadata[CONFIG_KEY])
        except ValueError:
            raise InputError("The header's quantization_config is not valid JSON.") from None
    if found and not isinstance(found, dict):
        raise InputError("The quantization_config is not a JSON object.")
    return found or None


def recognize(config: Mapping[str, Any] | None, tensors: Iterable[TensorInfo]) -> Quantized | None:
    """Which method quantized a checkpoint, from its configuration or from the names of its tensors."""
    if config:
        method = str(config.get("quant_method", "unknown"))
        form = str(config.get("format", ""))
        if method == "compressed-tensors":
            readable = form in READABLE_FORMATS and all(_scheme_of(g) for g in _groups(config))
            return Quantized(method, readable, form)
        if method == "bitsandbytes":
            return Quantized(method, False, "4-bit" if config.get("load_in_4bit") else "8-bit")
        return Quantized(method, False, f"{config['bits']}-bit" if "bits" in config else "")
    names = {tensor.name: tensor for tensor in tensors}
    return _by_names(names)


def _by_names(tensors: Mapping[str, TensorInfo]) -> Quantized | None:
    endings = {name.rsplit(".", 1)[-1] for name in tensors}
    if "qweight" in endings and "qzeros" in endings:
        return Quantized("gptq" if "g_idx" in endings else "awq", False, "recognized by its tensors")
    if endings & {"absmax", "quant_map"} or any("bitsandbytes" in name for name in tensors):
        return Quantized("bitsandbytes", False, "recognized by its tensors")
    if "weight_packed" in endings:
        return Quantized("compressed-tensors", False, "without its configuration")
    if any(tensor.dtype in ("F8_E4M3", "F8_E5M2") for tensor in tensors.values()):
        return Quantized("fp8", False, "8-bit floats")
    if {"SCB", "weight_format"} & endings:
        return Quantized("bitsandbytes", False, "8-bit")
    return None


def _groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = config.get("config_groups")
    return [g for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []


def _scheme_of(group: Mapping[str, Any]) -> Scheme | None:
    weights = group.get("weights")
    return scheme_from_args(weights) if isinstance(weights, dict) else None


def _target_matches(target: str, name: str, kind: str) -> bool:
    if target.startswith("re:"):
        return re.match(target[3:], name) is not None
    return target == name or target == {"linear": "Linear", "embedding": "Embedding"}.get(kind)


def assemble(
    tensors: tuple[TensorInfo, ...], layers: tuple[LayerInfo, ...], config: Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[LayerInfo, ...]:
    """Join the parts of each quantized weight into one layer with its scheme. Raises InputError."""
    by_name = {tensor.name: tensor for tensor in tensors}
    groups = [(group.get("targets") or [], _scheme_of(group)) for group in _groups(config)]
    axes = json.loads(metadata.get(AXES_KEY, "{}"))
    joined: list[LayerInfo] = []
    for layer in layers:
        tensor = layer.tensor
        base = tensor.name.removesuffix("_packed")
        scale = by_name.get(f"{base}_scale")
        packed = tensor.name.endswith("_packed")
        if scale is not None and (packed or tensor.dtype == "I8") and tensor.name != scale.name:
            joined.append(_quantized_layer(tensor, base, by_name, groups, axes))
        elif not any(tensor.name.endswith(p) and f"{tensor.name.removesuffix(p)}_scale" in by_name for p in PARTS):
            joined.append(layer)
    return tuple(joined)


def _quantized_layer(
    codes: TensorInfo, base: str, tensors: Mapping[str, TensorInfo], groups: list[tuple[Any, Scheme | None]], axes: Any
) -> LayerInfo:
    parts = tuple(tensors[n] for n in (codes.name, *(f"{base}{p}" for p in PARTS[1:])) if n in tensors)
    name = layer_name(base)
    kind = kind_of(base, "F32", codes.shape, {})
    scheme = next((s for targets, s in groups if s and any(_target_matches(str(t), name, kind) for t in targets)), None)
    if scheme is None:
        raise InputError(f"{name}: its tensors are quantized, but no group of the quantization_config targets it.")
    axis = int(axes.get(name, 0)) if isinstance(axes, dict) else 0
    return LayerInfo(name, kind, codes.shape, tensors[f"{base}_scale"].dtype, parts, axis, False, format_scheme(scheme))


def with_shapes(summary: ModelSummary) -> ModelSummary:
    """Fill in the weights' own shapes, which packed layers store in a small tensor. Raises InputError."""
    if not any(layer.scheme for layer in summary.layers):
        return summary
    with TensorFiles(summary) as files:
        layers = tuple(_with_shape(layer, files) if layer.scheme else layer for layer in summary.layers)
    return replace(summary, layers=layers)


def _with_shape(layer: LayerInfo, files: TensorFiles) -> LayerInfo:
    stored = next((part for part in layer.parts if part.name.endswith("_shape")), None)
    if stored is None:
        return layer
    if stored.dtype != "I64" or len(stored.shape) != 1 or stored.shape[0] > 8:
        raise InputError(f"{layer.name}: {stored.name} should be a few I64 numbers; the file is damaged.")
    shape = tuple(int(n) for n in files.read(stored).view(np.int64))
    codes = layer.parts[0]
    if not shape or min(shape) <= 0 or layer.axis >= len(shape) or codes.shape[0] != shape[layer.axis]:
        raise InputError(f"{layer.name}: its stored shape {list(shape)} does not fit {list(codes.shape)} words.")
    kind = kind_of(f"{layer.name}.weight", "F32", shape, {}) if layer.kind == "linear" else layer.kind
    return replace(layer, shape=shape, kind=kind)
