"""The JSON documents of the command line; their keys are stable and documented in the README."""

from typing import Any

from engine.errors import DataError, EngineError
from engine.records.codec import to_data
from engine.records.model import ModelSummary
from engine.records.plan import Plan
from engine.records.report import LayerReport, RunReport

Document = dict[str, Any]


def inspect_document(summary: ModelSummary) -> Document:
    """The JSON of ``inspect``."""
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "guessed": layer.guessed,
            "shape": list(layer.shape),
            "dtype": layer.scheme or layer.dtype,
            "bytes": layer.nbytes,
        }
        for layer in summary.layers
    ]
    return {
        "path": summary.path,
        "parameters": summary.parameters,
        "bytes": summary.nbytes,
        "quantized": to_data(summary.quantized),
        "layers": layers,
        "problems": list(summary.problems),
    }


def plan_document(plan: Plan) -> Document:
    """The JSON of ``plan``."""
    return {
        "predicted_bytes": plan.predicted_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "format": plan.format,
        "files": [{"path": file.path, "bytes": file.nbytes} for file in plan.files],
        "layers": [
            {"name": line.layer.name, "scheme": line.scheme_name, "bytes": line.nbytes, "rule": line.rule} for line in plan.layers
        ],
        "rules": [to_data(effect) for effect in plan.rules],
        "problems": [to_data(problem) for problem in plan.problems],
        "calibration": to_data(plan.calibration),
    }


def run_document(plan: Plan, report: RunReport) -> Document:
    """The JSON of ``quantize``: the plan's keys and what was measured."""
    measured = {layer.name: layer for layer in report.layers}  # names of layers are unique
    layers = []
    for line in plan.layers:
        done = measured.get(line.layer.name)
        layers.append(
            {
                "name": line.layer.name,
                "scheme": line.scheme_name,
                "bytes": line.nbytes,
            }
            | _measured(done)
        )
    return plan_document(plan) | report_document(report) | {"layers": layers}


def _measured(done: LayerReport | None) -> Document:
    return {
        "algorithm": done.algorithm if done else None,
        "reason": done.reason if done else "",
        "note": done.note if done else "",
        "sqnr_db": done.sqnr_db if done else None,
        "mse": done.mse if done else 0.0,
        "max_error": done.max_error if done else 0.0,
        "clipped": done.clipped if done else 0.0,
    } | ({"output": to_data(done.output), "objective": done.objective, "objective_rtn": done.objective_rtn} if done else {})


def error_document(error: EngineError) -> Document:
    """The JSON of a failure; of a run that failed on some layers, with what was measured of the others."""
    document: Document = {"error": str(error), "kind": type(error).__name__}
    if isinstance(error, DataError) and error.report:
        document["failed"] = error.details.splitlines()
        document["layers"] = [{"name": layer.name, "scheme": layer.scheme} | _measured(layer) for layer in error.report.layers]
    return document


def report_document(report: RunReport) -> Document:
    """Totals of a run, without its layers."""
    return {
        "output": report.output,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "compression": report.compression,
        "sqnr_db": report.sqnr_db,
        "worst_layer": report.worst_layer,
        "worst_sqnr_db": report.worst_sqnr_db,
        "seconds": report.seconds,
        "peak_memory_bytes": report.peak_memory_bytes,
        "run": report.run,
        "warnings": list(report.warnings),
    } | ({"data": report.data, "evaluation": to_data(report.evaluation)} if report.data else {})
