"""The heat map layer × scheme: colder is better, and the scheme that the budget gives is framed."""

from collections.abc import Callable

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QColor, QPainter, QPen
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QStyledItemDelegate, QStyleOptionViewItem, QTableView, QWidget

from mono_quant_gui import theme
from mono_quant_gui.models.sensitivity import CHOSEN, CHOSEN_ROLE, FIRST, HEAT_ROLE, NAME, SensitivityModel
from mono_quant_gui.widgets.copying import copies_rows

MIDDLE_DB = 20.0
"""What four-bit groups of a Gaussian weight have: neither hot nor cold."""
LOW_DB, HIGH_DB = 5.0, 45.0
NARROWEST, WIDTH_OF_CHOSEN, ROOM_FOR_NAMES = 42, 96, 140
STRONGEST = 0.55
"""Of a colour over the panel's, so that the number on it is read."""


class HeatMap(QTableView):
    """Numbers in dB on their colours."""

    def __init__(self, model: SensitivityModel, say: Callable[[str], object], parent: QWidget | None = None) -> None:
        """``say`` is told of copying that takes a moment."""
        super().__init__(parent)
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideLeft)
        self.setTabKeyNavigation(False)
        self.setItemDelegate(HeatDelegate(self))
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(theme.px(25))
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setMinimumSectionSize(40)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        copies_rows(self, say)
        model.modelReset.connect(self.fit_columns)

    def fit_columns(self) -> None:
        """Schemes get what their heads need, names the rest."""
        model = self.model()
        metrics = self.horizontalHeader().fontMetrics()
        for column in range(FIRST, model.columnCount()):
            head = str(model.headerData(column, Qt.Orientation.Horizontal))
            widest = max(metrics.horizontalAdvance(line) for line in head.splitlines())
            self.setColumnWidth(column, max(NARROWEST, widest + 12, metrics.horizontalAdvance("-0.000") + 12))
        if model.columnCount():
            self.setColumnWidth(CHOSEN, WIDTH_OF_CHOSEN)
            taken = sum(self.columnWidth(column) for column in range(1, model.columnCount()))
            self.setColumnWidth(NAME, max(self.viewport().width() - taken, ROOM_FOR_NAMES))

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        self.fit_columns()


class HeatDelegate(QStyledItemDelegate):
    """A cell's colour under its number."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        value = index.data(HEAT_ROLE)
        if value is None:
            super().paint(painter, option, index)
            return
        colors, area = theme.current(), option.rect.adjusted(1, 1, -1, -1)  # type: ignore[attr-defined]
        painter.save()
        if (color := heat(value)) is not None:
            painter.fillRect(area, color)
        if chosen := index.data(CHOSEN_ROLE):
            painter.setPen(QPen(QColor(colors.accent), 2))
            painter.drawRect(area.adjusted(1, 1, -1, -1))
        font = option.font  # type: ignore[attr-defined]
        font.setBold(bool(chosen))
        painter.setFont(font)
        painter.setPen(QColor(colors.text))
        painter.drawText(area, Qt.AlignmentFlag.AlignCenter, index.data() or "–")
        painter.restore()


def heat(db: float) -> QColor | None:
    """The colour of so many dB over the panel's; None where nothing is known."""
    if db != db:
        return None
    colors = theme.current()
    hot = db < MIDDLE_DB
    share = (MIDDLE_DB - db) / (MIDDLE_DB - LOW_DB) if hot else (db - MIDDLE_DB) / (HIGH_DB - MIDDLE_DB)
    color = QColor(colors.bad if hot else colors.quantized)
    color.setAlphaF(STRONGEST * min(max(share, 0.0), 1.0))
    return color
