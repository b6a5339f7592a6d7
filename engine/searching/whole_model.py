"""The whole model with some layers quantized: its loss, and how far its predictions are from the float model's.

It runs in float32 where it can, so that the effect of one layer is not lost in the rounding of all others.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as functional

from engine.calibration.data import Data
from engine.calibration.sites import in_layout
from engine.calibration.units import Kept, call
from engine.errors import EngineError
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.quantizing.clock import Clock
from engine.records.progress import Monitor
from engine.running.gathering import free_room
from engine.searching.cache import RowCache
from engine.searching.decoded import DecodedLayers
from engine.searching.predictions import Judged
from engine.searching.sensitivity import Table

RELIEF = "relief"


class WholeModel:
    """A copy of a model that takes layers' other values; its float predictions are kept, in files beyond a third of memory."""

    def __init__(self, model: RunnableModel, data: Data, decoded: DecodedLayers, monitor: Monitor) -> None:
        self.model = _widened(model, data)
        self._data, self.decoded, self._monitor = data, decoded, monitor
        self._layers = {layer.name: layer for layer in model.summary.layers}
        self._now: dict[str, str] = {}
        self._references: Kept | None = None
        self.batches = 0

    def __enter__(self) -> WholeModel:
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mono-quant-"))
        self._stack.enter_context(running(self.model.module))
        self._kept = Kept(folder, free_room() // 3)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def original(self) -> Judged:
        """The float model, whose predictions are kept."""
        self.put({})
        found = Judged()
        for number, batch in enumerate(self._data.batches()):
            self._monitor.check()
            rows = found.take(call(self.model, batch), batch)
            self._kept.put(number, functional.log_softmax(rows, -1))
            self.batches = number + 1
        self._references = self._kept
        return found

    def runs(self, name: str) -> bool:
        """Whether a layer was found in the running model."""
        return self._layers[name].tensor.name in self.model.places

    def put(self, schemes: Mapping[str, str]) -> None:
        """Give layers the values of these schemes; all others are float again."""
        wanted = {name: scheme for name, scheme in schemes.items() if scheme != "keep"}
        for name in {*self._now, *wanted}:
            scheme = wanted.get(name, "keep")
            if self._now.get(name, "keep") != scheme:
                layer = self._layers[name]
                self.model.put(layer.tensor.name, in_layout(self.decoded.under(name, scheme), layer))
        self._now = wanted

    def judge(self, schemes: Mapping[str, str], clock: Clock | None = None) -> Judged:
        """How it does with these schemes. Raises DataError, Cancelled."""
        if self._references is None:
            self.original()
        assert self._references is not None
        self.put(schemes)
        found = Judged()
        for number, batch in enumerate(self._data.batches()):
            self._monitor.check()
            found.take(call(self.model, batch), batch, self._references.get(number))
            if clock:
                clock.advance(1)
        return found


def _widened(model: RunnableModel, data: Data) -> RunnableModel:
    """A copy in float32; as it is where that does not run, as programs with types of their own."""
    wide = replace(model, module=copy.deepcopy(model.module))
    if all(p.dtype == torch.float32 for p in model.module.parameters() if p.is_floating_point()):
        return wide
    try:
        wide.module.float()
        with running(wide.module):
            call(wide, next(iter(data.batches())))
    except (EngineError, RuntimeError, TypeError, ValueError):
        return replace(model, module=copy.deepcopy(model.module))
    return wide


def measure_whole(whole: WholeModel, table: Table, missing: Mapping[str, list[str]], cache: RowCache, monitor: Monitor) -> None:
    """Divergence, and rise of the loss where there are targets, with one layer at a time under each scheme.

    Every figure is remembered as soon as it is there. Raises DataError, Cancelled.
    """
    if not missing:
        return
    before = whole.original()
    clock = Clock(monitor, "whole model", whole.batches * sum(map(len, missing.values())))
    for name, schemes in missing.items():
        clock.layer = name
        for scheme in schemes:
            found = whole.judge({name: scheme}, clock)
            known: dict[str, dict[str, float]] = {"divergence": {scheme: found.mean_divergence}}
            if found.mean_loss is not None and before.mean_loss is not None:
                known["loss"] = {scheme: found.mean_loss - before.mean_loss}
            cache.put(name, known)
            table.measured += 1
        table.add(name, cache.known[name])


def measure_relief(whole: WholeModel, table: Table, base: str, cache: RowCache, monitor: Monitor) -> None:
    """By how much the divergence falls when one layer alone is left float, all others having the scheme ``base``.

    Raises DataError, Cancelled.
    """
    usable = [name for name, lines in table.found.lines.items() if base in lines and whole.runs(name)]
    every = dict.fromkeys(usable, base)
    missing = [name for name in usable if cache.known.get(name, {}).get(RELIEF) is None]
    for name in usable:
        if name not in missing:
            table.add(name, cache.known[name])
    if not missing:
        return
    whole.original()
    clock = Clock(monitor, "one layer left float", whole.batches * (1 + len(missing)))
    worst = whole.judge(every, clock).mean_divergence
    for name in missing:
        clock.layer = name
        cache.put(name, {RELIEF: worst - whole.judge({**every, name: "keep"}, clock).mean_divergence})
        table.add(name, cache.known[name])
