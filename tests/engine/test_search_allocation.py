"""Schemes under a budget, against brute force, SciPy's linear programming and hand-worked cases."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import engine
from engine.searching.allocation import Front, Unit, solve, solve_floor

numbers = st.integers(0, 60)
units = st.lists(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4).map(lambda pairs: Unit(*map(tuple, zip(*pairs, strict=True)))),
    min_size=1,
    max_size=5,
)


def brute_force(given: list[Unit], budget: float) -> float | None:
    """Least harm within a budget, by trying everything."""
    totals = []
    for chosen in itertools.product(*(range(len(unit.costs)) for unit in given)):
        pairs = list(zip(given, chosen, strict=True))
        totals.append((sum(unit.costs[c] for unit, c in pairs), sum(unit.harms[c] for unit, c in pairs)))
    return min((harm for cost, harm in totals if cost <= budget), default=None)


def linear_bound(given: list[Unit], budget: float) -> float:
    """The linear program's optimum, by SciPy's solver."""
    owner = np.repeat(np.arange(len(given)), [len(unit.costs) for unit in given])
    costs, harms = (np.concatenate([getattr(unit, key) for unit in given]) for key in ("costs", "harms"))
    each = (owner[None] == np.arange(len(given))[:, None]).astype(float)
    found = linprog(harms, A_ub=costs[None].astype(float), b_ub=[budget], A_eq=each, b_eq=np.ones(len(given)), bounds=(0, 1))
    assert found.status == 0
    return found.fun


@settings(max_examples=150, deadline=None)
@given(units, st.integers(0, 250))
def test_solution_is_that_of_brute_force(given, budget):
    wanted = brute_force(given, budget)
    if wanted is None:
        with pytest.raises(engine.PlanError):
            solve(given, budget)
        return
    found = solve(given, budget)
    assert found.exact
    assert found.cost <= budget
    assert found.harm == wanted
    assert found.bound <= found.harm


@settings(max_examples=60, deadline=None)
@given(units, st.integers(0, 250))
def test_bound_is_the_linear_programs_and_no_further_away_than_one_unit(given, budget):
    front = Front(given)
    if budget < front.costs[0]:
        return
    assert front.bound(budget) == pytest.approx(linear_bound(given, budget), abs=1e-6)
    # The linear program splits one unit at most between two choices: whole ones lose no more than that unit's range.
    widest = max(max(unit.harms) - min(unit.harms) for unit in given)
    assert solve(given, budget).harm - front.bound(budget) <= widest + 1e-9


@settings(max_examples=60, deadline=None)
@given(units, st.integers(0, 200))
def test_floor_is_the_cheapest_that_reaches_it(given, most):
    turned = [Unit(unit.harms, unit.costs) for unit in given]
    wanted = brute_force(turned, most)
    if wanted is None:
        with pytest.raises(engine.PlanError):
            solve_floor(given, most)
        return
    found = solve_floor(given, most)
    assert found.cost == wanted
    assert found.harm <= most


@settings(max_examples=100, deadline=None)
@given(units)
def test_front_is_monotone_and_its_points_are_what_they_say(given):
    front = Front(given)
    assert (np.diff(front.costs) >= 0).all()
    assert (np.diff(front.harms) <= 1e-12).all()
    for point in range(len(front)):
        chosen = front.at(point)
        assert sum(unit.costs[c] for unit, c in zip(given, chosen, strict=True)) == pytest.approx(front.costs[point])
        assert sum(unit.harms[c] for unit, c in zip(given, chosen, strict=True)) == pytest.approx(front.harms[point])
    assert front.harms[-1] == pytest.approx(sum(min(unit.harms) for unit in given))


def test_hand_worked_case():
    """Two layers of 2, 4 and 8 bytes: with 10 the second, which suffers more, gets 8; with 9 what is left buys nothing."""
    given = [Unit((2, 4, 8), (9, 4, 0)), Unit((2, 4, 8), (90, 40, 0))]
    assert solve(given, 10).chosen == (0, 2)
    assert solve(given, 9).chosen == (1, 1)
    assert solve(given, 16).harm == 0
    with pytest.raises(engine.PlanError, match="at least 4"):
        solve(given, 3)


def test_500_layers_are_within_the_budget_and_solved_exactly():
    rng = np.random.default_rng(5)
    bits = np.array([2.5, 3.1, 3.5, 4.1, 4.5, 5.1, 6.1, 8.1, 16])
    given = [
        Unit(tuple((size * bits // 8 * 64).astype(int).tolist()), tuple((weight * 4.0**-bits).tolist()))
        for size, weight in zip(rng.integers(1000, 90000, 500), rng.lognormal(size=500), strict=True)
    ]
    front = Front(given)
    middle = (front.costs[0] + front.costs[-1]) / 3
    chosen = front.at(front.within(middle))
    assert sum(unit.costs[c] for unit, c in zip(given, chosen, strict=True)) <= middle
    found = solve(given, middle, front)
    assert found.exact
    assert found.cost <= middle
    assert found.harm / found.bound - 1 < 1e-3
