"""Laying a safetensors file out before any tensor exists: header bytes and the place of every part."""

import json
from collections.abc import Mapping, Sequence

from engine.errors import PlanError
from engine.readers.header import MAX_HEADER
from engine.records.dtypes import BITS
from engine.records.plan import FilePlan, PartPlan


def tensor_file(path: str, parts: Sequence[PartPlan], metadata: Mapping[str, str]) -> FilePlan:
    """One file holding ``parts``; widest types first, so that every tensor is aligned to its own size."""
    ordered = sorted(parts, key=lambda part: -BITS[part.dtype])
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for part in ordered:
        header[part.name] = {
            "dtype": part.dtype,
            "shape": list(part.shape),
            "data_offsets": [position, position + part.nbytes],
        }
        position += part.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise PlanError(f"{path or 'The file'} would need a header of {len(text):,} bytes; set a shard size.")
    head = len(text).to_bytes(8, "little") + text
    offsets, position = [], len(head)
    for part in ordered:
        offsets.append((part.name, position))
        position += part.nbytes
    return FilePlan(path, position, head, tuple(offsets))


def text_file(path: str, data: object) -> FilePlan:
    """A JSON file whose content is known at plan time."""
    text = (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
    return FilePlan(path, len(text), text)


def split(parts: Sequence[PartPlan], limit: int | None) -> list[list[PartPlan]]:
    """Parts in order, in shards of at most ``limit`` bytes of tensors (a larger part has a shard of its own)."""
    shards: list[list[PartPlan]] = [[]]
    filled = 0
    for part in parts:
        if limit and shards[-1] and filled + part.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(part)
        filled += part.nbytes
    return shards
