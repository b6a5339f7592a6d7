"""The layers table: columns kept as arrays, so that 90,000 rows sort and filter within a frame."""

from typing import Any

import numpy as np
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QColor

from mono_quant_gui import text, theme
from mono_quant_gui.exporting import EXACT_ROLE
from mono_quant_gui.models.filtering import Columns, matching
from mono_quant_gui.session import Session

NAME, KIND, SHAPE, SCHEME, SIZE, SQNR, ALONE, SO_FAR = range(8)
HEADS = ("Name", "Kind", "Shape", "Scheme", "Size", "SQNR dB", "Out dB", "So far dB")
HEAD_TIPS = {
    SQNR: "Of the weights, as stored",
    ALONE: "Of the layer's output, when this layer alone is quantized",
    SO_FAR: "Of the layer's output, when all layers before it are quantized too",
}
LOW_SQNR_DB = 15.0
"""Below this a layer is marked as hurt: four-bit groups of a Gaussian weight reach 19 to 20 dB."""
SQNR_ROLE = int(Qt.ItemDataRole.UserRole) + 1

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


class LayersModel(QAbstractTableModel):
    """Rows of the session's model, with the plan's schemes and the shown run's measurements."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self._filter = ""
        self._sorted: tuple[int, Qt.SortOrder] | None = None
        self._order = np.empty(0, np.int64)
        self._columns = Columns([], [], [], np.empty(0, np.int64), np.empty(0), np.empty(0, bool))
        self._alone = self._so_far = np.empty(0)
        session.model_changed.connect(self._reset)
        session.plan_changed.connect(self._refresh)
        session.runs_changed.connect(self._refresh)
        session.run_layers.connect(self._refresh)
        session.calibrating.changed.connect(self._refresh)

    # -- Qt's questions ----------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(HEADS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if orientation == Qt.Orientation.Horizontal and 0 <= section < len(HEADS):
            if role == Qt.ItemDataRole.DisplayRole:
                return HEADS[section]
            if role == Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(section)
            if role == Qt.ItemDataRole.ToolTipRole:
                return HEAD_TIPS.get(section)
        return None

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid() or index.row() >= len(self._order):
            return None
        row, column = int(self._order[index.row()]), index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._display(row, column)
        if role == EXACT_ROLE:
            return self._exact(row, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(row, column)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column)
        if role == Qt.ItemDataRole.FontRole and column == NAME:
            return theme.monospace()
        if role == Qt.ItemDataRole.ForegroundRole:
            return self._color(row, column)
        if role == SQNR_ROLE and column == SQNR:
            value = float(self._columns.sqnr[row])
            return value if np.isfinite(value) else None
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._sorted = (column, order) if column >= 0 else None
        self._rearrange()

    # -- ours --------------------------------------------------------------------------------------------------

    def set_filter(self, wanted: str) -> None:
        """Show only layers that match; see ``filtering``."""
        self._filter = wanted
        self._rearrange()

    def name_at(self, row: int) -> str | None:
        """The layer in a visible row."""
        return self._columns.names[int(self._order[row])] if 0 <= row < len(self._order) else None

    def row_of(self, name: str | None) -> int | None:
        """The visible row of a layer, or None when it is filtered away."""
        model = self._session.model
        if model is None or name not in model.index:
            return None
        places = np.flatnonzero(self._order == model.index[name])
        return int(places[0]) if len(places) else None

    @property
    def total(self) -> int:
        return len(self._columns.names)

    def _display(self, row: int, column: int) -> str:
        layer = self._session.model.layers[row]  # type: ignore[union-attr]
        if column == NAME:
            return text.plain(layer.name)
        if column == KIND:
            return layer.kind + (" ?" if layer.guessed else "")
        if column == SHAPE:
            return text.shape(layer.shape)
        if column == SCHEME:
            return ("⚠ " if self._columns.problems[row] else "") + self._columns.schemes[row]
        if column == SIZE:
            return text.size(self._bytes(row))
        if column == SQNR and layer.name in self._failures():
            return "failed"
        value = float(self._decibels(column)[row])
        return "" if np.isnan(value) else "exact" if np.isinf(value) else text.decibel(value)

    def _exact(self, row: int, column: int) -> object:
        """What is saved: whole names, bytes, and decibels with all digits."""
        layer = self._session.model.layers[row]  # type: ignore[union-attr]
        if column == NAME:
            return layer.name
        if column == SCHEME:
            return self._columns.schemes[row]
        if column == SIZE:
            return self._bytes(row)
        if column in (SQNR, ALONE, SO_FAR) and not (column == SQNR and layer.name in self._failures()):
            value = float(self._decibels(column)[row])
            return "exact" if np.isinf(value) else value
        return None

    def _tip(self, row: int, column: int) -> str | None:
        layer = self._session.model.layers[row]  # type: ignore[union-attr]
        plan = self._session.plan
        problem = plan.problem_of.get(layer.name)
        if column == NAME:
            return text.plain(layer.name) + (f"\n{problem['severity']}: {text.plain(problem['message'])}" if problem else "")
        if column == KIND and layer.guessed:
            return "Guessed from names and shapes: the file has no configuration."
        if column == SCHEME and problem:
            return f"{problem['severity']}: {text.plain(problem['message'])}"
        if column == SCHEME and row < len(plan.rules):
            return f"Because of {text.plain(plan.rules[row])}"
        if column == SIZE:
            return f"{text.exact_bytes(self._bytes(row))}; in the file {text.exact_bytes(layer.nbytes)}"
        if column == SQNR and layer.name in self._failures():
            return text.plain(self._failures()[layer.name])
        if column in (SQNR, ALONE, SO_FAR) and self._stale(row):
            report = self._session.report_of(layer.name)
            return f"Measured with {report.scheme}; the recipe has changed since." if report else None
        return None

    def _color(self, row: int, column: int) -> QColor | None:
        colors = theme.current()
        if column in (SQNR, ALONE, SO_FAR):
            if column == SQNR and self._columns.names[row] in self._failures():
                return QColor(colors.bad)
            return QColor(colors.muted) if self._stale(row) else None
        if column in (NAME, SCHEME) and self._columns.problems[row]:
            return QColor(colors.bad)
        muted = column in (KIND, SHAPE, SIZE) or (column == SCHEME and self._columns.schemes[row] == "keep")
        return QColor(colors.muted) if muted else None

    def _bytes(self, row: int) -> int:
        planned = self._session.plan.nbytes
        return planned[row] if row < len(planned) else self._session.model.layers[row].nbytes  # type: ignore[union-attr]

    def _decibels(self, column: int) -> np.ndarray:
        return {SQNR: self._columns.sqnr, ALONE: self._alone, SO_FAR: self._so_far}[column]

    def _failures(self) -> dict[str, str]:
        run = self._session.shown_run
        return run.failures if run else {}

    def _stale(self, row: int) -> bool:
        """The measurement belongs to another scheme than the recipe now gives this layer."""
        report = self._session.report_of(self._columns.names[row])
        schemes = self._session.plan.schemes
        return report is not None and row < len(schemes) and report.scheme != schemes[row]

    def _reset(self) -> None:
        self.beginResetModel()
        self._fill()
        self._order = self._arranged()
        self.endResetModel()

    def _refresh(self, *_: object) -> None:
        """New values in the same rows; their order changes only if it depends on them."""
        self._fill()
        if self._filter or self._sorted:
            self._rearrange()
        elif len(self._order):
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._order) - 1, len(HEADS) - 1))

    def _fill(self) -> None:
        session = self._session
        layers = session.model.layers if session.model else []
        planned = session.plan.schemes
        reports = session.shown_run.reports if session.shown_run else {}
        sqnr, self._alone, self._so_far = (np.full(len(layers), np.nan) for _ in range(3))
        index = session.model.index if session.model else {}
        for name, report in reports.items():
            if name in index:
                sqnr[index[name]] = np.inf if report.sqnr_db is None else report.sqnr_db
                if report.output:
                    self._alone[index[name]] = np.inf if report.output.alone_db is None else report.output.alone_db
                    if report.output.accumulated_db is not None:
                        self._so_far[index[name]] = report.output.accumulated_db
        unreached = set(session.unreached)
        self._columns = Columns(
            [row.name for row in layers],
            [row.kind for row in layers],
            planned if len(planned) == len(layers) else [row.dtype for row in layers],
            np.fromiter((row.parameters for row in layers), np.int64, len(layers)),
            sqnr,
            np.fromiter((row.name in session.plan.problem_of for row in layers), bool, len(layers)),
            np.fromiter((row.name in unreached for row in layers), bool, len(layers)),
        )

    def _arranged(self) -> np.ndarray:
        visible = np.flatnonzero(matching(self._filter, self._columns))
        if self._sorted is None:
            return visible
        column, order = self._sorted
        keys = self._keys(column)[visible]
        ranked = np.argsort(keys, kind="stable")
        if order == Qt.SortOrder.DescendingOrder:
            ranked = ranked[::-1]
            if keys.dtype.kind == "f":  # what was not measured stays at the end
                ranked = np.concatenate([ranked[~np.isnan(keys[ranked])], ranked[np.isnan(keys[ranked])]])
        return visible[ranked]

    def _keys(self, column: int) -> np.ndarray:
        columns = self._columns
        if column in (SQNR, ALONE, SO_FAR):
            return self._decibels(column)
        if column == SIZE:
            return np.fromiter((self._bytes(i) for i in range(self.total)), np.int64, self.total)
        if column == SHAPE:
            return columns.parameters
        return np.array({NAME: columns.names, KIND: columns.kinds, SCHEME: columns.schemes}[column])

    def _rearrange(self) -> None:
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        held = [int(self._order[i.row()]) if i.row() < len(self._order) else -1 for i in before]
        self._order = self._arranged()
        place = {int(row): at for at, row in enumerate(self._order)} if before else {}
        after = [
            self.index(place[row], i.column()) if row in place else QModelIndex() for i, row in zip(before, held, strict=True)
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()


def _alignment(column: int) -> Qt.AlignmentFlag:
    numeric = column in (SHAPE, SIZE, SQNR, ALONE, SO_FAR)
    side = Qt.AlignmentFlag.AlignRight if numeric else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter
