"""Layers that did not change since an earlier run: what its artifact holds of them is taken instead of being computed again.

Taken over is only what a full run would give to the bit: the plan of the earlier recipe says the same of the layer (scheme,
algorithm, parts, layers it shares a scale with), nothing of it came from data, versions are the same, the weight that is read now
has the checksum of the weight that was read then, and the artifact's bytes have the checksums that its header names. Whatever
does not hold is computed.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.algorithms import chain
from engine.errors import EngineError, InputError
from engine.history import Ledger, owners, read_layers, read_record, runs_folder
from engine.planning import planner, recipe_files
from engine.readers import open_path
from engine.readers.header import read_header
from engine.readers.source import TensorFiles
from engine.records.model import ModelSummary, TensorInfo
from engine.records.plan import LayerPlan, Plan
from engine.records.report import LayerReport
from engine.records.run import RunRecord
from engine.writers.layout import CHECKSUMS_KEY, DIGITS

DECIDING = ("mono-quant", "numba", "numpy")
"""Versions on which bytes depend."""


@dataclass(slots=True)
class Earlier:
    """An earlier run as a source of layers. ``refusal`` says why nothing of it can be used."""

    run: RunRecord
    lines: Mapping[str, LayerPlan] = field(default_factory=dict)
    reports: Mapping[str, LayerReport] = field(default_factory=dict)
    refusal: str = ""
    _summary: ModelSummary | None = None
    _tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    _sums: Mapping[str, int] = field(default_factory=dict)

    def candidate(self, line: LayerPlan) -> LayerReport | None:
        """The earlier report of a layer, if the plans agree on it; whether the bytes do is the caller's to find."""
        before, report = self.lines.get(line.layer.name), self.reports.get(line.layer.name)
        if before is None or report is None or not report.checksum or any(s.algorithm.data for s in chain(line.algorithm).steps):
            return None
        same = (before.scheme, before.algorithm, before.parts, before.fused) == (
            line.scheme,
            line.algorithm,
            line.parts,
            line.fused,
        )
        old, new = before.layer, line.layer
        same = same and (old.shape, old.dtype, old.axis) == (new.shape, new.dtype, new.axis)
        return report if same and all(self._has(line, name) for name in _own(line)) else None

    def fits(self, names: tuple[str, ...], known: Mapping[str, str]) -> bool:
        """Whether the weights of these layers have the checksums (hexadecimal) that they had."""
        return all(name in self.reports and self.reports[name].checksum == known.get(name) for name in names)

    def stored(self, line: LayerPlan) -> Iterator[tuple[TensorInfo, int]]:
        """What the artifact holds of a layer, and the checksum that its bytes must have."""
        for name in _own(line):
            yield self._tensors[name], self._sums[name]

    def open(self) -> TensorFiles:
        assert self._summary
        return TensorFiles(self._summary)

    def _has(self, line: LayerPlan, name: str) -> bool:
        part = next(part for part in line.parts if part.name == name)
        stored = self._tensors.get(name)
        return stored is not None and name in self._sums and (stored.dtype, stored.shape) == (part.dtype, part.shape)


def earlier(reuse: str | os.PathLike[str], plan: Plan) -> Earlier:
    """The run with that id, or whose folder that is, as a source for ``plan``. Raises InputError where there is no such run."""
    run = _named(os.fspath(reuse))
    if refusal := _refusal(run):
        return Earlier(run, refusal=refusal)
    try:
        layers = read_layers(Path(run.folder))
        before = planner.plan(plan.summary, recipe_files.loads(run.recipe), plan.format)
        summary = open_path(run.artifact)
        sums = _stored_sums(summary)
    except EngineError as error:
        return Earlier(run, refusal=str(error))
    tensors = {part.name: part for layer in summary.layers for part in layer.parts}
    lines = {line.layer.name: line for line in before.layers}
    return Earlier(run, lines, {layer.name: layer for layer in layers}, "", summary, tensors, sums)


def _named(reuse: str) -> RunRecord:
    if not os.path.isdir(reuse):
        with Ledger(runs_folder()) as ledger:
            return ledger.named(reuse)
    found = read_record(Path(reuse).absolute())
    if found is None:
        raise InputError(f"{reuse} is not the folder of a run.")
    return found


def _refusal(run: RunRecord) -> str:
    if run.state != "done":
        return f"it is {run.state}"
    if not os.path.exists(run.artifact):
        return "its artifact is not there any more"
    now = owners.versions()
    other = next((name for name in DECIDING if run.versions.get(name) != now.get(name)), "")
    return f"it was made with {other} {run.versions.get(other, 'of another version')}" if other else ""


def _own(line: LayerPlan) -> list[str]:
    """Names of the parts that come from the weight alone."""
    return [part.name for part in line.parts if part.role != "given"]


def _stored_sums(summary: ModelSummary) -> dict[str, int]:
    """Checksums that the artifact's headers name, by tensor."""
    found = {}
    for file in summary.files:
        header = read_header(file.path)
        text = header.metadata.get(CHECKSUMS_KEY, "")
        if len(text) == DIGITS * len(header.tensors):
            places = enumerate(header.tensors)
            found |= {tensor.name: int(text[DIGITS * n : DIGITS * (n + 1)], 16) for n, tensor in places}
    return found
