"""Schemes driven by accuracy: the layers that suffer most are relaxed until the measured metric is within a tolerance.

The order in which they are relaxed is that of the front: at every step the layers whose error falls most for each byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import InputError, PlanError, RecipeError
from engine.records.calibration import Scores
from engine.records.progress import Monitor
from engine.records.search import METRICS, Allocation, Attempt
from engine.searching.choosing import Chooser
from engine.searching.predictions import Judged
from engine.searching.whole_model import WholeModel


@dataclass(frozen=True, slots=True)
class Goal:
    """``tolerance``: how much worse the metric may be than the float model's, relative to it (0.01: one per cent); for the
    divergence, nats. ``bits`` per weight are where the search starts; 0 for the cheapest choice."""

    tolerance: float
    metric: str = ""
    bits: float = 0.0


def relax(
    chooser: Chooser, whole: WholeModel, goal: Goal, monitor: Monitor, on_attempt: Callable[[Attempt], None] = lambda found: None
) -> tuple[Allocation, tuple[Attempt, ...]]:
    """The cheapest point of the front, from the start upwards, whose metric is measured within the tolerance; and every trial.

    Steps double until one is within, then halve between it and the last that was not; a metric that is not monotone may have a
    cheaper one below. Raises InputError where the metric cannot be told, PlanError where even the widest schemes are not within,
    DataError, Cancelled.
    """
    before = whole.original()
    metric = metric_of(goal.metric, before)
    start = chooser.front.within(max(goal.bits * chooser.parameters / 8, chooser.front.costs[0]))
    cheapest = chooser.schemes_at(start)
    attempts: list[Attempt] = []
    known: dict[int, bool] = {}

    def within(point: int) -> bool:
        if point not in known:
            monitor.check()
            schemes = chooser.schemes_at(point)
            found = whole.judge(schemes)
            loss = loss_of(metric, before, found)
            nbytes = int(chooser.front.costs[point])
            known[point] = loss <= goal.tolerance
            attempts.append(
                Attempt(
                    tuple(name for name, scheme in schemes.items() if scheme != cheapest[name]), nbytes, chooser.bits(nbytes),
                    Scores(found.accuracy, found.perplexity), found.mean_divergence, loss, known[point],
                )
            )  # fmt: skip
            on_attempt(attempts[-1])
        return known[point]

    last = len(chooser.front) - 1
    low, high, step = start - 1, start, max((last - start) // 32, 1)
    while not within(high):
        if high == last:
            raise PlanError(f"Even the widest of these schemes are not within the tolerance of {metric}; allow more, or keep.")
        low, high, step = high, min(high + step, last), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return chooser.at(high), tuple(attempts)


def metric_of(asked: str, before: Judged) -> str:
    """The metric that was asked for, or the one that the data can tell."""
    if asked and asked not in METRICS:
        raise RecipeError(f"{asked!r} is no metric; choose from {', '.join(METRICS)}.")
    if asked in ("perplexity", "accuracy") and not before.judged:
        raise InputError(f"These data cannot tell {asked}: give text or labels, or choose divergence.")
    return asked or ("accuracy" if before.judged and before.classes else "perplexity" if before.judged else "divergence")


def loss_of(metric: str, before: Judged, after: Judged) -> float:
    """By how much the metric is worse, relative to the float model's; of the divergence, nats."""
    if metric == "divergence":
        return after.mean_divergence
    first, second = getattr(before, metric), getattr(after, metric)
    if metric == "accuracy":
        return (first - second) / first if first else 0.0
    return second / first - 1
