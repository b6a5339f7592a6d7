"""A comparison for people: as text for a terminal, as a table of comma-separated values, and as a page that opens offline."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterator

from engine.pages import certificate as certificate_page
from engine.records.comparison import ComparedLayer, Comparison, LayerFigures, Side

STYLE = """
body { max-width: 80em; } .worse { color: var(--bad); } .better { color: var(--good); } pre { overflow-wrap: anywhere;
white-space: pre-wrap; }
"""
UNKNOWN = "–"


def letter(index: int) -> str:
    """A, B, … for the sides."""
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"


def totals(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: one row a figure, one column a side."""
    heads = ["", *(f"{letter(n)}: {side.title}" for n, side in enumerate(comparison.sides))]
    return heads, [[name, *values] for name, values in _totals(comparison.sides)]


def _totals(sides: tuple[Side, ...]) -> Iterator[tuple[str, list[str]]]:
    yield "what", [side.kind for side in sides]
    yield "bytes", [UNKNOWN if side.nbytes is None else f"{side.nbytes:,}" for side in sides]
    yield "bits per weight", [_number(side.bits_per_weight) for side in sides]
    yield "SQNR dB", [_db(math.inf if side.sqnr_db is None else side.sqnr_db) if side.measured else UNKNOWN for side in sides]
    yield (
        "worst layer",
        [f"{side.worst_layer} ({side.worst_db:.2f} dB)" if side.worst_db is not None else UNKNOWN for side in sides],
    )
    runs = [(side.evaluation, side.evaluation.quantized if side.evaluation else None) for side in sides]
    metrics = [
        ("output SQNR dB", [e and e.output_sqnr_db for e, _ in runs]), ("agreement", [e and e.agreement for e, _ in runs]),
        ("KL nats", [e and e.kl_divergence for e, _ in runs]), ("accuracy", [s and s.accuracy for _, s in runs]),
        ("perplexity", [s and s.perplexity for _, s in runs]),
    ]  # fmt: skip
    for name, values in metrics:
        if any(value is not None for value in values):
            yield name, [UNKNOWN if value is None else f"{value:.4g}" for value in values]
    if any(side.data for side in sides):
        yield "data", [side.data or UNKNOWN for side in sides]
    if any(side.seconds for side in sides):
        yield "seconds", [UNKNOWN if side.seconds is None else f"{side.seconds:.1f}" for side in sides]


def layers(comparison: Comparison, ordered: tuple[ComparedLayer, ...] | None = None) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: scheme, dB and bytes of every side, and what changed against the first."""
    places = range(len(comparison.sides))
    heads = ["layer"]
    for n in places:
        heads += [f"{letter(n)} scheme", f"{letter(n)} dB", f"{letter(n)} bytes"]
        heads += [f"Δ dB {letter(n)}", f"Δ bytes {letter(n)}"] if n else []
    rows = []
    for layer in ordered or comparison.layers:
        row = [layer.name]
        for n in places:
            row += _cells(layer.figures[n])
            row += [_change(layer.db_change(n)), _bytes(layer.bytes_change(n))] if n else []
        rows.append(row)
    return heads, rows


def transitions(comparison: Comparison, side: int) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the matrix: from the first one's schemes (rows) to those of a side (columns), in layers."""
    of_side = [t for t in comparison.transitions if t.side == side]
    before, after = (list(dict.fromkeys(getattr(t, name) for t in of_side)) for name in ("before", "after"))
    counts = {(t.before, t.after): t.layers for t in of_side}
    heads = [f"A ↓ {letter(side)} →", *(name or UNKNOWN for name in after)]
    return heads, [[first or UNKNOWN, *(str(counts.get((first, then), "")) for then in after)] for first in before]


def csv_text(comparison: Comparison) -> str:
    """One row a layer, numbers as they are."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{letter(n)} {what}" for n in range(len(comparison.sides)) for what in ("scheme", "algorithm", "bytes", "sqnr_db")]
    changes = [f"{letter(n)} {what}" for n in range(1, len(comparison.sides)) for what in ("db_change", "bytes_change")]
    writer.writerow(["layer", "parameters", *names, *changes])
    for layer in comparison.layers:
        row: list[object] = [layer.name, layer.parameters]
        for one in layer.figures:
            row += ["", "", "", ""] if one is None else [one.scheme, one.algorithm, one.nbytes, one.db]
        for n in range(1, len(comparison.sides)):
            row += [layer.db_change(n), layer.bytes_change(n)]
        writer.writerow(row)
    return out.getvalue()


def page(comparison: Comparison) -> str:
    """One HTML page without scripts or links; every name that comes from a file is escaped."""
    sides = range(1, len(comparison.sides))
    parts = ["<h1>Comparison</h1>", _table(*totals(comparison))]
    parts += [f"<p>{_e(note)}</p>" for note in comparison.notes]
    parts += [f"<p>Measured against <code>{_e(comparison.against)}</code>.</p>"] if comparison.against else []
    for n in sides:
        parts += [f"<h2>Schemes, A to {letter(n)}, in layers</h2>", _table(*transitions(comparison, n))]
        if comparison.recipe_changes[n]:
            parts.append(f"<h2>Recipes, A to {letter(n)}</h2><pre>{_e(comparison.recipe_changes[n])}</pre>")
    parts += ["<h2>Layers, what got worse first</h2>", _table(*layers(comparison, comparison.worst_first()))]
    body, styles = "".join(parts), certificate_page.STYLE + STYLE
    return f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Comparison</title><style>{styles}</style>{body}</html>\n"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th class='n'>{_e(head)}</th>" if n else f"<th>{_e(head)}</th>" for n, head in enumerate(heads))
    body = "".join(
        f"<tr><td>{_e(row[0])}</td>" + "".join(f"<td class='n {_class(cell)}'>{_e(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _class(cell: str) -> str:
    """Changes of dB are coloured, besides their sign."""
    if cell.endswith(" dB") and cell[0] in "+−":
        return "better" if cell[0] == "+" else "worse"
    return ""


def _cells(one: LayerFigures | None) -> list[str]:
    if one is None:
        return [UNKNOWN] * 3
    return [one.scheme, UNKNOWN if one.db is None else _db(one.db), UNKNOWN if one.nbytes is None else f"{one.nbytes:,}"]


def _db(value: float) -> str:
    return "exact" if math.isinf(value) else f"{value:.2f}"


def _change(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if math.isinf(value):
        return "now exact" if value > 0 else "no longer exact"
    return f"{'+' if value > 0 else '−'}{abs(value):.2f} dB"


def _bytes(value: int | None) -> str:
    return UNKNOWN if value is None else "0" if value == 0 else f"{'+' if value > 0 else '−'}{abs(value):,}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _e(value: str) -> str:
    return html.escape(value)
