"""What a call on a module asks for: a scheme from a type or a width, options as one record, and which layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from engine import choices
from engine.errors import InputError
from engine.in_memory.validating import check_choice
from engine.models.base import RunnableModel
from engine.nn.modules import CONVOLUTIONS
from engine.records.quantization import QuantizationConfig
from engine.records.recipe import Recipe
from engine.records.scheme import Scheme
from engine.schemes import format_scheme, parse_scheme
from engine.schemes.activations import NONE

QUANTIZABLE: tuple[type[torch.nn.Module], ...] = (torch.nn.Linear, *CONVOLUTIONS)
"""Layers that are quantized unless ``layer_types`` says otherwise."""
HOLDS_CODES = (*QUANTIZABLE, torch.nn.Embedding)
_WORDS = {
    "qint8": 8, "quint8": 8, "int8": 8, "uint8": 8, "quint4x2": 4, "int4": 4, "uint4": 4, "quint2x4": 2, "int2": 2, "uint2": 2,
}  # fmt: skip
"""Bits of torch's integer types."""
_FLOATS = {"float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_EIGHT = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2"}
Names = str | Iterable[str] | None
Types = Any
"""Classes of modules, or names of classes; one or several."""


def scheme_for(
    dtype: Any, *, symmetric: bool = True, per_channel: bool = True, group_size: int | None = 128, bits: int | None = None
) -> Scheme:
    """The scheme that a torch type, a scheme's name or a width stands for.

    Eight bits take a scale per channel (``per_channel``) or per tensor; fewer take groups of ``group_size``, or where that is
    None or 0 what 8 bits take. Raises InputError for a type that no scheme stands for, RecipeError for a wrong name.
    """
    if isinstance(dtype, Scheme):
        return dtype
    if isinstance(dtype, str) and dtype not in {*_WORDS, *_FLOATS, *_EIGHT}:
        return parse_scheme(dtype)
    word = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    width = bits if dtype is None else _WORDS.get(word)
    whole = "channel" if per_channel else "tensor"
    if word in _FLOATS or width == 16:
        return parse_scheme(_FLOATS.get(word, "fp16"))
    if word in _EIGHT:
        return parse_scheme(f"{_EIGHT[word]}:{whole}")
    if width is None or not 2 <= width <= 8:
        known = ", ".join([*_WORDS, *_FLOATS, *_EIGHT])
        raise InputError(
            f"Weights cannot be quantized to {bits if dtype is None else dtype}; choose {known}, or a scheme's name."
        )
    granularity = f"g{group_size}" if width < 8 and per_channel and group_size else whole
    return parse_scheme(f"int{width}:{granularity}" + ("" if symmetric else ":asym"))


def config_of(config: QuantizationConfig | None, given: Mapping[str, Any], dtype: Any) -> QuantizationConfig:
    """Options of a call: those of ``config``, and before them arguments that differ from their defaults."""
    default = QuantizationConfig(dtype=dtype)
    start = default if config is None else replace(config, dtype=dtype if config.dtype is None else config.dtype)
    plural = {item.name for item in fields(QuantizationConfig) if "tuple" in str(item.type)}
    changed = {key: _several(value) if key in plural and value is not None else value for key, value in given.items()}
    changed = {key: value for key, value in changed.items() if value != getattr(default, key)}
    changed = {key: value for key, value in changed.items() if value is not None or key == "group_size"}
    made = replace(start, **changed)
    for name in ("on_failure", "accuracy_warning"):
        check_choice(name, getattr(made, name))
    if made.num_calibration_samples < 1:
        raise InputError("num_calibration_samples must be at least 1.")
    return made


def _several(given: Any) -> tuple[Any, ...]:
    return (given,) if isinstance(given, (str, type)) else tuple(given)


def recipe_of(
    bits: int | None, scheme: Any, dynamic: bool, data: bool, symmetric: bool, group_size: int | None, algorithm: str
) -> Recipe:
    if bits is not None and scheme is not None:
        raise InputError("Give bits or a scheme, not both.")
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or bits not in (*range(2, 9), 16)):
        raise InputError(f"bits is a whole number from 2 to 8, or 16, not {bits!r}.")
    if isinstance(scheme, Recipe):
        if algorithm != "rtn":
            raise InputError("A recipe names its own algorithm; leave the argument out.")
        return scheme
    if scheme is None:
        default = scheme_for(None, bits=bits or 8, symmetric=symmetric, group_size=group_size)
        recipe = Recipe(default=default, builtin=bits != 16)
    else:
        recipe = Recipe(default=scheme) if isinstance(scheme, Scheme) else choices.recipe(scheme)
    able = choices.activations_for(recipe.default)
    if dynamic and recipe.activations == NONE:
        found = next((name for name in ("int8:token", "fp8:token", "mxfp8", "mxfp4") if name in able), None)
        if found is None:
            what = format_scheme(recipe.default)
            raise InputError(f"Inputs cannot be quantized at run time with {what} weights; use bits=8 or an fp8 scheme.")
        recipe = replace(recipe, activations=found)
    elif data and scheme is None and recipe.activations == NONE:
        recipe = replace(recipe, activations="int8:static" if "int8:static" in able else NONE)
    return replace(recipe, algorithm=choices.algorithm_name(algorithm)) if algorithm != "rtn" else recipe


def selected(loaded: RunnableModel, asked: QuantizationConfig) -> tuple[list[str], list[str]]:
    """Names of the layers to quantize, and of those that could be and are left. Raises InputError where none is left."""
    module = loaded.module
    types = QUANTIZABLE if asked.layer_types is None else asked.layer_types
    chosen, skipped = [], []
    for name, part in module.named_modules():
        weight = getattr(part, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim < 2:
            continue
        wanted = (
            type(part) in HOLDS_CODES
            and _is_any(part, types)
            and not _is_any(part, (*asked.skip_types, *asked.skip_layer_types))
            and (asked.layer_names is None or _named(name, asked.layer_names))
            and not _named(name, (*asked.skip_names, *asked.skip_layer_names))
            and not any(_within(name, other) for other in asked.modules_to_not_convert)
            and weight.numel() >= asked.skip_param_threshold
            and weight.is_floating_point()
        )
        (chosen if wanted else skipped).append(name)
    for pattern in asked.layer_names or ():
        if not any(_named(name, (pattern,)) for name in (*chosen, *skipped)):
            raise InputError(f"layer_names: {pattern!r} matches no layer of {type(module).__name__}.")
    # A weight that another layer has too is quantized for both or for neither.
    ties = [[_module_of(name) for name in (layer.parts[0].name, *layer.tied)] for layer in loaded.summary.layers if layer.tied]
    apart = {name for names in ties if not set(names) <= set(chosen) for name in names}
    skipped += [name for name in chosen if name in apart]
    chosen = [name for name in chosen if name not in apart]
    if not chosen:
        raise InputError(f"No layer of {type(module).__name__} is left to quantize.")
    return chosen, skipped


def _module_of(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _is_any(part: torch.nn.Module, types: Sequence[Any]) -> bool:
    return any(type(part).__name__ == kind if isinstance(kind, str) else isinstance(part, kind) for kind in types)


def _named(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _within(name: str, module: str) -> bool:
    """Whether a layer is a module, or inside it; a module is named wholly, by its last parts, or by a glob pattern."""
    parts = name.split(".")
    stems = [".".join(parts[first:last]) for first in range(len(parts)) for last in range(first + 1, len(parts) + 1)]
    return module in stems or fnmatch.fnmatchcase(name, module)
