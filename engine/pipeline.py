"""The only orchestrator: a plan becomes files, one chunk of one tensor at a time, in several threads.

Each tensor is read twice. The first pass finds the range of every group (and any NaN or Inf, before a byte of the
layer is written); the second encodes, measures and writes. Rows are cut into chunks that stay in the cache; each
worker thread reads, encodes and writes its own chunk, so memory does not grow with the model.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import identity, numerics, recipes
from engine.algorithms import chain
from engine.algorithms.base import Parameters
from engine.chunks import CHUNK, Hold, Source, Workers, bad_value, threads
from engine.decoding import decode_layer
from engine.errors import DataError, InputError, Paused
from engine.fitting import LayerFit
from engine.measure.memory import forget_peak_memory, peak_memory
from engine.measure.tally import Tally, bin_scale, channel_ranges, sqnr_db
from engine.numerics import checksum
from engine.planner import require_runnable
from engine.readers.source import TensorFiles
from engine.records.codec import from_data, to_data
from engine.records.model import LayerInfo, ModelSummary, TensorInfo
from engine.records.plan import LayerPlan, Plan
from engine.records.progress import Monitor, Progress
from engine.records.report import ChannelRanges, Histogram, LayerFailure, LayerReport, RunReport
from engine.records.scheme import Scheme
from engine.reusing import Earlier
from engine.rounding import Solved
from engine.schemes import family_of, parse_scheme
from engine.schemes.base import Encoder, role_of
from engine.schemes.grouping import Grouping, Matrix, first_axis
from engine.schemes.scaled import ScaledCodec, ScaledFamily
from engine.version import VERSION
from engine.writers.artifact import Artifact, check_not_input, check_target, output_error
from engine.writers.workspace import Workspace, placed


@dataclass(slots=True)
class Prepared:
    """What was found by running the model, for a plan of ``plan``: weights moved to other values (``plan.summary`` leads to
    them), codes chosen by solvers (``solved`` fetches them by layer, one at a time), and ``stored`` bytes of parts such as
    ``input_scale``."""

    plan: Plan
    solved: Mapping[str, Solved]
    stored: Mapping[str, bytes]
    notes: Mapping[str, str]
    uncorrected: Mapping[str, Any] = field(default_factory=dict)
    """Tensors as they were before a correction, which belongs to the quantized model alone."""


@dataclass(frozen=True, slots=True)
class Continuing:
    """How a run stands to earlier ones.

    resume   go on with what a killed or paused run left of the same output, model and recipe, where it left something
    run      folder of the run in the ledger: what is finished is kept as long as that is there
    earlier  a run from whose artifact layers are taken that did not change
    """

    resume: bool = False
    run: str = ""
    earlier: Earlier | None = None


def workspace(plan: Plan, output: str, how: Continuing, *given: str) -> Workspace:
    """The private folder in which a plan is carried out; ``given``: what else decides the result."""
    digest = hashlib.sha256("\n".join([VERSION, identity.files(plan.summary), recipes.dumps(plan.recipe), *given]).encode())
    for file in plan.files:
        digest.update(f"{file.path} {file.nbytes}\n".encode() + file.head)
    for line in plan.layers:
        digest.update(f"{line.layer.name} {line.scheme_name} {line.algorithm}\n".encode())
    return Workspace(placed(output), key=digest.hexdigest(), resume=how.resume, run=how.run)


def run(
    plan: Plan, output: str, *, overwrite: bool = False, monitor: Monitor | None = None, prepared: Prepared | None = None,
    how: Continuing | None = None, space: Workspace | None = None,
) -> RunReport:  # fmt: skip
    """Quantize (or decode, or repackage) as planned and write ``output``; ``prepared`` has what calibration found.

    ``space``: entered by the caller, who then also leaves it. Raises PlanError when the plan has errors, OutputError, DataError
    (naming tensor and index; its ``report`` has the other layers), Cancelled. Whatever is raised, nothing is left at ``output``
    that was not there before.
    """
    require_runnable(plan)
    check_output(plan, output, overwrite=overwrite)
    planned, plan = plan, prepared.plan if prepared else plan
    forget_peak_memory()
    monitor, how = monitor or Monitor(), how or Continuing()
    clock = _Clock(plan, monitor)
    found = _Found()
    with contextlib.ExitStack() as stack:
        try:
            space = space or stack.enter_context(workspace(planned, output, how))
        except OSError as error:
            raise output_error(error, Path(output)) from None
        files = stack.enter_context(TensorFiles(plan.summary))
        out = stack.enter_context(Artifact(output, plan.files, overwrite=overwrite, workspace=space))
        workers = stack.enter_context(Workers())
        work = _Work(plan, files, workers, out, clock, Hold(), prepared)
        if how.earlier and not how.earlier.refusal:
            work.earlier, work.stored = how.earlier, stack.enter_context(how.earlier.open())
        for number, line in enumerate(plan.layers):
            if monitor.paused():
                raise Paused(f"Paused after {number:,} of {len(plan.layers):,} layers; what is finished is kept for going on.")
            clock.layer = line.layer.name
            try:
                report = _one_line(line, work, out, found)
            except UnusableWeights as error:
                found.failures.append(LayerFailure(line.layer.name, str(error)))
                monitor.layer_failed(found.failures[-1])
                continue
            if report:
                found.reports.append(report)
                monitor.layer_done(report)
        if found.failures:
            raise _failed(found.failures, _report(planned, output, tuple(found.reports), clock))
        clock.stage = "finishing"
        clock.report()
        content = _content(planned, work)
        files.verify()
        out.commit()
    return replace(
        _report(planned, output, tuple(found.reports), clock), content_hash=content, reused=tuple(found.reused),
        resumed=tuple(found.resumed), warnings=_not_reused(how.earlier),
    )  # fmt: skip


@dataclass(slots=True)
class _Found:
    """What came of the layers."""

    reports: list[LayerReport] = field(default_factory=list)
    failures: list[LayerFailure] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)


def _one_line(line: LayerPlan, work: "_Work", out: Artifact, found: _Found) -> LayerReport | None:
    """A layer finished before, taken over, or computed; noted as finished."""
    known = out.finished(line)
    if known:
        work.sums.known.update(known.inputs)
        work.clock.advance(_cost(line))
        found.resumed.append(line.layer.name)
        return from_data(LayerReport, known.report) if known.report else None
    report = _taken_over(line, work, out) if work.earlier and _is_encoded(line) else None
    if report:
        found.reused.append(line.layer.name)
    else:
        report = _one_layer(line, work)
    inputs = {part.name: work.sums.known[part.name] for part in line.layer.parts if part.name in work.sums.known}
    out.finish(line, to_data(report) if report else None, inputs)
    return report


def _taken_over(line: LayerPlan, work: "_Work", out: Artifact) -> LayerReport | None:
    """The layer's parts out of the earlier artifact, if its weight and all that it depends on are what they were."""
    assert work.earlier and work.stored
    report = work.earlier.candidate(line)
    if report is None or (work.prepared and line.layer.name in work.prepared.solved):
        return None
    started = time.perf_counter()
    names = (line.layer.name, *line.fused)
    layers = {other.layer.name: other.layer for other in work.plan.layers if other.layer.name in names}
    if not work.earlier.fits(names, {name: f"{_checksum(layer, work):016x}" for name, layer in layers.items()}):
        return None
    try:
        for part, start, raw in work.earlier.pieces(line, work.stored):
            work.clock.monitor.check()
            work.out.write(part, start, raw)
    except InputError:  # the earlier artifact was damaged or changed: so this layer is computed
        out.forget(line)
        return None
    for part in line.parts:
        if part.role == "given":
            _write_given(part.name, work)
    work.clock.advance(_cost(line))
    return replace(report, seconds=time.perf_counter() - started, output=None)


