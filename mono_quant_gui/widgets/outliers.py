"""The table of a layer's largest weights."""

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from engine.records.look import Outlier
from mono_quant_gui import theme
from mono_quant_gui.exporting import EXACT_ROLE
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.copying import copies_rows

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


class OutliersModel(QAbstractTableModel):
    """The largest weights first."""

    def __init__(self) -> None:
        super().__init__()
        self._given: Sequence[Outlier] = ()
        self._rows: Sequence[Outlier] = ()
        self._sorted = (-1, Qt.SortOrder.AscendingOrder)

    def show_outliers(self, outliers: Sequence[Outlier]) -> None:
        if outliers != self._given:
            self.beginResetModel()
            self._given = outliers
            self._arrange()
            self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """By size, as they came, where no column is chosen; values by their magnitude."""
        self._sorted = (column, order)
        self.beginResetModel()
        self._arrange()
        self.endResetModel()

    def _arrange(self) -> None:
        column, order = self._sorted
        if column < 0:
            self._rows = self._given
            return
        key = (
            lambda row: row.index, lambda row: abs(row.value), lambda row: abs(row.quantized or 0.0),
            lambda row: abs((row.quantized or 0.0) - row.value), lambda row: abs(row.sigmas),
        )[column]  # fmt: skip
        self._rows = sorted(self._given, key=key, reverse=order == Qt.SortOrder.DescendingOrder)

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else 5

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return (tr("Index"), tr("Weight"), tr("Quantized"), tr("Error"), tr("Std. dev."))[section]
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.TextAlignmentRole:
            return _side(section)
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.ToolTipRole:
            return _tips()[section]
        return None

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid():
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _side(index.column())
        row = self._rows[index.row()]
        if role == EXACT_ROLE and index.column() > 0:
            error = None if row.quantized is None else row.quantized - row.value
            return (row.value, row.quantized, error, row.sigmas)[index.column() - 1]
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        error = "" if row.quantized is None else f"{row.quantized - row.value:+.3g}"
        quantized = "" if row.quantized is None else f"{row.quantized:.4g}"
        return (", ".join(map(str, row.index)), f"{row.value:.4g}", quantized, error, f"{row.sigmas:.1f}")[index.column()]


def _side(column: int) -> Qt.AlignmentFlag:
    return (Qt.AlignmentFlag.AlignRight if column else Qt.AlignmentFlag.AlignLeft) | Qt.AlignmentFlag.AlignVCenter


def _tips() -> tuple[str, ...]:
    return (
        tr("Where in the weight, from 0: output channel first where the file has it so"),
        tr("As in the file"),
        tr("What its code decodes to"),
        tr("Quantized minus float"),
        tr("How many standard deviations it lies from the mean"),
    )


class OutlierTable(QTableView):
    """Copies its rows as tab-separated text."""

    def __init__(self) -> None:
        super().__init__()
        self._outliers = OutliersModel()
        self.setModel(self._outliers)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(theme.px(25))
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.horizontalHeader().setHighlightSections(False)
        self.horizontalHeader().setSortIndicatorClearable(True)
        self.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        copies_rows(self)

    def show_outliers(self, outliers: Sequence[Outlier]) -> None:
        """Show these, the largest first."""
        self._outliers.show_outliers(outliers)
