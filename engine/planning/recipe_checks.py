"""What a recipe's TOML may say, and the line of what is wrong."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator

from engine.algorithms import chain as parse_chain
from engine.calibration.observers import observer as parse_observer
from engine.errors import RecipeError
from engine.patterns import compiled
from engine.records.model import KINDS
from engine.records.recipe import Recipe, Rule
from engine.schemes import activations, parse_scheme


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


def checked(data: dict[str, Any], text: str, where: str) -> Recipe:
    """The recipe that parsed TOML says. Raises RecipeError naming the file, the line and the key."""
    try:
        found = _RecipeFile.model_validate(data)
    except ValidationError as error:
        raise RecipeError(_explain(error, text, where)) from None
    rules = tuple(Rule(parse_scheme(r.scheme), r.algorithm, r.match, r.kind, r.min_size, r.max_size, r.note) for r in found.rules)
    return Recipe(
        parse_scheme(found.scheme), found.algorithm, rules, found.builtin, found.activations, found.name, found.observer,
        found.sequential,
    )  # fmt: skip


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
