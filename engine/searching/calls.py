"""Which layers can go lower, and what it costs: the calls on sensitivity and budgets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.algorithms import chain
from engine.api import Model, algorithm_without_data, open_data, running_model
from engine.errors import InputError
from engine.readers import open_path
from engine.records.codec import to_data
from engine.records.model import ModelSummary
from engine.records.progress import Monitor
from engine.records.search import (
    DEFAULT_MEASURES,
    MEASURES,
    PREFERRED,
    Allocation,
    Attempt,
    Budget,
    CostEstimate,
    Measure,
    Sensitivity,
    SensitivityRow,
    TrialLimits,
)
from engine.records.search import SearchSpace as Space
from engine.searching import cache
from engine.searching import sensitivity as tables
from engine.searching.budgets import budget_of
from engine.searching.candidates import Candidates, candidates, one_of_each
from engine.searching.choosing import Chooser
from engine.searching.estimate import weights_cost

if TYPE_CHECKING:
    from engine.api import Running, Source
    from engine.searching.data_pass import RunPass
    from engine.searching.whole_model import WholeModel

Choices = Space | Sequence[str] | None
"""What a search may choose from: a space, or the names of schemes."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of a pass while it goes on: of its cost before it starts, and of every row that grows."""

    cost: Callable[[CostEstimate], None] | None = None
    row: Callable[[SensitivityRow], None] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Running the model while its layers' errors are measured.

    data      paths, specifications or iterables, as for ``calibrate``
    measures  besides weight errors: output and fisher (one pass over the data each), divergence and loss (one a scheme a layer)
    base      where given, also what leaving one layer float is worth when all others have this scheme
    """

    data: Source
    measures: Sequence[str] = DEFAULT_MEASURES
    base: str = ""


def sensitivity(
    model: Running, space: Choices = None, *, run: Run | None = None, monitor: Monitor | None = None,
    listeners: Listeners = Listeners(),
) -> Sensitivity:  # fmt: skip
    """The table layer × scheme of errors, measured in one pass over each weight; what was measured before is not measured again.

    ``space``: a ``SearchSpace``, or the names of schemes. ``run``: also run the model on data. Raises InputError, RecipeError,
    PlanError, DataError, and Cancelled, whose ``partial`` is the table so far.
    """
    monitor = monitor or Monitor()
    with _prepared(model, run) as (summary, more):
        found = candidates(summary, _space(space, data=run is not None))
        if listeners.cost:
            cost = weights_cost(summary, found, monitor)
            listeners.cost(more.cost(found, cost) if more else cost)
        return tables.measure(summary, found, monitor, on_row=listeners.row, more=more)


@contextlib.contextmanager
def _prepared(model: Running, run: Run | None) -> Iterator[tuple[ModelSummary, RunPass | None]]:
    """The model's layers, and the pass over the data where there are any."""
    if run is None and isinstance(model, (ModelSummary, str, os.PathLike)):
        yield _opened(model), None
        return
    with running_model(model) as loaded:
        if run is None:
            yield loaded.summary, None
            return
        from engine.searching.data_pass import RunPass

        yield loaded.summary, RunPass(loaded, open_data(run.data, loaded), run.measures, run.base)


def sensitivity_cost(
    model: Running, space: Choices = None, *, run: Run | None = None, monitor: Monitor | None = None
) -> tuple[CostEstimate, Mapping[str, str]]:
    """What ``sensitivity`` would take, one layer and one forward being timed; and schemes that are left out, each with the
    reason."""
    with _prepared(model, run) as (summary, more):
        wanted = _space(space, data=run is not None)
        if more:
            found = candidates(summary, wanted)
            return more.cost(found, weights_cost(summary, found, monitor or Monitor())), found.dropped
        few, alike = one_of_each(summary)
        found = candidates(few, wanted)
        return weights_cost(summary, found, monitor or Monitor(), alike), found.dropped


def save_sensitivity(found: Sensitivity, path: str | os.PathLike[str]) -> None:
    """Write a table as JSON. Raises OutputError."""
    tables.save(found, path)


