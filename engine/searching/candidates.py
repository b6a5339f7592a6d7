"""Which layers a search decides, and what each scheme would store for them, as the planner has it: to the byte."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.errors import PlanError, RecipeError
from engine.planning import planner
from engine.planning.recipes import HEAD, matcher
from engine.readers.kinds import FUSED
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import LayerPlan, Plan
from engine.records.recipe import Recipe, Rule
from engine.records.scheme import KEEP, Scheme
from engine.records.search import SearchSpace
from engine.schemes import format_scheme, parse_scheme
from engine.writers import format_named

POLICIES = ("keep", "search")
NOWHERE = "re:(?!)"
"""A pattern that matches no layer."""
_NO_DIGITS = {ord(digit): None for digit in "0123456789"}


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a search chooses from.

    plans     of the model under each scheme
    lines     of every layer searched, its plan line under each scheme that can be applied to it, ``keep`` always among them
    problems  of every layer searched, why the other schemes cannot
    dropped   schemes that were left out, and why
    fixed     rules that go before the search's own: what embeddings and the head are to have
    """

    summary: ModelSummary
    space: SearchSpace
    format: str
    schemes: tuple[str, ...]
    plans: Mapping[str, Plan]
    lines: Mapping[str, Mapping[str, LayerPlan]]
    problems: Mapping[str, Mapping[str, str]]
    dropped: Mapping[str, str]
    fixed: tuple[Rule, ...]

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers searched, in file order."""
        return tuple(lines["keep"].layer for lines in self.lines.values())

    def uniform(self, scheme: str) -> Recipe:
        """Every layer searched under one scheme, where it can be applied."""
        return Recipe(parse_scheme(scheme), self.space.algorithm, (*self.fixed, *_opened(self.space, parse_scheme(scheme))))


def candidates(summary: ModelSummary, space: SearchSpace) -> Candidates:
    """Plan the model under every scheme. Raises RecipeError for an unknown name, PlanError where nothing is left to search."""
    if summary.quantized:
        raise PlanError(planner.already_quantized(summary))
    names = tuple(dict.fromkeys(format_scheme(parse_scheme(name)) for name in space.schemes))
    names = tuple(name for name in names if name != "keep")
    space = replace(space, schemes=names)
    fixed = _fixed(space)
    form = _format(summary, space, names)
    plans, dropped = {}, {}
    for name in names:
        scheme = parse_scheme(name)
        recipe = Recipe(scheme, space.algorithm, (*fixed, *_opened(space, scheme)))
        plans[name] = planner.plan(summary, recipe, form)
        if reason := _refusal(plans[name], space.loads):
            dropped[name] = reason
            del plans[name]
    if not plans:
        first = next(iter(dropped.items()), None)
        why = f"{space.loads} does not load {first[0]}: {first[1]}" if first else "no scheme was named"
        raise PlanError(f"There is nothing to choose from ({why}).")
    lines, problems = _by_layer(summary, plans, {line for rule in fixed for line in _names_of(summary, rule)})
    if not lines:
        raise PlanError(f"{summary.name} has no layer that any of {', '.join(plans)} can be applied to.")
    return Candidates(summary, space, form, tuple(plans), plans, lines, problems, dropped, fixed)


def one_of_each(summary: ModelSummary) -> tuple[ModelSummary, dict[str, list[str]]]:
    """A model of one layer of each sort, and by its name those of all layers of that sort.

    They differ in nothing but the numbers in their names, by which no rule of a search tells layers apart.
    """
    alike: dict[tuple[object, ...], list[str]] = {}
    first = []
    for layer in summary.layers:
        strided = any(part.strides is not None for part in layer.parts)
        key = (layer.name.translate(_NO_DIGITS), layer.kind, layer.shape, layer.dtype, layer.axis, layer.scheme, strided)
        names = alike.get(key)
        if names is None:
            alike[key] = [layer.name]
            first.append(layer)
        else:
            names.append(layer.name)
    return replace(summary, layers=tuple(first)), {names[0]: names for names in alike.values()}


def ties(found: Candidates) -> tuple[tuple[str, ...], ...]:
    """The layers searched, in file order, those that must have one scheme together."""
    keys: dict[str, list[str]] = defaultdict(list)
    for name in found.lines:
        keys[_tie(name) if found.space.tied else name].append(name)
    return tuple(map(tuple, keys.values()))


def _tie(name: str) -> str:
    """What layers have in common that a runtime joins: q/k/v, gate/up, and all experts of a block."""
    stem, found, _ = name.partition(".experts.")
    if found:
        return stem + found
    stem, _, last = name.rpartition(".")
    members = next((members for members in FUSED if last in members), ())
    return f"{stem}.{'+'.join(members)}" if members else name


def _fixed(space: SearchSpace) -> tuple[Rule, ...]:
    """Rules for embeddings and the head where they are to have one scheme, whatever the search says."""
    return _apart(space, {policy: parse_scheme(policy) for policy in (space.head, space.embeddings) if policy not in POLICIES})


def _opened(space: SearchSpace, scheme: Scheme) -> tuple[Rule, ...]:
    """Rules that take embeddings and the head from the built-in ones, which keep them."""
    return _apart(space, {"search": scheme})


def _apart(space: SearchSpace, schemes: Mapping[str, Scheme]) -> tuple[Rule, ...]:
    """Rules for the head and for embeddings, where their policy is one of these."""
    head = [Rule(schemes[space.head], space.algorithm, match=HEAD)] if space.head in schemes else []
    return (*head, *([Rule(schemes[space.embeddings], space.algorithm, kind="embedding")] if space.embeddings in schemes else []))


def _format(summary: ModelSummary, space: SearchSpace, names: tuple[str, ...]) -> str:
    """One format for all: a plan of a recipe that knows every scheme tells which."""
    if space.format:
        return format_named(space.format).name
    if space.loads and summary.config is not None:
        return "compressed-tensors"
    every = Recipe(KEEP, rules=tuple(Rule(parse_scheme(name), match=NOWHERE) for name in names))
    return planner.plan(summary, every).format


def _refusal(plan: Plan, program: str) -> str:
    """Why a program does not load what a plan writes; empty where it does or nobody asked."""
    if not program:
        return ""
    known = format_named(plan.format).consumers(plan.summary, plan.layers, plan.recipe.activations)
    found = next((consumer for consumer in known if consumer.name.lower() == program.lower()), None)
    if found is None:
        raise RecipeError(f"{program!r} is none of the programs that may load {plan.format}: {', '.join(c.name for c in known)}.")
    return found.reason if found.loads == "no" else ""


def require_loads(plan: Plan, program: str) -> None:
    """Raise PlanError where a program that must load the result does not."""
    if reason := _refusal(plan, program):
        raise PlanError(f"{program} would not load this: {reason}.")


def _names_of(summary: ModelSummary, rule: Rule) -> list[str]:
    matches = matcher(rule)
    return [layer.name for layer in summary.layers if matches(layer)]


def _by_layer(
    summary: ModelSummary, plans: Mapping[str, Plan], settled: set[str]
) -> tuple[dict[str, dict[str, LayerPlan]], dict[str, dict[str, str]]]:
    lines: dict[str, dict[str, LayerPlan]] = {}
    problems: dict[str, dict[str, str]] = {}
    kept = {line.layer.name: line for line in planner.plan(summary, Recipe(KEEP, builtin=False)).layers}
    errors = {name: {p.layer: p.message for p in plan.errors if p.layer} for name, plan in plans.items()}
    for number, layer in enumerate(summary.layers):
        if layer.name in settled:
            continue
        under = {name: plan.layers[number] for name, plan in plans.items()}
        failed = {name: errors[name][layer.name] for name in plans if layer.name in errors[name]}
        usable = {name: line for name, line in under.items() if not line.kept and name not in failed}
        if usable:
            lines[layer.name] = usable | {"keep": kept[layer.name]}
            problems[layer.name] = failed
    return lines, problems
