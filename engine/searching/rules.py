"""A scheme for every layer as an ordinary recipe: a default, and rules with patterns as few as describe the rest."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from engine.planning.planner import plan
from engine.records.recipe import Recipe, Rule
from engine.schemes import parse_scheme
from engine.searching.candidates import Candidates

_NUMBER = re.compile(r"\.(\d+)(?=\.)")


def recipe_of(found: Candidates, schemes: Mapping[str, str], algorithm: str, name: str) -> Recipe:
    """The recipe that gives every layer searched its scheme; what the search does not decide stays as it was."""
    default = Counter(schemes.values()).most_common(1)[0][0]
    patterns = _patterns(found, schemes, default)
    made = _recipe(found, patterns, default, algorithm, name)
    if _differs(found, made, schemes):  # a pattern caught something else: name every layer
        plain = [(f"re:{re.escape(layer)}$", scheme) for layer, scheme in schemes.items()]
        made = _recipe(found, plain, default, algorithm, name)
    return made


def _recipe(found: Candidates, patterns: Sequence[tuple[str, str]], default: str, algorithm: str, name: str) -> Recipe:
    rules = tuple(Rule(parse_scheme(scheme), algorithm, match) for match, scheme in patterns)
    fixed = tuple(replace(rule, algorithm=algorithm) for rule in found.fixed)
    return Recipe(parse_scheme(default), algorithm, (*fixed, *rules), name=name)


def _differs(found: Candidates, recipe: Recipe, schemes: Mapping[str, str]) -> bool:
    lines = plan(found.summary, recipe, found.format).layers
    before = plan(found.summary, found.uniform(found.schemes[0]), found.format).layers
    return any(
        line.scheme_name != schemes[line.layer.name] if line.layer.name in schemes else line.scheme != old.scheme
        for line, old in zip(lines, before, strict=True)
    )


def _patterns(found: Candidates, schemes: Mapping[str, str], default: str) -> list[tuple[str, str]]:
    """(pattern, scheme) of the layers that do not have the default, in the order of the network."""
    builtin = _kept_by_builtin(found)
    families: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for layer, scheme in schemes.items():
        first = _NUMBER.search(layer)
        key = (layer[: first.start()], layer[first.end() :]) if first else (layer, "")
        families[key][first[1] if first else ""] = scheme
    # Layers of one kind: the numbers that have each scheme. Kinds that agree share a rule.
    shared: dict[tuple[str, str, tuple[str, ...], bool], list[str]] = {}
    for (stem, tail), numbers in families.items():
        by_scheme: dict[str, list[str]] = defaultdict(list)
        for number, scheme in numbers.items():
            by_scheme[scheme].append(number)
        for scheme, own in by_scheme.items():
            named = any(_name(stem, number, tail) in builtin for number in own)
            if scheme != default or named:
                shared.setdefault((stem, scheme, tuple(own), len(own) == len(numbers)), []).append(tail)
    return [(_pattern(stem, own, tails, whole), scheme) for (stem, scheme, own, whole), tails in shared.items()]


def _kept_by_builtin(found: Candidates) -> set[str]:
    """Layers searched that the built-in rules would keep: they need a rule, even for the default."""
    scheme = found.schemes[0]
    lines = plan(found.summary, Recipe(parse_scheme(scheme)), found.format).layers
    return {line.layer.name for line in lines if line.rule.startswith("built-in")} & set(found.lines)


def _name(stem: str, number: str, tail: str) -> str:
    return f"{stem}.{number}{tail}" if number else stem


def _pattern(stem: str, numbers: Sequence[str], tails: Sequence[str], whole: bool) -> str:
    if numbers == ("",):
        return stem if not re.search(r"[*?\[]", stem) else f"re:{re.escape(stem)}$"
    if whole and len(tails) == 1 and len(numbers) > 1 and not re.search(r"[*?\[]", stem + tails[0]):
        return f"{stem}.*{tails[0]}"
    which = r"\d+" if whole and len(numbers) > 1 else _one_of(numbers)
    return rf"re:{re.escape(stem)}\.{which}\.{_one_of([re.escape(tail[1:]) for tail in tails])}$"


def _one_of(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"({'|'.join(words)})"