def _checksum(layer: LayerInfo, work: "_Work") -> int:
    """Of a weight as rows are read."""
    name = layer.tensor.name
    if name in work.sums.known:
        return work.sums.known[name]
    if layer.tensor.strides is not None or layer.axis != first_axis(layer):
        work.sums.add(name, 0, work.files.read_rows(layer))
        return work.sums.known[name]

    def piece(start: int, size: int) -> None:
        buffer = work.hold.buffers.get("input", size)
        work.files.read_into(layer.tensor, start, buffer)
        work.sums.add(name, start, buffer)
        work.clock.monitor.check()

    work.workers.each(piece, ((start, min(CHUNK, layer.nbytes - start)) for start in range(0, layer.nbytes, CHUNK)))
    return work.sums.known[name]


def _not_reused(earlier: Earlier | None) -> tuple[str, ...]:
    if earlier is None or not earlier.refusal:
        return ()
    return (f"No layer was taken over from run {earlier.run.number}: {earlier.refusal}.",)


def _content(planned: Plan, work: "_Work") -> str:
    """The hash of what was read; weights that were moved to other values before the run are read again as they were."""
    known = work.sums.known
    if work.plan.summary is not planned.summary:
        with TensorFiles(planned.summary) as files:
            for before, after in zip(planned.summary.layers, work.plan.summary.layers, strict=True):
                if before != after and len(before.parts) == 1:
                    work.clock.monitor.check()
                    known[before.tensor.name] = checksum.piece(0, files.read_rows(before).data)
    return identity.contents(planned.summary, known)


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
        clock = _Clock(plan, monitor or Monitor(), total=1)
        report = _encode(line, _Work(plan, files, workers, memory, clock, hold or Hold(), edge=edge))
    roles = {part.name: part.role for part in line.parts}
    return Attempted(report, line, {roles[part]: raw for part, raw in memory.stored.items()})


