"""Commands that run a model: ``calibrate``, ``evaluate``, and the flags by which ``quantize`` and ``plan`` take data and code."""

import argparse
import json
import re
import sys
from typing import Any

from engine import api
from engine.cli.text import table
from engine.errors import InputError, TrustNeeded, plain
from engine.records.calibration import DATA_KINDS, Activity, CalibrationReport, DataSpec, Evaluation
from engine.records.report import RunReport
from engine.records.trust import Factory

RUNS_CODE = (".pt2",)
"""Endings of files that hold a program."""


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """How a model comes to have a forward."""
    group = parser.add_argument_group("running the model", "only what runs the model needs these")
    group.add_argument("--factory", metavar="FILE.py:F", help="function that builds the network whose weights MODEL holds")
    group.add_argument("--factory-arguments", metavar="JSON", type=_arguments, default={}, help="its arguments as a JSON object")
    group.add_argument(
        "--trust", action="store_true", help="run code from the files named on this very call; their SHA-256 is printed"
    )
    group.add_argument("--fold-batch-norm", action="store_true", help="fold batch norms into the convolutions before them")


def add_data_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """What the model is run on."""
    group = parser.add_argument_group("data", "arrays, images, text or tables; `synthetic` for random inputs of the right shape")
    group.add_argument("--data", metavar="D", required=required, help="file, folder or `synthetic`")
    group.add_argument(
        "--data-kind", choices=[kind for kind in DATA_KINDS if kind != "iterable"], default="", help="if D's name does not tell"
    )
    group.add_argument("--samples", type=int, default=128, metavar="N", help="samples drawn, 0 for all (default 128)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default 0)")
    group.add_argument("--batch", type=int, default=8, metavar="N", help="samples in one forward (default 8)")
    group.add_argument("--length", type=int, metavar="N", help="tokens of a text sample (default: the model's, at most 2048)")
    group.add_argument("--no-packing", action="store_true", help="each text is a sample of its own, cut at the length")
    group.add_argument("--chat", action="store_true", help="texts are conversations, put through the chat template")
    group.add_argument("--column", default="", metavar="C", help="key of the text, or columns of a table")
    group.add_argument("--labels", default="", metavar="L", help="array, key or column with the labels")
    group.add_argument("--skip-bad", action="store_true", help="leave out what cannot be read, by name")


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return found


def data_of(options: argparse.Namespace) -> DataSpec | None:
    """What ``--data`` and its flags say."""
    if options.data is None:
        return None
    if not options.data.strip():
        raise InputError("--data is empty; name a file or folder, or `synthetic`.")
    synthetic = options.data == "synthetic"
    return DataSpec(
        "" if synthetic else options.data, "synthetic" if synthetic else options.data_kind, options.samples, options.seed,
        options.batch, options.length, not options.no_packing, options.chat, options.column, options.labels, options.skip_bad,
    )  # fmt: skip


def wants_running(options: argparse.Namespace) -> bool:
    """Whether the model must be loaded as a network and not only as files."""
    given = options.factory or options.fold_batch_norm or options.trust or getattr(options, "data", None)
    return bool(given) or options.path.lower().endswith(RUNS_CODE)


