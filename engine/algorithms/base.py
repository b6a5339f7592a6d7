"""What an algorithm is given, and what it must say about itself.

Three stages, in this order: *transforms* move scale between layers without changing what the float model computes; a *solver*
chooses the codes of one layer; *corrections* repair what it did. Algorithms that need data are given torch tensors, the others
chunks of stored weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.records.scheme import Scheme

if TYPE_CHECKING:
    import torch

Stage = Literal["transform", "solver", "correction"]

Ranges = np.ndarray
"""One float32 number for each group."""
Parameters = tuple[Ranges, Ranges]
"""Scale and zero point of each group."""


class Groups(ABC):
    """Some groups of one weight, on which parameters may be tried. ``low`` and ``high`` are their least and greatest weight."""

    low: Ranges
    high: Ranges
    scheme: Scheme

    @abstractmethod
    def first(self) -> Parameters:
        """Round to nearest: the parameters that cover each range (ternary and binary: those of the mean magnitude)."""

    @abstractmethod
    def covering(self, low: Ranges, high: Ranges) -> Parameters:
        """The parameters that cover other ranges."""

    @abstractmethod
    def errors(self, parameters: Parameters, power: float) -> np.ndarray:
        """Float64 sum of ``|w - w'|**power`` of each group, w' exactly as a reader of the file decodes it."""

    @abstractmethod
    def quantiles(self, first: float, last: float, *, magnitude: bool) -> Parameters:
        """Two quantiles (0 to 1, linear between order statistics) of the weights of each group, or of their magnitudes."""

    @abstractmethod
    def half_quadratic(self, parameters: Parameters, *, iterations: int, power: float, beta: float, kappa: float) -> Parameters:
        """The zero points, or scales where zero points are whole, that the half-quadratic solver finds from these."""


class Inputs(ABC):
    """What is known of the vectors that a layer multiplies: ``groups`` kinds of them (convolution groups, experts), ``size``
    wide."""

    groups: int
    size: int
    counts: list[int]
    """Vectors seen, group by group."""
    low: torch.Tensor
    high: torch.Tensor
    kept: dict[Any, Any]
    """What solvers keep for other layers with the same inputs."""

    @property
    @abstractmethod
    def second(self) -> torch.Tensor | None:
        """``XᵀX``, (groups, size, size) float32, where it was asked for."""

    @property
    @abstractmethod
    def mean(self) -> torch.Tensor:
        """(groups, size)"""

    @property
    @abstractmethod
    def magnitude(self) -> torch.Tensor:
        """Mean of |x|, (groups, size)."""

    @property
    @abstractmethod
    def reach(self) -> torch.Tensor:
        """Largest |x|, (groups, size)."""


class Rounding(ABC):
    """How one weight, (rows, cols) float32, is rounded: its grid and scales, and values exactly as a reader decodes them.

    Scales and zero points are numpy float32 (rows, groups of a row); ``columns`` values of a row share one. ``by_columns``
    says whether a group lies within one row, so that it may be chosen when its columns' turn comes.
    """

    rows: int
    cols: int
    columns: int
    scheme: Scheme
    by_columns: bool

    @abstractmethod
    def fitted(self, weight: torch.Tensor, text: str) -> Parameters:
        """Parameters of all groups, as a weight-only algorithm chooses them."""

    @abstractmethod
    def covering(self, low: np.ndarray, high: np.ndarray) -> Parameters:
        """Parameters of one group per row, from its range."""

    @abstractmethod
    def nearest(self, weight: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """The grid's numbers nearest to ``weight``, and the decoded weight."""

    @abstractmethod
    def decoded(self, levels: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The weight that a reader decodes from numbers of the grid."""

    @abstractmethod
    def solve_columns(
        self, weight: np.ndarray, original: np.ndarray, factor: np.ndarray, parameters: Parameters, group_of: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """GPTQ in one block: ``weight`` (columns, rows), moved by what came before, is rounded in place.

        Gives levels and errors from ``original``, of the same shape, and each column's squared distance between what was wanted
        and what was stored. ``parameters`` are (groups, rows) here, and ``group_of`` names each column's.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise ``Cancelled`` if the user asked to stop."""

    @property
    @abstractmethod
    def limits(self) -> tuple[float, float]:
        """Least and greatest number of the grid."""


@dataclass(slots=True)
class Solution:
    """What a solver chose: numbers of the grid (rows, cols), parameters, and the weight that a reader decodes.

    ``before``, ``after``: the layer's objective ``‖(W - W')X‖²`` of round to nearest and of this, where it was computed.
    """

    levels: torch.Tensor
    parameters: Parameters
    decoded: torch.Tensor
    before: float | None = None
    after: float | None = None
    note: str = ""


@dataclass(slots=True)
class Scaling:
    """Channels whose scale may move from what makes them into the layers that take them in.

    ``weights``: the consumers, (rows, channels) float32, with their ``roundings`` (None for one that stays float). ``source``:
    the weight (channels, ...) of the layer that makes the channels, None for a norm.
    """

    weights: list[torch.Tensor]
    roundings: list[Rounding | None]
    inputs: Inputs | None = None
    source: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class NoOptions:
    """An algorithm without options."""


def anything(scheme: Scheme) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """``fit`` (without data) chooses the parameters of some groups; ``solve`` (with data) the codes of a whole weight.

    stage      when its turn comes; ``scale`` is a transform's function, giving what columns of the consumers are multiplied by,
               ``correct`` a correction's, giving what is added to the bias
    data       whether it needs calibration; ``second`` whether it needs ``XᵀX``
    memory     bytes it needs for a weight of (rows, cols), beside the weight and the statistics
    options    a frozen dataclass of fields made by ``option``: forms, flags and recipes are built from it
    obstacle   why it cannot work with a scheme, and what would; empty when it can
    shortlist  other algorithms, as texts, of which the best by squared error is taken for each layer; ``fit`` is then not called
    """

    name: str
    title: str
    summary: str
    fit: Callable[[Groups, Any], Parameters] | None = None
    options: type = NoOptions
    obstacle: Callable[[Scheme], str] = anything
    shortlist: tuple[str, ...] = ()
    stage: Stage = "solver"
    data: bool = False
    second: bool = False
    solve: Callable[[Rounding, Any, Inputs, Any], Solution] | None = None
    scale: Callable[[Scaling, Any], Any] | None = None
    correct: Callable[[Any, Any, Inputs], Any] | None = None
    memory: Callable[[int, int], int] = lambda rows, cols: 0


def better(groups: Groups, first: Parameters, second: Parameters, power: float) -> Parameters:
    """Of two choices the one with the lesser error, group by group."""
    wins = groups.errors(second, power) < groups.errors(first, power)
    return np.where(wins, second[0], first[0]), np.where(wins, second[1], first[1])
