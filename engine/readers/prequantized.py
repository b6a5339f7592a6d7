"""Checkpoints that are already quantized: recognized, said, and decoded when the format is one of ours.

Nothing in a configuration or a stored shape is believed unchecked: the arithmetic behind runs without bounds checks.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import InputError, RecipeError
from engine.patterns import Pattern, compiled
from engine.readers.kinds import kind_of, layer_name
from engine.readers.source import TensorFiles
from engine.records.model import LayerInfo, ModelSummary, Quantized, TensorInfo
from engine.records.scheme import Scheme
from engine.schemes import family_of, format_scheme, scheme_from_args
from engine.schemes.base import OWN, PART_ENDINGS, role_of
from engine.schemes.scaled import ScaledFamily

if TYPE_CHECKING:
    from engine.readers.quantization_config import Configuration

CONFIG_KEY = "quantization_config"
AXES_KEY = "mono_quant.axes"
RUNTIME_PARTS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point")
"""What a runtime needs to quantize activations: copied by an export, of no use to a decoded model."""
READABLE_FORMATS = (
    "pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized",
    "mxfp8-quantized", "nvfp4-pack-quantized", "mixed-precision", OWN,
)  # fmt: skip
READABLE_METHODS = ("compressed-tensors", OWN)
CLASSES = {"linear": "Linear", "embedding": "Embedding"}


def configuration(config: Mapping[str, Any] | None, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The quantization_config of a folder's config.json or of a file's header. Raises InputError."""
    found: Any = (config or {}).get(CONFIG_KEY) or (config or {}).get("compression_config")
    if not found and CONFIG_KEY in metadata:
        found = _json(metadata[CONFIG_KEY], CONFIG_KEY)
    if not found:
        return None
    if not isinstance(found, dict):
        raise InputError("The quantization_config is not a JSON object.")
    if found.get("quant_method") in READABLE_METHODS:
        _checked(found)
    return found


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"The header's {what} is not valid JSON.") from None


def _checked(config: Mapping[str, Any]) -> "Configuration":
    from engine.readers.quantization_config import checked  # pydantic takes longer to load than a header to read

    return checked(config)


def recognize(config: Mapping[str, Any] | None, tensors: Iterable[TensorInfo]) -> Quantized | None:
    """Which method quantized a checkpoint, from its configuration or from the names of its tensors."""
    names = {tensor.name: tensor for tensor in tensors}
    if not config:
        return _by_names(names)
    method = str(config.get("quant_method", "unknown"))
    if method in READABLE_METHODS:
        checked = _checked(config)
        obstacle = _obstacle(checked, names)
        return Quantized(method, not obstacle, f"{checked.format}, {obstacle}" if obstacle else checked.format)
    if method == "bitsandbytes":
        return Quantized(method, False, "4-bit" if config.get("load_in_4bit") else "8-bit")
    return Quantized(method, False, f"{config['bits']}-bit" if "bits" in config else "")


def _obstacle(config: "Configuration", names: Iterable[str]) -> str:
    """Why a compressed-tensors checkpoint cannot be decoded here; empty when it can."""
    if config.format not in READABLE_FORMATS:
        return "a format not decoded here"
    for group in config.config_groups.values():
        if group.weights is None or scheme_from_args(group.weights) is None:
            return "a number format not decoded here"
        if group.weights.get("actorder") in ("group", True):
            return "with reordered columns"
    if any(name.endswith("_g_idx") for name in names):
        return "with reordered columns"
    if (config.transform_config or {}).get("config_groups") or (config.sparsity_config or {}).get("format", "dense") != "dense":
        return "with transforms or sparsity"
    return ""


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


@dataclass(frozen=True, slots=True)
class _Targets:
    """The groups of a configuration, asked in the order that compressed-tensors asks: name, pattern, class."""

    names: Mapping[str, Scheme]
    patterns: Sequence[tuple[Pattern, Scheme]]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "_Targets":
        names: dict[str, Scheme] = {}
        patterns = []
        for group in _checked(config).config_groups.values():
            scheme = scheme_from_args(group.weights or {})
            assert scheme, "a configuration with other groups is not readable"
            for target in group.targets:
                if target.startswith("re:"):
                    patterns.append((compiled(target), scheme))
                else:
                    names.setdefault(target, scheme)
        return cls(names, patterns)

    def scheme(self, name: str, kind: str) -> Scheme | None:
        if name in self.names:
            return self.names[name]
        try:
            matching = next((scheme for pattern, scheme in self.patterns if pattern.match(name)), None)
        except RecipeError as error:
            raise InputError(f"The quantization_config cannot be used: {error}") from None
        # A kind is a guess; a quantized matrix that nothing else claims is a Linear.
        return matching or self.names.get(CLASSES.get(kind, "")) or self.names.get("Linear")