def keep_sensitivity(found: Sensitivity) -> str:
    """Write a table beside what passes remember, under a name that says what it is of. Raises OutputError."""
    words = json.dumps([found.model_hash, found.data_hash, to_data(found.space), found.measures, found.base])
    path = os.path.join(cache.folder(), f"table-{hashlib.sha256(words.encode()).hexdigest()[:32]}.json")
    os.makedirs(cache.folder(), exist_ok=True)
    tables.save(found, path)
    return path


def load_sensitivity(path: str | os.PathLike[str]) -> Sensitivity:
    """A table that ``save_sensitivity`` wrote. Raises InputError."""
    return tables.load(path)


def search(
    model: Running, budget: Budget | str, *, table: Sensitivity | str | os.PathLike[str] | None = None, space: Choices = None,
    by: str = "", algorithm: str = "", exact: bool = True, run: Run | None = None, monitor: Monitor | None = None,
    listeners: Listeners = Listeners(),
) -> Allocation:  # fmt: skip
    """The schemes of least total error under a budget such as "4.5bpw", "700MB", "4x" or "30dB", as a recipe.

    ``table``: a sensitivity table or its file; without one it is measured. ``by``: the error that is minimised; without it the
    best that the table has: of the whole model where it was run, else of the weights. ``algorithm`` goes into the recipe instead
    of the one that was measured with. Raises InputError, RecipeError, PlanError, Cancelled.
    """
    wanted = budget_of(budget) if isinstance(budget, str) else budget
    if algorithm:
        algorithm = str(chain(algorithm))
    chosen = chooser(model, table, space, by=by, run=run, monitor=monitor, listeners=listeners)
    return chosen.allocate(wanted, algorithm=algorithm, exact=exact)


def search_within(
    model: Running, tolerance: float, data: Source, *, metric: str = "", start: str = "", space: Choices = None,
    table: Sensitivity | str | os.PathLike[str] | None = None, by: str = "", algorithm: str = "",
    monitor: Monitor | None = None, listeners: Listeners = Listeners(),
    on_attempt: Callable[[Attempt], None] = lambda found: None,
) -> tuple[Allocation, tuple[Attempt, ...]]:  # fmt: skip
    """The layers that suffer most are relaxed until a metric measured on data is within ``tolerance`` of the float model's.

    ``tolerance``: 0.01 for one per cent of perplexity or accuracy; nats of divergence. ``start``: a budget such as "3bpw" to
    start from (default: the cheapest choice). Every trial is in the answer, and given to ``on_attempt`` as it ends. Raises as
    ``search``, and DataError.
    """
    from engine.searching.relaxing import Goal, relax

    monitor, bits = monitor or Monitor(), budget_of(start, "bits").value if start else 0.0
    run = Run(data, () if by == "weight" else (by,) if by else DEFAULT_MEASURES)
    with _measured(model, run, table, space, by, monitor, listeners) as (chosen, whole):
        found, attempts = relax(chosen, whole, Goal(tolerance, metric, bits), monitor, on_attempt)
    if algorithm:
        found = chosen.allocate(found.budget, algorithm=str(chain(algorithm)))
    return found, attempts


def search_measured(
    model: Running, budget: Budget | str, run: Run, *, limits: TrialLimits | None = None, space: Choices = None,
    table: Sensitivity | str | os.PathLike[str] | None = None, by: str = "", algorithm: str = "",
    monitor: Monitor | None = None, listeners: Listeners = Listeners(),
    on_attempt: Callable[[Attempt], None] = lambda found: None,
) -> tuple[Allocation, tuple[Attempt, ...]]:  # fmt: skip
    """``search``, and then bettered by measuring the model on the data: its loss to the float model's predictions, or a metric.

    No uniform recipe of these schemes within the budget was measured better on these data than what is returned. Every trial is
    in the answer, and given to ``on_attempt`` as it ends. Raises as ``search``, and DataError.
    """
    from engine.searching.refining import choosers_of, refine

    monitor, wanted = monitor or Monitor(), budget_of(budget) if isinstance(budget, str) else budget
    with _measured(model, run, table, space, by, monitor, listeners) as (chosen, whole):
        words = str(chain(algorithm)) if algorithm else ""
        choosers = choosers_of(chosen, MEASURES)
        return refine(choosers, whole, wanted, limits or TrialLimits(), monitor, algorithm=words, on_attempt=on_attempt)


