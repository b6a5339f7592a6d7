"""What layers' inputs are, gathered while a model runs: moments for the algorithms, ranges for activations and for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from engine.calibration.moments import Moments
from engine.calibration.sites import Operator
from engine.errors import DataError
from engine.numerics.products import halves_are_fast
from engine.records.calibration import Activity

if TYPE_CHECKING:
    from engine.calibration.batches import Batch

BINS = 128
FINE = 32 * BINS
"""Bins that are counted into, over twice the range at most."""
HISTOGRAM = 1 << 16
"""Values of a batch that are counted into the histogram."""
STEPS = 32
"""Most points of a convergence curve."""


class Unshared(Exception):
    """Layers thought to share their input were given different ones: gather again, each for itself."""


@dataclass(slots=True)
class Wanted:
    """What to gather of one layer: ``moments`` (with the second moment if ``second``), ``activity``, and an observer's
    ``observe``."""

    moments: bool = False
    second: bool = False
    activity: bool = False
    observe: Callable[[torch.Tensor], None] | None = None


class Collector:
    """A visitor of operators. ``shared``: layers that multiply the same tensor have one record of moments."""

    def __init__(self, wanted: Mapping[str, Wanted], *, shared: bool = True, fast: bool = True) -> None:
        self._wanted, self._shared = wanted, shared
        self._records: dict[str, Moments] = {}
        self._leaders: dict[int, str] = {}
        self._ranges: dict[str, _Range] = {}
        self._latest: tuple[torch.Tensor, int, Moments] | None = None
        self._looked: tuple[torch.Tensor, _Range] | None = None
        self._products = Products() if fast else None
        self._batch: Batch | None = None
        self._mask: torch.Tensor | None = None
        self.reached: set[str] = set()

    def begin(self, batch: Batch) -> None:
        """The samples that come next; positions that their attention mask leaves out are not looked at."""
        self._batch, self._latest, self._looked = batch, None, None
        mask = batch.keywords.get("attention_mask")
        self._mask = None if mask is None or bool((mask != 0).all()) else (mask != 0).reshape(-1)

    def visit(self, operator: Operator) -> torch.Tensor:
        """Look at the input, then multiply."""
        self.look(operator)
        return self._products.run(operator) if self._products else operator.run()

    def look(self, operator: Operator) -> None:
        """Take in the input of every layer that it multiplies."""
        first = operator.uses[0].layer.name
        self.reached.update(use.layer.name for use in operator.uses)
        wants = [self._wanted[use.layer.name] for use in operator.uses if use.layer.name in self._wanted]
        if wants and operator.kind != "embedding":
            try:
                if any(want.moments for want in wants):
                    self._moments(operator, any(want.second for want in wants))
                self._look(operator)
            except DataError as error:
                raise DataError(self._said(str(error), first)) from None
        elif wants:
            self._look(operator)

    def moments(self, name: str) -> Moments | None:
        """The record of a layer; None when nothing reached it."""
        return self._records.get(name)

    def activity(self, name: str) -> Activity:
        return self._ranges[name].activity(name) if name in self._ranges else Activity(name, 0)

    def settle(self) -> None:
        """Nothing more comes: let go of what only gathering needs (widened weights, vectors that wait for others)."""
        self._products = self._latest = self._looked = None
        for record in self._records.values():
            record.settle()

    def forget(self, name: str) -> None:
        """Let go of the moments of one layer; layers that share them keep them."""
        self._records.pop(name, None)

    # ----------------------------------------------------------------------------------------------------------

    def _moments(self, operator: Operator, second: bool) -> None:
        x, name = operator.input, operator.uses[0].layer.name
        key = (x.data_ptr(), x.shape, x.stride(), x._version)
        same = self._latest and operator.kind == "linear" and _key(self._latest[0]) == key
        record = self._records.get(name)
        if record is None and same and self._shared and self._latest:
            record = self._records[name] = self._latest[2]
        elif record is None:
            groups, size = operator.groups
            record = self._records[name] = Moments(groups, size, second=second)
            self._leaders[id(record)] = name
        for use in operator.uses:
            self._records.setdefault(use.layer.name, record)
        leader = self._leaders[id(record)]
        if leader != name:
            if not (same and self._latest and self._latest[2] is record):
                raise Unshared
            return
        if self._products and self._products.suits(operator):
            record.add(self._kept(self._products.widened(x)), operator.uses[0].group)
        else:
            for group, vectors in operator.vectors():
                record.add(self._kept(vectors), group)
        if operator.kind == "linear":
            self._latest = (x, x._version, record)

    def _kept(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors without those of padding, where they can be told apart."""
        if self._mask is None or len(vectors) != len(self._mask):
            return vectors
        return vectors[self._mask.to(vectors.device)]

    def _look(self, operator: Operator) -> None:
        assert self._batch is not None
        for use in operator.uses:
            want = self._wanted.get(use.layer.name)
            if want is None:
                continue
            x = operator.input
            if operator.kind == "linear" and x.dim() == 2:
                x = self._kept(x)
            if want.activity and x.is_floating_point() and x.numel():
                self._range(use.layer.name, x, operator)
            elif want.activity:
                self._ranges.setdefault(use.layer.name, _Range()).count(self._batch.indices)
            if want.observe and x.is_floating_point() and x.numel():
                want.observe(x)

    def _range(self, name: str, x: torch.Tensor, operator: Operator) -> None:
        """Layers that look at the same tensor one after the other share their range."""
        assert self._batch is not None
        latest = self._looked
        if latest and _key(latest[0]) == _key(x) and self._ranges.setdefault(name, latest[1]) is latest[1]:
            return
        seen = self._ranges.setdefault(name, _Range())
        seen.add(x, self._batch.indices, routed=is_routed(name))
        self._looked = (x, seen)

    def _said(self, what: str, name: str) -> str:
        if what == "NaN or Inf":
            indices = self._batch.indices if self._batch else ()
            which = f"at sample {indices[0]}" if len(indices) == 1 else f"among the samples {', '.join(map(str, indices))}"
            return f"The input of {name} holds NaN or Inf {which}; check the data, or round the layer with rtn, which needs none."
        return what


