"""What of a ``quantization_config`` is used here, checked."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import InputError
from engine.patterns import compiled

MOST_PATTERNS = 1000


class _Group(BaseModel):
    model_config = ConfigDict(extra="ignore")
    targets: list[str] = []
    weights: dict[str, Any] | None = None


class Configuration(BaseModel):
    model_config = ConfigDict(extra="ignore")
    quant_method: str = "unknown"
    format: str = ""
    config_groups: dict[str, _Group] = {}
    transform_config: dict[str, Any] | None = None
    sparsity_config: dict[str, Any] | None = None


def checked(config: Mapping[str, Any]) -> Configuration:
    """The configuration of a checkpoint. Raises InputError naming the key."""
    try:
        checked = Configuration.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InputError(f"The quantization_config is malformed at {where}: {first['msg']}.") from None
    targets = [target for group in checked.config_groups.values() for target in group.targets]
    if sum(target.startswith("re:") for target in targets) > MOST_PATTERNS:
        raise InputError(f"The quantization_config has more than {MOST_PATTERNS:,} patterns; it is refused.")
    for target in targets:
        try:
            if target.startswith("re:"):
                compiled(target)
        except ValueError as error:
            raise InputError(f"The quantization_config has a wrong target: {error}.") from None
    return checked
