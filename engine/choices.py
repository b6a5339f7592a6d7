"""What can be chosen, by name: recipes and their text, number formats, algorithms, activations, observers, output formats."""

from __future__ import annotations

import os
from dataclasses import replace

from engine import schemes
from engine.algorithms import ALGORITHMS, chain, describe
from engine.planning import recipe_files, recipes
from engine.records.recipe import ActivationInfo, AlgorithmInfo, Recipe, Rule
from engine.records.scheme import Scheme, SchemeChoices
from engine.schemes import FAMILIES, family_of, format_scheme
from engine.schemes.activations import ACTIVATIONS
from engine.writers import FORMATS, Format
from engine.writers.whole import write_text


def recipe(wanted: Recipe | str) -> Recipe:
    """A recipe from a preset's name (``W4A16``), a scheme's (``int8:channel``), or itself. Raises RecipeError."""
    return wanted if isinstance(wanted, Recipe) else recipes.recipe_for(wanted)


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """A recipe from a TOML file. Raises RecipeError naming the key and its line."""
    return recipe_files.load(os.fspath(path))


def save_recipe(wanted: Recipe, path: str | os.PathLike[str]) -> None:
    """Write a recipe as a TOML file, whole or not at all. Raises OutputError."""
    write_text(path, recipe_files.dumps(wanted))


def recipe_from_text(text: str) -> Recipe:
    """A recipe from TOML text. Raises RecipeError naming the key and its line."""
    return recipe_files.loads(text)


def recipe_to_text(wanted: Recipe) -> str:
    """TOML that ``recipe_from_text`` reads back to an equal recipe."""
    return recipe_files.dumps(wanted)


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
    return schemes.parse_scheme(name)


def wider_scheme(name: str) -> str:
    """The name of the next scheme with more bits that is worth going to; ``keep`` in the end. Raises RecipeError."""
    return format_scheme(schemes.wider_scheme(schemes.parse_scheme(name)))


def algorithm_problem(text: str, scheme: Scheme) -> str:
    """Why algorithms cannot work with a scheme, and what would; empty when they can. Raises RecipeError."""
    return next((said for step in chain(text).steps if (said := step.algorithm.obstacle(scheme))), "")


def observer_choices() -> tuple[AlgorithmInfo, ...]:
    """What turns seen activations into a range, with options."""
    from engine.calibration.observers import OBSERVERS

    return tuple(AlgorithmInfo(o.name, o.title, o.summary, describe(o), "observer", True) for o in OBSERVERS)
