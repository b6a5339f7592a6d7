"""Which rule of a recipe decides each layer, and what every rule comes to: rules that are overtaken or match nothing included."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import RecipeError
from engine.planning.recipes import BUILTIN_RULES, describe, exact_name, matcher
from engine.records.model import LayerInfo
from engine.records.plan import RuleEffect
from engine.records.recipe import Recipe, Rule
from engine.records.scheme import Scheme

MOST = 20_000_000
"""Comparisons of a rule with a layer's name: about ten seconds. 200 patterns on 90,000 layers are 18 million."""


_NOTHING = RuleEffect("own", 0, 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule asks for, in the words that the plan shows. ``firm`` when the user named these layers."""

    scheme: Scheme
    algorithm: str
    words: str
    firm: bool


def choices(recipe: Recipe) -> tuple[Choice, ...]:
    """The recipe's own rules, the built-in ones unless switched off, and last the default."""
    own = [Choice(rule.scheme, rule.algorithm, f"rule {n}: {describe(rule)}", True) for n, rule in enumerate(recipe.rules, 1)]
    given = [Choice(rule.scheme, rule.algorithm, f"built-in: {rule.note}", False) for rule in _builtin(recipe)]
    return (*own, *given, Choice(recipe.default, recipe.algorithm, "default", False))


def decide(layers: Sequence[LayerInfo], recipe: Recipe) -> tuple[list[int], tuple[RuleEffect, ...]]:
    """For each layer the place of what decides it among ``choices``, and the effect of each of those: the first match wins.

    A rule for one layer by its name costs nothing for the others, so that a recipe may have thousands of them. Raises RecipeError
    for more patterns than can be compared with so many layers.
    """
    _check_work(recipe, len(layers))
    places = {layer.name: place for place, layer in enumerate(layers)}
    deciders: list[int | None] = [None] * len(layers)
    effects: list[RuleEffect] = []
    for number, rule in enumerate(recipe.rules):
        matched = matching(rule, layers, places)
        if not matched:
            effects.append(_NOTHING)
            continue
        taken = Counter(before for place in matched if (before := deciders[place]) is not None)
        for place in matched:
            if deciders[place] is None:
                deciders[place] = number
        effects.append(RuleEffect("own", len(matched) - taken.total(), len(matched), tuple(sorted(taken.items()))))
    first = len(recipe.rules)
    builtin = [matcher(rule) for rule in _builtin(recipe)]
    default = first + len(builtin)
    open_ = [place for place, decider in enumerate(deciders) if decider is None]
    for place in open_:
        layer = layers[place]
        deciders[place] = next((first + n for n, matches in enumerate(builtin) if matches(layer)), default)
    decided = Counter(deciders[place] for place in open_)
    effects += [RuleEffect("builtin", decided[first + n], decided[first + n]) for n in range(len(builtin))]
    effects.append(RuleEffect("default", decided[default], decided[default]))
    return [default if decider is None else decider for decider in deciders], tuple(effects)


def _check_work(recipe: Recipe, layers: int) -> None:
    patterns = sum(exact_name(rule) is None for rule in recipe.rules)
    if patterns * layers > MOST:
        raise RecipeError(
            f"The recipe's {patterns:,} patterns cannot be compared with {layers:,} layers ({MOST // layers:,} are the most); "
            "write fewer, or name single layers."
        )


def matching(rule: Rule, layers: Sequence[LayerInfo], places: dict[str, int]) -> list[int]:
    """Places of the layers that a rule matches, whatever other rules say; ``places`` are those of every name."""
    name = exact_name(rule)
    if name is None:
        matches = matcher(rule)
        return [place for place, layer in enumerate(layers) if matches(layer)]
    place = places.get(name)
    return [place] if place is not None and matcher(rule)(layers[place]) else []


def _builtin(recipe: Recipe) -> tuple[Rule, ...]:
    return BUILTIN_RULES if recipe.builtin else ()
