"""What a run will take, known from its plan before a weight is read, and how it is kept below a limit of memory."""

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.chunks import HELD, threads
from engine.errors import PlanError
from engine.records.model import LayerInfo
from engine.records.plan import LayerPlan, Plan
from engine.schemes.grouping import first_axis

LOADING = {"torch": 190 << 20, "numba": 64 << 20}
"""Bytes of what a run loads, where this process has not yet; torch only where the model runs, or does the arithmetic."""
WORK = 46 << 20
THREAD = 16 << 20
"""Bytes that a run of any size takes, and those of each thread's buffers: measured, see ``tests/engine/test_budget.py``."""
CALIBRATING = 64 << 20
"""Bytes of what running a model and solving load beside."""
LAYER, MEASURED = 2_600, 17_000
"""Bytes of what is known of one layer, and of what is reported of one that is quantized."""


@dataclass(frozen=True, slots=True)
class Needs:
    """``memory``: most resident bytes of the process that carries the plan out. ``disk``: bytes of all files that it writes.

    ``held``: bytes of weights that are kept between passes; with less, weights are read once more.
    """

    memory: int
    disk: int
    held: int
    threads: int


def needs(plan: Plan, *, held: int = HELD, workers: int | None = None) -> Needs:
    """What carrying out a plan takes from here on, what the process has already included; calibration comes on top of it."""
    workers = workers or threads()
    whole = max((_whole(line) for line in plan.layers), default=0)
    kept = max((size for line in plan.layers if (size := line.layer.nbytes) <= held and not _whole(line)), default=0)
    process = psutil.Process().memory_info().rss + sum(LOADING[name] for name in _loaded(plan) if name not in sys.modules)
    records = LAYER * len(plan.layers) + MEASURED * sum(not line.kept for line in plan.layers)
    memory = process + WORK + THREAD * workers + records + kept + whole
    return Needs(memory, plan.total_bytes, held, workers)


def _loaded(plan: Plan) -> tuple[str, ...]:
    runs = plan.calibration is not None or os.environ.get("MONO_QUANT_NUMERICS", "").lower() == "torch"
    return ("torch", "numba") if runs else ("numba",)


def calibrating(plan: Plan, vectors: int = 0, *, workers: int | None = None) -> int:
    """Bytes that a calibrated run takes beside the model that runs. ``vectors``: of the data (tokens); those that do not fit into
    a third of what is free go to files."""
    need = plan.calibration
    if need is None:
        return 0
    return need.nbytes + need.vector_bytes * vectors + CALIBRATING + WORK + THREAD * (workers or threads())


def within(plan: Plan, limit: int | None) -> Needs:
    """How to carry out a plan below a limit (bytes; by default what is free). Raises PlanError that says what to change."""
    most = free_memory() + psutil.Process().memory_info().rss if limit is None else limit
    for held, workers in ((HELD, threads()), (0, threads()), (0, 1)):
        found = needs(plan, held=held, workers=workers)
        if found.memory <= most:
            return found
    said = f"The run takes {found.memory / 1e6:,.0f} MB of memory, and {most / 1e6:,.0f} MB "
    raise PlanError(f"{said}{'may be used' if limit is not None else 'are free'}; {_remedy(plan.layers, limit)}.")


def _remedy(lines: Sequence[LayerPlan], limit: int | None) -> str:
    largest = max(lines, key=_whole, default=None)
    if largest and _whole(largest) > THREAD:
        return f"keep {largest.layer.name}, which cannot be read in pieces, as it is, or give more memory"
    return "raise the memory limit" if limit is not None else "close other programs"


def _whole(line: LayerPlan) -> int:
    """Bytes of a weight that is held as a whole, with its copy in another order or type; 0 for one that is read in chunks."""
    layer = line.layer
    if any(part.role == "decoded" for part in line.parts) and layer.scheme:
        return layer.nbytes + 3 * line.nbytes
    return 2 * layer.nbytes if (line.encoded and layer.axis != first_axis(layer)) or _scattered(layer) else 0


def _scattered(layer: LayerInfo) -> bool:
    return any(part.strides is not None for part in layer.parts)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, of its control group, of its address space."""
    found = [psutil.virtual_memory().available]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            found.append(soft - psutil.Process().memory_info().vms)
    return max(0, min(found))
