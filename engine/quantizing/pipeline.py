"""The only orchestrator: a plan becomes files, layer by layer.

A layer that was finished before the run was interrupted, or did not change since an earlier run, is not computed again.
"""

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import identity
from engine.chunks import CHUNK, Hold, Workers, threads
from engine.errors import DataError, Paused
from engine.measure.memory import forget_peak_memory, peak_memory
from engine.measure.tally import sqnr_db
from engine.numerics import checksum
from engine.planning import budget, recipe_files
from engine.planning.planner import require_runnable
from engine.quantizing.clock import Clock, cost
from engine.quantizing.encoding import Prepared, UnusableWeights, Work, one_layer, write_given
from engine.quantizing.reusing import Earlier
from engine.readers.source import TensorFiles
from engine.records.codec import from_data, to_data
from engine.records.model import LayerInfo, TensorInfo
from engine.records.plan import LayerPlan, Plan
from engine.records.progress import Monitor
from engine.records.report import LayerFailure, LayerReport, RunReport
from engine.schemes.grouping import first_axis
from engine.version import VERSION
from engine.writers.artifact import Artifact, check_not_input, check_target, output_error
from engine.writers.workspace import Workspace, placed


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
    memory_limit: int | None = None
    """Bytes that the process may take; what is free by default."""


def workspace(plan: Plan, output: str, how: Continuing, *given: str) -> Workspace:
    """The private folder in which a plan is carried out; ``given``: what else decides the result."""
    digest = hashlib.sha256("\n".join([VERSION, identity.files(plan.summary), recipe_files.dumps(plan.recipe), *given]).encode())
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
    monitor, how = monitor or Monitor(), how or Continuing()
    room = budget.within(plan, how.memory_limit)
    if prepared is None:  # else what prepared it counts
        forget_peak_memory()
    clock = Clock(monitor, "quantizing", sum(map(cost, plan.layers)))
    found = _Found()
    with contextlib.ExitStack() as stack:
        try:
            space = space or stack.enter_context(workspace(planned, output, how))
        except OSError as error:
            raise output_error(error, Path(output)) from None
        files = stack.enter_context(TensorFiles(plan.summary))
        out = stack.enter_context(Artifact(output, plan.files, overwrite=overwrite, workspace=space))
        workers = stack.enter_context(Workers(room.threads))
        work = Work(plan, files, workers, out, clock, Hold(room.held), prepared)
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


def _one_line(line: LayerPlan, work: Work, out: Artifact, found: _Found) -> LayerReport | None:
    """A layer finished before, taken over, or computed; noted as finished."""
    known = out.finished(line)
    if known:
        work.sums.known.update(known.inputs)
        work.clock.advance(cost(line))
        found.resumed.append(line.layer.name)
        return from_data(LayerReport, known.report) if known.report else None
    report = _taken_over(line, work, out) if work.earlier and line.encoded else None
    if report:
        found.reused.append(line.layer.name)
    else:
        report = one_layer(line, work)
    inputs = {part.name: work.sums.known[part.name] for part in line.layer.parts if part.name in work.sums.known}
    out.finish(line, to_data(report) if report else None, inputs)
    return report


def _taken_over(line: LayerPlan, work: Work, out: Artifact) -> LayerReport | None:
    """The layer's parts out of the earlier artifact, if its weight and all that it depends on are what they were."""
    assert work.earlier and work.stored
    report = work.earlier.candidate(line)
    if report is None or (work.prepared and line.layer.name in work.prepared.solved):
        return None
    started = time.perf_counter()
    names = (line.layer.name, *line.fused)
    if not work.earlier.fits(names, {name: f"{_checksum(work.layers[name], work):016x}" for name in names}):
        return None
    for tensor, expected in work.earlier.stored(line):
        if not _carried_over(tensor, expected, work, out):  # the artifact was damaged or changed since
            out.forget(line)
            return None
    for part in line.parts:
        if part.role == "given":
            write_given(part.name, work)
    work.clock.advance(cost(line))
    return replace(report, seconds=time.perf_counter() - started, output=None)


def _carried_over(tensor: TensorInfo, expected: int, work: Work, out: Artifact) -> bool:
    """Copy one stored tensor; whether its bytes were what was written once."""
    stored = work.stored
    assert stored

    def piece(start: int, size: int) -> None:
        buffer = work.hold.buffers.get("input", size)
        stored.read_into(tensor, start, buffer)
        out.write(tensor.name, start, buffer.data)
        work.clock.monitor.check()

    try:
        work.workers.each(piece, ((start, min(CHUNK, tensor.nbytes - start)) for start in range(0, tensor.nbytes, CHUNK)))
    except DataError:
        return False
    return out.checksum(tensor.name) == expected


def _checksum(layer: LayerInfo, work: Work) -> int:
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


def _content(planned: Plan, work: Work) -> str:
    """The hash of what was read; weights that were moved to other values before the run are read again as they were."""
    known = work.sums.known
    if work.plan.summary is not planned.summary:
        with TensorFiles(planned.summary) as files:
            for before, after in zip(planned.summary.layers, work.plan.summary.layers, strict=True):
                if before != after and len(before.parts) == 1:
                    work.clock.monitor.check()
                    known[before.tensor.name] = checksum.piece(0, files.read_rows(before).data)
    return identity.contents(planned.summary, known)


def check_output(plan: Plan, output: str, *, overwrite: bool) -> None:
    """Raise OutputError before long work when its result could not be written."""
    check_not_input(output, plan.summary)
    check_target(Path(os.path.expanduser(output)), plan.files, len(plan.files) == 1 and not plan.files[0].path, overwrite)


def _failed(failures: list[LayerFailure], report: RunReport) -> DataError:
    more = f" {len(failures) - 1} more layers failed." if len(failures) > 1 else ""
    error = DataError(failures[0].message + more, details="\n".join(failure.message for failure in failures))
    error.report = report
    return error


def _report(plan: Plan, output: str, layers: tuple[LayerReport, ...], clock: Clock) -> RunReport:
    measured = [report for report in layers if report.sqnr_db is not None]
    worst = min(measured, key=lambda report: report.sqnr_db or 0.0, default=None)
    seconds = time.perf_counter() - clock.started
    return RunReport(
        path=plan.summary.path,
        output=str(output),
        format=plan.format,
        recipe=recipe_files.dumps(plan.recipe),
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