def size(text: str) -> int:
    """500MB, 4GB (decimal), 4GiB (binary), or bytes."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 500MB or 4GB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))


def load_asked(options: argparse.Namespace, path: str | None = None) -> Any:
    """The model as a network, as the command line says. Raises as ``load``."""
    factory = Factory.parse(options.factory, options.factory_arguments) if options.factory else None
    return load(path or options.path, factory, trust=options.trust, fold_batch_norm=options.fold_batch_norm)


def load(path: str, factory: Factory | None = None, *, trust: bool = False, fold_batch_norm: bool = False) -> Any:
    """The model as a network. Raises InputError that says what to give, where code would run without ``--trust``."""
    trusted: list[str] = []
    asked: set[str] = set()
    while True:
        try:
            return api.load_runnable(path, factory=factory, trusted=trusted, fold_batch_norm=fold_batch_norm)
        except TrustNeeded as need:
            if not trust or need.sha256 in trusted:
                message = (
                    f"{need.path} holds code that would run ({need.what}; SHA-256 {need.sha256}); "
                    "give --trust on this call if you know where it comes from."
                )
                raise InputError(message) from None
            if need.path in asked:
                raise InputError(f"{need.path} changed while it was being opened; nothing of it was run. Try again.") from None
            asked.add(need.path)
            print(
                f"mono-quant: running code from {plain(need.path)} (SHA-256 {need.sha256}): {plain(need.what)}", file=sys.stderr
            )
            trusted.append(need.sha256)


def calibration_text(report: CalibrationReport) -> str:
    """Ranges, convergence and layers never reached."""
    rows = [
        [
            a.name, f"{a.samples:,}", f"{a.low:.4g}" if a.counts else "–", f"{a.high:.4g}" if a.counts else "–",
            _setter(a),
            f"{100 * a.converged:.0f} %" if a.counts else "–",
        ]
        for a in report.layers
    ]  # fmt: skip
    lines = [table(["layer", "samples", "low", "high", "set by", "converged"], rows), ""]
    lines.append(f"{plain(report.data)}{' (synthetic)' if report.synthetic else ''}, seed {report.seed}: {report.seconds:.1f} s")
    lines.append("“converged” is the share of the range that the first half of the samples covers.")
    lines += [f"never reached: {plain(name)}" for name in report.unreached]
    lines += [f"skipped: {plain(item.name)} ({plain(item.reason)})" for item in report.skipped]
    lines += [f"not found in the running model: {plain(name)}" for name in report.unmatched]
    return "\n".join([*lines, *([f"Wrote {plain(report.path)}"] if report.path else [])])


def _setter(activity: Activity) -> str:
    """The sample that set the largest magnitude."""
    sample = activity.high_sample if abs(activity.high) >= abs(activity.low) else activity.low_sample
    return str(sample) if activity.counts and sample >= 0 else "–"


def evaluation_text(found: Evaluation) -> str:
    """Float beside quantized."""
    rows = []
    both = found.original is not None
    for name, key, form in (("accuracy", "accuracy", "{:.4f}"), ("perplexity", "perplexity", "{:.3f}")):
        quantized = getattr(found.quantized, key)
        if quantized is not None:
            rows.append([name, *([form.format(getattr(found.original, key))] if both else []), form.format(quantized)])
    text = [table(["", *(["float"] if both else []), "quantized" if both else "model"], rows)] if rows else []
    if both:
        sqnr = "exact" if found.output_sqnr_db is None else f"{found.output_sqnr_db:.2f} dB"
        agreement = "" if found.agreement is None else f", same prediction {100 * found.agreement:.2f} %"
        divergence = "" if found.kl_divergence is None else f", KL divergence {found.kl_divergence:.3g} nats"
        text.append(f"output SQNR {sqnr}{agreement}{divergence}")
    synthetic = " (synthetic: says nothing about real data)" if found.synthetic else ""
    text.append(f"{plain(found.data)}{synthetic}: {found.predictions:,} predictions, {found.seconds:.1f} s")
    return "\n".join(text)


def outputs_text(report: RunReport) -> str:
    """What a run that had data did to outputs; empty for one that had none."""
    if not report.data:
        return ""
    rows = [
        [
            layer.name, _db(layer.output.alone_db), _db(layer.output.accumulated_db) if layer.output.compared else "–",
            *(f"{100 * part:.3f} %" for part in (layer.output.clipping, layer.output.rounding, layer.output.inherited)),
            f"{layer.objective_rtn / layer.objective:.2f}×" if layer.objective and layer.objective_rtn else "",
        ]
        for layer in report.layers if layer.output
    ]  # fmt: skip
    heads = ["name", "alone dB", "so far dB", "clipping", "rounding", "inherited", "better than RTN"]
    text = ["", "Outputs:", table(heads, rows)] if rows else [""]
    text += [evaluation_text(report.evaluation)] if report.evaluation else [f"Calibrated on {plain(report.data)}"]
    return "\n".join([*text, *(f"warning: {plain(words)}" for words in report.warnings)])


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.2f}"
