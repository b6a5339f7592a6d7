"""What the inspector says in words: of a run, of the selected layer, and why there is nothing to show."""

from engine.records.calibration import Activity
from engine.records.report import LayerReport
from mono_quant_gui import text
from mono_quant_gui.runs_store import Run
from mono_quant_gui.session import Session

CONVERGED = 0.95
"""Where the first half of the samples covers less of the range than this, more samples may widen it."""


def about_run(run: Run | None) -> str:
    """One line above the bars."""
    if run is None:
        return ""
    words = [f"run {run.number} · {run.name}"]
    words += [text.evaluation(run.evaluation)] if run.evaluation else ["network order"]
    return " · ".join(words)


def decibels(run: Run | None, of: str) -> list[tuple[str, float]]:
    """Layers with their SQNR: of the weights, of the output alone, or of the output so far. Exact ones are left out."""
    found = [(report.name, _decibel(report, of)) for report in run.reports.values()] if run else []
    return [(name, value) for name, value in found if value is not None]


def _decibel(report: LayerReport, of: str) -> float | None:
    if of == "weight":
        return report.sqnr_db
    if report.output is None:
        return None
    return report.output.alone_db if of == "alone" else report.output.accumulated_db


def why_no_bars(run: Run | None) -> str:
    if run is None or run.state == "cancelled":
        return "Quantize to see the SQNR of every layer here."
    if run.state == "running":
        return "Measuring…"
    return "No layer could be measured." if run.state == "failed" else "Every quantized layer is exact: nothing was lost."


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
    words = [f"{activity.samples:,} samples", f"{activity.low:.4g} to {activity.high:.4g}"]
    if activity.high_sample >= 0:
        words.append(f"set by samples {activity.low_sample} and {activity.high_sample}")
    return " · ".join(words)


def converged(activity: Activity) -> str:
    """Whether the samples were enough."""
    share = f"half the samples give {100 * activity.converged:.0f} % of the range"
    return f"converged: {share}" if activity.converged >= CONVERGED else f"⚠ not converged: {share}"


def why_no_weights(session: Session) -> str:
    row = session.row_of(session.selected)
    if row is None:
        return "Select a layer to see its weights."
    if not row.plain:
        return "This layer is already quantized; decode the model to see its weights."
    if row.dtype not in ("BF16", "F16", "F32", "F64"):
        return f"A tensor of {row.dtype} has no histogram."
    if reason := session.unreadable(row.name):
        return text.plain(reason)
    return "This tensor is empty." if not row.parameters else "Reading the weights…"


def why_no_inputs(session: Session) -> str:
    row, activity = session.row_of(session.selected), session.activity_of(session.selected)
    if row is None:
        return "Select a layer to see what it is given."
    if activity is not None:
        return "No sample reached this layer: its input is unknown."
    if session.calibrating.running:
        return "Calibrating…"
    last = session.calibrating.last
    if (session.shown_run and session.shown_run.activities) or (last and last.activities):
        return "This layer was not calibrated."
    return "Calibrate to see what this layer is given."
