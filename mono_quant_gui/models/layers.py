"""The layers as a flat table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt

from mono_quant_gui.models.layer_cells import LOW_SQNR_DB, LayerCells, shared
from mono_quant_gui.models.layer_columns import columns
from mono_quant_gui.models.layer_data import LayerData, Order
from mono_quant_gui.session import Session

__all__ = ["LOW_SQNR_DB", "LayersModel"]

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


class LayersModel(QAbstractTableModel):
    """Rows of ``LayerData`` as they are arranged."""

    def __init__(self, data: LayerData, session: Session) -> None:
        super().__init__(data)
        self._data = data
        self._cells = LayerCells(data, session)
        self._columns = columns()
        self._order = data.order
        data.about_to_reset.connect(self.beginResetModel)
        data.reset.connect(self._reset)
        data.arranged.connect(self._rearrange)
        data.changed.connect(self._changed)

    # -- Qt's questions ----------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        return head(self._columns, section, orientation, role)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid() or index.row() >= len(self._order):
            return None
        return self._cells.answer(int(self._order[index.row()]), index.column(), role)

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._data.set_sorted(column, order)

    # -- ours --------------------------------------------------------------------------------------------------

    def name_at(self, row: int) -> str | None:
        """The layer in a visible row."""
        return self._data.names[int(self._order[row])] if 0 <= row < len(self._order) else None

    def rows_in(self, ranges: list[tuple[int, int]]) -> Order:
        """Rows in file order of runs of visible rows (first, last), as they stand in sight."""
        pieces = [self._order[first : last + 1] for first, last in sorted(ranges)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def rows_of(self, names: Sequence[str]) -> list[int]:
        """Rows in file order of layers that are in sight, as they stand there."""
        wanted = np.zeros(self._data.total, bool)
        wanted[self._data.rows_of(names)] = True
        return self._order[wanted[self._order]].tolist()

    def paint_marked(self, names: Sequence[str]) -> bool:
        """Paint the rows of these layers as selected, here and in the tree; returns whether that is a change."""
        if not names and self._data.marked is None:
            return False
        self._data.marked = np.zeros(self._data.total, bool) if names else None
        if self._data.marked is not None:
            self._data.marked[self._data.rows_of(names)] = True
        return True

    def names_of(self, ranges: list[tuple[int, int]]) -> list[str]:
        """Layers in runs of visible rows (first, last)."""
        return list(map(self._data.names.__getitem__, self.rows_in(ranges).tolist()))

    def holds(self, ranges: list[tuple[int, int]], names: Sequence[str]) -> bool:
        """Whether runs of visible rows (first, last) are exactly these layers."""
        return bool(np.array_equal(np.sort(self.rows_in(ranges)), np.unique(self._data.rows_of(names))))

    def words_at(self, row: int, columns: Sequence[int]) -> str:
        """Cells of a row in file order, with tabs between."""
        return "\t".join([self._cells.words(row, column) for column in columns])

    def row_of(self, name: str | None) -> int | None:
        """The visible row of a layer, or None when it is filtered away."""
        return self._data.visible_place(name)

    def runs_of(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Runs of visible rows (first, last) that hold these layers."""
        wanted = np.zeros(self._data.total, bool)
        wanted[self._data.rows_of(names)] = True
        places = np.flatnonzero(wanted[self._order])
        if not len(places):
            return []
        breaks = np.flatnonzero(np.diff(places) > 1)
        firsts, lasts = places[np.r_[0, breaks + 1]], places[np.r_[breaks, len(places) - 1]]
        return list(zip(firsts.tolist(), lasts.tolist(), strict=True))

    @property
    def total(self) -> int:
        return self._data.total

    def _reset(self) -> None:
        self._order = self._data.order
        self.endResetModel()

    def _changed(self) -> None:
        if len(self._order):
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._order) - 1, len(self._columns) - 1))

    def _rearrange(self) -> None:
        order = self._data.order
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        held = [int(self._order[index.row()]) if index.row() < len(self._order) else -1 for index in before]
        self._order = order
        if before:
            place = np.full(self._data.total + 1, -1)
            place[order] = np.arange(len(order))
            rows = place[held].tolist()
            after = [
                self.index(row, index.column()) if row >= 0 else QModelIndex() for index, row in zip(before, rows, strict=True)
            ]
            self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()


def head(shown: tuple, section: int, orientation: Qt.Orientation, role: int) -> Any:
    """What a horizontal header says of a column."""
    if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(shown):
        return None
    if role == Qt.ItemDataRole.DisplayRole:
        return shown[section].head
    if role == Qt.ItemDataRole.ToolTipRole:
        return shown[section].words
    return shared(section, role) if role == Qt.ItemDataRole.TextAlignmentRole else None
