"""A run as one HTML page that opens offline: totals, plots, layers, figures on data, certificate, recipe and versions."""

import dataclasses
import html
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import plain
from engine.history import read_activities, read_layers
from engine.pages import certificate as certificate_page
from engine.pages import plots as report_plots
from engine.records.calibration import Activity
from engine.records.certificate import Certificate
from engine.records.codec import from_data
from engine.records.report import LayerReport
from engine.records.run import RunRecord

CERTIFICATE = "certificate.json"
"""In a run's folder: of what was exported of it last."""
WORST = 6
"""Layers whose weights are drawn, those with the least SQNR."""
STYLE = """
h1 { font-size: 20px; margin-bottom: 0; } h2 { font-size: 15px; margin-top: 2em; } .muted { color: var(--muted); }
table.facts th { width: 14em; color: var(--muted); font-weight: normal; } pre { background: color-mix(in srgb, var(--line) 40%,
transparent); padding: 8px 12px; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def of_run(run: RunRecord) -> str:
    """The page of a run, read from its folder. Raises InputError where that cannot be read."""
    folder = Path(run.folder)
    measured = (folder / "layers.json").exists()
    layers = read_layers(folder) if measured else []
    return page(run, layers, read_activities(folder) if measured else [], read_certificate(folder))


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate kept with a run; None where there is none, or one of another version."""
    try:
        found = json.loads((folder / CERTIFICATE).read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(Certificate)}
        return from_data(Certificate, {key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def page(
    run: RunRecord, layers: Sequence[LayerReport], activities: Sequence[Activity] = (), certificate: Certificate | None = None
) -> str:
    """One file without scripts or links; every name that comes from a file is escaped."""
    title = f"Run {run.number} of {Path(run.model_path).name}: {run.name}"
    sections = (
        _totals(run, layers), _plots(layers), _schemes(layers), _on_data(run),
        _list("Warnings", (run.totals or {}).get("warnings")),
        _list("Layers that could not be quantized", [f"{name}: {why}" for name, why in run.failures.items()]),
        _layers(layers), _inputs(activities), _certificate(certificate), _recipe(run), _versions(run),
    )  # fmt: skip
    styles = certificate_page.STYLE + report_plots.STYLE + STYLE
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{_e(title)}</title><style>{styles}</style><h1>{_e(title)}</h1>{''.join(sections)}</html>\n"
    )


# -- sections ----------------------------------------------------------------------------------------------------------


def _totals(run: RunRecord, layers: Sequence[LayerReport]) -> str:
    totals = run.totals or {}
    begun = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(run.created))
    facts = [
        ("State", run.state + (f": {run.message}" if run.message else "")), ("Begun", begun),
        ("Model", run.model_path), ("Model hash", run.model_hash), ("Artifact", run.artifact), ("Note", run.note),
        ("Tags", ", ".join(run.tags)), ("Data", run.data), ("Data hash", run.data_hash), ("Takes over layers of run", run.parent),
    ]  # fmt: skip
    if totals:
        before, after = totals["bytes_before"], totals["bytes_after"]
        facts += [
            ("Bytes before", _bytes(before)), ("Bytes after", _bytes(after)),
            ("Smaller", f"{before / after:.2f} times" if after else ""), ("Bits per weight", f"{totals['bits_per_weight']:.3f}"),
            ("SQNR", "exact" if totals["sqnr_db"] is None else f"{totals['sqnr_db']:.2f} dB"),
            ("Worst layer", f"{totals['worst_layer']}, {totals['worst_sqnr_db']:.2f} dB" if totals.get("worst_layer") else ""),
            ("Layers quantized", f"{len(layers):,}"), ("Tensors kept", f"{len(totals['kept']):,}"),
            ("Time", f"{totals['seconds']:.2f} s"), ("Peak memory", _bytes(totals["peak_memory_bytes"])),
            ("Threads", str(totals["threads"])),
        ]  # fmt: skip
    rows = "".join(f"<tr><th>{_e(name)}</th><td>{_e(value)}</td></tr>" for name, value in facts if value)
    return f"<table class='facts' id='totals'>{rows}</table>"


def _plots(layers: Sequence[LayerReport]) -> str:
    if not layers:
        return ""
    worst = sorted((layer for layer in layers if layer.sqnr_db is not None), key=lambda layer: layer.sqnr_db or 0.0)[:WORST]
    drawn = [("SQNR of the weights, layer by layer", report_plots.decibels(layers))]
    drawn += [("How the layers' SQNR is distributed", report_plots.spread(layers))]
    drawn += [
        (f"{layer.name}: {layer.scheme}, {layer.sqnr_db:.2f} dB", report_plots.weights(layer.histogram, layer.name))
        for layer in worst
    ]
    figures = "".join(f"<figure><figcaption>{_e(words)}</figcaption>{svg}</figure>" for words, svg in drawn if svg)
    return f"<h2>Plots</h2>{figures}"


