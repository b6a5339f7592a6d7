"""Observers: from the inputs that came by, the range that one scale (and zero point) is to cover.

To add one: a class on ``Observer``, its options, and a line in ``OBSERVERS``. Texts name them as recipes name algorithms:
``minmax``, ``percentile:share=99.9``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from engine.algorithms.options import Chosen, option, parse
from engine.calibration.observers_histogram import Histogram, Range, Target, least_divergence, least_error, percentile
from engine.errors import DataError, RecipeError

if TYPE_CHECKING:
    import torch


class Observer(ABC):
    """Sees tensors one after another; ``range()`` may be asked at any time.

    axis  None for one range; else a range for each index of that axis (-1: the last), where ``channels`` says it is possible
    """

    channels = True

    def __init__(self, options: Any, target: Target, axis: int | None = None) -> None:
        if axis is not None and not self.channels:
            raise RecipeError("This observer finds one range for a whole tensor, none per channel; use minmax or moving.")
        self.options, self.target, self.axis = options, target, axis
        self.batches = 0

    def observe(self, x: torch.Tensor) -> None:
        """Take in one tensor; an empty one says nothing. Raises DataError for NaN or Inf, without saying where."""
        import torch

        if not x.numel():
            return
        x = x.detach()
        if self.axis is None:
            low, high = x.amin(), x.amax()
        else:
            rows = x.movedim(self.axis, 0).flatten(1) if x.ndim > 1 else x[:, None]
            low, high = rows.amin(1), rows.amax(1)
        low, high = low.float(), high.float()
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise DataError("NaN or Inf")
        self._take(x, low, high)
        self.batches += 1

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and greatest value to cover, float32: shape (), or (channels,). Raises DataError when nothing was seen."""
        if not self.batches:
            raise DataError("No calibration sample reached this layer; use other data, or a scheme without a calibrated scale.")
        return self._range()

    @abstractmethod
    def _take(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        """``low``, ``high``: the finite float32 range of ``x``, in the shape of the answer."""

    @abstractmethod
    def _range(self) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclass(frozen=True, slots=True)
class NoOptions:
    """An observer without options."""


@dataclass(frozen=True, slots=True)
class MovingOptions:
    constant: float = option(0.01, "weight of each new batch in the average", low=1e-6, high=1.0)


@dataclass(frozen=True, slots=True)
class PercentileOptions:
    share: float = option(99.99, "share of the values inside the range", low=50.0, high=100.0, unit="%")


class MinMax(Observer):
    """The least and greatest of all values."""

    _low: torch.Tensor
    _high: torch.Tensor

    def _take(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        import torch

        self._low = torch.minimum(self._low, low) if self.batches else low
        self._high = torch.maximum(self._high, high) if self.batches else high

    def _range(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._low, self._high


class Moving(MinMax):
    """Exponential moving average of each batch's least and greatest.

    Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 3.1.
    """

    def _take(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        constant = self.options.constant
        self._low = self._low + constant * (low - self._low) if self.batches else low
        self._high = self._high + constant * (high - self._high) if self.batches else high


class _FromHistogram(Observer):
    channels = False

    def __init__(self, options: Any, target: Target, axis: int | None = None) -> None:
        super().__init__(options, target, axis)
        self.histogram = Histogram()

    def _take(self, x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        self.histogram.add(x, float(low), float(high))

    def _range(self) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        low, high = self.chosen()
        return torch.tensor(low, dtype=torch.float32), torch.tensor(high, dtype=torch.float32)

    @abstractmethod
    def chosen(self) -> Range: ...


class Percentile(_FromHistogram):
    def chosen(self) -> Range:
        return percentile(self.histogram, self.target, self.options.share / 100)


class LeastError(_FromHistogram):
    def chosen(self) -> Range:
        return least_error(self.histogram, self.target)


class Entropy(_FromHistogram):
    def chosen(self) -> Range:
        return least_divergence(self.histogram, self.target)


@dataclass(frozen=True, slots=True)
class ObserverKind:
    """What a form, a flag and a recipe must know of one observer; ``build`` makes it."""

    name: str
    title: str
    summary: str
    build: Callable[[Any, Target, int | None], Observer]
    options: type = NoOptions

    @property
    def channels(self) -> bool:
        """Whether it can find a range per channel."""
        return bool(getattr(self.build, "channels", False))


OBSERVERS: tuple[ObserverKind, ...] = (
    ObserverKind("minmax", "Least and greatest", "Covers everything that was seen.", MinMax),
    ObserverKind("moving", "Moving average", "Averages the batches' ranges; an odd one weighs little.", Moving, MovingOptions),
    ObserverKind("percentile", "Percentile", "Leaves out the rarest, largest values.", Percentile, PercentileOptions),
    ObserverKind("mse", "Least squared error", "Clips where rounding and clipping together cost the least.", LeastError),
    ObserverKind("entropy", "Entropy", "Clips where the values' distribution changes the least (KL divergence).", Entropy),
)


def observer(text: str) -> Chosen:
    """The observer and options that a text such as ``percentile:share=99.9`` names. Raises RecipeError."""
    if text.strip().lower().split(":")[0] not in {kind.name for kind in OBSERVERS}:
        raise RecipeError(f"{text!r} is not an observer; known are {', '.join(kind.name for kind in OBSERVERS)}.")
    return parse(text, cast(Any, OBSERVERS))


def make(text: str, target: Target | None = None, axis: int | None = None) -> Observer:
    """A fresh observer; ``target`` is the number format that mse, entropy and percentile choose for. Raises RecipeError."""
    chosen = observer(text)
    return cast(Any, chosen.algorithm).build(chosen.options, target or Target(), axis)


__all__ = ["OBSERVERS", "Observer", "ObserverKind", "Target", "make", "observer"]
