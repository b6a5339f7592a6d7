"""A scheme for every layer under a budget: the multiple-choice knapsack problem.

Each unit (layers that must agree) takes one of several choices, each with a cost and a harm; the sum of the harms is to be least
while the sum of the costs stays within a budget. ``Front`` is the linear program's solution for every budget at once: the lower
convex hulls of all units, their edges in order of steepness (Sinha and Zoltners 1979, "The multiple-choice knapsack problem").
Where it ends between two edges, no choice of whole schemes is below the straight line between them, which is the bound that
``solve`` states; ``solve`` itself is exact, by integer programming on what the bound does not rule out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import PlanError

SECONDS = 30.0
"""After so long the best solution found is taken, which is then not called exact."""
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """Some layers that take one choice together: its costs and harms, in the same order."""

    costs: tuple[float, ...]
    harms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Solution:
    """The number of each unit's choice. ``bound``: no solution within the budget has less harm. ``exact``: proven best."""

    chosen: tuple[int, ...]
    cost: float
    harm: float
    bound: float
    exact: bool


class Front:
    """All efficient trade-offs that a price per cost finds, cheapest first: ``costs`` rise and ``harms`` fall.

    A budget is answered by a binary search, so that a slider may ask while it moves.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._hulls = [_hull(unit) for unit in units]
        costs = [np.array([unit.costs[c] for c in hull]) for unit, hull in zip(units, self._hulls, strict=True)]
        harms = [np.array([unit.harms[c] for c in hull]) for unit, hull in zip(units, self._hulls, strict=True)]
        more, less = np.concatenate([np.diff(c) for c in costs]), np.concatenate([-np.diff(h) for h in harms])
        owner = np.repeat(np.arange(len(units)), [len(hull) - 1 for hull in self._hulls])
        # Stable: the edges of one hull, which get flatter, stay in their order.
        order = np.argsort(-less / np.maximum(more, 1e-300), kind="stable") if more.size else np.empty(0, int)
        self._owner, self.steps = owner[order], len(units)
        first = sum(float(c[0]) for c in costs), sum(float(h[0]) for h in harms)
        self.costs = np.concatenate([[first[0]], first[0] + np.cumsum(more[order])])
        self.harms = np.concatenate([[first[1]], np.maximum(first[1] - np.cumsum(less[order]), 0.0)])

    def __len__(self) -> int:
        return len(self.costs)

    def within(self, budget: float) -> int:
        """The last point whose cost is within a budget. Raises PlanError when none is."""
        if budget < self.costs[0]:
            raise PlanError(
                f"This budget is too small: the schemes need at least {self.costs[0]:,.0f}, and {budget:,.0f} is allowed."
            )
        return int(np.searchsorted(self.costs, budget, side="right")) - 1

    def at(self, point: int) -> tuple[int, ...]:
        """Every unit's choice at one point."""
        edges = np.bincount(self._owner[:point], minlength=self.steps)
        return tuple(hull[edge] for hull, edge in zip(self._hulls, edges.tolist(), strict=True))

    def walk(self) -> list[tuple[int, int]]:
        """From each point to the next: which unit changes, and to which choice."""
        at, steps = [0] * self.steps, []
        for unit in self._owner.tolist():
            at[unit] += 1
            steps.append((unit, self._hulls[unit][at[unit]]))
        return steps

    def bound(self, budget: float) -> float:
        """The least harm that the linear program allows within a budget."""
        return float(np.interp(budget, self.costs, self.harms))

    def price(self, budget: float) -> float:
        """By how much harm falls for each more of the budget, where that is spent."""
        point = min(self.within(budget), len(self) - 2)
        if point < 0:
            return 0.0
        return float((self.harms[point] - self.harms[point + 1]) / max(self.costs[point + 1] - self.costs[point], 1e-300))


def _hull(unit: Unit) -> list[int]:
    """The choices on the lower convex hull, cheapest first."""
    order = sorted(range(len(unit.costs)), key=lambda c: (unit.costs[c], unit.harms[c]))
    hull: list[int] = []
    for c in order:
        if hull and unit.harms[c] >= unit.harms[hull[-1]]:
            continue
        while len(hull) > 1 and _above(unit, hull[-2], hull[-1], c):
            hull.pop()
        if hull and unit.costs[c] == unit.costs[hull[-1]]:
            hull.pop()
        hull.append(c)
    return hull


def _above(unit: Unit, first: int, middle: int, last: int) -> bool:
    """Whether the middle one lies on or above the line between the others."""
    costs, harms = unit.costs, unit.harms
    return (harms[first] - harms[middle]) * (costs[last] - costs[first]) <= (harms[first] - harms[last]) * (
        costs[middle] - costs[first]
    )


def solve(units: Sequence[Unit], budget: float, front: Front | None = None) -> Solution:
    """The choices of least total harm whose costs are within the budget. Raises PlanError when none are."""
    front = front or Front(units)
    bound = front.bound(budget) if budget >= front.costs[0] else 0.0
    best = _improved(units, list(front.at(front.within(budget))), budget)
    harm = _total(units, best)[1]
    if harm <= bound:
        return _solution(units, best, bound, exact=True)
    core = _core(units, front.price(budget), budget, harm)
    found, proven = _integer_program(units, core, budget)
    if found is not None and _total(units, found)[0] <= budget and _total(units, found)[1] < harm:
        best = found
    return _solution(units, best, bound, exact=proven)


