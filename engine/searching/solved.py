"""One layer's weight under each scheme as an algorithm with data rounds it, on what the float model gives the layer."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Mapping

import torch

from engine.algorithms import chain
from engine.algorithms.base import Inputs
from engine.calibration.collect import Wanted
from engine.calibration.data import Data
from engine.calibration.sites import Sites
from engine.calibration.units import parts
from engine.chunks import Workers
from engine.errors import DataError, RecipeError
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.quantizing.rounding import WeightRounding
from engine.records.plan import LayerPlan
from engine.records.progress import Monitor
from engine.running.gathering import collected, free_room
from engine.schemes import family_of
from engine.schemes.scaled import ScaledFamily
from engine.searching.candidates import Candidates
from engine.searching.decoded import DecodedLayers

OnSolved = Callable[[str, Mapping[str, torch.Tensor], torch.Tensor | None], None]
"""Told of a layer, its values by scheme, and the second moment of its inputs."""


def require_alone(algorithm: str) -> None:
    """Raise RecipeError for algorithms that change more than the codes of one layer: its errors alone would say little."""
    steps = chain(algorithm)
    if others := [str(step) for step in (*steps.transforms, *steps.corrections)]:
        raise RecipeError(f"{others[0]} changes other layers too: search with {steps.solver} and give the chain to --then.")


class SolvedLayers(DecodedLayers):
    """Weights as matrices (rows, cols), solved part by part when they are first wanted and kept in a private folder, in the type
    in which a reader decodes them. A layer that no data reached is rounded to nearest, as a run would."""

    def __init__(self, found: Candidates, model: RunnableModel, data: Data, monitor: Monitor) -> None:
        super().__init__(found, monitor)
        self._model, self._data = model, data
        self._solver = chain(found.space.algorithm).solver
        self._stack = contextlib.ExitStack()
        self._places: dict[tuple[str, str], str] = {}

    def __enter__(self) -> SolvedLayers:
        self._folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mono-quant-"))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        super().__exit__(*exc)

    def prepare(
        self, wanted: Mapping[str, Collection[str]], on_solved: OnSolved | None = None,
        advance: Callable[[str], None] = lambda name: None,
    ) -> None:  # fmt: skip
        """Solve what is not there yet: one pass of the float model over the data. Raises DataError, Cancelled."""
        missing: dict[str, list[str]] = {}
        for name, schemes in wanted.items():
            usable = [s for s in self._found.lines[name] if s in schemes and s != "keep" and (name, s) not in self._places]
            missing |= {name: usable} if usable else {}
        if not missing:
            return
        lines, model = self._found.lines, self._model
        sites = Sites(model, [lines[name]["keep"].layer for name in missing])
        with tempfile.TemporaryDirectory(prefix="mono-quant-") as folder, running(model.module), Workers() as workers:
            for part in parts(model, self._data, sites, list(missing), sequential=False, folder=folder, limit=free_room() // 3):
                here = [name for name in missing if name in part.layers]
                collector = collected(part, {name: Wanted(True, True) for name in here}, self._monitor, lambda names: None)
                for name in here:
                    inputs = collector.moments(name)
                    found = {}
                    for scheme in missing[name]:
                        found[scheme] = self._solve(lines[name][scheme], inputs, workers)
                        self._keep(name, scheme, found[scheme])
                        advance(name)
                    if on_solved:
                        on_solved(name, found, inputs.second if inputs is not None else None)

    def under(self, name: str, scheme: str) -> torch.Tensor:
        """What a reader decodes. Raises DataError for NaN or Inf, Cancelled."""
        if scheme == "keep":
            return self.original(name)
        if (name, scheme) not in self._places:
            self.prepare({name: [scheme]})
        if (name, scheme) not in self._places:  # not a part of the model that runs
            return self._rounded(self._found.lines[name][scheme])
        return torch.load(self._places[name, scheme], weights_only=True).float()

    def _keep(self, name: str, scheme: str, values: torch.Tensor) -> None:
        path = os.path.join(self._folder, f"{len(self._places)}.pt")
        dtype = self._found.lines[name]["keep"].layer.dtype
        kinds = {"BF16": torch.bfloat16, "F16": torch.float16}
        narrow = values.to(kinds[dtype]) if dtype in kinds else values
        torch.save(narrow if torch.equal(narrow.float(), values) else values, path)
        self._places[name, scheme] = path

    def _solve(self, line: LayerPlan, inputs: Inputs | None, workers: Workers) -> torch.Tensor:
        if not isinstance(family_of(line.scheme), ScaledFamily):
            return super().under(line.layer.name, line.scheme_name)
        whole = self._whole(line.layer.name)
        rounding = WeightRounding(line, self._limit(line, whole), workers, self._monitor.check)
        solve = self._solver.algorithm.solve
        if solve is not None and inputs is not None and sum(inputs.counts) > 0:
            return solve(rounding, whole, inputs, self._solver.options).decoded
        return rounding.nearest(whole, rounding.fitted(whole, "rtn"))[1]

    def _rounded(self, line: LayerPlan) -> torch.Tensor:
        with Workers() as workers:
            return self._solve(line, None, workers)

    def _whole(self, name: str) -> torch.Tensor:
        whole = self.original(name).contiguous()
        if not bool(torch.isfinite(whole).all()):
            raise DataError(f"{name} holds NaN or Inf; repair the checkpoint or keep this layer.")
        return whole

    def _limit(self, line: LayerPlan, whole: torch.Tensor) -> float:
        """Largest magnitude, also of the layers that a runtime fuses with this one."""
        others = [self.original(name) for name in line.fused if name in self._found.lines]
        return max(float(values.abs().max()) for values in (whole, *others))
