"""Schemes tried on one layer before any run, in memory and by a run's encoders: on a sample of its channels, then exactly."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from engine.algorithms import chain
from engine.chunks import Hold
from engine.errors import DataError
from engine.looking.detail import Decode, decoder_of, detail
from engine.looking.diagnosis import diagnose
from engine.looking.expected import expected_db
from engine.planning.planner import plan_trial
from engine.quantizing.encoding import Attempted, attempt
from engine.readers.memory import MemoryFiles, sampled, summary_of
from engine.readers.source import TensorFiles
from engine.records.look import Diagnosis, LayerDetail, Trial
from engine.records.model import LayerInfo, ModelSummary, TensorInfo
from engine.records.plan import Plan
from engine.records.progress import Monitor
from engine.records.report import Histogram, LayerReport
from engine.records.scheme import Scheme
from engine.schemes import family_of, format_scheme, parse_scheme
from engine.schemes.base import role_of
from engine.schemes.grouping import Grouping, Matrix, first_axis
from engine.schemes.scaled import ScaledFamily

SAMPLE = 1 << 18
"""Weights of a first answer; layers up to four times that are tried as a whole at once."""
KEPT = 512 << 20
"""A layer up to this size stays in memory while schemes are tried on it."""
MOST_LEVELS = 256


class Bench:
    """Tries schemes on layers of one model; the layer tried last stays in memory, with what came of it."""

    def __init__(self, summary: ModelSummary) -> None:
        self.summary = summary
        self.latest: Attempted | None = None
        self.hold = Hold(KEPT)

    def attempt(
        self,
        layer: LayerInfo,
        scheme: Scheme,
        algorithm: str,
        activations: str = "none",
        monitor: Monitor | None = None,
        first: Callable[[Trial], None] | None = None,
        limit: float = 0.0,
    ) -> Trial:
        """The exact answer; ``first`` is called before with that of a sample, where the layer is large.

        ``limit``: what the layer's histogram reaches at least, so that both answers have the same edges. Raises Cancelled.
        """
        made = plan_trial(self.summary, layer, scheme, algorithm, activations)
        line = next(line for line in made.layers if line.layer.name == layer.name)
        trial = Trial(layer.name, format_scheme(scheme), algorithm)
        if made.errors:
            return replace(trial, problem=made.errors[0].message)
        if scheme.family == "keep":
            return trial
        trial = replace(trial, expected_db=expected_db(scheme, algorithm, layer), rows=Matrix.of(layer).rows)
        try:
            with TensorFiles(self.summary) as files:
                if first and layer.parameters > 4 * SAMPLE and layer.axis == first_axis(layer) and layer.tensor.strides is None:
                    first(self._of_sample(files, layer, scheme, trial, line.nbytes, limit, monitor))
                self.latest = None
                self.latest = attempt(made, layer.name, files, monitor, self.hold, limit)
                self.hold.complete = layer.tensor
        except DataError as error:
            return replace(trial, problem=str(error))
        return replace(trial, report=self.latest.report, levels=levels(stored_layer(self.latest), self.latest.stored))

    def _of_sample(
        self,
        files: TensorFiles,
        layer: LayerInfo,
        scheme: Scheme,
        trial: Trial,
        nbytes: int,
        limit: float,
        monitor: Monitor | None,
    ) -> Trial:
        height = Grouping(Matrix.of(layer), scheme).height if scheme.granularity == "block" else 1
        small, raw = sampled(files, layer, trial.rows, max(SAMPLE // Matrix.of(layer).cols, 1), height)
        made: Plan = plan_trial(summary_of(small), small, scheme, trial.algorithm)
        tried = attempt(made, small.name, MemoryFiles({small.tensor.name: raw}), monitor, None, limit)
        report = _scaled_up(tried.report, layer, nbytes)
        return replace(trial, report=report, rows=small.shape[0], exact=False, levels=levels(stored_layer(tried), tried.stored))


def _scaled_up(report: LayerReport, layer: LayerInfo, nbytes: int) -> LayerReport:
    """A sample's report as that of the whole layer: counts and sums in proportion, bytes as planned."""
    by = layer.parameters / report.parameters
    seen = report.histogram
    counts = (tuple(round(by * n) for n in row) for row in (seen.float_counts, seen.quantized_counts, seen.clipped_counts))
    return replace(
        report, signal=by * report.signal, noise=by * report.noise, parameters=layer.parameters, bytes_before=layer.nbytes,
        bytes_after=nbytes, histogram=Histogram(seen.limit, *counts),
    )  # fmt: skip


