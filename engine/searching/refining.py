"""Schemes refined by measuring: the allocation is tried on data beside every uniform recipe of its size, and then bettered.

Errors that are added up know nothing of each other. So the model is measured as it stands with one group of layers at a time one
scheme wider or narrower; the knapsack over these differences gives the next trial, which is taken only if it is measured better.
After a trial that is not, fewer of its changes are tried, those of the largest gain first (a trust region), and then exchanges of
two groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import InputError, PlanError, RecipeError
from engine.quantizing.clock import Clock
from engine.records.calibration import Scores
from engine.records.progress import Monitor
from engine.records.search import Allocation, Attempt, Budget, TrialLimits
from engine.searching.allocation import Unit, solve
from engine.searching.choosing import Chooser
from engine.searching.predictions import Judged
from engine.searching.relaxing import loss_of, metric_of
from engine.searching.whole_model import WholeModel


def refine(
    choosers: Sequence[Chooser], whole: WholeModel, budget: Budget, limits: TrialLimits, monitor: Monitor, *, algorithm: str = "",
    on_attempt: Callable[[Attempt], None] = lambda found: None,
) -> tuple[Allocation, tuple[Attempt, ...]]:  # fmt: skip
    """The best schemes that were measured within a budget, and every trial.

    ``choosers`` differ in what they minimise; the first one's table names what the answer is predicted to lose. What is returned
    was measured no worse on these data than any of them, and than every uniform recipe within the budget. Raises InputError,
    PlanError, DataError, Cancelled.
    """
    if budget.kind == "floor":
        raise RecipeError("A floor in dB is not refined by measuring; give a size, or a tolerance.")
    first = choosers[0]
    start = first.allocate(budget, algorithm=algorithm)
    trial = _Trials(first, whole, budget, start, limits, monitor, on_attempt)
    seeds = [dict(start.schemes), *(dict(other.allocate(budget).schemes) for other in choosers[1:])]
    seeds += [dict(schemes) for _, schemes in first.uniform_schemes()]
    for schemes in seeds:
        if trial.fits(schemes) and trial.left:
            trial.measure(schemes)
    if trial.best is None:
        raise PlanError("No trial was allowed; give --trials 1 or more.")
    _improve(first, trial)
    chosen = trial.best
    if chosen == dict(start.schemes):
        return start, tuple(trial.attempts)
    return first.allocation_of(chosen, budget, algorithm=algorithm), tuple(trial.attempts)


class _Trials:
    """What was measured, and the best of it within the budget."""

    def __init__(
        self, chooser: Chooser, whole: WholeModel, budget: Budget, start: Allocation, limits: TrialLimits, monitor: Monitor,
        on_attempt: Callable[[Attempt], None],
    ) -> None:  # fmt: skip
        self._chooser, self._whole, self._on_attempt = chooser, whole, on_attempt
        self._start, self.budget, self._limits = start, budget, limits
        self._float = whole.original()
        self.metric = metric_of(limits.metric or "divergence", self._float)
        self.room = chooser.room(budget, start)
        self.attempts: list[Attempt] = []
        self._known: dict[tuple[str, ...], float] = {}
        self.best: dict[str, str] | None = None
        self.value = math.inf
        self._clock = Clock(monitor, "trials", limits.trials * max(whole.batches, 1))

    @property
    def left(self) -> bool:
        return len(self.attempts) < self._limits.trials

    def fits(self, schemes: Mapping[str, str]) -> bool:
        """Whether they are within the budget, by the bytes of their files where that is what is limited."""
        if self._chooser.nbytes(schemes) > self.room:
            return False
        return self.budget.kind == "bits" or self._chooser.file_bytes(schemes) <= self._chooser.file_limit(self.budget)

    def measure(self, schemes: Mapping[str, str]) -> float:
        """By how much the metric is worse than the float model's."""
        key = tuple(schemes.values())
        if key in self._known:
            return self._known[key]
        found = self._whole.judge(schemes, self._clock)
        value = self._known[key] = loss_of(self.metric, self._float, found)
        within = self.fits(schemes)
        self.attempts.append(self._attempt(schemes, found, value, within))
        self._on_attempt(self.attempts[-1])
        if within and value < self.value:
            self.best, self.value = dict(schemes), value
        return value

    def _attempt(self, schemes: Mapping[str, str], found: Judged, value: float, within: bool) -> Attempt:
        nbytes = self._chooser.nbytes(schemes)
        changed = tuple(name for name, scheme in self._start.schemes if schemes[name] != scheme)
        scores = Scores(found.accuracy, found.perplexity)
        return Attempt(changed, nbytes, self._chooser.bits(nbytes), scores, found.mean_divergence, value, within)