def is_routed(name: str) -> bool:
    """Whether a layer is one of a mixture's experts, to which tokens are sent in an order of their own."""
    return "experts" in name.split(".")


def _key(x: torch.Tensor) -> tuple:
    return (x.data_ptr(), x.shape, x.stride(), x._version)


class Products:
    """Products of bfloat16 matrices, in float32 where the processor multiplies those faster; both sum in float32 and round once.

    Widened inputs are used again by layers that share them, widened weights by every batch.
    """

    def __init__(self) -> None:
        self._slow_halves = not halves_are_fast()
        self._input: tuple[torch.Tensor, torch.Tensor] | None = None
        self._weights: dict[tuple, torch.Tensor] = {}
        self._buffers: dict[str, torch.Tensor] = {}

    def suits(self, operator: Operator) -> bool:
        x = operator.input
        return (
            self._slow_halves
            and operator.kind == "linear"
            and x.dtype == torch.bfloat16
            and x.dim() == 2
            and x.device.type == "cpu"
        )

    def widened(self, x: torch.Tensor) -> torch.Tensor:
        if self._input is None or _key(self._input[0]) != _key(x):
            self._input = None
            self._input = (x, self._buffer("input", x.shape).copy_(x))
        return self._input[1]

    def _buffer(self, name: str, shape: torch.Size) -> torch.Tensor:
        """Memory that is used again and again: the first touch of fresh memory costs as much as the product."""
        size = shape.numel()
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size)
        return self._buffers[name][:size].view(shape)

    def run(self, operator: Operator) -> torch.Tensor:
        """The operator's output."""
        if not self.suits(operator):
            return operator.run()
        key = _key(operator.weight)
        if key not in self._weights:
            # A linear layer's is a view across its rows; laid out as it is multiplied it costs a little less every time.
            self._weights[key] = operator.weight.to(torch.float32, memory_format=torch.contiguous_format)
        x, weight = self.widened(operator.input), self._weights[key]
        if not operator.is_product:
            return operator.run(x, weight, widen=True).to(operator.input.dtype)
        out = self._buffer("output", torch.Size((len(x), weight.shape[1])))
        return operator.run(x, weight, widen=True, out=out).to(operator.input.dtype)


