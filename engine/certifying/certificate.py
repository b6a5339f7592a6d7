"""An artifact opened again: what is in the file, whether two readers agree on it, and what it lost against its source.

Nothing is believed that the run said: every figure here is computed from the bytes on disk.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.algorithms import chain
from engine.certifying import second_reader
from engine.certifying.readback import Readback, read_back, same_as_source
from engine.clipping import ROUNDING
from engine.decoding import stored_name
from engine.errors import EngineError, InputError, RecipeError
from engine.measure.tally import sqnr_db
from engine.numerics import checksum
from engine.planning.planner import plan_export
from engine.readers import open_path
from engine.readers.header import read_header
from engine.readers.prequantized import RUNTIME_PARTS, configuration
from engine.readers.source import TensorFiles
from engine.records.certificate import Certificate, Check, FileHash, LayerProof
from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo, ModelSummary, TensorInfo
from engine.records.plan import Consumer
from engine.records.progress import Monitor, Progress
from engine.records.scheme import Scheme
from engine.schemes import parse_scheme
from engine.schemes.activations import STORED
from engine.schemes.base import PART_ENDINGS, role_of
from engine.version import VERSION
from engine.writers import format_named
from engine.writers.configuration import activations_of
from engine.writers.layout import ALGORITHMS_KEY, CHECKSUMS_KEY, DIGITS

BLOCK = 16 << 20
VERSIONS = ("torch", "safetensors", "transformers", "compressed-tensors")
TIES_KEY = "tie_word_embeddings"
ROUNDED = json.dumps(["rtn"])
"""What a file records that was rounded to nearest throughout."""
MOST_SAID = 20
"""Failures of one check that are listed; the rest are counted."""


def certify(artifact: str, against: str | None = None, monitor: Monitor | None = None) -> Certificate:
    """Open an artifact again and check it; with ``against`` also compare it with the checkpoint it was made of.

    A file that cannot be opened gives a certificate that says so. Raises InputError for an artifact that does not exist or a
    source that cannot be opened, Cancelled.
    """
    started = time.perf_counter()
    if not os.path.exists(artifact):
        raise InputError(f"{artifact} does not exist.")
    source = open_path(against) if against is not None else None
    try:
        found = _Artifact(open_path(artifact), source, monitor or Monitor())
    except InputError as error:
        check = Check("opens", "failed", "The artifact cannot be opened.", (str(error),))
        return Certificate(artifact, against, (check,), versions=_versions(), seconds=time.perf_counter() - started)
    return found.certificate(artifact, against, started)


@dataclass(slots=True)
class _Findings:
    """Sentences about what is wrong, by check."""

    of: dict[str, list[str]] = field(default_factory=dict)

    def add(self, check: str, sentence: str) -> None:
        self.of.setdefault(check, []).append(sentence)

    def check(self, name: str, good: str, bad: str) -> Check:
        wrong = self.of.get(name, [])
        if not wrong:
            return Check(name, "passed", good)
        more = [f"... and {len(wrong) - MOST_SAID:,} more."] if len(wrong) > MOST_SAID else []
        return Check(name, "failed", bad, (*wrong[:MOST_SAID], *more))


class _Artifact:
    """One artifact, and its source where there is one."""

    def __init__(self, summary: ModelSummary, source: ModelSummary | None, monitor: Monitor) -> None:
        if summary.quantized and not summary.quantized.readable:
            raise InputError(f"{summary.name} is {summary.quantized.method}, which cannot be decoded here.")
        self.summary, self.source, self.monitor = summary, source, monitor
        self.config = configuration(summary.config, summary.metadata)
        self.wrong = _Findings()
        self.moved = _moves_scale(summary.metadata)
        self.signal = self.noise = 0.0
        self.second = self.recorded = 0
        self._done, self._started = 0, time.perf_counter()

    def certificate(self, artifact: str, against: str | None, started: float) -> Certificate:
        files = _hashes(self.summary, self.monitor)
        self._configuration()
        originals = {layer.tensor.name: layer for layer in self.source.layers} if self.source else {}
        proofs = []
        with TensorFiles(self.summary) as stored, TensorFiles(self.source or self.summary) as floats:
            self._checksums(stored)
            for layer in self.summary.layers:
                self._progress(layer)
                original = originals.get(stored_name(layer))
                if layer.scheme:
                    proofs.append(self._quantized(layer, stored, original, floats))
                elif self.source and original:
                    self._kept(layer, stored, original, floats)
        if self.source:
            self._names(originals)
            self._ties()
        return Certificate(
            artifact, against, tuple(self._checks()), tuple(proofs), sqnr_db(self.signal, self.noise) if self.signal else None,
            self.source.nbytes if self.source else None, self.summary.nbytes, self._consumers(), files,
            _hashes(self.source, self.monitor) if self.source else (), _versions(), seconds=time.perf_counter() - started,
        )  # fmt: skip

    def _progress(self, layer: LayerInfo) -> None:
        self.monitor.check()
        self.monitor.progress(
            Progress("certifying", layer.name, self._done, self.summary.nbytes, time.perf_counter() - self._started, None)
        )
        self._done += layer.nbytes

    # -- what a reader needs to be told -------------------------------------------------------------------------

    def _configuration(self) -> None:
        quantized = [layer for layer in self.summary.layers if layer.scheme]
        if quantized and (self.config or {}).get("quantization_status") != "compressed":
            where = "config.json" if self.summary.config is not None else "The header"
            what = f"{where} lacks quantization_status = compressed in its quantization_config"
            self.wrong.add("configuration", f"{what}: transformers would load it without a word and compute garbage.")
        for layer in self.summary.layers:
            role = role_of(layer.tensor.name)
            if layer.scheme or (role == "codes" and not layer.tensor.name.endswith("_packed")):
                continue
            base = next(layer.tensor.name.removesuffix(end) for end in PART_ENDINGS if layer.tensor.name.endswith(end))
            if base.endswith("weight"):
                self.wrong.add("configuration", f"{layer.tensor.name} stands alone: other parts of {base} are missing.")
        names = {layer.tensor.name for layer in self.summary.layers}
        for activations in self._static():
            for layer in quantized:
                base = layer.parts[0].name.removesuffix("_packed").removesuffix("weight")
                for part in (f"{base}{name}" for name in STORED[activations]):
                    if layer.kind == "linear" and part not in names:
                        self.wrong.add("configuration", f"{part} is missing, which {activations} activations need.")

    def _static(self) -> list[str]:
        if not self.config:
            return []
        name = activations_of(self.config)
        return [name] if STORED.get(name) else []

    # -- bytes --------------------------------------------------------------------------------------------------

    def _checksums(self, files: TensorFiles) -> None:
        """Every tensor's bytes against the checksum that the header has of it."""
        for number, file in enumerate(self.summary.files):
            header = read_header(file.path, number) if file.path.endswith(".safetensors") else None
            if header is None or CHECKSUMS_KEY not in header.metadata:
                continue
            self.recorded += 1
            text = header.metadata[CHECKSUMS_KEY]
            if len(text) != DIGITS * len(header.tensors):
                what = f"{file.path} has checksums of {len(text) // DIGITS} tensors and holds {len(header.tensors)}"
                self.wrong.add("bytes", f"{what}: tensors were added or removed after it was written.")
                continue
            for place, tensor in enumerate(header.tensors):
                self.monitor.check()
                if f"{_checksum(files, tensor):0{DIGITS}x}" != text[place * DIGITS : (place + 1) * DIGITS]:
                    self.wrong.add("bytes", f"{tensor.name}: its bytes are not those that were written; the file is damaged.")

    # -- layers -------------------------------------------------------------------------------------------------

    def _quantized(self, layer: LayerInfo, files: TensorFiles, original: LayerInfo | None, floats: TensorFiles) -> LayerProof:
        scheme = parse_scheme(layer.scheme or "keep")
        stored = {role_of(part.name): (part.dtype, torch.from_numpy(files.read(part))) for part in layer.parts}
        self._numbers(layer, scheme, stored)
        if original is not None and original.shape != layer.shape:
            what = f"{stored_name(layer)} has the shape {list(layer.shape)}, its source {list(original.shape)}."
            self.wrong.add("tensors", what)
        if original is not None and (original.shape != layer.shape or original.dtype not in FLOATS):
            original = None
        found = read_back(layer, stored, original, floats)
        if not found.finite:
            self.wrong.add("numbers", f"{layer.name} decodes to NaN or Inf.")
        if found.agrees is False:
            self.wrong.add("readers", f"{layer.name}: two readers of {layer.scheme} decode it differently.")
        self.second += found.agrees is not None
        reader = "own" if found.agrees is None else "second"
        if original is None or self.moved:
            return LayerProof(layer.name, layer.scheme or "", layer.nbytes, reader=reader)
        self._error(layer, scheme, found)
        db = sqnr_db(found.signal, found.noise)
        return LayerProof(layer.name, layer.scheme or "", layer.nbytes, db, found.largest, True, reader, found.clipped)

    def _error(self, layer: LayerInfo, scheme: Scheme, found: Readback) -> None:
        """What the weights lost against their source's, against what such codes must lose.

        Rounding to nearest clips none; other algorithms do so on purpose.
        """
        self.signal, self.noise = self.signal + found.signal, self.noise + found.noise
        if not self.recorded and found.noise > found.signal / 2 and scheme.bits >= 4:
            what = f"{layer.name}: it decodes to {sqnr_db(found.signal, found.noise):.1f} dB of its source"
            self.wrong.add(
                "weights", f"{what}, far from what {layer.scheme} can do; its scale is wrong or it is another model's."
            )
        if found.clipped > ROUNDING and self.summary.metadata.get(ALGORITHMS_KEY) == ROUNDED:
            what = f"{layer.name}: {found.clipped:.2%} of its weights lie beyond the range of their codes"
            self.wrong.add("numbers", f"{what}, and rounding to nearest clips none; its scales are not those it was made with.")

    def _numbers(self, layer: LayerInfo, scheme: Scheme, stored: second_reader.Stored) -> None:
        """Scales are positive and finite, codes within the scheme's range."""
        for role in ("scale", "global_scale", "scale_scale"):
            if role not in stored:
                continue
            dtype, raw = stored[role]
            name = next(part.name for part in layer.parts if role_of(part.name) == role)
            values = raw.float() if dtype == "U8" else raw.view(second_reader.DTYPES[dtype]).float()
            if role == "scale" and "scale_scale" in stored:  # what is stored are distances from a mean
                continue
            bad = (values == 255) if dtype == "U8" else ~(torch.isfinite(values) & (values > 0))
            if bool(bad.any()):
                self.wrong.add("numbers", f"{name}: {int(bad.sum())} of its values are not positive and finite.")
        dtype, codes = stored["codes"]
        if dtype == "I8" and scheme.bits < 8:
            values, reach = codes.view(torch.int8), 2 ** (scheme.bits - 1)
            if bool(((values < -reach) | (values >= reach)).any()):
                self.wrong.add("numbers", f"{layer.parts[0].name}: codes beyond the {scheme.bits} bits of {layer.scheme}.")

    def _kept(self, layer: LayerInfo, files: TensorFiles, original: LayerInfo, floats: TensorFiles) -> None:
        """A tensor that is not quantized is its source's, to the byte; stored as a half, it is the source's rounded to it."""
        tensor, before = layer.tensor, original.tensor
        if tensor.shape != before.shape:
            self.wrong.add("tensors", f"{tensor.name} has the shape {list(tensor.shape)}, its source {list(before.shape)}.")
            return
        half = tensor.dtype in ("F16", "BF16") and before.dtype in FLOATS
        if tensor.dtype != before.dtype and not half:
            self.wrong.add("tensors", f"{tensor.name} became {tensor.dtype}; its source is {before.dtype}.")
            return
        if self.moved:
            return
        if not same_as_source(tensor, files, before, floats):
            self.wrong.add("tensors", f"{tensor.name} was kept, but differs from its source.")

    def _names(self, originals: Mapping[str, LayerInfo]) -> None:
        here = {stored_name(layer) for layer in self.summary.layers}
        added = [name for name in here - originals.keys() if not name.endswith(RUNTIME_PARTS)]
        for name in sorted(originals.keys() - here):
            self.wrong.add("tensors", f"{name} is missing.")
        for name in sorted(added):
            self.wrong.add("tensors", f"{name} is not in the source.")

    def _ties(self) -> None:
        """Embeddings and output head are one tensor or two, as they were."""
        assert self.source
        before, after = (((m.config or {}).get(TIES_KEY)) for m in (self.source, self.summary))
        if self.source.config is not None and self.summary.config is not None and before != after:
            what = "config.json's tie_word_embeddings is"
            self.wrong.add("tensors", f"{what} {after!r}, its source's {before!r}: embeddings or output head would be others.")

    # -- results ------------------------------------------------------------------------------------------------

    def _checks(self) -> Iterator[Check]:
        wrong, count = self.wrong, sum(bool(layer.scheme) for layer in self.summary.layers)
        yield Check("opens", "passed", f"{len(self.summary.layers):,} layers, {count:,} of them quantized, read from headers.")
        yield wrong.check(
            "configuration", "The configuration says all that readers must know.", "The configuration is incomplete."
        )
        bad = "Bytes are not those that were written."
        if self.recorded or "bytes" in wrong.of:
            yield wrong.check("bytes", "Every tensor has the checksum that was recorded when it was written.", bad)
        else:
            yield Check("bytes", "not run", "The file records no checksums: it was written by another program or version.")
        yield wrong.check(
            "numbers", "Scales are positive and finite, codes in range, values finite.", "Numbers are out of range."
        )
        if count and not self.second:
            yield Check("readers", "not run", "There is no second reader for these formats; the engine's own decoded them.")
        elif count:
            good = f"{self.second:,} of {count:,} quantized layers decode to the same bits in a reader of other code."
            yield wrong.check("readers", good, "Two readers disagree.")
        if self.source is None:
            return
        yield wrong.check("tensors", "No tensor is missing, added or retyped; kept ones are the source's.", "Tensors differ.")
        if self.moved:
            yield Check(
                "weights", "not run", f"{self.moved} moved scale between layers: outputs can be compared, weights cannot."
            )
        else:
            yield wrong.check("weights", "Every weight was compared with its source.", "Weights are not their source's.")

    def _consumers(self) -> tuple[Consumer, ...]:
        name = "compressed-tensors" if self.summary.source == "folder" and self.summary.config is not None else "safetensors"
        try:
            plan = plan_export(self.summary, name)
            return format_named(name).consumers(self.summary, plan.layers, plan.recipe.activations)
        except EngineError:
            return ()


