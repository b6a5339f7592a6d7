"""The only orchestrator: a plan becomes files, one chunk of one tensor at a time, in several threads.

Each tensor is read twice. The first pass finds the range of every group (and any NaN or Inf, before a byte of the
layer is written); the second encodes, measures and writes. Rows are cut into chunks that stay in the cache; each
worker thread reads, encodes and writes its own chunk, so memory does not grow with the model.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from engine import numerics, recipes
from engine.algorithms import algorithm
from engine.chunks import CHUNK, Hold, Source, Workers, bad_value, threads
from engine.errors import DataError
from engine.measure.memory import forget_peak_memory, peak_memory
from engine.measure.tally import Tally, bin_scale, channel_ranges, sqnr_db
from engine.planner import require_runnable
from engine.readers.source import Bytes, TensorFiles
from engine.records.dtypes import BITS
from engine.records.model import LayerInfo, ModelSummary, TensorInfo
from engine.records.plan import LayerPlan, Plan
from engine.records.progress import Monitor, Progress
from engine.records.report import ChannelRanges, Histogram, LayerReport, RunReport
from engine.schemes import family_of, parse_scheme
from engine.schemes.base import Encoder, Matrix
from engine.schemes.integer import role_of
from engine.version import VERSION
from engine.writers.artifact import Artifact, check_not_input


def run(plan: Plan, output: str, *, overwrite: bool = False, monitor: Monitor | None = None) -> RunReport:
    """Quantize (or decode, or repackage) as planned and write ``output``.

    Raises PlanError when the plan has errors, OutputError, DataError (naming tensor and index), Cancelled.
    Whatever is raised, nothing is left at ``output`` that was not there before.
    """
    require_runnable(plan)
    check_not_input(output, plan.summary)
    forget_peak_memory()
    monitor = monitor or Monitor()
    clock = _Clock(plan, monitor)
    reports: list[LayerReport] = []
    with TensorFiles(plan.summary) as files, Artifact(output, plan.files, overwrite=overwrite) as out, Workers() as workers:
        work = _Work(files, workers, out, clock, Hold())
        for line in plan.layers:
            clock.layer = line.layer.name
            report = _one_layer(line, work)
            if report:
                reports.append(report)
                monitor.layer_done(report)
        clock.stage = "finishing"
        clock.report()
        out.commit()
    return _report(plan, output, tuple(reports), clock)


def histogram(summary: ModelSummary, layer: LayerInfo) -> tuple[Histogram, ChannelRanges]:
    """Distribution of one float layer's weights, before any run. Raises DataError for NaN or Inf."""
    with TensorFiles(summary) as files, Workers() as workers:
        matrix = Matrix.of(layer.shape, layer.axis)
        source = Source(files, layer, matrix, Hold())
        limit, low, high = _ranges(source, matrix.cols, workers, lambda n: None)
        tally = Tally()
        kernels, scale = numerics.backend(), bin_scale(limit)
        for row, rows in source.chunks():
            raw = source.again(row, rows)
            kernels.count_rows(raw, rows, matrix.cols, numerics.KINDS[layer.dtype], scale, tally.counts[0])
    counts = tuple(tally.counts[0].sum(axis=0).tolist())
    return Histogram(limit, counts), channel_ranges(low, high, matrix.rows)


def decode_layer(files: TensorFiles, layer: LayerInfo) -> tuple[Bytes, str]:
    """All values of one layer as a reader computes them: (row-major bytes in the layer's shape, dtype)."""
    if not layer.scheme:
        return files.read(layer.tensor), layer.dtype
    matrix = Matrix.of(layer.shape, layer.axis)
    decoder = _decoder(files, layer)
    raw = decoder.decode(files.read(layer.parts[0]), 0, matrix.rows)
    return _from_rows(raw, layer, decoder.dtype), decoder.dtype


@dataclass(slots=True)
class _Clock:
    """Counts bytes, tells the monitor at most twenty times a second, asks it for cancellation every time."""

    plan: Plan
    monitor: Monitor
    layer: str = ""
    stage: str = "quantizing"
    done: int = 0
    started: float = field(default_factory=time.perf_counter)
    _last: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _total: int = 0

    def __post_init__(self) -> None:
        self._total = sum(_cost(line) for line in self.plan.layers)

    def advance(self, count: int) -> None:
        self.monitor.check()
        with self._lock:
            self.done += count
            now = time.perf_counter()
            due = now - self._last >= 0.05
            if due:
                self._last = now
        if due:
            self.report()

    def report(self) -> None:
        seconds = time.perf_counter() - self.started
        left = seconds * (self._total - self.done) / self.done if self.done and seconds > 0.5 else None
        self.monitor.progress(Progress(self.stage, self.layer, self.done, self._total, seconds, left))


def _cost(line: LayerPlan) -> int:
    """Bytes to go through: encoded layers are read twice."""
    return line.layer.nbytes * (2 if _is_encoded(line) else 1)


def _is_encoded(line: LayerPlan) -> bool:
    return any(part.role == "codes" for part in line.parts)


@dataclass(slots=True)
class _Work:
    files: TensorFiles
    workers: Workers
    out: Artifact
    clock: _Clock
    hold: "Hold"


def _one_layer(line: LayerPlan, work: _Work) -> LayerReport | None:
    if _is_encoded(line):
        return _encode(line, work)
    for index, part in enumerate(line.parts):
        if part.role == "decoded":
            raw, _ = decode_layer(work.files, line.layer)
            work.out.write(part.name, 0, raw.data)
            work.clock.advance(line.layer.nbytes)
        else:
            _copy(line.layer.parts[index], part.name, work)
    return None