class _Memory:
    """Takes what an artifact would be given."""

    def __init__(self, line: LayerPlan) -> None:
        self.stored = {part.name: np.zeros(part.nbytes, np.uint8) for part in line.parts}

    def write(self, part: str, start: int, data: bytes | memoryview) -> None:
        raw = np.frombuffer(data, np.uint8)
        self.stored[part][start : start + raw.size] = raw


def check_output(plan: Plan, output: str, *, overwrite: bool) -> None:
    """Raise OutputError before long work when its result could not be written."""
    check_not_input(output, plan.summary)
    check_target(Path(os.path.expanduser(output)), plan.files, len(plan.files) == 1 and not plan.files[0].path, overwrite)


class UnusableWeights(DataError):
    """One layer's weights cannot be quantized; those of other layers may."""


def _failed(failures: list[LayerFailure], report: RunReport) -> DataError:
    more = f" {len(failures) - 1} more layers failed." if len(failures) > 1 else ""
    error = DataError(failures[0].message + more, details="\n".join(failure.message for failure in failures))
    error.report = report
    return error


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
    total: int = 0

    def __post_init__(self) -> None:
        self.total = self.total or sum(_cost(line) for line in self.plan.layers)

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
        left = seconds * (self.total - self.done) / self.done if self.done and seconds > 0.5 else None
        self.monitor.progress(Progress(self.stage, self.layer, self.done, self.total, seconds, left))


def _cost(line: LayerPlan) -> int:
    """Bytes to go through: encoded layers are read twice, and once more for every choice made before the encoding."""
    if not _is_encoded(line):
        return line.layer.nbytes
    whole_tensor = line.scheme.granularity == "tensor"
    chosen = bool(chain(line.algorithm).solver.algorithm.shortlist) and not whole_tensor
    return line.layer.nbytes * (2 + chosen + (line.scheme.variant == "double" and not whole_tensor))


def _is_encoded(line: LayerPlan) -> bool:
    return any(part.role == "codes" for part in line.parts)


