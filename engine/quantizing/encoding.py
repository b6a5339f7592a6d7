"""One layer of a plan, encoded: a chunk of rows at a time, in several threads.

Each tensor is read twice. The first pass finds the range of every row (and any NaN or Inf, before a byte of the layer is
written); the second encodes, measures and writes. Rows are cut into chunks that stay in the cache; each worker thread reads,
encodes and writes its own chunk, so memory does not grow with the model.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import numerics
from engine.algorithms import chain
from engine.algorithms.base import Parameters
from engine.chunks import CHUNK, Hold, Source, Workers, bad_value
from engine.decoding import decode_layer
from engine.errors import DataError
from engine.measure.tally import Tally, bin_scale, channel_ranges, sqnr_db
from engine.numerics import checksum
from engine.quantizing.clock import Clock
from engine.quantizing.fitting import LayerFit
from engine.quantizing.reusing import Earlier
from engine.readers.source import TensorFiles
from engine.records.model import LayerInfo, ModelSummary, TensorInfo
from engine.records.plan import LayerPlan, Plan
from engine.records.progress import Monitor
from engine.records.report import ChannelRanges, Histogram, LayerReport
from engine.records.scheme import Scheme
from engine.schemes import family_of
from engine.schemes.base import Encoder
from engine.schemes.grouping import Grouping
from engine.schemes.scaled import ScaledCodec
from engine.writers.artifact import Artifact

if TYPE_CHECKING:
    from engine.quantizing.rounding import Solved  # brings torch, which weights alone need not


@dataclass(slots=True)
class Prepared:
    """What was found by running the model, for a plan of ``plan``: weights moved to other values (``plan.summary`` leads to
    them), codes chosen by solvers (``solved`` fetches them by layer, one at a time), and ``stored`` bytes of parts such as
    ``input_scale``."""

    plan: Plan
    solved: Mapping[str, "Solved"]
    stored: Mapping[str, bytes]
    notes: Mapping[str, str]
    uncorrected: Mapping[str, Any] = field(default_factory=dict)
    """Tensors as they were before a correction, which belongs to the quantized model alone."""


class UnusableWeights(DataError):
    """One layer's weights cannot be quantized; those of other layers may."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """One layer encoded into memory: what a run would report, its plan line, and the stored bytes of its parts by role."""

    report: LayerReport
    line: LayerPlan
    stored: Mapping[str, np.ndarray]


def attempt(
    plan: Plan, name: str, files: TensorFiles, monitor: Monitor | None = None, hold: Hold | None = None, edge: float = 0.0
) -> Attempted:
    """Encode one layer of a plan as a run would, and write nothing. ``edge``: the histogram reaches at least so far.

    Raises UnusableWeights, Cancelled.
    """
    line = next(line for line in plan.layers if line.layer.name == name)
    memory = _Memory(line)
    with Workers() as workers:
        clock = Clock(monitor or Monitor(), "quantizing", 1)
        report = _encode(line, Work(plan, files, workers, memory, clock, hold or Hold(), edge=edge))
    roles = {part.name: part.role for part in line.parts}
    return Attempted(report, line, {roles[part]: raw for part, raw in memory.stored.items()})


class _Memory:
    """Takes what an artifact would be given."""

    def __init__(self, line: LayerPlan) -> None:
        self.stored = {part.name: np.zeros(part.nbytes, np.uint8) for part in line.parts}

    def write(self, part: str, start: int, data: bytes | memoryview) -> None:
        raw = np.frombuffer(data, np.uint8)
        self.stored[part][start : start + raw.size] = raw


