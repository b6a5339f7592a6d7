"""Where the stored tensors are in a module: by name, and where transformers renames or joins them, by what is in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from engine.models.base import Place
from engine.models.rows import Candidate, RowIndex, candidates
from engine.models.samples import Stored, same, same_at
from engine.readers.source import TensorFiles
from engine.records.dtypes import FLOATS, numel
from engine.records.model import ModelSummary

if TYPE_CHECKING:
    import torch

_DIGITS = re.compile(r"\d+")


def match(
    module: torch.nn.Module, summary: ModelSummary, values: Mapping[str, torch.Tensor] | None = None
) -> tuple[dict[str, Place], tuple[str, ...]]:
    """Places of stored tensors by name, and the names of weights (two axes or more) that are nowhere.

    ``values`` are what was loaded instead of what is on disk. Names count only where shapes and sampled values agree. Raises
    DataError where a file changed.
    """
    with TensorFiles(summary) as files:
        stored = [Stored(layer, files, values) for layer in summary.layers if numel(layer.shape)]
        search = _Search(module)
        rest = [item for item in stored if not search.by_name(item)]
        rest = [item for item in rest if not search.by_content(item)]
        rest = [item for item in rest if not search.by_sibling(item)]
        rest = [item for item in rest if not search.whole(item)]
    weights = tuple(item.name for item in rest if len(item.shape) > 1 and (item.layer.scheme or item.layer.dtype in FLOATS))
    return {item.name: search.places[item.name] for item in stored if item.name in search.places}, weights


class _Search:
    """The module's tensors, and what has been found of them so far."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.places: dict[str, Place] = {}
        self._names: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
        self._names |= dict(module.named_buffers(remove_duplicate=False))
        self._claimed: dict[int, list[tuple[int, int, bool]]] = {}
        self._by_columns: dict[int, list[Candidate]] | None = None
        self._indexes: dict[tuple[int, Any], RowIndex] = {}

    def by_name(self, stored: Stored) -> bool:
        """The same name, shape and, at a few places, values."""
        found = self._names.get(stored.name)
        if found is None or tuple(found.shape) != stored.shape:
            return False
        if stored.readable and not same_at(stored, found.detach().reshape(-1)):
            return False
        return self._place(stored, stored.name, 0, False)

    def by_content(self, stored: Stored) -> bool:
        """Rows of a parameter with as many columns."""
        if len(stored.shape) < 2 or not stored.readable:
            return False
        if self._by_columns is None:
            self._by_columns = candidates(self._unclaimed())
        of_width = self._by_columns.get(stored.columns, [])
        found = []
        for dtype in dict.fromkeys(item.value.dtype for item in of_width):
            key = (stored.columns, dtype)
            if key not in self._indexes:
                self._indexes[key] = RowIndex([item for item in of_width if item.value.dtype == dtype])
            found += self._indexes[key].holding(stored)
        if not found:
            return False
        item, first = min(found, key=lambda place: self._unlikely(stored, place[0].name, place[1], place[0].transposed))
        return self._place(stored, item.name, first, item.transposed)

    def by_sibling(self, stored: Stored) -> bool:
        """A bias lies beside its weight: in the same module, and of joined weights at the same rows."""
        stem, _, last = stored.name.rpartition(".")
        place = self.places.get(f"{stem}.weight")
        if place is None or last == "weight" or not stored.readable:
            return False
        name = f"{place.parameter.rpartition('.')[0]}.{last}"
        found = self._names.get(name)
        if found is None or len(stored.shape) != 1 or found.numel() < stored.rows:
            return False
        first = 0 if found.numel() == stored.rows else place.first
        part = found.detach().reshape(-1)[first : first + stored.rows]
        if part.numel() != stored.rows or not same_at(stored, part):
            return False
        return self._place(stored, name, first, False)

    def whole(self, stored: Stored) -> bool:
        """A tensor of the same shape and content; of several, the one whose name is most alike."""
        if not stored.readable:
            return False
        alike = [
            name
            for name, value in self._unclaimed().items()
            if tuple(value.shape) == stored.shape and same(stored.values(0, value.numel()), value.reshape(-1))
        ]
        if not alike:
            return False
        return self._place(stored, min(alike, key=lambda name: self._unlikely(stored, name, 0, False)), 0, False)

    def _place(self, stored: Stored, name: str, first: int, transposed: bool) -> bool:
        self.places[stored.name] = Place(name, first, stored.rows, transposed, stored.columns)
        self._claimed.setdefault(id(self._names[name]), []).append((first, first + stored.rows, transposed))
        return True

    def _unclaimed(self) -> dict[str, torch.Tensor]:
        """Parameters not found yet, each once; those of which a part was found are still in the index."""
        once = {id(value): name for name, value in reversed(self._names.items()) if id(value) not in self._claimed}
        return {name: self._names[name].detach() for name in reversed(once.values())}

    def _unlikely(self, stored: Stored, name: str, first: int, transposed: bool) -> tuple[bool, bool, bool, float]:
        """To choose between places with equal content: not taken yet, of the same layer, as stored, named alike."""
        taken = self._claimed.get(id(self._names[name]), [])
        overlaps = any(low < first + stored.rows and first < high for low, high, way in taken if way == transposed)
        layers = _DIGITS.findall(stored.name)[:1] != _DIGITS.findall(name)[:1]
        return overlaps, layers, transposed, -SequenceMatcher(None, stored.name, name).ratio()