def levels(layer: LayerInfo, stored: Mapping[str, np.ndarray]) -> tuple[float, ...]:
    """Representable values of a stored layer, ascending, in the group whose step is the median one; empty when they are too many
    to be seen. ``stored``: bytes of its parts by role.
    """
    from engine.numerics.grids import INTEGER

    scheme = parse_scheme(layer.scheme) if layer.scheme else None
    family = family_of(scheme) if scheme else None
    if scheme is None or not isinstance(family, ScaledFamily):
        return ()
    grid = family.stored_grid(scheme, layer)
    numbers = np.arange(grid.low, grid.high + 1) if grid.form == INTEGER else np.unique(grid.values[np.isfinite(grid.values)])
    if numbers.size > MOST_LEVELS:
        return ()
    grouping = Grouping(Matrix.of(layer), scheme)
    scale, zero = family.read_parameters(scheme, layer, grouping, stored)
    middle = np.argsort(np.abs(scale))[scale.size // 2]
    return tuple(((numbers - zero[middle]) * scale[middle]).tolist())


def stored_layer(tried: Attempted) -> LayerInfo:
    """The layer as a reader of the artifact would know it, its parts in memory."""
    line = tried.line
    parts = tuple(TensorInfo(p.name, p.dtype, p.shape, p.nbytes, 0, 0) for p in line.parts if p.role != "given")
    scheme = line.scheme_name if isinstance(family_of(line.scheme), ScaledFamily) else None
    dtype = line.layer.dtype if scheme else parts[0].dtype
    return replace(line.layer, parts=parts, scheme=scheme, dtype=dtype)


def look(
    bench: Bench, layer: LayerInfo, monitor: Monitor, artifact: ModelSummary | None = None, report: LayerReport | None = None
) -> tuple[LayerDetail, Diagnosis]:
    """Where the error of a layer lies, and why: of what was tried last on it, or of an ``artifact`` with the run's ``report``;
    of its float weights alone where there is neither. Raises DataError, Cancelled.
    """
    tried = bench.latest if bench.latest and bench.latest.report.name == layer.name and artifact is None else None
    report = tried.report if tried else report
    decode, note, marks = None, "", ()
    with TensorFiles(bench.summary) as files:
        if tried:
            as_stored = stored_layer(tried)
            decode, marks = decoder_of(as_stored, tried.stored), levels(as_stored, tried.stored)
        elif artifact is not None and report is not None:
            decode, note, marks = _of_artifact(artifact, layer, report)
        limit = report.histogram.limit if report else 0.0
        found = detail(files, layer, decode, limit, monitor, bench.hold if tried else None, note)
    found = replace(found, levels=marks)
    if report is None or decode is None:
        return found, Diagnosis()
    largest = found.outliers[0].sigmas if found.outliers else 0.0
    expected = expected_db(parse_scheme(report.scheme), report.algorithm, layer)
    return found, diagnose(report, found.kurtosis, largest, expected)


MOVED = "Its weights were moved before they were rounded ({}): what they became cannot be put beside the original ones."


def _of_artifact(artifact: ModelSummary, layer: LayerInfo, report: LayerReport) -> tuple[Decode | None, str, tuple[float, ...]]:
    """What decodes a layer of an artifact, or why it cannot be compared, and its levels."""
    if moved := [str(step) for step in chain(report.algorithm).transforms]:
        return None, MOVED.format(", ".join(moved)), ()
    stored = next((other for other in artifact.layers if other.name == layer.name), None)
    if stored is None or stored.shape != layer.shape:
        return None, "The artifact has no such layer.", ()
    with TensorFiles(artifact) as files:
        parts = {role_of(part.name) if stored.scheme else "codes": files.read(part) for part in stored.parts}
    return decoder_of(stored, parts), "", levels(stored, parts)
