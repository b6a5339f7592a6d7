"""Which layers can go lower, and what it costs: sensitivity, the size–error front, and what was chosen under a budget."""

from dataclasses import dataclass
from typing import Literal

from engine.records.calibration import Scores

Measure = Literal["weight", "output", "fisher", "divergence", "loss"]
MEASURES: tuple[Measure, ...] = ("weight", "output", "fisher", "divergence", "loss")
"""Errors that a search can minimise, the cheapest first; all but the first need data and a model that runs."""
DEFAULT_MEASURES: tuple[Measure, ...] = ("output", "fisher")
"""What is measured with data where nothing is said."""
PREFERRED: tuple[Measure, ...] = ("divergence", "loss", "fisher", "output", "weight")
"""What is minimised where nothing is said: the first of these that was measured."""
TRIALS = 64
"""Passes over the data that bettering an answer by measuring may take where nothing else is said."""
METRICS = ("perplexity", "accuracy", "divergence")
"""What an accuracy-driven search may keep within a tolerance."""
BudgetKind = Literal["bytes", "bits", "ratio", "floor"]

SCHEMES: tuple[str, ...] = (
    "int2:g32", "int3:g128", "int3:g32", "int4:g128", "int4:g32", "int5:g128", "int6:g128", "int8:channel",
)  # fmt: skip
"""What is tried where nothing else is said."""


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What a search may choose from; ``keep`` is always among it.

    schemes     names of number formats
    algorithm   how codes are chosen while errors are measured; one that needs data (GPTQ, AdaRound) where the model is run
    embeddings, head   "keep", "search", or the scheme that embeddings (the output head) are to have
    loads       a program that must load the result, such as "vLLM"; "" for none
    tied        whether layers that runtimes fuse (q/k/v, gate/up, the experts of a block) must have one scheme
    format      output format; "" for the one that fits
    """

    schemes: tuple[str, ...] = SCHEMES
    algorithm: str = "rtn"
    embeddings: str = "keep"
    head: str = "keep"
    loads: str = ""
    tied: bool = True
    format: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One scheme on one layer.

    nbytes      stored bytes, scales and all
    noise       sum of (w - w')^2, in squared weight units
    output      ``‖(W - W')X‖²`` over the data
    fisher      ``½ Σ g² (w - w')²``, mean over samples: what the loss is expected to rise by, in nats, g its gradient
    divergence  Kullback-Leibler divergence of the whole model's predictions with this layer alone quantized, in nats
    loss        rise of the whole model's loss with this layer alone quantized, in nats; negative where it falls
    problem     why this scheme cannot be applied to this layer; then there are no errors
    """

    scheme: str
    nbytes: int
    noise: float | None = None
    output: float | None = None
    fisher: float | None = None
    divergence: float | None = None
    loss: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """One layer under every scheme.

    signal, output_signal   sum of w^2, and ``‖WX‖²`` over the data
    relief      by how much the divergence falls when this layer alone is left float and all others have the ``base`` scheme
    """

    layer: str
    kind: str
    parameters: int
    nbytes: int
    cells: tuple[Cell, ...]
    signal: float | None = None
    output_signal: float | None = None
    relief: float | None = None

    def cell(self, scheme: str) -> Cell | None:
        """What is known of one scheme."""
        return next((cell for cell in self.cells if cell.scheme == scheme), None)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The table layer × scheme. ``complete`` is False while layers or measures are missing; what is there can be used.

    model_hash, data_hash   of what it was measured on; ``measures`` that were asked for; ``base`` is the scheme of ``relief``
    measured, cached   cells computed now, and cells known from before
    """

    path: str
    model_hash: str
    space: SearchSpace
    measures: tuple[str, ...]
    rows: tuple[SensitivityRow, ...]
    data: str = ""
    data_hash: str = ""
    base: str = ""
    complete: bool = True
    measured: int = 0
    cached: int = 0
    seconds: float = 0.0
    engine_version: str = ""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What a sensitivity pass will take: ``seconds`` are None where only running tells. ``cells`` are to be measured, ``cached``
    are known already, ``forwards`` counts passes of the whole model over the data."""

    layers: int
    cells: int
    cached: int
    forwards: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a model may cost, or how good it must be.

    bytes   of the tensor files, headers and float layers included
    bits    per weight, over the layers that are searched (kept ones count as they are stored)
    ratio   times smaller than the tensor files are now
    floor   least SQNR in dB, mean over the weights of the layers searched; the smallest such model is chosen
    """

    kind: BudgetKind
    value: float


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One of the best trade-offs: bytes of the layers searched, bits per weight over them, and their total error."""

    nbytes: int
    bits: float
    error: float


@dataclass(frozen=True, slots=True)
class Step:
    """The next best spending: one group of layers gets a wider scheme. ``nbytes`` and ``error`` are totals after it."""

    group: int
    scheme: str
    nbytes: int
    error: float


@dataclass(frozen=True, slots=True)
class UniformPoint:
    """One scheme wherever it can be applied, the other layers kept: what a search is to be better than."""

    scheme: str
    nbytes: int
    error: float


@dataclass(frozen=True, slots=True)
class Walk:
    """The whole front as a walk from the cheapest choice upwards: what a slider needs to answer every budget at once.

    groups       layers that have one scheme together; ``start`` is the scheme of each
    nbytes, error   totals over all layers searched at the start; the error is what ``by`` measures
    other_bytes  tensor files' bytes that the search does not decide, headers included, about
    """

    by: str
    parameters: int
    other_bytes: int
    groups: tuple[tuple[str, ...], ...]
    start: tuple[str, ...]
    nbytes: int
    error: float
    steps: tuple[Step, ...] = ()
    uniform: tuple[UniformPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to in a table's terms: stored bytes of the layers searched, and their total error as the table predicted
    it and as the run measured it; None where that is not known. ``unlike`` counts layers of another algorithm than the table's.
    """

    nbytes: int
    predicted: float | None
    measured: float | None
    unlike: int = 0


@dataclass(frozen=True, slots=True)
class Allocation:
    """A scheme for every layer searched, in file order.

    error, bound  total of what ``by`` measures, and what no choice within the budget can be below (the linear program's optimum)
    db            SQNR in dB, of weights or outputs: relative noise, mean over the weights of the layers searched; None for other
                  measures, or without error
    nbytes        stored bytes of the layers searched; ``predicted_bytes`` of the tensor files as they would be written
    exact         whether it was proven best by integer programming
    recipe        TOML that gives these layers these schemes
    """

    by: str
    budget: Budget
    schemes: tuple[tuple[str, str], ...]
    error: float
    bound: float
    db: float | None
    nbytes: int
    bits: float
    predicted_bytes: int
    exact: bool
    recipe: str
    format: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One trial of a search that measures the model: the layers that differ from the first trial's, and how it did."""

    relaxed: tuple[str, ...]
    nbytes: int
    bits: float
    scores: Scores
    divergence: float | None
    loss: float
    """By how much the metric is worse than the float model's, relative to it, 0.01 being one per cent; of divergence, nats."""
    within: bool
    """The tolerance, or where a budget was given, the budget."""


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """How an answer is bettered by measuring: ``trials`` passes over the data at most; ``metric``, divergence where it is empty,
    is what must get better."""

    trials: int = TRIALS
    metric: str = ""
