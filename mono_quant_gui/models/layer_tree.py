"""The layers as a tree by module path. A module's row says what its layers come to; children are found when it is opened."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QAbstractItemModel, QModelIndex, QPersistentModelIndex, Qt

from mono_quant_gui import text, theme
from mono_quant_gui.exporting import EXACT_ROLE
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.layer_cells import BAR_ROLE, LayerCells, decibel_bar, figure, shared
from mono_quant_gui.models.layer_columns import (
    ALGORITHM,
    BITS,
    CAUSE,
    DECIBELS,
    DTYPE,
    HIGH,
    KIND,
    LOW,
    NAME,
    PARAMETERS,
    SCHEME,
    SIZE,
    SIZES,
    columns,
)  # fmt: skip
from mono_quant_gui.models.layer_data import LayerData
from mono_quant_gui.models.layers import head
from mono_quant_gui.session import Session

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


class Node:
    """A module or a layer. ``rows`` are its layers as arranged, ``layer`` the row of its own weight or -1."""

    __slots__ = ("children", "depth", "label", "layer", "number", "parent", "place", "prefix", "rows")

    def __init__(
        self, number: int, parent: "Node | None", place: int, prefix: str, rows: NDArray, depth: int, layer: int
    ) -> None:
        self.number, self.parent, self.place, self.rows, self.depth, self.layer = number, parent, place, rows, depth, layer
        self.prefix = prefix
        before = len(parent.prefix) + 1 if parent is not None and parent.prefix else 0
        self.label = prefix[before:]
        self.children: list[Node] | None = None

    @property
    def is_leaf(self) -> bool:
        return self.layer >= 0 and len(self.rows) == 1


class LayerTree(QAbstractItemModel):
    """Modules stand where the first of their layers stands in the order of rows, so that sorting and filtering hold here too."""

    def __init__(self, data: LayerData, session: Session) -> None:
        super().__init__(data)
        self._data, self._cells, self._columns = data, LayerCells(data, session), columns()
        self._wanted = False
        self._start()
        data.about_to_reset.connect(self.beginResetModel)
        data.reset.connect(self._reset)
        data.arranged.connect(self._arranged)
        data.changed.connect(self._changed)

    def set_wanted(self, wanted: bool) -> None:
        """A tree that nobody sees stays empty."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._fill()

    # -- Qt's questions ----------------------------------------------------------------------------------------

    def index(self, row: int, column: int, parent: Index = _ROOT) -> QModelIndex:
        node = self.node(parent)
        if node is None or not 0 <= column < len(self._columns) or (parent.isValid() and parent.column() != NAME):
            return QModelIndex()
        children = self._children(node)
        return self.createIndex(row, column, children[row].number) if 0 <= row < len(children) else QModelIndex()

    def parent(self, index: Index = _ROOT) -> QModelIndex:  # type: ignore[override]
        node = self.node(index) if index.isValid() else None
        above = node.parent if node else None
        return QModelIndex() if above is None or above.parent is None else self.createIndex(above.place, NAME, above.number)

    def rowCount(self, parent: Index = _ROOT) -> int:
        node = self.node(parent) if not parent.isValid() or parent.column() == NAME else None
        return len(self._children(node)) if node else 0

    def columnCount(self, parent: Index = _ROOT) -> int:
        return len(self._columns) if not parent.isValid() or parent.column() == NAME else 0

    def hasChildren(self, parent: Index = _ROOT) -> bool:
        node = self.node(parent)
        if node is None or (parent.isValid() and parent.column() != NAME):
            return False
        return bool(len(node.rows)) and not node.is_leaf

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        return head(self._columns, section, orientation, role)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        node = self.node(index) if index.isValid() else None
        if node is None:
            return None
        column = index.column()
        if column == NAME and role == Qt.ItemDataRole.DisplayRole:
            return text.plain(node.label)
        if node.layer >= 0:
            return self._cells.answer(node.layer, column, role)
        if role == Qt.ItemDataRole.DisplayRole:
            return self._of_module(node, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(node, column)
        if role == Qt.ItemDataRole.ForegroundRole:
            return None if column == NAME else theme.muted()
        if role == BAR_ROLE and column in DECIBELS:
            return decibel_bar(self._worst(node, column))
        return node.prefix if role == EXACT_ROLE and column == NAME else shared(column, role)

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._data.set_sorted(column, order)

    # -- ours --------------------------------------------------------------------------------------------------

    def node(self, index: Index) -> Node | None:
        """What an index stands for; the root for an invalid one."""
        if not index.isValid():
            return self._nodes[0]
        number = index.internalId()
        return self._nodes[number] if number < len(self._nodes) else None

    def names_at(self, index: Index) -> list[str]:
        """The layers of a module, or the one layer."""
        node = self.node(index) if index.isValid() else None
        return [self._data.names[row] for row in node.rows.tolist()] if node else []

    def layer_at(self, index: Index) -> str | None:
        """The layer in a row; None for a module."""
        node = self.node(index) if index.isValid() else None
        return self._data.names[node.layer] if node and node.layer >= 0 else None

    def find(self, path: str | None) -> QModelIndex:
        """Where a layer or module stands; invalid when it is filtered away."""
        node, found = self._nodes[0], None
        while path and node is not None:
            node = next(
                (child for child in self._children(node) if path == child.prefix or path.startswith(child.prefix + ".")), None
            )
            if node is not None and node.prefix == path:
                found = node
                break
        return self.createIndex(found.place, NAME, found.number) if found else QModelIndex()

    def prefix_of(self, index: Index) -> str:
        node = self.node(index)
        return node.prefix if node else ""

    # -- building ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        rows = self._data.order if self._wanted else np.empty(0, np.int64)
        self._nodes = [Node(0, None, 0, "", rows, 0, -1)]

    def _reset(self) -> None:
        self._nodes = [Node(0, None, 0, "", np.empty(0, np.int64), 0, -1)]
        self.endResetModel()
        self._fill()

    def _fill(self) -> None:
        if self._wanted and not self._data.has_paths:
            self._data.prepare_paths(self._arranged)
        else:
            self._arranged()

    def _arranged(self) -> None:
        if self._wanted and not self._data.has_paths:
            return  # they are being made
        self.beginResetModel()
        self._start()
        self.endResetModel()

    def _changed(self) -> None:
        for node in [node for node in self._nodes if node.children]:
            parent = self.createIndex(node.place, NAME, node.number) if node.parent is not None else QModelIndex()
            last = len(node.children or ()) - 1
            self.dataChanged.emit(self.index(0, 0, parent), self.index(last, len(self._columns) - 1, parent))

    def _children(self, node: Node) -> list[Node]:
        if node.children is None:
            node.children = [] if node.is_leaf or not len(node.rows) else self._split(node)
        return node.children

    def _split(self, node: Node) -> list[Node]:
        paths = self._data.paths()
        rows = node.rows[paths.lengths[node.rows] > node.depth]
        _, firsts, groups = np.unique(paths.codes[rows, node.depth], return_index=True, return_inverse=True)
        by_group = rows[np.argsort(groups, kind="stable")]
        pieces = np.split(by_group, np.cumsum(np.bincount(groups))[:-1])
        found = []
        for place, group in enumerate(np.argsort(firsts)):
            found.append(self._child(node, place, pieces[group]))
        return found

    def _child(self, parent: Node, place: int, rows: NDArray) -> Node:
        """A module with one module inside is one row with both names, and a single layer is a row with the rest of its name."""
        paths, depth = self._data.paths(), parent.depth + 1
        lengths = paths.lengths[rows]
        shortest = int(lengths.min())
        while depth < shortest and (paths.codes[rows, depth] == paths.codes[rows[0], depth]).all():
            depth += 1
        own = rows[lengths == depth]
        name = self._data.names[int(rows[0])]
        node = Node(
            len(self._nodes), parent, place, ".".join(name.split(".")[:depth]), rows, depth, int(own[0]) if len(own) else -1
        )
        self._nodes.append(node)
        return node

    # -- what a module says ------------------------------------------------------------------------------------

    def _of_module(self, node: Node, column: int) -> str:
        data, rows = self._data, node.rows
        if column == KIND:
            return tr("{count} layers").format(count=f"{len(rows):,}")
        if column in (SCHEME, ALGORITHM, DTYPE):
            factor = data.words[column]
            there = np.flatnonzero(np.bincount(factor.codes[rows], minlength=len(factor.values)))
            return str(factor.values[there[0]]) if len(there) == 1 else tr("{count} different").format(count=len(there))
        if column in (PARAMETERS, *SIZES):
            return figure(column, data.numbers[column][rows].sum())
        if column == BITS:
            weights = data.numbers[PARAMETERS][rows].sum()
            return figure(BITS, 8 * data.numbers[SIZE][rows].sum() / weights) if weights else ""
        if column == CAUSE:
            short = int(np.count_nonzero(data.short[rows] >= data.short_db))
            return tr("{count} fall short").format(count=f"{short:,}") if short else ""
        if column in DECIBELS:
            worst = self._worst(node, column)
            return "" if np.isnan(worst) else "≥ " + figure(column, worst)
        if column in (LOW, HIGH):
            values = data.numbers[column][rows]
            values = values[~np.isnan(values)]
            return figure(column, values.min() if column == LOW else values.max()) if len(values) else ""
        return ""

    def _worst(self, node: Node, column: int) -> float:
        values = self._data.numbers[column][node.rows]
        values = values[~np.isnan(values)]
        return float(values.min()) if len(values) else np.nan

    def _tip(self, node: Node, column: int) -> str | None:
        if column == NAME:
            return text.plain(node.prefix)
        if column in DECIBELS and self._of_module(node, column):
            return tr("The worst of its layers")
        if column in SIZES:
            return text.exact_bytes(int(self._data.numbers[column][node.rows].sum()))
        return None
