"""Sensitivity and budgets over JSON lines: the table row by row, the front for the slider, a recipe for a budget."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from engine.errors import Cancelled, EngineError
from engine.history import read_measurements
from engine.records.calibration import DataSpec
from engine.records.codec import from_data, to_data
from engine.records.model import ModelSummary
from engine.records.report import LayerReport
from engine.records.search import Attempt, Budget, SearchSpace, Sensitivity, SensitivityRow
from engine.searching import calls as search_calls
from engine.searching.choosing import Chooser

FEW = 20
"""Rows of a table per message: each has a cell for every scheme."""
STEPS = 1000
PAUSE = 0.2
"""Seconds that a row waits for others."""


class Channel(Protocol):
    """One call's way out."""

    def rows(self, rows: list[Any]) -> None: ...

    def check(self) -> None: ...


class SearchCalls:
    """``summary`` opens a model as the other calls do, and ``running`` the network that it is."""

    def __init__(self, summary: Callable[[str, Any], ModelSummary], running: Callable[[str, Any], Any]) -> None:
        self._summary, self._running = summary, running

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        """By name."""
        return {
            "sensitivity_cost": self._cost,
            "sensitivity": self._sensitivity,
            "known_sensitivity": self._known,
            "front": self._front,
            "allocate": self._allocate,
            "outcomes": self._outcomes,
            "search_within": self._within,
        }

    def _cost(
        self, channel: Any, path: str, space: dict[str, Any], how: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None, measures: list[str] | None = None, base: str = "",
    ) -> Any:  # fmt: skip
        """What a pass will take, and which schemes cannot be had."""
        model, run = self._run(path, how, data, measures, base)
        cost, dropped = search_calls.sensitivity_cost(model, from_data(SearchSpace, space), run=run, monitor=channel)
        return {"cost": to_data(cost), "dropped": dict(dropped)}

    def _run(self, path: str, how: Any, data: dict[str, Any] | None, measures: list[str] | None, base: str) -> tuple[Any, Any]:
        """The model as files, or running where there are data. ``base``: of all other layers while one is left float."""
        if data is None:
            return self._summary(path, how), None
        return self._running(path, how), search_calls.Run(from_data(DataSpec, data), tuple(measures or ()), base)

    def _sensitivity(
        self, channel: Any, path: str, space: dict[str, Any], how: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None, measures: list[str] | None = None, base: str = "",
    ) -> Any:  # fmt: skip
        """Measure; rows come as they are found, also before the call is stopped. With data, the answer names the table's file,
        also where it was stopped: what it holds so far can be used."""
        waiting: list[SensitivityRow] = []
        last = time.monotonic()

        def flush() -> None:
            nonlocal last
            if waiting:
                channel.rows([to_data(row) for row in waiting])
                waiting.clear()
            last = time.monotonic()

        def row(found: SensitivityRow) -> None:
            waiting.append(found)
            if len(waiting) >= FEW or time.monotonic() - last > PAUSE:
                flush()

        stopped = False
        try:
            model, run = self._run(path, how, data, measures, base)
            listeners = search_calls.Listeners(row=row)
            found = search_calls.sensitivity(model, from_data(SearchSpace, space), run=run, monitor=channel, listeners=listeners)
        except Cancelled as stop:
            if not data or not isinstance(stop.partial, Sensitivity):
                raise
            found, stopped = stop.partial, True
        finally:
            flush()
        counts = {"measured": found.measured, "cached": found.cached, "seconds": found.seconds, "layers": len(found.rows)}
        return counts | {"table": search_calls.keep_sensitivity(found) if data else "", "stopped": stopped}

    def _known(self, channel: Channel, path: str, space: dict[str, Any], how: dict[str, Any] | None = None) -> Any:
        """Rows that earlier passes found, whole or not, without measuring anything."""
        rows = search_calls.known_sensitivity(self._summary(path, how), from_data(SearchSpace, space))
        for start in range(0, len(rows), FEW):
            channel.check()
            channel.rows([to_data(row) for row in rows[start : start + FEW]])
        return {"layers": len(rows)}

    def _chooser(self, path: str, space: dict[str, Any], by: str, how: Any, table: str) -> Chooser:
        if table:
            return search_calls.chooser(self._summary(path, how), table, from_data(SearchSpace, space), by=by)
        return search_calls.known_chooser(self._summary(path, how), from_data(SearchSpace, space), by=by)

    def _front(
        self, channel: Channel, path: str, space: dict[str, Any], by: str, how: dict[str, Any] | None = None, table: str = ""
    ) -> Any:
        """Of what is known: steps come as rows of [group, scheme, bytes, error]."""
        walk = self._chooser(path, space, by, how, table).walk()
        steps = [[step.group, step.scheme, step.nbytes, step.error] for step in walk.steps]
        for start in range(0, len(steps), STEPS):
            channel.check()
            channel.rows(steps[start : start + STEPS])
        return {key: value for key, value in to_data(walk).items() if key != "steps"}

    def _allocate(
        self, channel: Channel, path: str, space: dict[str, Any], by: str, budget: dict[str, Any], algorithm: str = "",
        how: dict[str, Any] | None = None, table: str = "",
    ) -> Any:  # fmt: skip
        """The best schemes for a budget, proven where that is possible, and the recipe that gives them."""
        chosen = self._chooser(path, space, by, how, table)
        channel.check()
        return to_data(chosen.allocate(from_data(Budget, budget), algorithm=algorithm))

    def _within(
        self, channel: Any, path: str, space: dict[str, Any], by: str, tolerance: float, data: dict[str, Any],
        how: dict[str, Any] | None = None, table: str = "",
    ) -> Any:  # fmt: skip
        """Relax the layers that suffer most until the metric that the data can tell is within a tolerance.

        Every trial comes as a row of [trial, count of layers relaxed].
        """

        def told(attempt: Attempt) -> None:
            channel.rows([[to_data(replace(attempt, relaxed=())), len(attempt.relaxed)]])

        found, _ = search_calls.search_within(
            self._running(path, how), tolerance, from_data(DataSpec, data), space=from_data(SearchSpace, space),
            table=table or None, by=by, monitor=channel, on_attempt=told,
        )  # fmt: skip
        return to_data(found)

    def _outcomes(
        self, channel: Channel, path: str, space: dict[str, Any], by: str, folders: list[str],
        how: dict[str, Any] | None = None, table: str = "",
    ) -> Any:  # fmt: skip
        """Runs, from their folders, in the terms of the table; rows of [folder, outcome], None for one that cannot be read."""
        chosen = self._chooser(path, space, by, how, table)
        for folder in folders:
            channel.check()
            try:
                reports = [from_data(LayerReport, item) for item in read_measurements(Path(folder))[0]]
                outcome = to_data(chosen.outcome({report.name: report for report in reports})) if reports else None
            except EngineError:
                outcome = None
            channel.rows([[folder, outcome]])
        return {"count": len(folders)}