class _Sums:
    """Checksums of the stored tensors that are read, by name."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, name: str, start: int, raw: np.ndarray) -> None:
        found = checksum.piece(start, raw.data)
        with self._lock:
            self.known[name] = (self.known.get(name, 0) + found) & checksum.MASK


@dataclass(slots=True)
class _Work:
    plan: Plan
    files: TensorFiles
    workers: Workers
    out: "Artifact | _Memory"
    clock: _Clock
    hold: "Hold"
    prepared: Prepared | None = None
    edge: float = 0.0
    """Histograms reach at least so far from zero."""
    limits: dict[str, float] = field(default_factory=dict)
    """Largest magnitudes of fused layers, by name."""
    sums: _Sums = field(default_factory=_Sums)
    earlier: Earlier | None = None
    stored: TensorFiles | None = None
    """Its artifact."""


def _one_layer(line: LayerPlan, work: _Work) -> LayerReport | None:
    if _is_encoded(line):
        return _encode(line, work)
    for index, part in enumerate(line.parts):
        if part.role == "given":
            _write_given(part.name, work)
        elif part.role == "decoded":
            raw, _ = decode_layer(work.files, line.layer)
            work.out.write(part.name, 0, raw.data)
            work.clock.advance(line.layer.nbytes)
        else:
            _copy(line.layer.parts[index], part.name, work)
    return None


def _write_given(name: str, work: _Work) -> None:
    if not work.prepared or name not in work.prepared.stored:
        raise DataError(f"{name} is known only after calibration; give data or statistics.")
    work.out.write(name, 0, work.prepared.stored[name])


def _copy(tensor: TensorInfo, name: str, work: _Work) -> None:
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


def _encode(line: LayerPlan, work: _Work) -> LayerReport:
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
            _write_given(part.name, work)
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


def _words(line: LayerPlan, fit: LayerFit | None, solved: Solved | None) -> str:
    """What was done to a layer, with the winner of a short list in its place."""
    steps = chain(line.algorithm)
    if solved:
        return solved.algorithm
    solver = fit.text if fit else "rtn"
    others = [str(step) for step in (*steps.transforms, *steps.corrections)]
    return str(chain("+".join([*map(str, steps.transforms), solver, *map(str, steps.corrections)]))) if others else solver


def _notes(name: str, encoder: Encoder, solved: Solved | None, work: _Work) -> list[str]:
    own = sorted(encoder.notes) if isinstance(encoder, ScaledCodec) else []
    prepared = work.prepared.notes.get(name, "") if work.prepared else ""
    return [note for note in (prepared, solved.note if solved else "", *own) if note]


def _encode_solved(
    line: LayerPlan, encoder: ScaledCodec, solved: Solved, scale: np.float32, source: Source, work: _Work
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
    source: Source, workers: Workers, advance: Callable[[int], None], sums: _Sums | None = None
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


def _fused_limits(line: LayerPlan, work: _Work) -> list[float]:
    """Largest magnitudes of the layers that a runtime fuses with this one."""
    others = {other.layer.name: other.layer for other in work.plan.layers if other.layer.name in line.fused}
    for name, layer in others.items():
        if name not in work.limits:
            # Its own memory: this layer's weights are being held.
            source = Source(work.files, layer, Hold(0))
            try:
                work.limits[name] = row_ranges(source, work.workers, lambda n: work.clock.monitor.check())[0]
            except UnusableWeights:  # said in that layer's own row
                work.limits[name] = 0.0
    return [work.limits[name] for name in others]


def _encode_rows(
    line: LayerPlan, encoder: Encoder, fit: LayerFit | None, scale: np.float32, source: Source, work: _Work
) -> Tally:
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


def representable(files: TensorFiles, layer: LayerInfo) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value that each weight of a stored layer could have been given, (rows, cols) float32."""
    scheme = parse_scheme(layer.scheme or "keep")
    family, grouping = family_of(scheme), Grouping(Matrix.of(layer), scheme)
    if not isinstance(family, ScaledFamily):
        raise TypeError(f"{layer.scheme} has no scales")
    stored = {role_of(p.name): files.read(p) for p in layer.parts[1:]}
    scale, zero = family.read_parameters(scheme, layer, grouping, stored)
    grid, shape = family.stored_grid(scheme, layer), grouping.matrix
    scale, zero = (p.reshape(shape.slices, -1, grouping.per_row) for p in (scale, zero))
    ends = [np.repeat((end - zero) * scale, grouping.height, axis=1)[:, : shape.slice_rows] for end in (grid.low, grid.high)]
    wide = [np.repeat(end.reshape(shape.rows, -1), grouping.columns, axis=1)[:, : shape.cols] for end in ends]
    return np.minimum(*wide), np.maximum(*wide)


def _report(plan: Plan, output: str, layers: tuple[LayerReport, ...], clock: _Clock) -> RunReport:
    measured = [report for report in layers if report.sqnr_db is not None]
    worst = min(measured, key=lambda report: report.sqnr_db or 0.0, default=None)
    seconds = time.perf_counter() - clock.started
    return RunReport(
        path=plan.summary.path,
        output=str(output),
        format=plan.format,
        recipe=recipes.dumps(plan.recipe),
        input_hash=identity.headers(plan.summary),
        layers=layers,
        kept=tuple(line.layer.name for line in plan.layers if line.kept),
        bytes_before=sum(file.nbytes for file in plan.summary.files),
        bytes_after=plan.predicted_bytes,
        bits_per_weight=plan.bits_per_weight,
        sqnr_db=sqnr_db(sum((r.signal for r in layers), 0.0), sum((r.noise for r in layers), 0.0)),
        worst_layer=worst.name if worst else None,
        worst_sqnr_db=worst.sqnr_db if worst else None,
        seconds=seconds,
        peak_memory_bytes=peak_memory(),
        engine_version=VERSION,
        threads=threads(),
        started=time.time() - seconds,
    )
