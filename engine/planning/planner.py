"""Summary and recipe to Plan: instant, without torch, without a byte of tensor data."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.algorithms import chain
from engine.allocator import no_collection
from engine.errors import PlanError
from engine.planning.deciding import Choice, choices, decide
from engine.readers.kinds import fused_with
from engine.readers.prequantized import RUNTIME_PARTS, configuration
from engine.records.dtypes import FLOATS, scale_dtype
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import CalibrationNeed, FilePlan, LayerPlan, PartPlan, Plan, Problem
from engine.records.recipe import Recipe
from engine.records.scheme import KEEP, Scheme
from engine.schemes import family_of, format_scheme, parse_scheme
from engine.schemes.activations import ACTIVATIONS, quantizes
from engine.schemes.activations import parts as input_parts
from engine.schemes.base import OWN, part
from engine.schemes.grouping import Matrix
from engine.writers import Format, format_named
from engine.writers.configuration import activations_of, quantization_config

MIN_SHARD = 1_000_000


def plan(summary: ModelSummary, recipe: Recipe, format: str | None = None, shard_size: int | None = None) -> Plan:
    """Resolve a recipe against a model.

    ``format``: an output format's name; by default compressed-tensors for a folder with a configuration, when that can hold
    the recipe's schemes, else one safetensors file. ``shard_size``: largest shard in bytes of tensors. Problems do not raise:
    they are in ``plan.problems``. Raises RecipeError for an unknown format, PlanError for an impossible shard size.
    """
    with no_collection():
        return _plan(summary, recipe, format, shard_size)


def _plan(summary: ModelSummary, recipe: Recipe, format: str | None, shard_size: int | None) -> Plan:
    form = _format(summary, format or (_fitting_format(recipe) if summary.config is not None else None))
    problems: list[Problem] = []
    asked = choices(recipe)
    deciders, effects = decide(summary.layers, recipe)
    resolved = [
        _resolve(layer, asked[place], form, recipe.activations, problems, place)
        for layer, place in zip(summary.layers, deciders, strict=True)
    ]
    layers = _with_fused(resolved)
    if summary.quantized:
        problems.append(Problem("error", already_quantized(summary)))
    elif all(line.kept for line in layers):
        problems.append(Problem("warning", "No layer is quantized: every rule keeps what it matches."))
    problems += _activation_problems(layers, recipe.activations)
    made = _finish(summary, recipe, form, layers, problems, quantization_config(layers, recipe.activations), shard_size)
    return replace(made, rules=effects)


def plan_export(summary: ModelSummary, format: str, shard_size: int | None = None) -> Plan:
    """Repackage an artifact: the same tensors, byte for byte, in another container. Raises PlanError."""
    if summary.quantized and not summary.quantized.readable:
        raise PlanError(f"{summary.name} is {summary.quantized.method}, which cannot be exported from here.")
    config = configuration(summary.config, summary.metadata)
    layers = tuple(
        LayerPlan(layer, scheme, layer.scheme or "keep", "", "as stored", _copies(layer))
        for layer in summary.layers
        for scheme in [parse_scheme(layer.scheme) if layer.scheme else KEEP]
    )
    recipe = Recipe(activations=activations_of(config) if config else "none")
    return _finish(summary, recipe, _format(summary, format), layers, [], config, shard_size)


def plan_save(summary: ModelSummary, activations: str) -> Plan:
    """Tensors of a module, quantized layers among them, as one file that describes itself. Raises PlanError."""
    layers = tuple(
        LayerPlan(layer, scheme, layer.scheme or "keep", "", "as held", _copies(layer))
        for layer in summary.layers
        for scheme in [parse_scheme(layer.scheme) if layer.scheme else KEEP]
    )
    config = quantization_config(layers, activations)
    return _finish(summary, Recipe(activations=activations), format_named("safetensors"), layers, [], config, None)


def plan_trial(summary: ModelSummary, layer: LayerInfo, scheme: Scheme, algorithm: str, activations: str = "none") -> Plan:
    """One scheme for one layer of a model, and for those that a runtime fuses with it, without files: to be tried in memory.

    Why it cannot be applied is among ``problems``.
    """
    names = {layer.name, *(fused_with(layer.name) if family_of(scheme).shares_limit else ())}
    choice = Choice(scheme, algorithm, "tried", True)
    problems: list[Problem] = []
    form = _format(summary, None)
    lines = [_resolve(other, choice, form, activations, problems) for other in summary.layers if other.name in names]
    problems += _activation_problems(lines, activations)
    own = tuple(problem for problem in problems if problem.layer == layer.name)
    return Plan(summary, Recipe(scheme, algorithm, activations=activations), form.name, _with_fused(lines), (), own)


def plan_dequantize(summary: ModelSummary, shard_size: int | None = None) -> Plan:
    """Decode every quantized layer to float, in the container the artifact has. Raises PlanError."""
    if summary.quantized is None:
        raise PlanError(f"{summary.name} is not quantized: there is nothing to decode.")
    if not summary.quantized.readable:
        raise PlanError(f"{summary.name} is {summary.quantized.method}, which cannot be decoded here.")
    layers = tuple(
        LayerPlan(layer, KEEP, "keep", "", "decoded", _decoded(layer) if layer.scheme else _copies(layer))
        for layer in summary.layers
        if not layer.name.endswith(RUNTIME_PARTS)
    )
    return _finish(summary, Recipe(), _format(summary, None), layers, [], None, shard_size)


def require_runnable(plan: Plan) -> None:
    """Raise PlanError with the first problem that stops a run, and how many more there are."""
    messages = [problem.message for problem in plan.errors]
    if messages:
        more = f" (and {len(messages) - 1} more problems; see `mono-quant plan`)" if len(messages) > 1 else ""
        raise PlanError(messages[0] + more, details="\n".join(messages))


def already_quantized(summary: ModelSummary) -> str:
    """The sentence for a model that cannot be quantized again."""
    assert summary.quantized
    how = f"{summary.quantized.method} {summary.quantized.detail}".strip()
    remedy = "decode it first with `mono-quant dequantize`" if summary.quantized.readable else "open the float original"
    return f"{summary.name} is already quantized ({how}); {remedy}."


def _format(summary: ModelSummary, name: str | None) -> Format:
    return format_named(name or ("compressed-tensors" if summary.config is not None else "safetensors"))


def _fitting_format(recipe: Recipe) -> str | None:
    """The format that holds numbers which compressed-tensors has no name for; None when the usual one will do."""
    schemes = [recipe.default, *(rule.scheme for rule in recipe.rules)]
    args = [family_of(scheme).quantization_args(scheme) for scheme in schemes]
    return "safetensors" if any(a and a["type"] == OWN for a in args) else None


def _with_fused(lines: list[LayerPlan]) -> tuple[LayerPlan, ...]:
    """Lines that know the layers with which they must share a scale of the whole tensor."""
    schemes = {line.layer.name: line.scheme for line in lines}
    return tuple(
        replace(line, fused=tuple(n for n in fused_with(line.layer.name) if schemes.get(n) == line.scheme))
        if family_of(line.scheme).shares_limit
        else line
        for line in lines
    )


def _resolve(
    layer: LayerInfo, choice: Choice, form: Format, activations: str, problems: list[Problem], place: int | None = None
) -> LayerPlan:
    scheme, words = choice.scheme, choice.words
    if scheme.family != "keep":
        if not layer.parameters:
            scheme, words = KEEP, "no elements"
        elif layer.scheme or (not choice.firm and layer.dtype not in FLOATS):
            scheme, words = KEEP, f"{layer.scheme or layer.dtype} passes through"
        elif not choice.firm and family_of(scheme).quantization_args(scheme) and (reason := form.keeps(layer)):
            scheme, words = KEEP, reason
        else:
            found = family_of(scheme).problems(scheme, layer)
            if not found and family_of(scheme).quantization_args(scheme):
                found = [text for step in chain(choice.algorithm).steps for text in [step.algorithm.obstacle(scheme)] if text][:1]
            problems.extend(Problem("error", f"{layer.name}: {text}.", layer.name) for text in found)
            if found:
                scheme = KEEP
    family = family_of(scheme)
    parts = family.parts(scheme, layer, activations)
    if quantizes(activations, layer, family.quantization_args(scheme) is not None):
        parts += input_parts(activations, layer, scale_dtype(layer.dtype))
    return LayerPlan(layer, scheme, format_scheme(scheme), choice.algorithm, words, parts, decided_by=place)


def _activation_problems(layers: Sequence[LayerPlan], activations: str) -> list[Problem]:
    if activations == "none":
        return []
    info = next(info for info in ACTIVATIONS if info.name == activations)
    problems = []
    for line in layers:
        name, scheme, family = line.layer.name, line.scheme, family_of(line.scheme)
        if not quantizes(activations, line.layer, family.quantization_args(scheme) is not None):
            continue
        if activations not in family.activations(scheme):
            what = f"{name}: {activations} activations do not go with {line.scheme_name}. {info.summary}"
            problems.append(Problem("error", what, name))
        elif scheme.granularity == "block" and line.layer.shape[-1] % (scheme.group or 1):
            # Activations are quantized in groups as wide as the blocks, and those must be whole.
            what = f"groups of {scheme.group} activations do not divide {line.layer.shape[-1]} input values"
            problems.append(Problem("error", f"{name}: {what}; keep the layer, or use FP8_DYNAMIC.", name))
    return problems


def _copies(layer: LayerInfo) -> tuple[PartPlan, ...]:
    return tuple(part(t.name, t.dtype, t.shape, "copy") for t in layer.parts)


def _decoded(layer: LayerInfo) -> tuple[PartPlan, ...]:
    name = layer.parts[0].name.removesuffix("_packed")
    return (part(name, layer.dtype, layer.shape, "decoded"),)


def _finish(
    summary: ModelSummary,
    recipe: Recipe,
    form: Format,
    layers: tuple[LayerPlan, ...],
    problems: list[Problem],
    quantization: dict[str, Any] | None,
    shard_size: int | None,
) -> Plan:
    if shard_size is not None and shard_size < MIN_SHARD:
        raise PlanError(f"A shard of {shard_size:,} bytes is too small; use at least {MIN_SHARD:,}.")
    if shard_size is not None and not form.is_folder:
        raise PlanError(f"The {form.title} is one file: leave out the shard size, or choose a folder format.")
    problems += form.problems(summary, layers) + _collisions(layers)
    problems += [Problem("warning", text) for text in summary.problems]
    files: tuple[FilePlan, ...] = ()
    if not any(p.severity == "error" and p.layer is None for p in problems):
        files = form.files(summary, layers, quantization, shard_size)
    return Plan(summary, recipe, form.name, layers, files, tuple(problems), _need(layers))


def _need(layers: Sequence[LayerPlan]) -> CalibrationNeed | None:
    """What calibration a plan cannot do without; blocks are told apart by the first number in a name."""
    steps: dict[str, None] = {}
    counted, given = 0, ""
    blocks: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
    widths: Counter[int] = Counter()
    work = 0
    for line in layers:
        static = any(part.role == "given" for part in line.parts)
        chosen = [] if line.kept or not line.algorithm else [s.algorithm for s in chain(line.algorithm).steps if s.algorithm.data]
        steps.update(dict.fromkeys(algorithm.name for algorithm in chosen))
        counted += bool(chosen) or static
        given = "static activations" if static else given
        if chosen or static:
            matrix = Matrix.of(line.layer)
            key = (next((fused[0] for fused in [sorted((line.layer.name, *fused_with(line.layer.name)))]), ""), matrix.cols)
            second = any(algorithm.second for algorithm in chosen)
            blocks[_block_of(line.layer.name)][key] = matrix.slices * matrix.cols * (40 + (4 * matrix.cols if second else 0))
            weight = line.layer.nbytes + 4 * matrix.rows * matrix.cols  # as it is stored, and in float32
            work = max([work, *(algorithm.memory(matrix.rows, matrix.cols) + weight for algorithm in chosen)])
            # Most layers of a block take in what goes from block to block.
            widths[line.layer.nbytes // max(matrix.rows * matrix.slices, 1)] += bool(_block_of(line.layer.name))
    if not counted:
        return None
    most = max(sum(records.values()) for records in blocks.values())
    vector = max(widths, key=lambda size: widths[size]) if any(widths.values()) else 0
    return CalibrationNeed(tuple(steps), counted, given, most + work, vector)


def _block_of(name: str) -> str:
    found = re.match(r"(.*?\.\d+)\.", name)
    return found[1] if found else ""


def _collisions(layers: Sequence[LayerPlan]) -> list[Problem]:
    """Two output tensors of one name: a model may already have a tensor called like a scale."""
    owner: dict[str, str] = {}
    problems = []
    for line in layers:
        for item in line.parts:
            if item.name in owner:
                what = (
                    f"{line.layer.name}: its output {item.name} collides with a tensor of {owner[item.name]}; keep one of them."
                )
                problems.append(Problem("error", what, line.layer.name))
            owner[item.name] = line.layer.name
    return problems
