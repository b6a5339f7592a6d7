"""The two views of the layers pane, and how their cells are painted."""

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QTreeView,
)

from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.layer_cells import BAR_ROLE, CAUSE_AFTER
from mono_quant_gui.models.layer_columns import CAUSE, DECIBELS, NAME, SIZES, columns
from mono_quant_gui.models.layer_tree import LayerTree
from mono_quant_gui.models.layers import LayersModel

ROW_PX = 25
BAR_PX, SMALL_BAR_PX = 34, 22
View = QTableView | QTreeView


def make_table(model: LayersModel) -> QTableView:
    """All layers, a row each."""
    table = QTableView()
    table.setModel(model)
    table.setAccessibleName(tr("Layers"))
    table.setShowGrid(False)
    table.setWordWrap(False)
    table.setTabKeyNavigation(False)
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(theme.px(ROW_PX))
    _prepare(table, table.horizontalHeader())
    return table


class TreeView(QTreeView):
    """A tree that is saved as ``as_table``: the same layers in the same order, a row each."""

    as_table: QTableView


def make_tree(model: LayerTree, table: QTableView) -> TreeView:
    """Layers below their modules."""
    tree = TreeView()
    tree.as_table = table
    tree.setModel(model)
    tree.setAccessibleName(tr("Layers by module"))
    tree.setUniformRowHeights(True)
    tree.setWordWrap(False)
    tree.setIndentation(14)
    _prepare(tree, tree.header())
    return tree


def _prepare(view: View, header: QHeaderView) -> None:
    view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
    view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
    view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
    view.setTextElideMode(Qt.TextElideMode.ElideRight)
    header.setHighlightSections(False)
    # Qt asks for every selected cell to find out whether a whole column is selected: a header of its own selection has none.
    header.setSelectionModel(QItemSelectionModel(view.model(), header))
    header.setSectionsMovable(True)
    header.setFirstSectionMovable(False)
    header.setSectionsClickable(True)
    header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
    header.setMinimumSectionSize(theme.px(40))
    header.setStretchLastSection(False)
    header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
    for place, column in enumerate(columns()):
        header.resizeSection(place, theme.px(column.width))
    view.setItemDelegateForColumn(NAME, NameDelegate(view))
    view.setItemDelegateForColumn(CAUSE, FindingDelegate(view))
    for place in (*DECIBELS, *SIZES):
        view.setItemDelegateForColumn(place, BarDelegate(view))
    header.setSortIndicatorClearable(True)
    header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
    view.setSortingEnabled(True)


class NameDelegate(QStyledItemDelegate):
    """Gives way on the left: the end of a name tells layers apart."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().initStyleOption(option, index)
        option.textElideMode = Qt.TextElideMode.ElideLeft  # type: ignore[attr-defined]

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(super().sizeHint(option, index).width(), theme.px(ROW_PX))


class FindingDelegate(QStyledItemDelegate):
    """Where there is no room for both, the cause alone: how far a layer falls short stands in the tooltip."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().initStyleOption(option, index)
        words: str = option.text  # type: ignore[attr-defined]
        if CAUSE_AFTER in words and option.fontMetrics.horizontalAdvance(words) + 8 > option.rect.width():  # type: ignore[attr-defined]
            option.text = words.partition(CAUSE_AFTER)[2]  # type: ignore[attr-defined]


class BarDelegate(QStyledItemDelegate):
    """A number and a short bar; hurt layers in their own colour, and the number says so too."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        bar = index.data(BAR_ROLE)
        if bar is None:
            super().paint(painter, option, index)
            return
        bare = QStyleOptionViewItem(option)
        self.initStyleOption(bare, index)
        bare.text = ""
        style = option.widget.style() if option.widget else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, bare, painter, option.widget)
        colors, (share, bad) = theme.current(), bar
        sizes = index.column() in SIZES
        area: QRect = option.rect.adjusted(4, 0, -6, 0)
        room = min(SMALL_BAR_PX if sizes else BAR_PX, area.width() // 3)
        painter.save()
        painter.setPen(index.data(Qt.ItemDataRole.ForegroundRole) or QColor(colors.text))
        words = area.adjusted(0, 0, -room - 5, 0)
        painter.drawText(words, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, index.data() or "")
        color = colors.float_ if sizes else colors.bad if bad else colors.quantized
        length = max(round(room * share), 1 if sizes else 2)
        painter.fillRect(area.right() - room, area.center().y() - 3, length, 7, QColor(color))
        painter.restore()