def _schemes(layers: Sequence[LayerReport]) -> str:
    rows = []
    for scheme in dict.fromkeys(layer.scheme for layer in layers):
        mine = [layer for layer in layers if layer.scheme == scheme]
        values = [layer.sqnr_db for layer in mine if layer.sqnr_db is not None]
        before, after = (sum(getattr(layer, key) for layer in mine) for key in ("bytes_before", "bytes_after"))
        spans = (f"{min(values):.2f}", f"{max(values):.2f}") if values else ("exact", "exact")
        rows.append((scheme, f"{len(mine):,}", f"{before:,}", f"{after:,}", *spans))
    heads = ("scheme", "layers", "bytes before", "bytes after", "least dB", "most dB")
    return _table("Schemes", "schemes", heads, rows, words=1)


def _layers(layers: Sequence[LayerReport]) -> str:
    outputs = any(layer.output for layer in layers)
    rows = [
        (
            layer.name, layer.scheme, layer.algorithm, _number(layer.sqnr_db, ".2f", "exact"),
            *(_output(layer) if outputs else ()), f"{layer.max_error:.3g}", f"{100 * layer.clipped:.3f}",
            f"{layer.bytes_before:,}", f"{layer.bytes_after:,}", f"{layer.seconds:.2f}",
        )
        for layer in layers
    ]  # fmt: skip
    heads = (
        "layer", "scheme", "algorithm", "SQNR dB", *(("output dB", "so far dB") if outputs else ()), "max error", "clipped %",
        "bytes before", "bytes after", "s",
    )  # fmt: skip
    return _table("Layers", "layers", heads, rows, words=3)


def _output(layer: LayerReport) -> tuple[str, str]:
    noise = layer.output
    if noise is None:
        return "–", "–"
    return _number(noise.alone_db, ".2f", "exact"), _number(noise.accumulated_db, ".2f", "exact" if noise.compared else "–")


def _inputs(activities: Sequence[Activity]) -> str:
    rows = [(seen.name, f"{seen.samples:,}", f"{seen.low:.4g}", f"{seen.high:.4g}") for seen in activities]
    return _table("What layers were given", "inputs", ("layer", "samples", "least", "greatest"), rows, words=1)


def _on_data(run: RunRecord) -> str:
    found: dict[str, Any] = (run.totals or {}).get("evaluation") or {}
    if not found:
        return ""
    before, after = found.get("original") or {}, found["quantized"]
    rows = [
        (name, _number(before.get(key), ".4g"), _number(after.get(key), ".4g"))
        for name, key in (("accuracy", "accuracy"), ("perplexity", "perplexity")) if after.get(key) is not None
    ]  # fmt: skip
    if before:
        rows.append(("output SQNR dB", "", _number(found["output_sqnr_db"], ".2f", "exact")))
    for name, key in (("same prediction", "agreement"), ("KL divergence, nats", "kl_divergence")):
        if found.get(key) is not None:
            rows.append((name, "", f"{found[key]:.4g}"))
    said = f"{found['samples']:,} {'synthetic ' if found['synthetic'] else ''}samples: {found['data']}"
    return _table(f"On data ({said})", "metrics", ("", "float", "quantized"), rows, words=1)


def _certificate(certificate: Certificate | None) -> str:
    return f"<h2 id='certificate'>Certificate</h2>{certificate_page.body(certificate)}" if certificate else ""


def _recipe(run: RunRecord) -> str:
    lines = "\n".join(map(_e, run.recipe.splitlines()))
    return f"<h2>Recipe</h2><pre id='recipe'>{lines}\n</pre>"


def _versions(run: RunRecord) -> str:
    rows = [*run.versions.items(), *([("machine", run.machine)] if run.machine else [])]
    return _table("Versions", "versions", ("", ""), rows, words=2)


# -- parts -------------------------------------------------------------------------------------------------------------


def _list(title: str, items: Sequence[str] | None) -> str:
    return f"<h2>{_e(title)}</h2><ul>{''.join(f'<li>{_e(item)}</li>' for item in items)}</ul>" if items else ""


def _table(title: str, name: str, heads: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """``words``: how many columns are words; those after them are numbers."""
    if not rows:
        return ""
    classes = ["" if n < words else " class='n'" for n in range(len(heads))]
    head = "".join(f"<th{kind}>{_e(cell)}</th>" for cell, kind in zip(heads, classes, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{_e(cell)}</td>' for cell, kind in zip(row, classes, strict=True))}</tr>" for row in rows
    )
    return f"<h2>{_e(title)}</h2><table id='{name}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB ({count:,} bytes)"


def _number(value: float | None, form: str, nothing: str = "–") -> str:
    return nothing if value is None else format(value, form)


def _e(value: str) -> str:
    return html.escape(plain(str(value)))
