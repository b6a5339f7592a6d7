"""Calibration and evaluation data: files, folders and iterables in, checked batches out, always the same ones.

To add a kind of file: a module here with its ``READER`` and its line in ``READERS``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from engine.calibration import arrays, images, iterables, synthetic, tables, text
from engine.calibration.batches import Batch, dtype_name, make_batch
from engine.calibration.samples import Reader, Samples, check_spec, title_of
from engine.errors import InputError
from engine.records.calibration import DataPreview, DataSpec, InputPreview, ModelInputs, Skipped

if TYPE_CHECKING:
    import torch

READERS: tuple[Reader, ...] = (
    arrays.READER, text.READER, tables.READER, images.READER, synthetic.READER, iterables.READER,
)  # fmt: skip

HASHED_WHOLE = 256 << 20
"""Files up to this many bytes are known by their contents, larger ones by size and time of change."""
SHOWN = 4
"""Samples in a preview."""


class Data:
    """Samples chosen by a ``DataSpec`` for a model. Iterating again gives the same batches in the same order.

    indices  of the chosen samples in the source, in the order used
    hash     SHA-256 of all that decides the batches: contents of files, choice, order, preprocessing
    """

    def __init__(self, samples: Samples, spec: DataSpec, inputs: ModelInputs, kind: str) -> None:
        self._samples, self._inputs = samples, inputs
        self.spec, self.kind = spec, kind
        self.title = title_of(samples, spec)
        self.synthetic, self.labelled = samples.synthetic, samples.labelled
        self.indices: tuple[int, ...] = samples.chosen
        self.count, self.available = len(samples.chosen), samples.available
        self.skipped: tuple[Skipped, ...] = samples.skipped
        self.hash = _hash(samples, spec, kind)

    def batches(self) -> Iterator[Batch]:
        """Checked batches of up to ``spec.batch`` samples. Raises DataError naming the sample that cannot be used."""
        for indices in self._samples.groups(self.spec.batch):
            yield make_batch(self._samples.load(indices), indices, self._inputs)

    def preview(self) -> DataPreview:
        """What the first batch holds. Raises DataError."""
        batch = next(self.batches())
        arguments = zip(_names(self._inputs, len(batch.arguments)), batch.arguments, strict=True)
        named = (*arguments, *batch.keywords.items())
        return DataPreview(
            self.title, self.kind, self.count, self.available, self.synthetic, self.labelled,
            tuple(self._preview(name, value, batch.indices) for name, value in named), self.skipped,
        )  # fmt: skip

    def _preview(self, name: str, value: torch.Tensor, indices: tuple[int, ...]) -> InputPreview:
        low, high = (float(value.min()), float(value.max())) if value.numel() else (0.0, 0.0)
        shown = zip(indices[:SHOWN], value[:SHOWN], strict=True)
        samples = tuple(self._samples.words(name, index, sample) for index, sample in shown)
        return InputPreview(name, dtype_name(value.dtype), tuple(value.shape), low, high, samples)


def open_data(
    source: DataSpec | str | os.PathLike[str] | Iterable[Any], inputs: ModelInputs, spec: DataSpec | None = None
) -> Data:
    """Data for a model.

    source  a specification; a path, which stands for one with all defaults; or tensors, tuples or mappings of them: one
            tensor or mapping (first axis: samples), an iterable or DataLoader of batches, or a Dataset of samples
    spec    with an iterable: how many samples, batch and labels

    Raises InputError where the source cannot be opened, DataError where its samples cannot be used.
    """
    if isinstance(source, (str, os.PathLike)):
        source = DataSpec(path=os.fspath(source))
    if not isinstance(source, DataSpec):
        spec = dataclasses.replace(spec or DataSpec(), kind="iterable", path="")
        check_spec(spec)
        return Data(iterables.open_iterable(source, spec, inputs), spec, inputs, "iterable")
    if spec is not None:
        raise InputError("A specification of data was given twice; pass it once.")
    spec = dataclasses.replace(source, path=os.path.expanduser(source.path))
    check_spec(spec)
    reader = _reader(spec)
    return Data(reader.open(spec, inputs), spec, inputs, reader.kind)


def _reader(spec: DataSpec) -> Reader:
    """The reader that was asked for, or the one that knows the name. Raises InputError."""
    if not spec.path and spec.kind in ("", "synthetic"):
        return synthetic.READER
    asked = [reader for reader in READERS if reader.kind == spec.kind]
    if spec.kind and not asked:
        raise InputError(f"{spec.kind!r} is no kind of data; choose {', '.join(reader.kind for reader in READERS)}.")
    if not spec.path:
        raise InputError(f"Data of the kind {spec.kind} needs a file or folder; none was given.")
    if not os.path.exists(spec.path):
        raise InputError(f"{spec.path} does not exist.")
    found = asked or [reader for reader in READERS if reader.accepts(spec.path)]
    if not found:
        known = ", ".join(suffix for reader in READERS for suffix in reader.suffixes)
        raise InputError(f"{spec.path} is no data that can be read; give a folder of images, or a file that ends in {known}.")
    return found[0]


def _names(inputs: ModelInputs, count: int) -> list[str]:
    known = [info.name for info in inputs.arguments]
    return [*known, *(f"input {number}" for number in range(len(known), count))][:count]


def _hash(samples: Samples, spec: DataSpec, kind: str) -> str:
    chosen = {key: value for key, value in dataclasses.asdict(spec).items() if key not in ("path", "kind", "skip_bad", "length")}
    found = hashlib.sha256(json.dumps([kind, chosen, samples.chosen, samples.extra]).encode())
    for path in samples.files:
        found.update(_identity(path))
    return found.hexdigest()


def _identity(path: str) -> bytes:
    try:
        stat = os.stat(path)
        if stat.st_size > HASHED_WHOLE:
            return f"{stat.st_size} {stat.st_mtime_ns}".encode()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None
