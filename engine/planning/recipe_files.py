"""Recipes as TOML text: read, checked and written.

A recipe file::

    name = "my recipe"
    scheme = "int4:g128"        # the default, for layers no rule matches
    algorithm = "rtn"           # with options "mse:norm=2.4"; in steps "smoothquant+gptq+bias"
    activations = "none"        # or "int8:token", "int8:static", ...
    observer = "minmax"         # how static activations get their range
    sequential = true           # calibrate each layer on what the quantized layers before it give
    builtin = true              # the built-in rules, after yours

    [[rules]]
    match = "*.down_proj"       # glob on the layer's name, or "re:" and a regular expression
    kind = "linear"             # optional, as are min_size and max_size (elements)
    scheme = "int8:channel"
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from engine.allocator import no_collection
from engine.errors import InputError, RecipeError
from engine.readers.text import number_words, read_whole
from engine.records.recipe import Recipe, Rule
from engine.schemes import format_scheme

LONGEST = 2_000_000
"""Characters of a recipe: some thirty thousand rules, which are parsed in a second."""
MOST_PARTS = 16
_PART = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_DEEP = re.compile(rf"(?:^|[\[{{,])[ \t]*(?:{_PART}[ \t]*\.[ \t]*){{{MOST_PARTS}}}", re.MULTILINE)


def loads(text: str, where: str = "recipe") -> Recipe:
    """A recipe from TOML. Raises RecipeError naming the file, the line and the key."""
    if len(text) > LONGEST:
        raise RecipeError(f"{where}: {len(text):,} characters are no recipe; at most {LONGEST:,} are read.")
    if deep := _DEEP.search(text):  # tomllib's time grows with the square of a key's parts
        raise RecipeError(f"{where}, line {text.count(chr(10), 0, deep.start()) + 1}: a key has more than {MOST_PARTS} parts.")
    with no_collection():
        from engine.planning.recipe_checks import checked  # pydantic takes a fifth of a second, and most runs read no recipe

        return checked(_parsed(text, where), text, where)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RecipeError(f"{where}: not valid TOML: it is nested too deeply.") from None
    except ValueError as error:
        raise RecipeError(f"{where}: not valid TOML: {number_words(error)}.") from None


def load(path: str | Path) -> Recipe:
    """A recipe from a TOML file. Raises RecipeError."""
    try:
        text = read_whole(str(path), LONGEST).decode("utf-8")
    except InputError as error:
        raise RecipeError(f"Cannot read the recipe: {error}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"Cannot read the recipe {path}: it is not UTF-8 text.") from None
    return loads(text.replace("\r\n", "\n"), Path(path).name)


def dumps(recipe: Recipe) -> str:
    """TOML that ``loads`` reads back to an equal recipe."""
    data: dict[str, Any] = {"name": recipe.name} if recipe.name else {}
    data |= {"scheme": format_scheme(recipe.default), "algorithm": recipe.algorithm}
    data |= {"activations": recipe.activations, "builtin": recipe.builtin}
    data |= {"observer": recipe.observer} if recipe.observer != "minmax" else {}
    data |= {} if recipe.sequential else {"sequential": False}
    return tomli_w.dumps(data) + "".join("\n[[rules]]\n" + tomli_w.dumps(_rule_data(rule)) for rule in recipe.rules)


def _rule_data(rule: Rule) -> dict[str, Any]:
    fields = {"match": rule.match, "kind": rule.kind, "min_size": rule.min_size, "max_size": rule.max_size}
    data = {key: value for key, value in fields.items() if value is not None}
    data |= {"scheme": format_scheme(rule.scheme), "algorithm": rule.algorithm}
    return data | ({"note": rule.note} if rule.note else {})
