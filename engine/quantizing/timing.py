"""About how long a plan will take before any run of its kind: each way of encoding is timed on some rows of the model.

A layer takes ``fixed + bytes · rate``, which two pieces of different size tell. What is copied is timed on a piece too: read from
the model and written to an unnamed temporary file. How long the artifact's own disk takes for its bytes is not known.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from engine import numerics
from engine.chunks import CHUNK, Hold, threads
from engine.errors import DataError
from engine.numerics import checksum
from engine.planning.duration import Expected, Outline, Way
from engine.planning.planner import plan_trial
from engine.quantizing.encoding import attempt
from engine.readers.memory import MemoryFiles, sampled, summary_of
from engine.readers.source import TensorFiles
from engine.records.codec import to_data
from engine.records.plan import LayerPlan
from engine.records.progress import Monitor
from engine.schemes.grouping import ROW_MULTIPLE, Grouping, Matrix

SMALL = 1 << 16
"""Bytes of the smaller piece of a layer."""
ENOUGH = 0.1
"""Seconds after which a piece is not timed again."""
MOST = 0.6
"""Seconds of a piece that is timed for certainty, as far as a smaller one tells."""
TIMES = 5
"""That a short piece is timed; the middle counts."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``fixed``: seconds of any layer; ``byte``: seconds of each of its stored bytes."""

    fixed: float
    byte: float


_known: dict[Way, Rate] = {}
"""Of this process: a plan is made again after every edit of its recipe."""


def timed(plan: Outline, monitor: Monitor) -> Expected | None:
    """None where the arithmetic would have to be compiled first, or weights cannot be read. Raises Cancelled."""
    if not numerics.compiled():
        return None
    try:
        with TensorFiles(plan.summary) as files:
            reading, writing = _copying(files)
            seconds = reading * plan.copied + writing * plan.written
            for way, what in plan.ways.items():
                if way not in _known:
                    _known[way] = _rate(files, what.largest, monitor)
                seconds += _known[way].fixed * what.layers + _known[way].byte * what.nbytes
    except (DataError, OSError):  # a run will say why
        return None
    return Expected(seconds, 0)


def _rate(files: TensorFiles, line: LayerPlan, monitor: Monitor) -> Rate:
    """Of the way in which a layer is encoded. Raises DataError for weights that cannot be, Cancelled."""
    layer = line.layer
    _time(files, line, 1, monitor)  # loads what it needs
    small, least = _time(files, line, min(SMALL, layer.nbytes // 2), monitor)
    size, seconds = small, least
    for wanted in (CHUNK, 2 * CHUNK * threads()):
        if size >= layer.nbytes or seconds * wanted / size > MOST * (threads() if wanted > CHUNK else 1):
            break
        size, seconds = _time(files, line, min(wanted, layer.nbytes), monitor)
    if size <= small:  # nothing to draw a line through
        return Rate(0.0, least / max(small, 1))
    byte = max(seconds - least, 0.0) / (size - small)
    if size <= CHUNK:  # one chunk by one thread
        byte /= max(1, min(threads(), layer.nbytes // CHUNK))
    return Rate(max(least - byte * small, 0.0), byte)


def _time(files: TensorFiles, line: LayerPlan, wanted: int, monitor: Monitor) -> tuple[int, float]:
    """Bytes of about ``wanted`` in whole rows, and the seconds that encoding them into memory takes."""
    matrix = Matrix.of(line.layer)
    height = Grouping(matrix, line.scheme).height if line.scheme.granularity == "block" else min(ROW_MULTIPLE, matrix.rows)
    rows = max(wanted * matrix.rows // line.layer.nbytes, height)
    small, raw = sampled(files, line.layer, matrix.rows, rows, height)
    plan = plan_trial(summary_of(small), small, line.scheme, line.algorithm)
    if plan.errors:
        raise DataError(plan.errors[0].message)
    found, hold, spent = [], Hold(), 0.0
    while len(found) < TIMES and spent < ENOUGH:
        monitor.check()
        started = time.perf_counter()
        tried = attempt(plan, small.name, MemoryFiles({small.tensor.name: raw}), None, hold)
        json.dumps(to_data(tried.report))  # as a run notes it of every layer
        found.append(time.perf_counter() - started)
        spent += found[-1]
    return raw.nbytes, median(found)


def _copying(files: TensorFiles) -> tuple[float, float]:
    """Seconds of a byte that is read and summed, and of one that is written."""
    tensors = (part for layer in files.summary.layers for part in layer.parts)
    largest = max(tensors, key=lambda tensor: tensor.nbytes, default=None)
    if largest is None or not largest.nbytes:
        return 0.0, 0.0
    buffer = np.empty(min(CHUNK, largest.nbytes), np.uint8)
    reading, writing = [], []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(TIMES):
            started = time.perf_counter()
            files.read_into(largest, 0, buffer)
            checksum.piece(0, buffer.data)
            between = time.perf_counter()
            file.seek(0)
            file.write(buffer.data)
            reading.append(between - started)
            writing.append(time.perf_counter() - between)
    return median(reading) / buffer.nbytes, median(writing) / buffer.nbytes