def _improve(chooser: Chooser, trial: _Trials) -> None:
    """Rounds of neighbours and of what the knapsack makes of them, until nothing is better or no trial is left."""
    while trial.left and trial.best is not None:
        here, value = dict(trial.best), trial.value
        moves = _moves(chooser, trial, here, value)
        if trial.value < value:
            continue  # a neighbour within the budget was better already
        wanted = _jump(chooser, trial, here, moves)
        while wanted and trial.left:
            trial.measure(_moved(here, wanted))
            if trial.value < value:
                break
            wanted = _beginning(trial, here, wanted)
        for pair in _swaps(trial, here, moves):
            if trial.value < value or not trial.left:
                break
            trial.measure(_moved(here, pair))
        if trial.value >= value:
            return


@dataclass(frozen=True, slots=True)
class _Move:
    """One group's layers under another scheme: by how much bytes and the metric's loss grow."""

    group: int
    layers: tuple[str, ...]
    scheme: str
    nbytes: int
    loss: float


def _moves(chooser: Chooser, trial: _Trials, here: Mapping[str, str], value: float) -> list[_Move]:
    """Every group one step wider and one step narrower, measured; half of what is left of the trials at most."""
    moves = []
    now = chooser.nbytes(here)
    for group, layers, schemes in chooser.neighbours(here):
        for scheme in schemes:
            if not trial.left:
                return moves
            changed = {**here, **dict.fromkeys(layers, scheme)}
            loss = trial.measure(changed) - value
            moves.append(_Move(group, layers, scheme, chooser.nbytes(changed) - now, loss))
    return moves


def _jump(chooser: Chooser, trial: _Trials, here: Mapping[str, str], moves: Sequence[_Move]) -> list[_Move]:
    """The moves that together promise most within the budget, those that give most for their bytes first."""
    groups: dict[int, list[_Move]] = {}
    for move in moves:
        groups.setdefault(move.group, []).append(move)
    units = []
    for own in groups.values():
        costs, harms = [0, *(move.nbytes for move in own)], [0.0, *(move.loss for move in own)]
        units.append(Unit(tuple(c - min(costs) for c in costs), tuple(h - min(harms) for h in harms)))
    room = trial.room - chooser.nbytes(here) - sum(min([0, *(move.nbytes for move in own)]) for own in groups.values())
    if not units or room < 0:
        return []
    chosen = solve(units, room).chosen
    wanted = [own[number - 1] for own, number in zip(groups.values(), chosen, strict=True) if number]
    # Narrower ones make room: each goes with the wider ones that it pays for.
    narrower = sorted((m for m in wanted if m.nbytes < 0), key=lambda m: m.loss / -m.nbytes)
    wider = sorted((m for m in wanted if m.nbytes >= 0), key=lambda m: m.loss / max(m.nbytes, 1))
    return _paid(narrower, wider, trial.room - chooser.nbytes(here))


def _paid(narrower: list[_Move], wider: list[_Move], room: int) -> list[_Move]:
    """In an order in which every beginning that ends with a wider one fits."""
    order, left = [], room
    for move in wider:
        while left < move.nbytes and narrower:
            order.append(narrower.pop(0))
            left -= order[-1].nbytes
        order.append(move)
        left -= move.nbytes
    return [*order, *narrower]


def _swaps(trial: _Trials, here: Mapping[str, str], moves: Sequence[_Move]) -> list[list[_Move]]:
    """One group wider and another narrower, within the budget, those that promise most first."""
    pairs = [[a, b] for a in moves for b in moves if a.nbytes < 0 < b.nbytes and a.group != b.group]
    pairs = [pair for pair in pairs if trial.fits(_moved(here, pair))]
    return sorted(pairs, key=lambda pair: sum(move.loss for move in pair))


def _beginning(trial: _Trials, here: Mapping[str, str], moves: list[_Move]) -> list[_Move]:
    """The first half, or as much of it as is within the budget."""
    part = moves[: len(moves) // 2]
    while part and not trial.fits(_moved(here, part)):
        part.pop()
    return part


def _moved(here: Mapping[str, str], moves: Sequence[_Move]) -> dict[str, str]:
    return {**here, **{name: move.scheme for move in moves for name in move.layers}}


def choosers_of(found: Chooser, measures: Sequence[str]) -> list[Chooser]:
    """The same table minimised by every measure that it has, the given one first."""
    others = []
    for by in measures:
        if by != found.by:
            try:
                others.append(Chooser(found.found, tuple(found.known.values()), by))
            except InputError:
                continue
    return [found, *others]
