"""Plots as PNG or SVG and tables as CSV: what can be saved, and the writing of it. A file is whole, or not there."""

import contextlib
import csv
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QModelIndex, Qt
from PySide6.QtWidgets import QAbstractItemView, QTableView, QTreeView, QWidget

from mono_quant_gui import text
from mono_quant_gui.i18n import tr

EXACT_ROLE = int(Qt.ItemDataRole.UserRole) + 64
"""A cell as it is written to a file: bytes and decibels with all their digits. Models need not have it."""
PICTURE_DPI = 200
"""Twice the screen's: figures measure their size in hundredths of an inch."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula at the beginning of a cell."""

Table = tuple[Sequence[str], Iterable[Sequence[object]]]


class SavingError(Exception):
    """Why a file was not written, in one sentence."""


def kinds(widget: QWidget) -> dict[str, str]:
    """Words by the suffix of a file that this widget can be saved as; none for one that cannot."""
    table = {".csv": tr("Values as CSV")}
    if _is_plot(widget):
        return {".png": tr("PNG picture"), ".svg": tr("SVG picture"), **table}
    return table if isinstance(widget, QAbstractItemView) else {}


def exportable(inside: QWidget) -> list[QWidget]:
    """Every plot and table in sight, in the order of the focus chain, that has a name and something to save."""
    found, widget = [], inside.nextInFocusChain()
    while widget is not None and widget is not inside:
        if inside.isAncestorOf(widget) and can_save(widget):
            found.append(widget)
        widget = widget.nextInFocusChain()
    return found


def can_save(widget: QWidget) -> bool:
    """Whether it is in sight and shows something."""
    if not (widget.isVisible() and widget.accessibleName() and kinds(widget)):
        return False
    return bool(widget.table()[1]) if _is_plot(widget) else widget.model().rowCount() > 0  # type: ignore[attr-defined]


def save(widget: QWidget, path: Path) -> None:
    """Write a plot or a table as the suffix says. Raises SavingError."""
    suffix = path.suffix.lower()
    if suffix not in kinds(widget):
        raise SavingError(
            tr("Cannot write {path}: give it the suffix of a CSV, PNG or SVG file.").format(path=text.path(str(path)))
        )
    if suffix == ".csv":
        write_csv(path, *table_of(widget))
    else:
        write_picture(path, widget.figure)  # type: ignore[attr-defined]


def table_of(widget: QWidget) -> Table:
    """Heads and rows of what a plot shows, or of a view's columns as they are arranged, filtered and sorted."""
    if _is_plot(widget):
        return widget.table()  # type: ignore[attr-defined]
    widget = getattr(widget, "as_table", widget)
    assert isinstance(widget, QAbstractItemView)
    model, columns = widget.model(), _columns(widget)
    heads = [str(model.headerData(column, Qt.Orientation.Horizontal) or "") for column in columns]
    return heads, ([_cell(row.siblingAtColumn(column)) for column in columns] for row in _rows(model))


def rows_as_lines(view: QAbstractItemView) -> tuple[Iterator[str], int]:
    """The selected rows of a view, or all where none is selected, tab-separated below a head; and how many there are."""
    model, columns = view.model(), _columns(view)
    parts = view.selectionModel().selection().toList()
    chosen = sorted({row for part in parts for row in range(part.top(), part.bottom() + 1)}) or range(model.rowCount())

    def lines() -> Iterator[str]:
        yield "\t".join(str(model.headerData(column, Qt.Orientation.Horizontal) or "") for column in columns)
        for row in chosen:
            yield "\t".join(str(model.index(row, column).data() or "") for column in columns)

    return lines(), len(chosen)


def write_csv(path: Path, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """UTF-8, a head, full precision, empty where there is no value. Raises SavingError."""
    with _written(path) as half, half.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(heads)
        lines.writerows([_plain(value) for value in row] for row in rows)


def write_picture(path: Path, figure: Any) -> None:
    """The figure as it is shown, PNG at twice the size or SVG. Raises SavingError."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    shown, suffix = figure.canvas, path.suffix.lower()[1:]
    undated: Any = {"Date": None} if suffix == "svg" else None
    try:
        with _written(path) as half, matplotlib.rc_context({"svg.hashsalt": "mono-quant"}):
            # On a canvas of its own: the one on the screen keeps its picture.
            FigureCanvasAgg(figure).print_figure(half, format=suffix, dpi=PICTURE_DPI, facecolor="auto", metadata=undated)
    finally:
        figure.set_canvas(shown)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file to fill beside ``path``, which takes its place when it is whole."""
    half = None
    try:
        place, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=".part", dir=path.parent)
        half = Path(name)
        os.close(place)
        half.chmod(0o666 & ~_umask())
        yield half
        half.replace(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise SavingError(tr("Cannot write {path}: {why}.").format(path=text.path(str(path)), why=why)) from error
    finally:
        if half is not None:
            half.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_plot(widget: QWidget) -> bool:
    """Without importing matplotlib, which is not there before the first plot."""
    return hasattr(widget, "figure") and hasattr(widget, "table")


def _rows(model: QAbstractItemModel, parent: QModelIndex | None = None) -> Iterator[QModelIndex]:
    """First cells of all rows, children after their parent."""
    above = QModelIndex() if parent is None else parent
    for row in range(model.rowCount(above)):
        first = model.index(row, 0, above)
        yield first
        yield from _rows(model, first)


def _columns(view: QAbstractItemView) -> list[int]:
    """Those in sight that have a head, from left to right."""
    count = view.model().columnCount()
    if not isinstance(view, (QTableView, QTreeView)):
        return list(range(count))
    header = view.horizontalHeader() if isinstance(view, QTableView) else view.header()
    shown = [column for column in map(header.logicalIndex, range(count)) if not view.isColumnHidden(column)]
    return [column for column in shown if view.model().headerData(column, Qt.Orientation.Horizontal)]


def _cell(index: Any) -> object:
    exact = index.data(EXACT_ROLE)
    return index.data() if exact is None else exact


def _plain(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(words: str) -> bool:
    try:
        float(words)
    except ValueError:
        return False
    return True
