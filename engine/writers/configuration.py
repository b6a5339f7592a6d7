"""The ``quantization_config`` that tells readers what the tensors are (compressed-tensors' own vocabulary)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from engine.records.plan import LayerPlan
from engine.records.scheme import Scheme
from engine.schemes import family_of
from engine.schemes.activations import NONE, arguments, name_of, quantizes
from engine.schemes.base import OWN

VERSION = "0.20.0"
"""Release of compressed-tensors whose configuration this follows."""


def quantization_config(layers: Sequence[LayerPlan], activations: str) -> dict[str, Any] | None:
    """One group per scheme and storage; None when no layer needs a reader to know its scheme."""
    groups: dict[tuple[Scheme, str, str], list[LayerPlan]] = defaultdict(list)
    for line in layers:
        if _is_quantized(line):
            groups[line.scheme, _storage(line, activations), _inputs(line, activations)].append(line)
    if not groups:
        return None
    formats = {storage for _, storage, _ in groups}
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    by_class = len(ordered) == 1 and all(line.layer.kind == "linear" for line in ordered[0][1])
    return {
        "quant_method": OWN if OWN in formats else "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": {
            f"group_{number}": _group(scheme, storage, inputs, lines, by_class)
            for number, ((scheme, storage, inputs), lines) in enumerate(ordered)
        },
        "ignore": _ignored(layers) if by_class else [],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "version": VERSION,
    }


def activations_of(config: dict[str, Any]) -> str:
    """The recipe's word for the activations that a configuration asks for."""
    groups = config.get("config_groups")
    found = [g for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    names = [name_of(group.get("input_activations")) for group in found]
    return next((name for name in names if name != NONE), NONE)


def _is_quantized(line: LayerPlan) -> bool:
    return family_of(line.scheme).quantization_args(line.scheme) is not None


def targets_by_name(layers: Sequence[LayerPlan]) -> bool:
    """Whether readers must find modules by name: more than one group, or kept matrices other than the head."""
    chosen = {(line.scheme, line.layer.kind) for line in layers if _is_quantized(line)}
    kept = [line for line in layers if line.layer.kind == "linear" and not _is_quantized(line) and line.layer.name not in HEADS]
    return len(chosen) > 1 or bool(kept)


def _storage(line: LayerPlan, activations: str) -> str:
    return family_of(line.scheme).storage(line.scheme, line.parts, _inputs(line, activations))


def _inputs(line: LayerPlan, activations: str) -> str:
    """What is done to this layer's inputs."""
    return activations if quantizes(activations, line.layer, _is_quantized(line)) else NONE


def _group(scheme: Scheme, storage: str, inputs: str, lines: Sequence[LayerPlan], by_class: bool) -> dict[str, Any]:
    return {
        "targets": ["Linear"] if by_class else [line.layer.name for line in lines],
        "weights": family_of(scheme).quantization_args(scheme),
        "input_activations": arguments(inputs, scheme),
        "output_activations": None,
        "format": storage,
    }


HEADS = (
    "lm_head", "proj_out", "cls.predictions.decoder", "lm_head.decoder", "predictions.decoder", "generator_lm_head", "embed_out",
)  # fmt: skip
"""Output heads of transformers' models: often tied, so not on disk, but Linear modules all the same."""

RENAMED_HEADS = {"embed_out": "lm_head"}
"""Heads that transformers 5 calls otherwise than the file does (its ``conversion_mapping``, GPT-NeoX)."""


def _ignored(layers: Sequence[LayerPlan]) -> list[str]:
    """Matrices that stay float, whatever their kind is taken for; and heads that may be tied and so not on disk."""
    names = {line.layer.name for line in layers if len(line.layer.shape) == 2}
    kept = [
        line.layer.name
        for line in layers
        if len(line.layer.shape) == 2 and line.layer.kind != "embedding" and not _is_quantized(line)
    ]
    if not names.intersection(HEADS):
        return [*kept, *HEADS]
    return [*kept, *(RENAMED_HEADS[name] for name in kept if name in RENAMED_HEADS)]
