"""The calls that the window, the command line and users make. Every one raises only ``EngineError``s on purpose."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine import planner, recipes
from engine.algorithms import ALGORITHMS, chain, describe
from engine.errors import InputError
from engine.readers import open_path
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import Plan
from engine.records.progress import Monitor
from engine.records.recipe import ActivationInfo, AlgorithmInfo, Recipe, Rule
from engine.records.report import ChannelRanges, Histogram, RunReport
from engine.records.scheme import Scheme, SchemeChoices
from engine.schemes import FAMILIES, family_of, format_scheme
from engine.schemes import parse_scheme as _parse_scheme
from engine.schemes.activations import ACTIVATIONS
from engine.writers import FORMATS, Consumer, Format, format_named

if TYPE_CHECKING:
    import torch

Path = str | os.PathLike[str]
Model = ModelSummary | Path
"""A summary, or the path of what to open."""


def open_model(path: Path) -> ModelSummary:
    """What is in a file or folder, from headers alone: a ``.safetensors``, a model folder (sharded or not), or a
    ``.pt``/``.pth``/``.bin`` state dict.

    Raises InputError: missing, empty, truncated, of another type, lying about itself, or unsafe to open.
    """
    return open_path(path)


def recipe(wanted: Recipe | str) -> Recipe:
    """A recipe from a preset's name (``W4A16``), a scheme's (``int8:channel``), or itself. Raises RecipeError."""
    return wanted if isinstance(wanted, Recipe) else recipes.recipe_for(wanted)


def load_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file. Raises RecipeError naming the key and its line."""
    return recipes.load(os.fspath(path))


def recipe_from_text(text: str) -> Recipe:
    """A recipe from TOML text. Raises RecipeError naming the key and its line."""
    return recipes.loads(text)


def recipe_to_text(wanted: Recipe) -> str:
    """TOML that ``recipe_from_text`` reads back to an equal recipe."""
    return recipes.dumps(wanted)


def presets() -> tuple[Recipe, ...]:
    """Recipes under the ecosystem's names."""
    return recipes.PRESETS


def builtin_rules() -> tuple[Rule, ...]:
    """Rules applied after a recipe's own, unless ``builtin = false``; each has a note saying why."""
    return recipes.BUILTIN_RULES


def describe_rule(rule: Rule) -> str:
    """The conditions of a rule in words."""
    return recipes.describe(rule)


def scheme_choices() -> tuple[SchemeChoices, ...]:
    """What each number family lets a person choose, with examples of names: a form is built from it."""
    return tuple(replace(family.choices, examples=family.examples) for family in FAMILIES)


def algorithm_choices() -> tuple[AlgorithmInfo, ...]:
    """Every algorithm with its options: forms and flags are built from it."""
    return tuple(AlgorithmInfo(a.name, a.title, a.summary, describe(a), a.stage, a.data) for a in ALGORITHMS)


def algorithm_name(text: str) -> str:
    """The canonical text of algorithms and their options, e.g. ``mse:norm=2.4`` or ``awq+gptq``. Raises RecipeError."""
    return str(chain(text))


def activation_choices() -> tuple[ActivationInfo, ...]:
    """What a runtime may be told to do to activations."""
    return ACTIVATIONS


def activations_for(scheme: Scheme) -> tuple[str, ...]:
    """Names of the activations that go with weights of a scheme; float ones always do."""
    return ("none", *family_of(scheme).activations(scheme))


def formats() -> tuple[Format, ...]:
    """Output formats, with title and summary."""
    return FORMATS


def scheme_name(scheme: Scheme) -> str:
    """The canonical name of a scheme, e.g. ``int4:g128``."""
    return format_scheme(scheme)


def parse_scheme(name: str) -> Scheme:
    """The scheme of that name. Raises RecipeError."""
    return _parse_scheme(name)


def plan(model: Model, recipe: Recipe | str, *, format: str | None = None, shard_size: int | None = None) -> Plan:
    """Exact output tensors and bytes, and every problem, before a weight is read.

    ``recipe``: a Recipe, a preset's or a scheme's name. ``format``: see ``formats()``; by default compressed-tensors
    for a folder with a configuration, else one safetensors file. ``shard_size``: bytes of tensors per file.
    Problems are in ``plan.problems`` and do not raise. Raises InputError, RecipeError, PlanError.
    """
    return planner.plan(_opened(model), _recipe(recipe), format, shard_size)


def consumers(plan: Plan) -> tuple[Consumer, ...]:
    """Who loads what this plan writes, and why not."""
    return format_named(plan.format).consumers(plan.summary, plan.layers, plan.recipe.activations)


