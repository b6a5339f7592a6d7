"""``mono-quant compare``: runs, artifacts and float models side by side."""

import argparse
from pathlib import Path

from engine import comparing
from engine.cli.documents import Document
from engine.cli.text import Interruptible, plain, table
from engine.errors import InputError, OutputError
from engine.pages import comparison as comparison_page
from engine.records.codec import to_data
from engine.records.comparison import Comparison
from engine.writers.whole import write_text

SHOWN = 20
"""Layers that the text lists, what got worse first."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sides", nargs="+", metavar="A", help="a run's id (or the beginning of it), an artifact, a float model")
    parser.add_argument("--against", metavar="MODEL", help="the float model that artifacts are measured against")
    parser.add_argument("--all", action="store_true", help=f"all layers, not the {SHOWN} that changed most for the worse")
    parser.add_argument("-o", "--output", metavar="FILE", help="also write it to a .csv or .html file")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def compare(options: argparse.Namespace) -> tuple[Document, str, int]:
    target = Path(options.output) if options.output else None
    if target is not None:
        if target.suffix not in (".csv", ".html"):
            raise InputError(f"{target} is neither a .csv nor a .html file; name one of these.")
        if target.exists() and (target.is_dir() or not options.overwrite):
            raise OutputError(f"{target} is there already; name another file or add --overwrite.")
    with Interruptible(options) as monitor:
        found = comparing.compare(*options.sides, against=options.against, monitor=monitor)
    if target is not None:
        write_text(target, comparison_page.csv_text(found) if target.suffix == ".csv" else comparison_page.page(found))
    return document(found), text(found, None if options.all else SHOWN), 0


def document(found: Comparison) -> Document:
    """As JSON, with the changes of every layer; a change from or to an exact layer has no number in JSON."""
    whole = to_data(found)
    for row, layer in zip(whole["layers"], found.layers, strict=True):
        row["db_changes"] = [to_data(layer.db_change(n)) for n in range(len(found.sides))]
        row["bytes_changes"] = [layer.bytes_change(n) for n in range(len(found.sides))]
    return whole


def text(found: Comparison, most: int | None) -> str:
    """Totals, matrices of schemes, recipes' differences and layers."""
    parts = [table(*comparison_page.totals(found))]
    for n in range(1, len(found.sides)):
        parts.append(table(*comparison_page.transitions(found, n)))
        parts += ["\n".join(map(plain, found.recipe_changes[n].splitlines()))] if found.recipe_changes[n] else []
    ordered = found.worst_first()[:most]
    parts.append(table(*comparison_page.layers(found, ordered)))
    if len(ordered) < len(found.layers):
        parts.append(f"{len(found.layers) - len(ordered):,} more layers; --all shows them.")
    return "\n\n".join([*parts, *map(plain, found.notes)])