@dataclass(slots=True)
class _Range:
    """Range of one layer's inputs, sample by sample, and a histogram that widens by doubling."""

    low: float = math.inf
    high: float = -math.inf
    low_sample: int = -1
    high_sample: int = -1
    samples: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    limit: float = 0.0
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(FINE))

    def count(self, indices: tuple[int, ...]) -> None:
        self.samples += len(indices)

    def add(self, x: torch.Tensor, indices: tuple[int, ...], *, routed: bool = False) -> None:
        flat = x.detach().reshape(len(x), -1)
        low, high = torch.aminmax(flat)
        if not math.isfinite(float(low)) or not math.isfinite(float(high)):
            raise DataError("NaN or Inf")
        if float(low) < self.low:
            self.low, self.low_sample = float(low), _sample(flat.amin(1).argmin(), len(flat), () if routed else indices)
        if float(high) > self.high:
            self.high, self.high_sample = float(high), _sample(flat.amax(1).argmax(), len(flat), () if routed else indices)
        self.samples += len(indices)
        self.curve.append((self.samples, self.low, self.high))
        self._histogram(flat, max(abs(float(low)), abs(float(high))))

    def _histogram(self, flat: torch.Tensor, reach: float) -> None:
        while reach > self.limit:
            if self.limit == 0.0:
                self.limit = reach or 1.0
                break
            # Twice as wide: every two bins become one.
            middle = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([torch.zeros(FINE // 4), middle, torch.zeros(FINE // 4)])
            self.limit *= 2
        limit, flat = self.limit or 1.0, flat.reshape(-1)
        some = flat[:: max(1, flat.numel() // HISTOGRAM)].float()  # a picture for people, not an observer
        self.counts += torch.histc(some, bins=FINE, min=-limit, max=limit)

    def activity(self, name: str) -> Activity:
        if not self.curve:
            return Activity(name, self.samples)
        step = max(1, len(self.curve) // STEPS)
        shown = self.curve[step - 1 :: step]
        shown = shown if shown[-1] == self.curve[-1] else [*shown, self.curve[-1]]
        width = self.high - self.low
        half = next((low, high) for count, low, high in self.curve if count * 2 >= self.samples)
        return Activity(
            name, self.samples, self.low, self.high, self.low_sample, self.high_sample, self._shown_counts(),
            tuple(n for n, _, _ in shown), tuple(low for _, low, _ in shown), tuple(high for _, _, high in shown),
            (half[1] - half[0]) / width if width > 0 else 1.0,
        )  # fmt: skip

    def _shown_counts(self) -> tuple[int, ...]:
        """The bins that lie in [low, high], shared out over ``BINS`` of equal width."""
        edges = torch.linspace(-self.limit, self.limit, FINE + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        width = max(self.high - self.low, 1e-30)
        place = ((middles - self.low) / width * BINS).floor().clamp(0, BINS - 1).long()
        return tuple(int(n) for n in torch.zeros(BINS).index_add_(0, place, self.counts))


def _sample(row: torch.Tensor, rows: int, indices: tuple[int, ...]) -> int:
    """Which sample a row of a batch belongs to; -1 where rows do not lie sample by sample."""
    return indices[int(row) * len(indices) // rows] if indices and rows % len(indices) == 0 else -1
