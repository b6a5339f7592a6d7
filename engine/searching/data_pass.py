"""The measures that need data, in the order of their cost, remembered under hashes of model, data, code and options."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from engine.algorithms import chain
from engine.calibration.data import Data
from engine.calibration.units import call
from engine.errors import InputError, RecipeError
from engine.identity import files as identity
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.records.progress import Monitor
from engine.records.search import MEASURES, CostEstimate, Sensitivity
from engine.running.kept_statistics import fingerprint
from engine.schemes import format_scheme, parse_scheme
from engine.searching.cache import RowCache
from engine.searching.candidates import Candidates
from engine.searching.decoded import DecodedLayers
from engine.searching.predictions import predictions_of
from engine.searching.sensitivity import Table
from engine.searching.solved import SolvedLayers, require_alone
from engine.searching.whole_model import WholeModel, measure_relief, measure_whole
from engine.searching.with_data import measure_fisher, measure_outputs, measure_solved

WHOLE = ("divergence", "loss")
"""Measures that cost a pass over the data for every scheme on every layer."""


class RunPass:
    """Measures of one model on some data. ``base``: the scheme of all other layers while one is left float; "" for none.

    Raises RecipeError for unknown measures, InputError where the loss has nothing to be told by.
    """

    def __init__(self, model: RunnableModel, data: Data, measures: Collection[str], base: str = "") -> None:
        self._model, self._data = model, data
        self._measures = tuple(name for name in MEASURES if name in {"weight", *measures})
        self._base = format_scheme(parse_scheme(base)) if base else ""
        if unknown := sorted(set(measures) - set(MEASURES)):
            raise RecipeError(f"{unknown[0]!r} is no measure of sensitivity; choose from {', '.join(MEASURES)}.")
        batch = next(iter(data.batches()))
        started = time.perf_counter()
        with running(model.module):
            _, targets = predictions_of(call(model, batch), batch)
        self._forward = time.perf_counter() - started
        if "loss" in measures and targets is None:
            raise InputError("There is nothing to tell the loss by: give text or labels, or measure divergence.")
        self._key = (identity(model.summary), data.hash, fingerprint(model, data))

    def _caches(self, found: Candidates) -> tuple[RowCache, RowCache]:
        key = (*self._key, found.space.algorithm)
        return RowCache("data", *key), RowCache("relief", *key, self._base, *found.lines)

    def measure(self, table: Table, monitor: Monitor) -> None:
        """Everything that is not known yet. Raises DataError, Cancelled."""
        model, data = self._model, self._data
        cache, reliefs = self._caches(table.found)
        if self._base and self._base not in table.found.schemes:
            raise RecipeError(f"{self._base} is not among the schemes: {', '.join(table.found.schemes)}.")
        with self.layers(table.found, monitor) as decoded:
            if isinstance(decoded, SolvedLayers) and (missing := self._missing(table, cache, "noise")):
                measure_solved(table, missing, cache, decoded, monitor)
            for key, measure in (("output", measure_outputs), ("fisher", measure_fisher)):
                if key in self._measures and (missing := self._missing(table, cache, key)):
                    if isinstance(decoded, SolvedLayers):
                        decoded.prepare(missing)
                    measure(model, data, table, missing, cache, decoded, monitor)
            asked = [key for key in WHOLE if key in self._measures]
            missing = self._missing(table, cache, asked[-1]) if asked else {}
            if missing or self._base:
                if isinstance(decoded, SolvedLayers):
                    decoded.prepare(missing)
                with WholeModel(model, data, decoded, monitor) as whole:
                    measure_whole(whole, table, missing, cache, monitor)
                    if self._base:
                        measure_relief(whole, table, self._base, reliefs, monitor)

    def layers(self, found: Candidates, monitor: Monitor) -> DecodedLayers:
        """Every layer's values under every scheme, as the algorithm that is searched with rounds them."""
        if not chain(found.space.algorithm).data:
            return DecodedLayers(found, monitor)
        require_alone(found.space.algorithm)
        return SolvedLayers(found, self._model, self._data, monitor)

    def _missing(self, table: Table, cache: RowCache, key: str) -> dict[str, list[str]]:
        """By layer that the model runs, the schemes whose ``key`` is not known; what is known goes into the table."""
        missing = self._unknown(table.found, cache, key)
        for name, lines in table.found.lines.items():
            if known := cache.known.get(name):
                table.add(name, known)
            table.cached += sum(scheme in known.get(key, {}) for scheme in lines) if known else 0
        return missing

    def _unknown(self, found: Candidates, cache: RowCache, key: str) -> dict[str, list[str]]:
        unknown = {}
        for name, lines in found.lines.items():
            known: Mapping[str, float] = cache.known.get(name, {}).get(key, {})
            own = [scheme for scheme in lines if scheme != "keep" and scheme not in known]
            if own and lines["keep"].layer.tensor.name in self._model.places:
                unknown[name] = own
        return unknown

    def cost(self, found: Candidates, weights: CostEstimate) -> CostEstimate:
        """With the passes over the data, each as long as its first batch's forward makes one expect."""
        cache, _ = self._caches(found)
        missing = {key: sum(map(len, self._unknown(found, cache, key).values())) for key in self._measures if key != "weight"}
        whole = max((missing[key] for key in WHOLE if key in missing), default=0)
        # A gradient costs about two forwards more.
        passes = (missing.get("output", 0) > 0) + 3 * (missing.get("fisher", 0) > 0) + whole + (whole > 0)
        passes += len(found.lines) + 1 if self._base else 0
        batches = -(-self._data.count // max(self._data.spec.batch, 1))
        solved = self._unknown(found, cache, "noise") if chain(found.space.algorithm).data else {}
        passes += bool(solved)
        cells = weights.cells + sum(missing.values()) + sum(map(len, solved.values()))
        known = len(self._measures) * sum(len(lines) - 1 for lines in found.lines.values()) - cells
        seconds = (weights.seconds or 0.0) + passes * batches * self._forward
        return CostEstimate(weights.layers, cells, max(known, 0), passes, seconds)

    def described(self, found: Sensitivity) -> Sensitivity:
        """The table with what it was measured on."""
        return replace(found, measures=self._measures, data=self._data.title, data_hash=self._data.hash, base=self._base)
