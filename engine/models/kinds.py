"""Kinds of layers from the modules themselves, where names and shapes were only a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.records.model import Kind, LayerInfo

if TYPE_CHECKING:
    import torch


def exact_kinds(module: torch.nn.Module) -> dict[str, tuple[Kind, int]]:
    """Kind and output axis of parameters and buffers by name; those of modules of unknown types are left out."""
    found: dict[str, tuple[Kind, int]] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        known = _weight_of(part)
        for name, value in [*part._parameters.items(), *part._buffers.items()]:
            full = f"{prefix}.{name}" if prefix else name
            if value is None:
                continue
            if _is_experts(part, value):
                found[full] = ("experts", 2 if getattr(part, "is_transposed", False) else 1)
            elif known is not None:
                found[full] = known if name == "weight" else ("bias", 0) if name == "bias" else ("other", 0)
    return found


def _weight_of(part: Any) -> tuple[Kind, int] | None:
    """What the weight of a module is, from its type; None for a type that is not known."""
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

    if isinstance(part, NonDynamicallyQuantizableLinear):
        return "other", 0  # attention passes it by and takes its weight
    if type(part).__name__ == "Conv1D" and type(part).__module__ == "transformers.pytorch_utils":
        return "linear", 1
    if isinstance(part, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)) or type(part).__name__.endswith("Norm"):
        return "norm", 0
    layers: tuple[tuple[Any, Kind, int], ...] = (
        ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "transposed", 1),
        (nn.Conv1d, "conv1d", 0), (nn.Conv2d, "conv2d", 0), (nn.Conv3d, "conv3d", 0),
        ((nn.Embedding, nn.EmbeddingBag), "embedding", 0), (nn.Linear, "linear", 0),
    )  # fmt: skip
    return next(((kind, axis) for types, kind, axis in layers if isinstance(part, types)), None)


def _is_experts(part: Any, value: Any) -> bool:
    return value.ndim == 3 and "Experts" in type(part).__name__


def corrected(layers: tuple[LayerInfo, ...], known: Mapping[str, tuple[Kind, int]]) -> tuple[LayerInfo, ...]:
    """The layers with what is known of their tensors; kinds of others stay guesses."""
    return tuple(_corrected(layer, known.get(layer.parts[0].name)) for layer in layers)


def _corrected(layer: LayerInfo, known: tuple[Kind, int] | None) -> LayerInfo:
    if known is None or layer.scheme:
        return layer
    kind, axis = known
    if kind not in ("bias", "norm", "other") and len(layer.shape) < 2:
        return layer
    return replace(layer, kind=kind, axis=axis, guessed=False)
