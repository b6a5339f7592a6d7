"""The heat map's table: dB of every layer under every scheme as one array, sorted on it."""

import math
from typing import Any

import numpy as np
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QColor

from engine.records.search import SensitivityRow
from mono_quant_gui import text, theme
from mono_quant_gui.exporting import EXACT_ROLE
from mono_quant_gui.i18n import tr
from mono_quant_gui.searching import Searching

NAME, CHOSEN, FIRST = range(3)
"""Columns; those of the schemes follow."""
CHOSEN_ROLE = int(Qt.ItemDataRole.UserRole) + 1
HEAT_ROLE = CHOSEN_ROLE + 1

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


class SensitivityModel(QAbstractTableModel):
    """Rows of ``searching`` in file order until they are sorted."""

    def __init__(self, searching: Searching) -> None:
        super().__init__(searching)
        self._searching = searching
        self.names: list[str] = []
        self.schemes: list[str] = []
        self._db = np.empty((0, 0))
        self._chosen = np.empty(0, np.int64)
        self._order = np.empty(0, np.int64)
        self._sorted: tuple[int, Qt.SortOrder] | None = None
        searching.rows_changed.connect(self._fill)
        searching.budget_changed.connect(self._choose)
        searching.front_changed.connect(self._choose)

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else FIRST + self._db.shape[1]

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < self.columnCount():
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            if self._is_relief(section):
                return tr("left\nfloat")
            return (tr("Layer"), tr("Budget"))[section] if section < FIRST else _short(self.schemes[section - FIRST])
        if role == Qt.ItemDataRole.ToolTipRole:
            if section < FIRST:
                return (None, tr("The scheme that the budget gives this layer"))[section]
            if self._is_relief(section):
                words = tr("By how many nats the divergence falls when this layer alone is left float, all others being {scheme}")
                return words.format(scheme=self._searching.base)
            whole = self._searching.by not in ("weight", "output")
            words = tr("dB below one nat under {scheme}") if whole else tr("SQNR in dB under {scheme}")
            return words.format(scheme=self.schemes[section - FIRST])
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(section)
        return None

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid() or index.row() >= len(self._order):
            return None
        row, column = int(self._order[index.row()]), index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._display(row, column)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column)
        if role == Qt.ItemDataRole.FontRole and column == NAME:
            return theme.monospace()
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(row, column)
        if role == Qt.ItemDataRole.ForegroundRole and column == CHOSEN and self._chosen[row] == len(self.schemes):
            return QColor(theme.current().muted)
        if self._is_relief(column):
            return float(self._db[row, column - FIRST]) if role == EXACT_ROLE else None
        if role == CHOSEN_ROLE and column >= FIRST:
            return bool(self._chosen[row] == column - FIRST)
        if role in (HEAT_ROLE, EXACT_ROLE) and column >= FIRST:
            return float(self._db[row, column - FIRST])
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._sorted = (column, order) if column >= 0 else None
        self._rearrange()

    def name_at(self, row: int) -> str | None:
        """The layer in a visible row."""
        return self.names[int(self._order[row])] if 0 <= row < len(self._order) else None

    def row_of(self, name: str | None) -> int | None:
        """The visible row of a layer."""
        if name not in self.names:
            return None
        places = np.flatnonzero(self._order == self.names.index(name))
        return int(places[0]) if len(places) else None

    def _display(self, row: int, column: int) -> str:
        if column == NAME:
            return text.plain(self.names[row])
        if column == CHOSEN:
            chosen = int(self._chosen[row])
            return "" if chosen < 0 else "keep" if chosen == len(self.schemes) else self.schemes[chosen]
        value = float(self._db[row, column - FIRST])
        if self._is_relief(column):
            return "" if math.isnan(value) else f"{value:.3f}"
        return "" if math.isnan(value) else tr("exact") if math.isinf(value) else text.decibel(value)

    def _tip(self, row: int, column: int) -> str | None:
        if column == NAME:
            return text.plain(self.names[row])
        found = self._searching.rows[self.names[row]]
        cell = found.cell(self.schemes[column - FIRST]) if column >= FIRST and not self._is_relief(column) else None
        if cell is None:
            return None
        size = tr("{scheme}: {size}").format(scheme=cell.scheme, size=text.exact_bytes(cell.nbytes))
        return text.plain(cell.problem) if cell.problem else size

    def _fill(self) -> None:
        rows = self._searching.rows
        schemes = list(dict.fromkeys(cell.scheme for row in rows.values() for cell in row.cells if cell.scheme != "keep"))
        reliefs = [math.nan if row.relief is None else row.relief for row in rows.values()]
        more = not all(map(math.isnan, reliefs))
        same = schemes == self.schemes and list(rows) == self.names and self._db.shape[1] == len(schemes) + more
        if not same:
            self.beginResetModel()
        self.names, self.schemes = list(rows), schemes
        self._db = np.full((len(rows), len(schemes) + more), np.nan)
        if more:
            self._db[:, -1] = reliefs
        for place, row in enumerate(rows.values()):
            for column, scheme in enumerate(schemes):
                self._db[place, column] = decibel(row, scheme, self._searching.by)
        self._chosen = self._codes()
        if same:
            self._tell()
        else:
            self._order = self._arranged()
            self.endResetModel()

    def _is_relief(self, column: int) -> bool:
        """Whether a column says what leaving one layer float is worth; it stands behind the schemes."""
        return column == FIRST + len(self.schemes)

    def _codes(self) -> np.ndarray:
        """For each row the place of its scheme; one after the last for keep, -1 where there is no budget yet."""
        place = {name: at for at, name in enumerate(self.schemes)} | {"keep": len(self.schemes)}
        chosen = self._searching.schemes()
        return np.fromiter((place.get(chosen.get(name, ""), -1) for name in self.names), np.int64, len(self.names))

    def _choose(self) -> None:
        self._chosen = self._codes()
        if self._sorted and self._sorted[0] == CHOSEN:
            self._rearrange()
        self._tell()

    def _tell(self) -> None:
        if len(self._order):
            self.dataChanged.emit(self.index(0, CHOSEN), self.index(len(self._order) - 1, self.columnCount() - 1))

    def _arranged(self) -> np.ndarray:
        if self._sorted is None or self._sorted[0] >= self.columnCount():
            return np.arange(len(self.names))
        column, order = self._sorted
        keys = np.array(self.names) if column == NAME else self._chosen if column == CHOSEN else self._db[:, column - FIRST]
        ranked = np.argsort(keys, kind="stable")
        if order == Qt.SortOrder.DescendingOrder:
            ranked = ranked[::-1]
            if keys.dtype.kind == "f":  # what is not known stays at the end
                ranked = np.concatenate([ranked[~np.isnan(keys[ranked])], ranked[np.isnan(keys[ranked])]])
        return ranked

    def _rearrange(self) -> None:
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        held = [int(self._order[i.row()]) for i in before]
        self._order = self._arranged()
        place = {int(row): at for at, row in enumerate(self._order)}
        after = [self.index(place[row], i.column()) for i, row in zip(before, held, strict=True)]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()


def decibel(row: SensitivityRow, scheme: str, by: str = "weight") -> float:
    """SQNR of a layer's weights or outputs under a scheme, or dB of the loss below one nat; infinite where nothing is lost, NaN
    where it is not known."""
    cell = row.cell(scheme)
    error = None if cell is None else getattr(cell, "noise" if by == "weight" else by)
    whole = row.signal if by == "weight" else row.output_signal if by == "output" else 1.0
    if error is None or whole is None:
        return math.nan
    return 10 * math.log10(whole / error) if error > 0 and whole > 0 else math.inf


def _short(scheme: str) -> str:
    """int4:g128 as two lines, so that columns are narrow."""
    return scheme.replace(":", "\n", 1)


def _alignment(column: int) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignLeft if column < FIRST else Qt.AlignmentFlag.AlignHCenter
    return side | Qt.AlignmentFlag.AlignVCenter
