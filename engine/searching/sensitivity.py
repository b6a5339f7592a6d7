"""The table layer × scheme: measured layer by layer, remembered as it grows, and written to a file."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from engine.algorithms import chain
from engine.errors import Cancelled, DataError, InputError
from engine.identity import files as identity
from engine.quantizing.clock import Clock
from engine.records.codec import from_data, to_data
from engine.records.model import ModelSummary
from engine.records.plan import LayerPlan
from engine.records.progress import Monitor
from engine.records.search import Cell, Sensitivity, SensitivityRow
from engine.searching.cache import RowCache, prune
from engine.searching.candidates import Candidates
from engine.version import VERSION
from engine.writers.whole import write_text

FORMAT = 1
"""Of the file; a reader refuses what is newer."""

OnRow = Callable[[SensitivityRow], None]


class Table:
    """Rows that grow: ``known`` has, by layer, numbers of the whole layer and, by scheme, those of the cells."""

    def __init__(self, found: Candidates, on_row: OnRow | None = None) -> None:
        self.found, self.measured, self.cached = found, 0, 0
        self._known: dict[str, dict[str, Any]] = {name: {} for name in found.lines}
        self._failed: dict[str, str] = {}
        self._on_row = on_row or (lambda row: None)

    def add(self, layer: str, found: Mapping[str, Any]) -> None:
        """More of one layer: numbers, and of each measure a mapping from schemes to numbers."""
        self._known[layer] |= {key: {**self._known[layer].get(key, {}), **value} if isinstance(value, Mapping) else value
                               for key, value in found.items()}  # fmt: skip
        self._on_row(self.row(layer))

    def fail(self, layer: str, why: str) -> None:
        """No scheme can be applied to a layer."""
        self._failed[layer] = why
        self._on_row(self.row(layer))

    def row(self, name: str) -> SensitivityRow:
        """One layer as it is known so far."""
        lines, known = self.found.lines[name], self._known[name]
        layer, problems = lines["keep"].layer, self.found.problems[name]
        cells = []
        for scheme in (*self.found.schemes, "keep"):
            noise, output, fisher, divergence, loss = (known.get(key, {}).get(scheme) for key in CELLS)
            if scheme == "keep":
                cells.append(Cell("keep", layer.nbytes, 0.0, 0.0, 0.0, 0.0, 0.0))
            elif scheme not in lines:
                cells.append(Cell(scheme, 0, problem=problems.get(scheme, "This layer is kept under this scheme.")))
            else:
                nbytes, why = lines[scheme].nbytes, self._failed.get(name, "")
                cells.append(Cell(scheme, nbytes, noise, output, fisher, divergence, loss, why))
        own = {key: known.get(key) for key in ("signal", "output_signal", "relief")}
        return SensitivityRow(name, layer.kind, layer.parameters, layer.nbytes, tuple(cells), **own)

    def rows(self) -> tuple[SensitivityRow, ...]:
        """All layers, in file order."""
        return tuple(map(self.row, self._known))


CELLS = ("noise", "output", "fisher", "divergence", "loss")
"""Numbers of a cell, in the order of its fields."""


def missing_weights(summary: ModelSummary, found: Candidates) -> dict[str, dict[str, LayerPlan]]:
    """By layer, the schemes whose weight errors are not known from before."""
    known = weight_cache(summary, found.space.algorithm).known
    return {
        name: {s: line for s, line in lines.items() if s != "keep" and s not in known.get(name, {}).get("noise", {})}
        for name, lines in found.lines.items()
    }


def weight_cache(summary: ModelSummary, algorithm: str) -> RowCache:
    """Weight errors of earlier passes."""
    return RowCache("weight", identity(summary), algorithm)


def measure_weights(summary: ModelSummary, table: Table, monitor: Monitor) -> None:
    """Weight errors of every layer, those known from before left out. Raises Cancelled."""
    from engine.searching.weights import WeightErrors  # brings the arithmetic: not at the import of the command line

    found, cache = table.found, weight_cache(summary, table.found.space.algorithm)
    missing = missing_weights(summary, found)
    cost = sum(WeightErrors.cost(found.lines[name]["keep"].layer, len(lines)) for name, lines in missing.items() if lines)
    clock = Clock(monitor, "weight errors", cost)
    with WeightErrors(summary, clock) as errors:
        for name, lines in missing.items():
            known = len(found.lines[name]) - 1 - len(lines)
            table.cached += known
            if lines:
                try:
                    signal, noise = errors.of(found.lines[name]["keep"].layer, lines)
                except DataError as error:
                    table.fail(name, str(error))
                    continue
                cache.put(name, {"signal": signal, "noise": noise})
                table.measured += len(lines)
            table.add(name, cache.known[name])


def known_rows(summary: ModelSummary, found: Candidates) -> tuple[SensitivityRow, ...]:
    """The table of what is known from before, without measuring anything."""
    table, weights = Table(found), weight_cache(summary, found.space.algorithm).known
    for name in found.lines:
        table.add(name, weights.get(name, {}))
    return table.rows()


class DataPass(Protocol):
    """What is measured by running the model."""

    def measure(self, table: Table, monitor: Monitor) -> None: ...
    def described(self, found: Sensitivity) -> Sensitivity: ...


def measure(
    summary: ModelSummary,
    found: Candidates,
    monitor: Monitor,
    *,
    on_row: OnRow | None = None,
    more: DataPass | None = None,
) -> Sensitivity:
    """Measure what is not known yet: weight errors, and what ``more`` finds by running the model.

    Raises DataError, and Cancelled, whose ``partial`` is the table so far.
    """
    started = time.perf_counter()
    table = Table(found, on_row)

    def finished(complete: bool) -> Sensitivity:
        space = replace(found.space, schemes=found.schemes)
        made = Sensitivity(
            summary.path, identity(summary), space, ("weight",), table.rows(), complete=complete, measured=table.measured,
            cached=table.cached, seconds=time.perf_counter() - started, engine_version=VERSION,
        )  # fmt: skip
        return more.described(made) if more else made

    try:
        if not chain(found.space.algorithm).data:  # else codes are known only when the model was run
            measure_weights(summary, table, monitor)
        if more:
            more.measure(table, monitor)
    except Cancelled as stop:
        stop.partial = finished(False)
        raise
    prune()
    return finished(True)


def save(found: Sensitivity, path: str | os.PathLike[str]) -> None:
    """Write a table as JSON. Raises OutputError."""
    write_text(path, json.dumps({"mono_quant_sensitivity": FORMAT} | to_data(found), indent=1))


def load(path: str | os.PathLike[str]) -> Sensitivity:
    """A table that ``save`` wrote. Raises InputError naming the file and what is wrong with it."""
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        raise InputError(f"Cannot read {name}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise InputError(f"{name} is not a sensitivity table: it is not JSON.") from None
    if not isinstance(data, dict) or data.pop("mono_quant_sensitivity", None) != FORMAT:
        raise InputError(f"{name} is not a sensitivity table of this version; make it anew with `mono-quant sensitivity`.")
    try:
        return from_data(Sensitivity, data, name)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{name} is damaged: {error}.") from None


def require_same_model(found: Sensitivity, summary: ModelSummary) -> None:
    """Raise InputError unless a table is of this very model."""
    if found.model_hash != identity(summary):
        raise InputError(
            f"The sensitivity table is of another model ({found.path}), or the files of this one changed; measure it anew."
        )
