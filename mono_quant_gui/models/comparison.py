"""A comparison's layers as a table sorted on arrays, and tables of words."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from PySide6.QtGui import QColor

from engine.records.comparison import ComparedLayer, Comparison
from mono_quant_gui import text, theme
from mono_quant_gui.comparing import letter
from mono_quant_gui.exporting import EXACT_ROLE
from mono_quant_gui.i18n import tr

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()
UNKNOWN = "–"


class ComparisonModel(QAbstractTableModel):
    """One row a layer: scheme and dB of every side, and what changed against the first. What got worse comes first."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._layers: Sequence[ComparedLayer] = ()
        self._columns: list[tuple[str, int]] = [("name", 0)]
        self._order = np.empty(0, np.int64)
        self._keys: dict[int, np.ndarray] = {}

    def show(self, found: Comparison | None) -> None:
        """Other layers, what got worse on the second side first."""
        self.beginResetModel()
        self._layers = found.layers if found else ()
        self._columns, self._keys = [("name", 0)], {}
        for side in range(len(found.sides) if found else 0):
            self._columns += [("scheme", side), ("db", side)]
            self._columns += [("db_change", side), ("bytes_change", side)] if side else []
        self._order = np.arange(len(self._layers))
        self.endResetModel()

    @property
    def first_change(self) -> int:
        """The column of what changed in dB on the second side."""
        return self._columns.index(("db_change", 1)) if ("db_change", 1) in self._columns else 0

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self._columns):
            return None
        kind, side = self._columns[section]
        if role == Qt.ItemDataRole.DisplayRole:
            heads = {
                "name": tr("Layer"), "scheme": "{}", "db": tr("{} dB"), "db_change": tr("Δ dB {}"),
                "bytes_change": tr("Δ bytes {}"),
            }  # fmt: skip
            return heads[kind].format(letter(side))
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(kind)
        return None

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid() or index.row() >= len(self._order):
            return None
        layer = self._layers[int(self._order[index.row()])]
        kind, side = self._columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return _display(layer, kind, side)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(kind)
        if role == Qt.ItemDataRole.FontRole and kind in ("name", "scheme"):
            return theme.monospace()
        if role == Qt.ItemDataRole.ToolTipRole and kind == "name":
            return text.plain(layer.name)
        if role == Qt.ItemDataRole.ForegroundRole and kind == "db_change" and layer.db_change(side):
            return QColor(theme.current().bad if (layer.db_change(side) or 0) < 0 else theme.current().good)
        if role == EXACT_ROLE and kind not in ("name", "scheme"):
            return _value(layer, kind, side)
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """On arrays that are made once a column; what is not known stays at the end."""
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        held = [int(self._order[index.row()]) for index in before]
        self._order = self._arranged(column, order)
        place = {int(row): at for at, row in enumerate(self._order)}
        after = [self.index(place[row], index.column()) for index, row in zip(before, held, strict=True)]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def name_at(self, row: int) -> str | None:
        return self._layers[int(self._order[row])].name if 0 <= row < len(self._order) else None

    def _arranged(self, column: int, order: Qt.SortOrder) -> np.ndarray:
        if not 0 <= column < len(self._columns):
            return np.arange(len(self._layers))
        if column not in self._keys:
            self._keys[column] = self._key(*self._columns[column])
        keys = self._keys[column]
        ranked = np.argsort(keys, kind="stable")
        if order == Qt.SortOrder.AscendingOrder or keys.dtype.kind != "f":
            return ranked if order == Qt.SortOrder.AscendingOrder else ranked[::-1]
        known = ranked[~np.isnan(keys[ranked])]
        return np.concatenate([known[::-1], ranked[len(known) :]])

    def _key(self, kind: str, side: int) -> np.ndarray:
        if kind == "name":
            return np.array([layer.name for layer in self._layers])
        if kind == "scheme":
            return np.array([_display(layer, kind, side) for layer in self._layers])
        values = (_value(layer, kind, side) for layer in self._layers)
        return np.fromiter((math.nan if value is None else value for value in values), float, len(self._layers))


class WordsModel(QAbstractTableModel):
    """A small table of words as the engine tells them; the first column are heads of rows."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._heads: list[str] = []
        self._rows: list[list[str]] = []

    def show(self, heads: list[str], rows: list[list[str]]) -> None:
        self.beginResetModel()
        self._heads, self._rows = heads, rows
        self.endResetModel()

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._heads)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole and 0 <= section < len(self._heads):
            return text.plain(self._heads[section]) or " "
        return None

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid():
            return None
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return text.plain(self._rows[index.row()][index.column()])
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == 0:
            return QColor(theme.current().muted)
        return None


def _display(layer: ComparedLayer, kind: str, side: int) -> str:
    if kind == "name":
        return text.plain(layer.name)
    figures = layer.figures[side]
    if kind == "scheme":
        return UNKNOWN if figures is None else figures.scheme
    value = _value(layer, kind, side)
    if value is None:
        return UNKNOWN
    if kind == "bytes_change":
        return "0" if not value else f"{'+' if value > 0 else '−'}{text.size(abs(value))}"
    if kind == "db":
        return tr("exact") if math.isinf(value) else text.decibel(value)
    if math.isinf(value):
        return tr("now exact") if value > 0 else tr("not exact now")
    return "0" if not value else f"{'+' if value > 0 else '−'}{abs(value):.2f}"


def _value(layer: ComparedLayer, kind: str, side: int) -> float | None:
    if kind == "db":
        figures = layer.figures[side]
        return figures.db if figures else None
    return layer.db_change(side) if kind == "db_change" else layer.bytes_change(side)


def _alignment(kind: str) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignLeft if kind in ("name", "scheme") else Qt.AlignmentFlag.AlignRight
    return side | Qt.AlignmentFlag.AlignVCenter
