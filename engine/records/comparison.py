"""Runs, artifacts and float models side by side."""

import math
from dataclasses import dataclass
from typing import Literal

from engine.records.calibration import Evaluation


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared.

    kind       a run of the ledger, a quantized artifact, or a float model
    path       of its artifact or model; ``run`` its id in the ledger
    recipe     TOML, where it is known; ``data`` what it was calibrated on, in words
    nbytes     of its tensor files; ``bits_per_weight`` over the layers compared; None where unknown
    sqnr_db    over all weights compared with the float model; None when exact, or where it is not ``measured``
    evaluation of the whole model, where it was run on data
    """

    title: str
    kind: Literal["run", "artifact", "model"]
    path: str
    run: str = ""
    recipe: str = ""
    data: str = ""
    nbytes: int | None = None
    bits_per_weight: float | None = None
    sqnr_db: float | None = None
    measured: bool = False
    worst_layer: str = ""
    worst_db: float | None = None
    evaluation: Evaluation | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One layer on one side. ``sqnr_db`` is None when the layer is exact, or where it is not ``measured``."""

    scheme: str
    algorithm: str = ""
    nbytes: int | None = None
    sqnr_db: float | None = None
    measured: bool = False
    output_db: float | None = None

    @property
    def db(self) -> float | None:
        """SQNR of the weights in dB, infinite when exact; None where it was not measured."""
        return None if not self.measured else math.inf if self.sqnr_db is None else self.sqnr_db


@dataclass(frozen=True, slots=True)
class ComparedLayer:
    """One layer on every side; None where a side does not have it."""

    name: str
    parameters: int
    figures: tuple[LayerFigures | None, ...]

    def db_change(self, side: int) -> float | None:
        """dB of a side less those of the first: below zero it got worse. None where one of them is not known."""
        first, other = self.figures[0], self.figures[side]
        if first is None or other is None or first.db is None or other.db is None:
            return None
        return 0.0 if first.db == other.db else other.db - first.db

    def bytes_change(self, side: int) -> int | None:
        first, other = self.figures[0], self.figures[side]
        if first is None or other is None or first.nbytes is None or other.nbytes is None:
            return None
        return other.nbytes - first.nbytes


@dataclass(frozen=True, slots=True)
class Transition:
    """Layers that have scheme ``before`` on the first side and ``after`` on the ``side``."""

    side: int
    before: str
    after: str
    layers: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more sides; everything is told against the first.

    recipe_changes  one a side: the unified difference of its recipe from the first one's; empty where equal or not known
    against         the float model that artifacts were measured against; empty where there was none
    notes           what could not be compared, and why
    """

    sides: tuple[Side, ...]
    layers: tuple[ComparedLayer, ...]
    transitions: tuple[Transition, ...]
    recipe_changes: tuple[str, ...]
    against: str = ""
    notes: tuple[str, ...] = ()

    def worst_first(self, side: int = 1) -> tuple[ComparedLayer, ...]:
        """Layers by what got worse, most of all first; unknown changes last, equal ones in network order."""
        return tuple(sorted(self.layers, key=lambda layer: _order(layer.db_change(side))))


def _order(change: float | None) -> tuple[bool, float]:
    return change is None, change or 0.0
