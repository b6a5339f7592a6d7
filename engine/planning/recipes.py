"""Recipes at the border: presets, built-in rules, and TOML read, checked and written.

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

import difflib
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator

from engine.algorithms import chain as parse_chain
from engine.allocator import no_collection
from engine.calibration.observers import observer as parse_observer
from engine.errors import InputError, RecipeError
from engine.patterns import compiled, is_name
from engine.readers.text import number_words, read_whole
from engine.records.model import KINDS, LayerInfo
from engine.records.recipe import Recipe, Rule
from engine.records.scheme import KEEP
from engine.schemes import FAMILIES, activations, family_of, format_scheme, parse_scheme

LONGEST = 2_000_000
"""Characters of a recipe: some thirty thousand rules, which are parsed in a second."""
MOST_PARTS = 16
_PART = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_DEEP = re.compile(rf"(?:^|[\[{{,])[ \t]*(?:{_PART}[ \t]*\.[ \t]*){{{MOST_PARTS}}}", re.MULTILINE)
TINY = 255
HEAD = r"re:(.*\.)?(lm_head|embed_out)$"
"""The layer that gives logits."""
BUILTIN_RULES: tuple[Rule, ...] = (
    Rule(KEEP, kind="norm", note="norms stay float"),
    Rule(KEEP, kind="bias", note="biases stay float"),
    Rule(KEEP, kind="other", note="buffers and others stay"),
    Rule(KEEP, match=r"re:.*(router|[._]gate)$", note="routers stay float"),
    Rule(KEEP, kind="embedding", note="embeddings stay float"),
    Rule(KEEP, match=HEAD, note="the output head stays float"),
    Rule(KEEP, max_size=TINY, note="tiny tensors stay float"),
)


def _preset(name: str, scheme: str, activations: str = "none", builtin: bool = True) -> Recipe:
    return Recipe(default=parse_scheme(scheme), activations=activations, name=name, builtin=builtin)


PRESETS: tuple[Recipe, ...] = (
    _preset("W4A16", "int4:g128"),
    _preset("W4A16_ASYM", "int4:g128:asym"),
    _preset("W8A16", "int8:channel"),
    _preset("W8A8", "int8:channel", activations="int8:token"),
    _preset("W8A8_STATIC", "int8:channel", activations="int8:static"),
    _preset("FP8", "fp8_e4m3:tensor", activations="fp8:static"),
    _preset("FP8_DYNAMIC", "fp8_e4m3:channel", activations="fp8:token"),
    _preset("FP8_BLOCK", "fp8_e4m3:b128x128", activations="fp8:token"),
    _preset("MXFP8", "mxfp8", activations="mxfp8"),
    _preset("MXFP4", "mxfp4", activations="mxfp4"),
    _preset("NVFP4", "nvfp4", activations="nvfp4"),
    _preset("NVFP4A16", "nvfp4"),
    _preset("NF4", "nf4:g64"),
    _preset("FP16", "fp16", builtin=False),
    _preset("BF16", "bf16", builtin=False),
)


def preset(name: str) -> Recipe | None:
    """The preset of that name, whatever its case, or None."""
    return next((recipe for recipe in PRESETS if recipe.name.lower() == name.strip().lower()), None)


def recipe_for(text: str) -> Recipe:
    """A preset's name or a scheme's, as ``--scheme`` takes it. Raises RecipeError.

    Presets are written in capitals: ``MXFP4`` quantizes activations too, ``mxfp4`` is the scheme alone.
    """
    known = preset(text)
    if known and (text.strip() == known.name or not _is_other_scheme(text, known)):
        return known
    try:
        return Recipe(default=parse_scheme(text), name=text.strip())
    except RecipeError as error:
        names = [recipe.name for recipe in PRESETS]
        bases = {base.upper(): base for family in FAMILIES for base, _ in family.choices.bases}
        wanted = text.strip().upper()
        if "is not a scheme" not in str(error):  # a scheme with a wrong word: that is the thing to say
            raise
        near = list(dict.fromkeys(difflib.get_close_matches(wanted, [*names, *bases], 4)))[:3]
        near = list(dict.fromkeys(name if name in names else bases[name] for name in near))
        hint = f"did you mean {' or '.join(near)}?" if near else f"presets are {', '.join(names)}."
        raise RecipeError(f"{text!r} is neither a preset nor a scheme; {hint}") from None


def _is_other_scheme(text: str, known: Recipe) -> bool:
    """Whether a preset's name in small letters names a scheme that is less than the preset."""
    try:
        return (parse_scheme(text), "none") != (known.default, known.activations)
    except RecipeError:
        return False


def matcher(rule: Rule) -> Callable[[LayerInfo], bool]:
    """A fast test of one rule; its pattern is compiled once.

    A rule that quantizes speaks of weights: biases and norms that a pattern or a size happens to match are left to what comes
    after it. One that names them, by name or by kind, is taken at its word.
    """
    pattern = compiled(rule.match, own=any(rule is one for one in BUILTIN_RULES)) if rule.match else None
    weights = rule.kind is None and exact_name(rule) is None and bool(family_of(rule.scheme).quantization_args(rule.scheme))

    def matches(layer: LayerInfo) -> bool:
        return (
            (len(layer.shape) > 1 or not weights)
            and (rule.kind is None or rule.kind == layer.kind)
            and (rule.min_size is None or layer.parameters >= rule.min_size)
            and (rule.max_size is None or layer.parameters <= rule.max_size)
            and (pattern is None or pattern.match(layer.name) is not None)
        )

    return matches


