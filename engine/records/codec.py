"""Records to JSON-ready values and back. Unknown keys are an error that names them."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from engine.errors import InputError

T = TypeVar("T")


def to_data(value: Any) -> Any:
    """Dataclasses, tuples and numbers to dicts, lists and numbers; non-finite floats become None."""
    if (names := _names(type(value))) is not None:
        return {name: to_data(getattr(value, name)) for name in names}
    if isinstance(value, (list, tuple)):
        kinds = set(map(type, value))
        if kinds <= {int, str} or (kinds == {float} and math.isfinite(sum(map(abs, value)))):
            return list(value)  # many numbers at once: nothing in them to change
        return [to_data(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_data(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@cache
def _names(kind: type) -> tuple[str, ...] | None:
    """Names of a record's fields; None for what is no record."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


def from_data(record: type[T], data: Any, where: str = "") -> T:
    """Build a record from decoded JSON. Raises InputError naming the key that is missing or unknown."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where or record.__name__}: expected an object, found {type(data).__name__}.")
    hints = _hints(record)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise InputError(f"{where or record.__name__}: unknown key {unknown[0]!r}.")
    values = {key: _build(hints[key], item, f"{where}.{key}" if where else key) for key, item in data.items()}
    try:
        return record(**values)
    except TypeError as error:
        raise InputError(f"{where or record.__name__}: {error}.") from None


@cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _build(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _build(next(arm for arm in typing.get_args(hint) if arm is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        arms = typing.get_args(hint)
        if arms[0] in (int, str) or (arms[0] is float and set(map(type, value)) == {float}):
            return tuple(value)
        return tuple(_build(arms[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_data(hint, value, where)
    return value
