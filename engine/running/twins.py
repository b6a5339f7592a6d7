"""Float weights of a running model and others in their place: decoded, clipped or moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from engine.calibration.sites import Operator, Sites, in_layout
from engine.decoding import decoded, stored_name
from engine.layer_inputs import LayerInput
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.readers.source import TensorFiles
from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo, ModelSummary

Inputs = Mapping[str, LayerInput]


class Twins:
    """A running model with two sets of weights: as it is, and as a file has them. One is in place at a time; both stay in
    memory."""

    def __init__(self, model: RunnableModel, layers: list[LayerInfo]) -> None:
        self.model = model
        self.sites = Sites(model, layers)
        self._sets: dict[str, dict[str, torch.Tensor]] = {}
        self._now = "float"
        self._names: dict[int, str] = {}

    def add(self, kind: str, values: Iterator[tuple[str, torch.Tensor]], over: str = "float") -> None:
        """Another set: tensors by stored name, the rest as in the set ``over``."""
        made: dict[str, torch.Tensor] = dict(self._sets.get(over, {}))
        fresh: set[str] = set()
        for name, value in values:
            place = self.model.places.get(name)
            if place is None:
                continue
            parameter = self.model.parameter(place.parameter)
            self._sets.setdefault("float", {}).setdefault(place.parameter, parameter.data)
            if place.parameter not in fresh:
                made[place.parameter] = made.get(place.parameter, parameter.data).clone()
                fresh.add(place.parameter)
            before, parameter.data = parameter.data, made[place.parameter]
            self.model.put(name, value)
            parameter.data = before
        self._sets[kind] = made

    def use(self, kind: str) -> None:
        """Put one set in place."""
        whole = self._now_of(kind)
        for name, value in whole.items():
            self.model.parameter(name).data = value
        self._now, self._names = kind, {value.untyped_storage().data_ptr(): name for name, value in whole.items()}
        self.sites.refresh()

    def other(self, weight: torch.Tensor, kind: str) -> torch.Tensor:
        """The same view of another set's parameter."""
        name = self._names.get(weight.untyped_storage().data_ptr())
        if name is None:
            return weight
        here = self._now_of(self._now)[name]
        found = self._now_of(kind)[name]
        offset = weight.storage_offset() - here.storage_offset() + found.storage_offset()
        return found.as_strided(weight.shape, weight.stride(), offset)

    def _now_of(self, kind: str) -> dict[str, torch.Tensor]:
        return self._sets.get("float", {}) | self._sets.get(kind, {})

    def run(self, operator: Operator, x: torch.Tensor, kind: str) -> torch.Tensor:
        """The operator with weight and bias of another set."""
        return operator.run(x, self.other(operator.weight, kind), others=lambda tensor: self.other(tensor, kind))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The model comes back as it was, whatever happens."""
        try:
            with running(self.model.module):
                yield
        finally:
            for name, value in self._sets.get("float", {}).items():
                self.model.parameter(name).data = value


def values_of(summary: ModelSummary, names: set[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint by the name of the float weight it stands for, decoded."""
    with TensorFiles(summary) as files:
        for layer in summary.layers:
            name = stored_name(layer)
            if names is not None and name not in names:
                continue
            if layer.dtype in FLOATS and layer.parameters:
                yield name, decoded(files, layer)


def clipped_values(
    summary: ModelSummary, originals: Mapping[str, torch.Tensor], names: set[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights moved into the range that their codes reach, not rounded."""
    from engine.calibration.sites import in_rows
    from engine.clipping import representable

    with TensorFiles(summary) as files:
        for layer in summary.layers:
            if layer.scheme and layer.name in names:
                name = layer.parts[0].name.removesuffix("_packed")
                low, high = (torch.from_numpy(end) for end in representable(files, layer))
                matrix = in_rows(originals[name].float(), layer)
                yield name, in_layout(torch.minimum(torch.maximum(matrix, low), high), layer)