def exact_name(rule: Rule) -> str | None:
    """The one name that a rule's pattern matches; None for a pattern that may match several."""
    return rule.match if rule.match is not None and is_name(rule.match) else None


class _RuleFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    match: StrictStr | None = None
    kind: StrictStr | None = None
    min_size: StrictInt | None = Field(None, ge=0, lt=1 << 63)
    max_size: StrictInt | None = Field(None, ge=0, lt=1 << 63)
    scheme: StrictStr
    algorithm: StrictStr = "rtn"
    note: StrictStr = Field("", max_length=1000)

    @field_validator("match")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            if value in ("", "re:"):
                raise ValueError("an empty pattern matches nothing; leave the key out to match every layer")
            compiled(value)
        return value

    @field_validator("kind")
    @classmethod
    def _kind(cls, value: str | None) -> str | None:
        return _one_of(value, KINDS)

    @field_validator("scheme")
    @classmethod
    def _scheme(cls, value: str) -> str:
        return _known_scheme(value)

    @field_validator("algorithm")
    @classmethod
    def _algorithm(cls, value: str) -> str:
        return _known_algorithm(value)


class _RecipeFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: StrictStr = Field("", max_length=1000)
    scheme: StrictStr = "keep"
    algorithm: StrictStr = "rtn"
    activations: StrictStr = "none"
    builtin: StrictBool = True
    observer: StrictStr = "minmax"
    sequential: StrictBool = True
    rules: list[_RuleFile] = []

    _scheme = field_validator("scheme")(lambda cls, value: _known_scheme(value))
    _algorithm = field_validator("algorithm")(lambda cls, value: _known_algorithm(value))
    _activations = field_validator("activations")(lambda cls, value: _one_of(activations.canonical(value), activations.NAMES))
    _observer = field_validator("observer")(lambda cls, value: _known_observer(value))


def _one_of(value: str | None, known: tuple[str, ...]) -> str | None:
    if value is not None and value not in known:
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return value


def _known_algorithm(value: str) -> str:
    try:
        return str(parse_chain(value))
    except RecipeError as error:
        raise ValueError(str(error).rstrip(".")) from None


def _known_observer(value: str) -> str:
    try:
        return str(parse_observer(value))
    except RecipeError as error:
        raise ValueError(str(error).rstrip(".")) from None


def _known_scheme(value: str) -> str:
    try:
        parse_scheme(value)
    except RecipeError as error:
        raise ValueError(str(error).rstrip(".")) from None
    return value


def loads(text: str, where: str = "recipe") -> Recipe:
    """A recipe from TOML. Raises RecipeError naming the file, the line and the key."""
    if len(text) > LONGEST:
        raise RecipeError(f"{where}: {len(text):,} characters are no recipe; at most {LONGEST:,} are read.")
    if deep := _DEEP.search(text):  # tomllib's time grows with the square of a key's parts
        raise RecipeError(f"{where}, line {text.count(chr(10), 0, deep.start()) + 1}: a key has more than {MOST_PARTS} parts.")
    with no_collection():
        return _recipe(_parsed(text, where), text, where)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RecipeError(f"{where}: not valid TOML: it is nested too deeply.") from None
    except ValueError as error:
        raise RecipeError(f"{where}: not valid TOML: {number_words(error)}.") from None


def _recipe(data: dict[str, Any], text: str, where: str) -> Recipe:
    try:
        checked = _RecipeFile.model_validate(data)
    except ValidationError as error:
        raise RecipeError(_explain(error, text, where)) from None
    rules = tuple(
        Rule(parse_scheme(r.scheme), r.algorithm, r.match, r.kind, r.min_size, r.max_size, r.note) for r in checked.rules
    )
    return Recipe(
        parse_scheme(checked.scheme), checked.algorithm, rules, checked.builtin, checked.activations, checked.name,
        checked.observer, checked.sequential,
    )  # fmt: skip


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


def describe(rule: Rule) -> str:
    """The conditions of a rule in words, e.g. ``*.down_proj · linear``."""
    words = [rule.match or "", rule.kind or ""]
    words.append(f"≥ {rule.min_size:,} elements" if rule.min_size is not None else "")
    words.append(f"≤ {rule.max_size:,} elements" if rule.max_size is not None else "")
    return " · ".join(word for word in words if word) or "every layer"


def _explain(error: ValidationError, text: str, where: str) -> str:
    """The first thing wrong, with the line its key stands on."""
    first = error.errors()[0]
    location = first["loc"]
    key = str(location[-1])
    rule = location[1] if len(location) > 2 and location[0] == "rules" else None
    place = f"rule {int(rule) + 1}, key {key!r}" if rule is not None else f"key {key!r}"
    if first["type"] == "extra_forbidden":
        what = "unknown key"
    elif first["type"] == "missing":
        what = "missing"
    else:
        what = first["msg"].removeprefix("Value error, ")
    return f"{where}, line {_line_of(text, key, rule)}: {place}: {what}."


def _line_of(text: str, key: str, rule: Any) -> int:
    """Line number of a key at the top or in the n-th [[rules]]; of the table itself when the key is missing."""
    table, start = -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[\[\s*rules\s*\]\]", line):
            table += 1
            if rule is not None and table == rule:
                start = number
        here = table == rule if rule is not None else table == -1
        if here and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return start
