"""What the inspector says in words: of a run, of the selected layer, and why there is nothing to show."""

import math

from engine.records.calibration import Activity
from engine.records.report import LayerReport
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.looking import FLOATS
from mono_quant_gui.run import Run
from mono_quant_gui.session import Session

CONVERGED = 0.95
"""Where the first half of the samples covers less of the range than this, more samples may widen it."""


def about_run(run: Run | None) -> list[str]:
    """Above the bars: which run, and how the whole model was evaluated."""
    if run is None:
        return []
    words = [tr("run {number} · {name}").format(number=run.number, name=run.name)]
    return words + ([text.evaluation(run.evaluation)] if run.evaluation else [])


def decibels(run: Run | None, of: str) -> list[tuple[str, float]]:
    """Layers with their SQNR: of the weights, of the output alone, or of the output so far. Exact ones are left out."""
    found = [(report.name, _decibel(report, of)) for report in run.reports.values()] if run else []
    return [(name, value) for name, value in found if value is not None]


def bars(run: Run | None, of: str) -> tuple[list[tuple[str, str, float, float]], str]:
    """(name, scheme, dB, second figure) of each layer, and what the second figure is: the output's beside the weights'."""
    second = "alone" if of == "weight" and run and run.has_outputs else ""
    found = []
    for report in run.reports.values() if run else ():
        value = _decibel(report, of)
        if value is not None:
            other = _decibel(report, second) if second else None
            found.append((report.name, report.scheme, value, math.nan if other is None else other))
    return found, tr("output alone") if second else ""


def sizes(session: Session) -> list[tuple[str, int, int]]:
    """(kind, bytes in the file, bytes as planned), the largest first."""
    if session.model is None:
        return []
    planned = session.plan.nbytes
    known = len(planned) == len(session.model.layers)
    total: dict[str, list[int]] = {}
    for place, row in enumerate(session.model.layers):
        sums = total.setdefault(row.kind, [0, 0])
        sums[0] += row.nbytes
        sums[1] += planned[place] if known else row.nbytes
    return sorted(((kind, before, after) for kind, (before, after) in total.items()), key=lambda item: -item[1])


def _decibel(report: LayerReport, of: str) -> float | None:
    if of == "weight":
        return report.sqnr_db
    if report.output is None:
        return None
    return report.output.alone_db if of == "alone" else report.output.accumulated_db


def why_no_bars(run: Run | None) -> str:
    if run is None or (run.read and run.state in ("cancelled", "unfinished")):
        return tr("Quantize to see the SQNR of every layer here.")
    if run.state == "queued":
        return tr("This run waits until others are done.")
    if run.state == "running":
        return tr("Measuring…") if run.here else tr("This run goes on in another window.")
    if not run.read:
        return tr("Reading what the run measured…")
    return tr("No layer could be measured.") if run.state == "failed" else tr("Every quantized layer is exact: nothing was lost.")


def about(session: Session) -> str:
    """The selected layer and its weights."""
    row, report = session.row_of(session.selected), session.report_of(session.selected)
    if row is None:
        return ""
    words = [text.shape(row.shape), row.dtype]
    if report:
        sqnr = "exact" if report.sqnr_db is None else f"{report.sqnr_db:.2f} dB"
        algorithm = [] if report.algorithm == "rtn" else [report.algorithm]
        words += [
            report.scheme,
            *algorithm,
            sqnr,
            f"largest error {report.max_error:.3g}",
            f"clipped {text.share(report.clipped)}",
        ]
        words += [extra for extra in (report.reason, report.note) if extra]
        if report.objective and report.objective_rtn:
            words.append(f"output error {report.objective_rtn / report.objective:.2f} × smaller than RTN")
    elif floats := session.float_histogram(row.name):
        words.append(f"largest weight {floats[0].limit:.4g}")
    return " · ".join(words)


def about_outputs(session: Session) -> str:
    """What the selected layer's quantization does to its output; empty where that was not measured."""
    report = session.report_of(session.selected)
    if report is None or report.output is None:
        return ""
    output = report.output
    words = [f"output alone {text.output_db(output.alone_db)}"]
    if output.accumulated_db is not None:
        words.append(f"so far {output.accumulated_db:.1f} dB")
    parts = (("clipping", output.clipping), ("rounding", output.rounding), ("inherited", output.inherited))
    return " · ".join([*words, ", ".join(f"{name} {text.share(part)}" for name, part in parts)])


def about_inputs(session: Session, view: str) -> str:
    """What the selected layer was given; for the convergence view, whether the samples were enough."""
    activity = session.activity_of(session.selected)
    if activity is None or not activity.samples:
        return ""
    if view == "convergence":
        return converged(activity)
    words = [f"{activity.samples:,} samples", f"{text.figure(activity.low)} to {text.figure(activity.high)}"]
    if activity.high_sample >= 0:
        words.append(f"set by samples {activity.low_sample} and {activity.high_sample} of the data")
    return " · ".join(words)


def converged(activity: Activity) -> str:
    """Whether the samples were enough."""
    share = f"half the samples give {100 * activity.converged:.0f} % of the range"
    return f"converged: {share}" if activity.converged >= CONVERGED else f"⚠ not converged: {share}"


def why_no_weights(session: Session) -> str:
    row = session.row_of(session.selected)
    if session.model is None:
        return tr("Open a model to look into its layers.")
    if row is None:
        return tr("Select a layer to see its weights.")
    if not row.plain:
        return tr("This layer is already quantized; decode the model to see its weights.")
    if row.dtype not in FLOATS:
        return f"A tensor of {row.dtype} has no histogram."
    if reason := session.unreadable(row.name):
        return text.plain(reason)
    return tr("This tensor is empty.") if not row.parameters else tr("Reading the weights…")


def why_no_detail(session: Session) -> str:
    """Why there are no channels, no image and no outliers of the selected layer."""
    looking, row = session.looking, session.row_of(session.selected)
    if row is None or not row.plain or row.dtype not in FLOATS or not row.parameters:
        return why_no_weights(session)
    if looking.problem:
        return text.plain(looking.problem)
    if looking.trial is not None and looking.trial.problem:
        return text.plain(looking.trial.problem)
    if looking.detail is None:
        return tr("Looking through the weights…")
    return text.plain(looking.detail.note) or tr("This layer is kept as it is: there is no error to show.")


def why_no_inputs(session: Session) -> str:
    row, activity = session.row_of(session.selected), session.activity_of(session.selected)
    if session.model is None:
        return tr("Open a model to look into its layers.")
    if row is None:
        return tr("Select a layer to see what it is given.")
    if activity is not None:
        return tr("No sample reached this layer: its input is unknown.")
    if session.calibrating.running:
        return "Calibrating…"
    last = session.calibrating.last
    if (session.shown_run and session.shown_run.activities) or (last and last.activities):
        return tr("This layer was not calibrated.")
    return tr("Calibrate to see what this layer is given.")