@contextlib.contextmanager
def _measured(
    model: Running, run: Run, table: Sensitivity | str | os.PathLike[str] | None, space: Choices, by: str, monitor: Monitor,
    listeners: Listeners,
) -> Iterator[tuple[Chooser, WholeModel]]:  # fmt: skip
    """What answers budgets, and the running model to try its answers on."""
    from engine.searching.data_pass import RunPass
    from engine.searching.solved import SolvedLayers
    from engine.searching.whole_model import WholeModel

    with running_model(model) as loaded:
        opened = open_data(run.data, loaded)
        chosen = chooser(loaded, table, space, by=by, run=replace(run, data=opened), monitor=monitor, listeners=listeners)
        found = chosen.found
        with (
            RunPass(loaded, opened, ()).layers(found, monitor) as decoded,
            WholeModel(loaded, opened, decoded, monitor) as whole,
        ):
            if isinstance(decoded, SolvedLayers):
                decoded.prepare({name: found.schemes for name in found.lines if whole.runs(name)})
            yield chosen, whole


def chooser(
    model: Running, table: Sensitivity | str | os.PathLike[str] | None = None, space: Choices = None, *, by: str = "",
    run: Run | None = None, monitor: Monitor | None = None, listeners: Listeners = Listeners(),
) -> Chooser:  # fmt: skip
    """What answers budgets, with its front: of a table, or of one measured now. Raises as ``search``."""
    if table is None:
        if run is not None and by not in ("", "weight", *run.measures):
            run = replace(run, measures=(*run.measures, by))
        table = sensitivity(model, space, run=run, monitor=monitor, listeners=listeners)
    elif not isinstance(table, Sensitivity):
        table = tables.load(table)
    with _prepared(model, None) as (summary, _):
        tables.require_same_model(table, summary)
    found = candidates(summary, _space(space, data=True) if space is not None else table.space)
    _require_layers(found, table)
    return Chooser(found, table.rows, by or default_measure(table))


def default_measure(table: Sensitivity) -> Measure:
    """What is minimised where nobody says: of what the table has, the one that did best (``tests/bench/search.py``)."""
    return next(by for by in PREFERRED if by in table.measures or by == "weight")


def known_sensitivity(model: Model, space: Choices = None) -> tuple[SensitivityRow, ...]:
    """The rows of which something was measured before."""
    summary, wanted = _opened(model), _space(space)
    if not tables.weight_cache(summary, wanted.algorithm).known:
        return ()  # for a giant it is quicker to find nothing than to plan it for every scheme
    rows = tables.known_rows(summary, candidates(summary, wanted))
    return tuple(row for row in rows if row.signal is not None)


def known_chooser(model: Model, space: Choices = None, *, by: str = "weight") -> Chooser:
    """Of what was measured before, in whole or in part: layers not measured stay as they are. Raises InputError for nothing."""
    summary = _opened(model)
    found = candidates(summary, _space(space))
    return Chooser(found, tables.known_rows(summary, found), by)


def _require_layers(found: Candidates, table: Sensitivity) -> None:
    missing = sorted(set(found.lines) - {row.layer for row in table.rows})
    if missing:
        raise InputError(
            f"The sensitivity table lacks {len(missing)} layers, {missing[0]} first; measure it with the same choices."
        )


def _space(space: Choices, *, data: bool = False) -> Space:
    """``data``: whether the model is run, so that algorithms may need it."""
    made = space if isinstance(space, Space) else Space() if space is None else Space(tuple(space))
    return replace(made, algorithm=str(chain(made.algorithm)) if data else algorithm_without_data(made.algorithm))


def _opened(model: Model) -> ModelSummary:
    return model if isinstance(model, ModelSummary) else open_path(model)
