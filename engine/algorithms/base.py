"""What an algorithm is given, and what it must say about itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.records.scheme import Scheme

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


@dataclass(frozen=True, slots=True)
class NoOptions:
    """An algorithm without options."""


def anything(scheme: Scheme) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """``fit`` chooses the parameters of some groups.

    options    a frozen dataclass of fields made by ``option``: forms, flags and recipes are built from it
    obstacle   why it cannot work with a scheme, and what would; empty when it can
    shortlist  other algorithms, as texts, of which the best by squared error is taken for each layer; ``fit`` is then not called
    """

    name: str
    title: str
    summary: str
    fit: Callable[[Groups, Any], Parameters]
    options: type = NoOptions
    obstacle: Callable[[Scheme], str] = anything
    shortlist: tuple[str, ...] = ()


def better(groups: Groups, first: Parameters, second: Parameters, power: float) -> Parameters:
    """Of two choices the one with the lesser error, group by group."""
    wins = groups.errors(second, power) < groups.errors(first, power)
    return np.where(wins, second[0], first[0]), np.where(wins, second[1], first[1])