def quantize(
    model: Model | Plan,
    output: Path,
    recipe: Recipe | str | None = None,
    *,
    format: str | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> RunReport:
    """Quantize a model, or carry out a plan made before, and write the artifact at ``output``.

    Memory does not grow with the model. SQNR (dB) and errors (weight units) are measured on the values that a
    reader of the written file decodes. Raises PlanError, DataError (NaN or Inf: tensor and index), OutputError,
    Cancelled; whatever is raised, nothing half-written stays behind.
    """
    from engine import pipeline

    if isinstance(model, Plan):
        return pipeline.run(model, os.fspath(output), overwrite=overwrite, monitor=monitor)
    made = plan(model, recipe or "W4A16", format=format, shard_size=shard_size)
    return pipeline.run(made, os.fspath(output), overwrite=overwrite, monitor=monitor)


def export(
    artifact: Model,
    output: Path,
    *,
    format: str,
    shard_size: int | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> RunReport:
    """Repackage an artifact in another format; its tensors stay the same to the byte. Raises as ``quantize``."""
    from engine import pipeline

    made = planner.plan_export(_opened(artifact), format, shard_size)
    return pipeline.run(made, os.fspath(output), overwrite=overwrite, monitor=monitor)


def dequantize(
    artifact: Model,
    output: Path,
    *,
    shard_size: int | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> RunReport:
    """Decode every quantized layer to float and write an ordinary checkpoint. Raises as ``quantize``."""
    from engine import pipeline

    made = planner.plan_dequantize(_opened(artifact), shard_size)
    return pipeline.run(made, os.fspath(output), overwrite=overwrite, monitor=monitor)


def load_tensors(model: Model, names: Iterable[str] | None = None) -> "dict[str, torch.Tensor]":
    """Tensors by name, quantized weights decoded to float in their own shape, as a reader of the file sees them.

    ``names``: tensor names (``layers.0.q_proj.weight``) or layer names; all by default.
    Raises InputError for an unknown name or a format that cannot be decoded.
    """
    import torch

    from engine import pipeline
    from engine.readers.source import TensorFiles

    summary = _opened(model)
    if summary.quantized and not summary.quantized.readable:
        raise InputError(f"{summary.name} is {summary.quantized.method}, which cannot be decoded here.")
    chosen = _chosen(summary.layers, names)
    tensors: dict[str, torch.Tensor] = {}
    with TensorFiles(summary) as files:
        for name, layer in chosen:
            raw, dtype = pipeline.decode_layer(files, layer)
            flat = torch.from_numpy(raw).view(_torch_dtype(dtype)) if raw.size else torch.empty(0, dtype=_torch_dtype(dtype))
            tensors[name] = flat.reshape(layer.shape)
    return tensors


def layer_histogram(model: Model, name: str) -> tuple[Histogram, ChannelRanges]:
    """Distribution of one float layer's weights: 256 bins over [-max, max], and the range of each channel."""
    from engine import pipeline
    from engine.records.dtypes import FLOATS

    (_, layer), *_rest = _chosen(_opened(model).layers, [name])
    if layer.scheme or layer.dtype not in FLOATS or not layer.parameters:
        raise InputError(f"{name} holds {layer.scheme or layer.dtype}, which has no histogram of float weights.")
    return pipeline.histogram(_opened(model), layer)


def _opened(model: Model) -> ModelSummary:
    return model if isinstance(model, ModelSummary) else open_path(model)


def _recipe(wanted: Recipe | str) -> Recipe:
    return recipe(wanted)


def _chosen(layers: Sequence[LayerInfo], names: Iterable[str] | None) -> list[tuple[str, LayerInfo]]:
    by_tensor = {_tensor_name(layer): layer for layer in layers}
    if names is None:
        return list(by_tensor.items())
    by_layer = {layer.name: tensor for tensor, layer in by_tensor.items()}
    chosen = []
    for name in names:
        tensor = name if name in by_tensor else by_layer.get(name)
        if tensor is None:
            raise InputError(f"There is no tensor or layer called {name!r}.")
        chosen.append((tensor, by_tensor[tensor]))
    return chosen


def _tensor_name(layer: LayerInfo) -> str:
    return layer.parts[0].name.removesuffix("_packed") if layer.scheme else layer.parts[0].name


def _torch_dtype(dtype: str) -> "torch.dtype":
    import torch

    names = {
        "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "I8": "int8", "U8": "uint8",
        "I16": "int16", "I32": "int32", "I64": "int64", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2", "U16": "uint16", "U32": "uint32", "U64": "uint64", "F8_E8M0": "float8_e8m0fnu",
        "C64": "complex64", "C128": "complex128",
    }  # fmt: skip
    if dtype not in names:
        raise InputError(f"torch has no type for {dtype} tensors.")
    return getattr(torch, names[dtype])
