"""What a configuration says of its network's size, held against what its files hold, before anything is built from it."""

import re
from collections.abc import Iterator
from typing import Any

from engine.errors import InputError
from engine.records.model import ModelSummary

_REPEATED = re.compile(r"layer|block|depth|expert|stage", re.I)
"""Keys of how often something is built."""
_SIZE = re.compile(r"size|dim|width|channel|hidden|inner|intermediate|embd|head|rank|^d_|^n_|num_|labels", re.I)
_NO_PART = re.compile(r"position|ctx|context|token|max|seq|window|param|flos|step|cache|chunk|rope|freq|id$|_ids$|total", re.I)
"""Keys of sizes that no stored tensor has."""
ALWAYS = {"repeated": 1024, "size": 1 << 20}
"""What is believed of any checkpoint: so much is built in moments, and takes no memory while it is without weights."""


def check(path: str, config: dict[str, Any], summary: ModelSummary) -> None:
    """Raises InputError for a number of layers or a size that the stored tensors cannot belong to."""
    tensors = [tensor for layer in summary.layers for tensor in layer.parts]
    largest = max((size for layer in summary.layers for size in layer.shape), default=0)
    parameters = sum(layer.parameters for layer in summary.layers)
    for key, value in _numbers(config):
        if _NO_PART.search(key):
            continue
        if _REPEATED.search(key) and value > max(len(tensors), largest if "expert" in key else 0, ALWAYS["repeated"]):
            held = f"the files hold {len(tensors):,} tensors"
        elif _SIZE.search(key) and value > max(parameters, ALWAYS["size"]):
            held = f"the files hold {parameters:,} parameters"
        else:
            continue
        raise InputError(f"{path}: config.json says {key[:80]!r} is {_short(value)}, but {held}; one of them is wrong.")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number of a document with the key that it stands under."""
    waiting = [(key, value)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(key, inner) for inner in value]
        elif type(value) is int:
            yield key, value
        elif type(value) is float and value.is_integer():
            yield key, int(value)


def _short(value: int) -> str:
    return f"{value:,}" if value.bit_length() < 100 else f"a number of {value.bit_length():,} bits"
