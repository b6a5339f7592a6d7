"""Tensors that Python code hands over: a DataLoader, a Dataset, or any iterable of tensors, tuples or mappings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.calibration.batches import words
from engine.calibration.samples import LABEL_NAMES, Raw, Reader, Samples, by_shape, nothing, order
from engine.errors import DataError, EngineError, InputError
from engine.records.calibration import DataSpec, InputInfo, ModelInputs

if TYPE_CHECKING:
    import torch

Key = str | int
Sample = dict[Key, "torch.Tensor"]


class IterableSamples(Samples):
    """Samples that were taken from an iterable and are held, since it may give others the next time."""

    def __init__(self, held: dict[int, Sample], labels: dict[int, torch.Tensor], available: int) -> None:
        super().__init__(available, list(held), labelled=bool(labels))
        self._held, self._labels = held, labels
        self.detail = ", ".join(words(tuple(value.shape)) for value in held[self.chosen[0]].values())
        self.extra = self._digest()

    def groups(self, batch: int) -> Iterator[tuple[int, ...]]:
        return by_shape([(index, [(key, v.shape, v.dtype) for key, v in self._all(index)]) for index in self.chosen], batch)

    def load(self, indices: tuple[int, ...]) -> Raw:
        import torch

        keys = list(self._held[indices[0]])
        stacked = {key: torch.stack([self._held[index][key] for index in indices]) for key in keys}
        labels = torch.stack([self._labels[index] for index in indices]) if self._labels else None
        named = {key: value for key, value in stacked.items() if isinstance(key, str)}
        return Raw(named or tuple(stacked.values()), labels)

    def _all(self, index: int) -> list[tuple[Key, torch.Tensor]]:
        labels = [self._labels[index]] if self._labels else []
        return [*self._held[index].items(), *((f"labels {place}", label) for place, label in enumerate(labels))]

    def _digest(self) -> str:
        import torch

        digest = hashlib.sha256()
        for index in self.chosen:
            for key, value in self._all(index):
                digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
                if value.numel():
                    digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def open_iterable(source: Any, spec: DataSpec, inputs: ModelInputs) -> Samples:
    """Samples drawn by the seed from a Dataset that has indices; else the first ``spec.samples`` in the iterable's own order.

    A tuple's items go to the model's arguments in order; its last one is labels when ``spec.labels`` is given. A mapping's labels
    are under ``spec.labels``, or a usual name. Items are batches, except those of a Dataset, of a DataLoader that does not
    batch, and those that have the shape of one sample. Raises InputError, DataError.
    """
    held: dict[int, Sample] = {}
    labels: dict[int, torch.Tensor] = {}
    wanted, single, full = spec.samples, _gives_samples(source), False
    for number, item in _items(source, spec):
        for values, label in _split(item, number, spec, inputs, single=single):
            index = number if single else len(held)
            held[index] = values
            if label is not None:
                labels[index] = label
            full = len(held) == wanted
            if full:
                break
        if len(labels) not in (0, len(held)):
            raise DataError(f"Labels are missing for some samples (at item {number} of the data); give all of them or none.")
        if full:
            break
    if not held:
        raise nothing("The data", ())
    available = _length(source)
    samples = IterableSamples(held, labels, max(len(held), available))
    samples.counted = bool(available) or not full
    return samples


def _items(source: Any, spec: DataSpec) -> Iterator[tuple[int, Any]]:
    import torch

    if isinstance(source, (torch.Tensor, np.ndarray, Mapping)):
        source = [source]
    if not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
        raise InputError(f"A {type(source).__name__} is no data: give a path, tensors, or an iterable of them.")
    number = 0
    try:
        if not hasattr(source, "__iter__") and hasattr(source, "__len__"):
            for number in order(len(source), spec):
                yield number, source[number]
            return
        for number, item in enumerate(source):
            yield number, item
    except EngineError:
        raise
    except Exception as error:  # code of the user's, whose fault is kept as the cause
        raise DataError(f"The data stopped at or after item {number}: {type(error).__name__}: {error}.") from error


def _gives_samples(source: Any) -> bool:
    from torch.utils.data import DataLoader, Dataset

    return isinstance(source, Dataset) or (isinstance(source, DataLoader) and source.batch_sampler is None)


def _length(source: Any) -> int:
    """Samples of a Dataset, or of the one behind a DataLoader; 0 where they cannot be counted."""
    from torch.utils.data import DataLoader, Dataset

    counted = source.dataset if isinstance(source, DataLoader) else source if isinstance(source, Dataset) else ()
    return len(counted) if hasattr(counted, "__len__") else 0  # pyright: ignore[reportArgumentType]


def _split(
    item: Any, number: int, spec: DataSpec, inputs: ModelInputs, *, single: bool
) -> Iterator[tuple[dict[Key, torch.Tensor], torch.Tensor | None]]:
    """The samples of one item."""
    values, label = _values(item, number, spec, inputs)
    first = next(iter(values.values()))
    if single or _one_sample(first, next(iter(values)), inputs):
        values, label = {key: value[None] for key, value in values.items()}, None if label is None else label[None]
        first = next(iter(values.values()))
    everything = (*values.values(), *(() if label is None else (label,)))
    counts = {value.shape[0] if value.ndim else -1 for value in everything}
    if counts != {first.shape[0] if first.ndim else 0}:
        raise DataError(
            f"Item {number} of the data: its tensors differ in how many samples they hold; the first axis counts them."
        )
    for place in range(first.shape[0]):
        yield {key: value[place] for key, value in values.items()}, None if label is None else label[place]


def _one_sample(value: torch.Tensor, key: Key, inputs: ModelInputs) -> bool:
    known: dict[Key, InputInfo] = {info.name: info for info in inputs.arguments}
    info = known.get(key, inputs.arguments[0] if inputs.arguments else None)
    shape = None if info is None else info.shape
    return shape is not None and value.ndim == len(shape)


def _values(item: Any, number: int, spec: DataSpec, inputs: ModelInputs) -> tuple[dict[Key, torch.Tensor], torch.Tensor | None]:
    found: dict[Key, torch.Tensor] = {}
    label: torch.Tensor | None = None
    if isinstance(item, Mapping):
        found = {str(key): _as_tensor(value, number) for key, value in item.items()}
        taken = {info.name for info in inputs.arguments}
        names: Sequence[str] = (spec.labels,) if spec.labels else [name for name in LABEL_NAMES if name not in taken]
        key = next((name for name in names if name in found and len(found) > 1), None)
        if spec.labels and key is None:
            raise DataError(
                f"Item {number} of the data has no labels {spec.labels!r}, but {', '.join(map(str, found)) or 'nothing'}."
            )
        label = None if key is None else found.pop(key)
    elif isinstance(item, (tuple, list)):
        found = {place: _as_tensor(value, number) for place, value in enumerate(item)}
        label = found.pop(len(item) - 1) if spec.labels and len(item) > 1 else None
    else:
        found = {0: _as_tensor(item, number)}
    if not found:
        raise DataError(f"Item {number} of the data is empty.")
    return found, label


def _as_tensor(value: Any, number: int) -> torch.Tensor:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"Item {number} of the data holds a {type(value).__name__}, which is no tensor.") from None


def _refuse(spec: DataSpec, inputs: ModelInputs) -> Samples:
    raise InputError("Data of the kind iterable come from Python code, not from a file; choose another kind.")


READER = Reader("iterable", "Python iterable", (), lambda path: False, _refuse)
