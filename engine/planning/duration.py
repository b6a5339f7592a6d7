"""About how long a run will take, from what earlier runs like it took on this machine; and what its time follows from else."""

import contextlib
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.history import Ledger, owners
from engine.history.ledger import FILE
from engine.planning import recipe_files
from engine.records.model import ModelSummary
from engine.records.plan import LayerPlan, Plan
from engine.records.recipe import Recipe
from engine.records.run import RunRecord
from engine.records.scheme import Scheme

MOST = 5
"""Earlier runs that are reckoned with, the nearest in size."""
LOOKED_AT = 200
"""Newest runs among which those are sought."""


@dataclass(frozen=True, slots=True)
class Expected:
    """``seconds``: of a run, by the throughput of so many earlier ``runs`` with the same schemes and algorithms; 0 where pieces
    were timed instead (``quantizing/timing.py``)."""

    seconds: float
    runs: int


Way = tuple[str, str, str]
"""Scheme, algorithm and stored type: what decides how fast bytes are encoded."""


@dataclass(slots=True)
class Encoded:
    """What is encoded in one way: so many layers of so many stored bytes, and the largest of them."""

    largest: LayerPlan
    layers: int = 0
    nbytes: int = 0


@dataclass(slots=True)
class Outline:
    """As much of a plan as its time follows from. ``copied``: bytes that are read and written as they are; ``written``: all."""

    summary: ModelSummary
    ways: dict[Way, Encoded]
    copied: int
    written: int


def outline(plan: Plan) -> Outline | None:
    """None for a plan that cannot be carried out, or not without data."""
    if plan.errors or plan.calibration:
        return None
    found = Outline(plan.summary, {}, 0, plan.total_bytes)
    for line in plan.layers:
        if not line.encoded:
            found.copied += line.layer.nbytes
            continue
        way = found.ways.setdefault((line.scheme_name, line.algorithm, line.layer.dtype), Encoded(line))
        way.layers += 1
        way.nbytes += line.layer.nbytes
        if line.layer.nbytes > way.largest.layer.nbytes:
            way.largest = line
    return found


def expected(plan: Plan, folder: str | os.PathLike[str]) -> Expected | None:
    """From the ledger of a folder; None where no finished run there, by this machine, was of the kind. Never raises."""
    if plan.errors or not os.path.exists(os.path.join(folder, FILE)):  # to look is not to begin a ledger
        return None
    with contextlib.suppress(EngineError), Ledger(folder) as ledger:
        return of_runs(plan, ledger.find(states=("done",))[:LOOKED_AT])
    return None


def of_runs(plan: Plan, runs: Iterable[RunRecord]) -> Expected | None:
    """Bytes read per second are the sum of their bytes over the sum of their seconds, of the runs nearest in size."""
    size, wanted = sum(file.nbytes for file in plan.summary.files), _work_of_plan(plan)
    machine = owners.machine()
    alike = [run for run in runs if run.machine == machine and _whole(run) and _work_of_run(run) == wanted]
    nearest = sorted(alike, key=lambda run: abs(_bytes(run) - size))[:MOST]
    read = sum(_bytes(run) for run in nearest)
    if not nearest or not read or not size:
        return None
    return Expected(size * sum(float((run.totals or {})["seconds"]) for run in nearest) / read, len(nearest))


def _whole(run: RunRecord) -> bool:
    """Whether it did all of its work itself."""
    totals = run.totals or {}
    return bool(totals.get("seconds")) and _bytes(run) > 0 and not totals.get("resumed") and not totals.get("reused")


def _bytes(run: RunRecord) -> int:
    return int((run.totals or {}).get("bytes_before", 0))


Work = tuple[frozenset[tuple[Scheme, str]], bool]
"""Scheme and algorithm of whatever is quantized; whether data are run."""


def _work_of_plan(plan: Plan) -> Work:
    return _pairs(plan.recipe), plan.calibration is not None


def _work_of_run(run: RunRecord) -> Work | None:
    try:
        return _pairs_of_text(run.recipe), bool(run.data)
    except EngineError:  # of a later version
        return None


@functools.lru_cache(LOOKED_AT)
def _pairs_of_text(text: str) -> frozenset[tuple[Scheme, str]]:
    return _pairs(recipe_files.loads(text))


def _pairs(recipe: Recipe) -> frozenset[tuple[Scheme, str]]:
    found = [(recipe.default, recipe.algorithm), *((rule.scheme, rule.algorithm) for rule in recipe.rules)]
    return frozenset(pair for pair in found if pair[0].family != "keep")