def _copy(tensor: TensorInfo, name: str, work: _Work) -> None:
    if tensor.strides is not None:
        work.out.write(name, 0, work.files.read(tensor).data)
        work.clock.advance(tensor.nbytes)
        return

    def piece(start: int, size: int) -> None:
        buffer = work.hold.buffers.get("input", size)
        work.files.read_into(tensor, start, buffer)
        work.out.write(name, start, buffer.data)
        work.clock.advance(size)

    size = tensor.nbytes
    work.workers.each(piece, ((start, min(CHUNK, size - start)) for start in range(0, size, CHUNK)))


def _encode(line: LayerPlan, work: _Work) -> LayerReport:
    started = time.perf_counter()
    layer = line.layer
    matrix = Matrix.of(layer.shape, layer.axis)
    encoder = family_of(line.scheme).encoder(line.scheme, layer, line.parts)
    source = Source(work.files, layer, matrix, work.hold)
    limit, low, high = _ranges(source, encoder.group, work.workers, work.clock.advance)
    encoder.fit(low, high, limit, algorithm(line.algorithm).fit)
    total = _encode_rows(line, encoder, source, work)
    for part in line.parts:
        if part.role != "codes":
            work.out.write(part.name, 0, encoder.small_parts()[part.role])
    return LayerReport(
        name=layer.name,
        scheme=line.scheme_name,
        algorithm=line.algorithm,
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
        histogram=total.histogram(limit),
        ranges=channel_ranges(low, high, matrix.rows),
    )


def _ranges(source: Source, group: int, workers: Workers, advance: Callable[[int], None]) -> tuple[float, np.ndarray, np.ndarray]:
    """First pass: largest magnitude, and least and greatest value of every group, in row order."""
    matrix, layer = source.matrix, source.layer
    groups = -(-matrix.cols // group)
    low = np.empty(matrix.rows * groups, np.float32)
    high = np.empty_like(low)
    kernels, kind = numerics.backend(), numerics.KINDS[layer.dtype]

    def chunk(row: int, rows: int) -> None:
        span = slice(row * groups, (row + rows) * groups)
        raw = source.first(row, rows)
        bad = kernels.row_ranges(raw, rows, matrix.cols, kind, group, low[span], high[span])
        if bad >= 0:
            raise DataError(bad_value(source, row * matrix.cols + bad, raw, bad))
        advance(raw.size)

    workers.each(chunk, source.chunks())
    return float(max(high.max(), -low.min(), 0)), low, high


def _encode_rows(line: LayerPlan, encoder: Encoder, source: Source, work: _Work) -> Tally:
    """Second pass: encode, measure, write."""
    codes = next(part for part in line.parts if part.role == "codes")
    row_bytes = codes.nbytes // source.matrix.rows
    total, lock, own = Tally(), threading.Lock(), threading.local()

    def chunk(row: int, rows: int) -> None:
        tally: Tally | None = getattr(own, "tally", None)
        if tally is None:
            tally = own.tally = Tally()
        tally.clear()
        raw = source.again(row, rows)
        out = work.hold.buffers.get("output", rows * row_bytes)
        encoder.encode(raw, row, rows, out, tally)
        work.out.write(codes.name, row * row_bytes, out.data)
        work.clock.advance(raw.size)
        with lock:
            total.add(tally)

    work.workers.each(chunk, source.chunks())
    return total


def _decoder(files: TensorFiles, layer: LayerInfo):
    scheme = parse_scheme(layer.scheme or "keep")
    stored = {role_of(p.name): files.read(p) for p in layer.parts[1:]}
    return family_of(scheme).decoder(scheme, layer, stored)


def _from_rows(raw: Bytes, layer: LayerInfo, dtype: str) -> Bytes:
    """Rows of output channels back to the layer's own axis order."""
    if layer.axis == 0:
        return raw
    size = BITS[dtype] // 8
    shape = (layer.shape[layer.axis], *(s for i, s in enumerate(layer.shape) if i != layer.axis))
    moved = np.moveaxis(raw.view(f"V{size}").reshape(shape), 0, layer.axis)
    return np.ascontiguousarray(moved).reshape(-1).view(np.uint8)


def _report(plan: Plan, output: str, layers: tuple[LayerReport, ...], clock: _Clock) -> RunReport:
    measured = [report for report in layers if report.sqnr_db is not None]
    worst = min(measured, key=lambda report: report.sqnr_db or 0.0, default=None)
    seconds = time.perf_counter() - clock.started
    return RunReport(
        path=plan.summary.path,
        output=str(output),
        format=plan.format,
        recipe=recipes.dumps(plan.recipe),
        input_hash=input_hash(plan.summary),
        layers=layers,
        kept=tuple(line.layer.name for line in plan.layers if line.kept),
        bytes_before=sum(file.nbytes for file in plan.summary.files),
        bytes_after=plan.predicted_bytes,
        bits_per_weight=plan.bits_per_weight,
        sqnr_db=sqnr_db(sum(r.signal for r in layers), sum(r.noise for r in layers)),
        worst_layer=worst.name if worst else None,
        worst_sqnr_db=worst.sqnr_db if worst else None,
        seconds=seconds,
        peak_memory_bytes=peak_memory(),
        engine_version=VERSION,
        threads=threads(),
        started=time.time() - seconds,
    )


def input_hash(summary: ModelSummary) -> str:
    """SHA-256 over names, types, shapes and places of all tensors and the files' sizes: instant, whatever the size."""
    digest = hashlib.sha256()
    for file in summary.files:
        digest.update(f"{os.path.basename(file.path)} {file.nbytes}\n".encode())
    for layer in summary.layers:
        for part in layer.parts:
            digest.update(f"{part.name} {part.dtype} {part.shape} {part.file} {part.offset}\n".encode())
    return digest.hexdigest()