def _moves_scale(metadata: Mapping[str, str]) -> str:
    """The first algorithm that the writer recorded whose weights are not the source's, rounded; "" when there is none."""
    try:
        recorded = json.loads(metadata.get(ALGORITHMS_KEY, "[]"))
        chains = [chain(text) for text in recorded if isinstance(text, str)]
    except (ValueError, RecursionError, RecipeError, TypeError):
        return ""
    return next((str(found) for found in chains if found.transforms or found.corrections), "")


def _checksum(files: TensorFiles, tensor: TensorInfo) -> int:
    total = 0
    for start in range(0, tensor.nbytes, BLOCK):
        buffer = np.empty(min(BLOCK, tensor.nbytes - start), np.uint8)
        files.read_into(tensor, start, buffer)
        total += checksum.piece(start, buffer.data)
    return total & checksum.MASK


def _hashes(summary: ModelSummary, monitor: Monitor) -> tuple[FileHash, ...]:
    found = []
    for file in summary.files:
        digest = hashlib.sha256()
        try:
            with open(file.path, "rb") as stream:
                while block := stream.read(BLOCK):
                    monitor.check()
                    digest.update(block)
        except OSError as error:
            raise InputError(f"Cannot read {file.path}: {error.strerror}.") from None
        found.append(FileHash(file.path, file.nbytes, digest.hexdigest()))
    return tuple(found)


def _versions() -> tuple[tuple[str, str], ...]:
    found: Sequence[tuple[str, str]] = [("mono-quant", VERSION)]
    for name in VERSIONS:
        try:
            found = [*found, (name, importlib.metadata.version(name))]
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)