def histogram(summary: ModelSummary, layer: LayerInfo) -> tuple[Histogram, ChannelRanges]:
    """Distribution of one float layer's weights, before any run. Raises DataError for NaN or Inf."""
    with TensorFiles(summary) as files, Workers() as workers:
        source = Source(files, layer, Hold())
        limit, low, high = row_ranges(source, workers, lambda n: None)
        total, lock = Tally(), threading.Lock()
        kernels, scale = numerics.backend(), bin_scale(limit)

        def chunk(row: int, rows: int) -> None:
            tally = Tally()
            raw = source.again(row, rows)
            kernels.count_rows(raw, rows, source.matrix.cols, numerics.KINDS[layer.dtype], scale, tally.counts[0])
            with lock:
                total.add(tally)

        workers.each(chunk, source.chunks(_by_rows(source)))
    counts = tuple(total.counts[0].sum(axis=0).tolist())
    return Histogram(limit, counts), channel_ranges(low, high, source.matrix.rows)


class Sums:
    """Checksums of the stored tensors that are read, by name."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, start: int, raw: np.ndarray) -> None:
        found = checksum.piece(start, raw.data)
        with self._lock:
            self.known[name] = (self.known.get(name, 0) + found) & checksum.MASK


@dataclass(slots=True)
class Work:
    plan: Plan
    files: TensorFiles
    workers: Workers
    out: "Artifact | _Memory"
    clock: Clock
    hold: Hold
    prepared: Prepared | None = None
    edge: float = 0.0
    """Histograms reach at least so far from zero."""
    limits: dict[str, float] = field(default_factory=dict)
    """Largest magnitudes of fused layers, by name."""
    sums: Sums = field(default_factory=Sums)
    earlier: Earlier | None = None
    stored: TensorFiles | None = None
    """Its artifact."""
    layers: dict[str, LayerInfo] = field(default_factory=dict)
    """Of the plan, by name."""

    def __post_init__(self) -> None:
        self.layers = {line.layer.name: line.layer for line in self.plan.layers}


def one_layer(line: LayerPlan, work: Work) -> LayerReport | None:
    if line.encoded:
        return _encode(line, work)
    for index, part in enumerate(line.parts):
        if part.role == "given":
            write_given(part.name, work)
        elif part.role == "decoded":
            raw, _ = decode_layer(work.files, line.layer)
            work.out.write(part.name, 0, raw.data)
            work.clock.advance(line.layer.nbytes)
        else:
            _copy(line.layer.parts[index], part.name, work)
    return None


def write_given(name: str, work: Work) -> None:
    if not work.prepared or name not in work.prepared.stored:
        raise DataError(f"{name} is known only after calibration; give data or statistics.")
    work.out.write(name, 0, work.prepared.stored[name])


def _copy(tensor: TensorInfo, name: str, work: Work) -> None:
    if tensor.strides is not None:
        raw = work.files.read(tensor)
        work.sums.add(tensor.name, 0, raw)
        work.out.write(name, 0, raw.data)
        work.clock.advance(tensor.nbytes)
        return

    def piece(start: int, size: int) -> None:
        buffer = work.hold.buffers.get("input", size)
        work.files.read_into(tensor, start, buffer)
        work.out.write(name, start, buffer.data)
        work.clock.advance(size)

    size = tensor.nbytes
    work.workers.each(piece, ((start, min(CHUNK, size - start)) for start in range(0, size, CHUNK)))
    if isinstance(work.out, Artifact):  # the same bytes were written
        work.sums.known[tensor.name] = work.out.checksum(name)


def _encode(line: LayerPlan, work: Work) -> LayerReport:
    started = time.perf_counter()
    layer = line.layer
    encoder = family_of(line.scheme).encoder(line.scheme, layer, line.parts)
    source = Source(work.files, encoder.layer, work.hold)
    work.sums.known.pop(layer.tensor.name, None)
    limit, low, high = row_ranges(source, work.workers, work.clock.advance, work.sums)
    edge = max(limit, work.edge)
    fit, total = None, Tally()
    solved = work.prepared.solved.get(layer.name) if work.prepared else None
    if isinstance(encoder, ScaledCodec) and solved:
        encoder.begin(solved.limit)
        total = _encode_solved(line, encoder, solved, bin_scale(edge), source, work)
    elif isinstance(encoder, ScaledCodec):
        encoder.begin(max([limit, *_fused_limits(line, work)]))
        clock = work.clock
        text = str(chain(line.algorithm).solver)
        fit = LayerFit(encoder, source, text, (low, high), work.workers, clock.monitor.check, clock.advance)
    if not solved:
        total = _encode_rows(line, encoder, fit, bin_scale(edge), source, work)
    for part in line.parts:
        if part.role == "given" and isinstance(work.out, Artifact):
            write_given(part.name, work)
    return LayerReport(
        name=layer.name,
        scheme=line.scheme_name,
        algorithm=_words(line, fit, solved),
        sqnr_db=sqnr_db(total.signal, total.noise),
        mse=total.noise / layer.parameters,
        max_error=total.max_error,
        clipped=total.clipped / layer.parameters,
        signal=total.signal,
        noise=total.noise,
        parameters=layer.parameters,
        bytes_before=layer.nbytes,
        bytes_after=line.nbytes,
        seconds=time.perf_counter() - started,
        histogram=total.histogram(edge),
        ranges=channel_ranges(low, high, source.matrix.rows),
        reason=fit.reason if fit else "",
        note="; ".join(_notes(layer.name, encoder, solved, work)),
        objective=solved.after if solved else None,
        objective_rtn=solved.before if solved else None,
        checksum=f"{work.sums.known.get(layer.tensor.name, 0):016x}",
    )


def _words(line: LayerPlan, fit: LayerFit | None, solved: "Solved | None") -> str:
    """What was done to a layer, with the winner of a short list in its place."""
    steps = chain(line.algorithm)
    if solved:
        return solved.algorithm
    solver = fit.text if fit else "rtn"
    others = [str(step) for step in (*steps.transforms, *steps.corrections)]
    return str(chain("+".join([*map(str, steps.transforms), solver, *map(str, steps.corrections)]))) if others else solver


def _notes(name: str, encoder: Encoder, solved: "Solved | None", work: Work) -> list[str]:
    own = sorted(encoder.notes) if isinstance(encoder, ScaledCodec) else []
    prepared = work.prepared.notes.get(name, "") if work.prepared else ""
    return [note for note in (prepared, solved.note if solved else "", *own) if note]


def _encode_solved(
    line: LayerPlan, encoder: ScaledCodec, solved: "Solved", scale: np.float32, source: Source, work: Work
) -> Tally:
    """Write codes that a solver chose, and measure them against the weights."""
    names = {part.role: part.name for part in line.parts}
    codes = next(part for part in line.parts if part.role == "codes")
    grouping, row_bytes = encoder.grouping, codes.nbytes // source.matrix.rows
    total, lock = Tally(), threading.Lock()
    wide = [p.reshape(grouping.matrix.slices, -1, grouping.per_row)[:, :: grouping.height] for p in (solved.scale, solved.zero)]
    scales, zeros = (np.ascontiguousarray(p, np.float32).reshape(-1) for p in wide)

    def chunk(row: int, rows: int) -> None:
        levels = np.ascontiguousarray(solved.levels[row : row + rows], np.float32)
        out = np.empty(rows * row_bytes, np.uint8)
        encoder.pack_levels(levels.reshape(-1).view(np.uint8), rows, out)
        work.out.write(codes.name, row * row_bytes, out.data)
        span = grouping.span(row, rows)
        decoded = encoder.decode_levels(levels, rows, (scales[span], zeros[span]))
        raw = source.again(row, rows)
        values = encoder.floats(raw).reshape(rows, -1)
        step = np.repeat(solved.scale[row : row + rows], grouping.columns, axis=1)[:, : values.shape[1]]
        at_end = (levels <= encoder.grid.low) | (levels >= encoder.grid.high)
        clipped = at_end & (np.abs(values - decoded) > np.float32(0.5 * (1 + 2.0**-7)) * np.abs(step))
        own = Tally()
        own.compare(values, decoded, clipped, scale)
        with lock:
            total.add(own)
        work.clock.advance(raw.size)

    work.workers.each(chunk, source.chunks(grouping))
    for role, (offset, data) in encoder.small_parts(scales, zeros, 0, 0).items():
        work.out.write(names[role], offset, data)
    for role, data in encoder.layer_parts().items():
        work.out.write(names[role], 0, data)
    return total


def _by_rows(source: Source) -> Grouping:
    """Rows as they come."""
    return Grouping(source.matrix, Scheme("any", granularity="channel"))


def row_ranges(
    source: Source, workers: Workers, advance: Callable[[int], None], sums: Sums | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """First pass: largest magnitude, and least and greatest value of every row. Raises UnusableWeights."""
    matrix, layer = source.matrix, source.layer
    low = np.empty(matrix.rows, np.float32)
    high = np.empty_like(low)
    kernels, kind = numerics.backend(), numerics.KINDS[layer.dtype]

    def chunk(row: int, rows: int) -> None:
        span = slice(row, row + rows)
        raw = source.first(row, rows)
        bad = kernels.row_ranges(raw, rows, matrix.cols, kind, matrix.cols, low[span], high[span])
        if bad >= 0:
            raise UnusableWeights(bad_value(source, row * matrix.cols + bad, raw, bad))
        if sums:
            sums.add(layer.tensor.name, raw.size // rows * row, raw)
        advance(raw.size)

    workers.each(chunk, source.chunks(_by_rows(source)))
    return float(max(high.max(), -low.min(), 0)), low, high


def _fused_limits(line: LayerPlan, work: Work) -> list[float]:
    """Largest magnitudes of the layers that a runtime fuses with this one."""
    for name in line.fused:
        if name not in work.limits:
            # Its own memory: this layer's weights are being held.
            source = Source(work.files, work.layers[name], Hold(0))
            try:
                work.limits[name] = row_ranges(source, work.workers, lambda n: work.clock.monitor.check())[0]
            except UnusableWeights:  # said in that layer's own row
                work.limits[name] = 0.0
    return [work.limits[name] for name in line.fused]


def _encode_rows(line: LayerPlan, encoder: Encoder, fit: LayerFit | None, scale: np.float32, source: Source, work: Work) -> Tally:
    """Second pass: encode, measure, write."""
    names = {part.role: part.name for part in line.parts}
    codes = next(part for part in line.parts if part.role == "codes")
    row_bytes = codes.nbytes // source.matrix.rows
    total, tallies, own = Tally(), list[Tally](), threading.local()

    def chunk(row: int, rows: int) -> None:
        tally: Tally | None = getattr(own, "tally", None)
        if tally is None:
            tally = own.tally = Tally(line.layer.parameters)
            tallies.append(tally)
        raw = source.again(row, rows)
        parameters = fit.of_chunk(raw, row, rows) if fit else None
        out = work.hold.buffers.get("output", rows * row_bytes)
        encoder.encode(raw, rows, parameters, scale, out, tally)
        work.out.write(codes.name, row * row_bytes, out.data)
        if parameters and fit and fit.known is None:
            write_small(parameters, encoder.grouping.span(row, rows).start, row)
        work.clock.advance(raw.size)
        tally.counted(rows * source.matrix.cols)

    def write_small(parameters: Parameters, first: int, row: int) -> None:
        assert isinstance(encoder, ScaledCodec)
        for role, (offset, data) in encoder.small_parts(*parameters, first, row).items():
            work.out.write(names[role], offset, data)

    work.workers.each(chunk, source.chunks(encoder.grouping))
    if isinstance(encoder, ScaledCodec):
        if fit and fit.known is not None:
            write_small(fit.known, 0, 0)
        for role, data in encoder.layer_parts().items():
            work.out.write(names[role], 0, data)
    for tally in tallies:
        total.add(tally)
    return total