def assemble(
    tensors: tuple[TensorInfo, ...], layers: tuple[LayerInfo, ...], config: Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[LayerInfo, ...]:
    """Join the parts of each quantized weight into one layer with its scheme. Raises InputError."""
    by_name = {tensor.name: tensor for tensor in tensors}
    targets = _Targets.of(config)
    axes = _json(metadata.get(AXES_KEY, "{}"), AXES_KEY)
    joined: dict[str, LayerInfo] = {}
    for layer in layers:
        codes = layer.tensor
        base = codes.name.removesuffix("_packed")
        packed = codes.name.endswith("_packed") and codes.dtype in ("I32", "U8")
        part_of_another = role_of(base) != "codes"  # a scale may itself have a scale
        if not part_of_another and f"{base}_scale" in by_name and (packed or codes.dtype in ("I8", "F8_E4M3", "F8_E5M2")):
            joined[codes.name] = _quantized_layer(codes, base, by_name, targets, axes)
    used = {part.name for layer in joined.values() for part in layer.parts[1:]}
    return tuple(joined.get(layer.tensor.name, layer) for layer in layers if layer.tensor.name not in used)


def _quantized_layer(codes: TensorInfo, base: str, tensors: Mapping[str, TensorInfo], targets: _Targets, axes: Any) -> LayerInfo:
    others = (f"{base}{ending}" for ending, role in PART_ENDINGS.items() if role != "codes")
    parts = (codes, *(tensors[n] for n in others if n in tensors))
    name = layer_name(base)
    kind = kind_of(base, "F32", codes.shape, {})
    scheme = targets.scheme(name, kind)
    if scheme is None:
        raise InputError(f"{name}: its tensors are quantized, but no group of the quantization_config targets it.")
    axis = axes.get(name, 0) if isinstance(axes, dict) else 0
    axis = axis if isinstance(axis, int) and axis in (0, 1, 2) else 0
    layer = LayerInfo(name, kind, codes.shape, tensors[f"{base}_scale"].dtype, parts, axis, False, format_scheme(scheme))
    family = family_of(scheme)
    dtype = family.decoded_dtype(scheme, layer, layer.dtype) if isinstance(family, ScaledFamily) else layer.dtype
    return replace(layer, dtype=dtype)


def with_shapes(summary: ModelSummary, config: Mapping[str, Any] | None) -> ModelSummary:
    """Fill in the shapes that packed layers store in a small tensor, and check that all parts fit. Raises InputError."""
    if not config or not any(layer.scheme for layer in summary.layers):
        return summary
    targets = _Targets.of(config)
    with TensorFiles(summary) as files:
        layers = tuple(_with_shape(layer, files, targets) if layer.scheme else layer for layer in summary.layers)
    return replace(summary, layers=layers)


def _with_shape(layer: LayerInfo, files: TensorFiles, targets: _Targets) -> LayerInfo:
    stored = next((part for part in layer.parts if part.name.endswith("_shape")), None)
    codes, shape = layer.parts[0], layer.shape
    if stored is not None:
        if stored.dtype != "I64" or len(stored.shape) != 1 or not 0 < stored.shape[0] <= 8:
            raise InputError(f"{layer.name}: {stored.name} should be a few I64 numbers; the file is damaged.")
        shape = tuple(int(n) for n in files.read(stored).view(np.int64))
    elif codes.name.endswith("_packed"):
        scheme = targets.scheme(layer.name, layer.kind)
        told = family_of(scheme).shape_of(scheme, codes.shape) if scheme else None
        if told is None:
            raise InputError(f"{layer.name}: it is packed, but the tensor with its shape is missing; the file is damaged.")
        shape = told
    if len(shape) < 2 or min(shape) <= 0:
        raise InputError(f"{layer.name}: its stored shape {list(shape)} is no weight's shape; the file is damaged.")
    kind = kind_of(f"{layer.name}.weight", "F32", shape, {}) if layer.kind != "embedding" else layer.kind
    if kind == "experts":
        layer = replace(layer, shape=shape, kind=kind, axis=layer.axis or 1)
    else:
        layer = replace(layer, shape=shape, kind="transposed" if layer.axis and len(shape) > 2 else kind)
    if layer.axis >= len(shape):
        raise InputError(
            f"{layer.name}: its output axis {layer.axis} is not one of its shape {list(shape)}; the file is damaged."
        )
    scheme = targets.scheme(layer.name, layer.kind)
    problem = family_of(scheme).stored_problem(scheme, layer) if scheme else "no scheme"
    if problem:
        raise InputError(f"{layer.name}: {problem}; the file is damaged or its configuration is another model's.")
    return layer
