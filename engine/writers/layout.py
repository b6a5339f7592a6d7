"""Laying a safetensors file out before any tensor exists: header bytes and the place of every part."""

import json
from collections.abc import Mapping, Sequence

from engine.errors import PlanError
from engine.readers.header import MAX_HEADER
from engine.records.dtypes import BITS
from engine.records.model import ModelSummary
from engine.records.plan import FilePlan, LayerPlan, PartPlan

CHECKSUMS_KEY = "mono_quant.checksums"
"""Metadata of a written file: a checksum of each tensor's bytes, in the order of the tensors (``numerics.checksum``)."""
ALGORITHMS_KEY = "mono_quant.algorithms"
"""Metadata: the algorithms that chose the codes, as a JSON list: whether weights can be compared with their source."""
DIGITS = 16
"""Hexadecimal digits of a checksum."""


def tensor_file(path: str, parts: Sequence[PartPlan], metadata: Mapping[str, str]) -> FilePlan:
    """One file holding ``parts``; widest types first, so that every tensor is aligned to its own size.

    Room is left for checksums, which are known when everything is written.
    """
    ordered = sorted(parts, key=lambda part: -BITS[part.dtype])
    header: dict[str, object] = {"__metadata__": {CHECKSUMS_KEY: "0" * DIGITS * len(parts)} | _without(metadata)}
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


def algorithms(summary: ModelSummary, layers: Sequence[LayerPlan]) -> dict[str, str]:
    """What a file records of how its codes were chosen; an export passes it on."""
    found = sorted({line.algorithm for line in layers if line.algorithm and not line.kept})
    if found:
        return {ALGORITHMS_KEY: json.dumps(found)}
    return {ALGORITHMS_KEY: summary.metadata[ALGORITHMS_KEY]} if ALGORITHMS_KEY in summary.metadata else {}


def _without(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata without another file's checksums."""
    return {key: value for key, value in metadata.items() if key != CHECKSUMS_KEY}


def checksums_at(file: FilePlan) -> int:
    """The byte of a tensor file at which its checksums begin. Metadata come first, so that no tensor's name can stand before."""
    key = f'"{CHECKSUMS_KEY}":"'.encode()
    return file.head.index(key) + len(key)


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