def solve_floor(units: Sequence[Unit], most: float) -> Solution:
    """The choices of least total cost whose harms are at most so much: costs and harms change places."""
    turned = [Unit(unit.harms, unit.costs) for unit in units]
    found = solve(turned, most)
    cost, harm = _total(units, found.chosen)
    return Solution(found.chosen, cost, harm, found.bound, found.exact)


def _total(units: Sequence[Unit], chosen: Sequence[int]) -> tuple[float, float]:
    pairs = list(zip(units, chosen, strict=True))
    return sum(unit.costs[c] for unit, c in pairs), sum(unit.harms[c] for unit, c in pairs)


def _solution(units: Sequence[Unit], chosen: Sequence[int], bound: float, *, exact: bool) -> Solution:
    cost, harm = _total(units, chosen)
    return Solution(tuple(chosen), cost, harm, min(bound, harm), exact)


def _improved(units: Sequence[Unit], chosen: list[int], budget: float) -> list[int]:
    """What is left of the budget is spent where it helps most, one unit after the other."""
    left = budget - _total(units, chosen)[0]
    while True:
        best = (0.0, -1, -1)
        for number, unit in enumerate(units):
            now = chosen[number]
            for c, (cost, harm) in enumerate(zip(unit.costs, unit.harms, strict=True)):
                if cost - unit.costs[now] <= left and unit.harms[now] - harm > best[0]:
                    best = (unit.harms[now] - harm, number, c)
        if best[1] < 0:
            return chosen
        left -= units[best[1]].costs[best[2]] - units[best[1]].costs[chosen[best[1]]]
        chosen[best[1]] = best[2]


def _core(units: Sequence[Unit], price: float, budget: float, harm: float) -> list[list[int]]:
    """The choices of each unit that a better solution could have: those whose own loss at this price does not take the
    Lagrangian bound beyond the best harm known."""
    priced = [np.array(unit.harms) + price * np.array(unit.costs) for unit in units]
    least = [float(values.min()) for values in priced]
    slack = harm - (sum(least) - price * budget)
    slack += 1e-9 * (abs(harm) + abs(price * budget))
    return [np.flatnonzero(values - low <= slack).tolist() for values, low in zip(priced, least, strict=True)]


def _integer_program(units: Sequence[Unit], core: list[list[int]], budget: float) -> tuple[list[int] | None, bool]:
    """HiGHS on the choices left; whether its answer is proven."""
    unit_of = np.repeat(np.arange(len(core)), [len(choices) for choices in core])
    costs = np.array([units[u].costs[c] for u, choices in enumerate(core) for c in choices])
    harms = np.array([units[u].harms[c] for u, choices in enumerate(core) for c in choices])
    low = np.array([min(units[u].costs[c] for c in choices) for u, choices in enumerate(core)])
    extra, room = costs - low[unit_of], budget - float(low.sum())
    if room < 0:
        return None, True
    allowed, proven = room, True
    for _ in range(ROUNDS):
        ones, optimal = _highs(unit_of, extra, harms, allowed)
        proven = proven and optimal
        if ones is None:
            return None, proven
        over = float(extra[ones].sum()) - room
        if over <= 0:
            return [core[u][int(v - np.searchsorted(unit_of, u))] for u, v in enumerate(ones)], proven
        allowed, proven = allowed - over, False  # the solver's tolerance let it spend a little more than there is
    return None, False


def _highs(unit_of: np.ndarray, extra: np.ndarray, harms: np.ndarray, room: float) -> tuple[np.ndarray | None, bool]:
    """One variable of each unit, or None where none is allowed; whether that is proven."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    # The solver's tolerances are absolute: costs in units of their common divisor or of the room, harms of their range.
    unit = _unit(extra) or max(room, 1e-300)
    scale = max(float(harms.max() - harms.min()), 1e-300)
    shape = (int(unit_of[-1]) + 1, extra.size)
    each = coo_array((np.ones(extra.size), (unit_of, np.arange(extra.size))), shape=shape).tocsr()
    limits = [LinearConstraint(each, 1, 1), LinearConstraint((extra / unit)[None], -np.inf, room / unit)]
    options = {"mip_rel_gap": 0.0, "time_limit": SECONDS}
    found = milp(
        (harms - harms.min()) / scale, constraints=limits, integrality=np.ones(extra.size), bounds=Bounds(0, 1), options=options
    )
    if found.x is None:
        return None, found.status == 2
    ones = np.flatnonzero(np.round(found.x) == 1)
    return (ones, found.status == 0) if np.array_equal(unit_of[ones], np.arange(shape[0])) else (None, False)


def _unit(extra: np.ndarray) -> float:
    """The greatest common divisor of whole numbers; 0 for others."""
    whole = extra.astype(np.int64)
    return float(np.gcd.reduce(whole)) if np.array_equal(whole, extra) else 0.0
