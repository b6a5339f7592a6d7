"""The layers pane: filter, table, and what can be done to the selected layers."""

from collections.abc import Callable

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QPersistentModelIndex, QPoint, QRect, Qt, Signal
from PySide6.QtGui import QColor, QGuiApplication, QKeySequence, QPainter, QResizeEvent, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QMenu,
    QPushButton,
    QStackedWidget,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.filtering import HINT
from mono_quant_gui.models.layers import ALONE, KIND, LOW_SQNR_DB, NAME, SHAPE, SO_FAR, SQNR, SQNR_ROLE, LayersModel
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import Pane, label

ROOM_FOR_NAMES = 150
FULL_BAR_DB = 50.0
QUICK_SCHEMES = (
    "int4:g128", "int4:g64", "int4:g32", "int8:channel", "int8:channel:asym", "fp8_e4m3:channel", "mxfp4", "nvfp4", "nf4:g64",
    "fp16", "bf16", "keep",
)  # fmt: skip


class LayersPane(Pane):
    """Selecting a row selects the layer everywhere."""

    open_wanted = Signal()
    save_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Layers", parent)
        self._session = session
        self.model = LayersModel(session)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText(HINT)
        self.filter.setAccessibleName("Filter layers")
        self.filter.setToolTip(f"{HINT}; unreached: layers that calibration data never reached")
        self.filter.setClearButtonEnabled(True)
        self.filter.textChanged.connect(self._filter_changed)
        self.table = self._make_table()
        self._stack = QStackedWidget()
        self._stack.addWidget(self._make_empty())
        self._stack.addWidget(self.table)
        self._nothing = label("No layer matches the filter.", "empty")
        self._nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._stack.addWidget(self._nothing)
        line = QHBoxLayout()
        line.setContentsMargins(12, 0, 12, 0)
        line.addWidget(self.filter)
        self.body.addLayout(line)
        self.body.addWidget(self._stack, 1)
        self.body.setContentsMargins(0, 10, 0, 0)
        self.head.setContentsMargins(12, 0, 12, 0)
        session.model_changed.connect(self._model_changed)
        session.selection_changed.connect(self._follow_selection)
        session.runs_changed.connect(self._fit_columns)
        session.run_layers.connect(self._outputs_measured)
        self._outputs = False
        self._model_changed()
        self._fit_columns()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_columns()

    def _outputs_measured(self, *_: object) -> None:
        run = self._session.shown_run
        if run and run.has_outputs != self._outputs:
            self._fit_columns()

    def _fit_columns(self) -> None:
        """Outputs have columns where they were measured; kind and shape give way to them where names would get no room."""
        run = self._session.shown_run
        self._outputs = bool(run and run.has_outputs)
        for column in (ALONE, SO_FAR):
            self.table.setColumnHidden(column, not self._outputs)
        for column in (KIND, SHAPE):
            self.table.setColumnHidden(column, False)
        for column in (KIND, SHAPE):
            if not self._outputs or self._room_for_names() >= ROOM_FOR_NAMES:
                break
            self.table.setColumnHidden(column, True)

    def _room_for_names(self) -> int:
        shown = [c for c in range(self.model.columnCount()) if c != NAME and not self.table.isColumnHidden(c)]
        return self.width() - self.table.verticalScrollBar().sizeHint().width() - sum(map(self.table.columnWidth, shown))

    def focus_filter(self) -> None:
        self.filter.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.filter.selectAll()

    def selected_names(self) -> list[str]:
        rows = sorted(index.row() for index in self.table.selectionModel().selectedRows())
        return [name for name in map(self.model.name_at, rows) if name]

    def _make_table(self) -> QTableView:
        table = QTableView()
        table.setModel(self.model)
        table.setAccessibleName("Layers")
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setTextElideMode(Qt.TextElideMode.ElideRight)
        table.setItemDelegateForColumn(NAME, NameDelegate(table))
        table.setTabKeyNavigation(False)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(25)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for column, width in enumerate((200, 80, 86, 86, 72, 74, 58, 70)):
            table.setColumnWidth(column, width)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(48)
        table.setSortingEnabled(True)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        table.setItemDelegateForColumn(SQNR, SqnrDelegate(table))
        table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        table.customContextMenuRequested.connect(self._menu)
        table.selectionModel().currentRowChanged.connect(self._row_changed)
        copy = QShortcut(QKeySequence.StandardKey.Copy, table)
        copy.setContext(Qt.ShortcutContext.WidgetShortcut)
        copy.activated.connect(self.copy_rows)
        return table

    def _make_empty(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        words = label("Open a model to see every layer,\nor drop a file or folder here.", "empty")
        words.setAlignment(Qt.AlignmentFlag.AlignCenter)
        button = QPushButton("Open…")
        button.clicked.connect(self.open_wanted)
        column.addStretch()
        column.addWidget(words)
        column.addWidget(button, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch()
        return page

    def _model_changed(self) -> None:
        model = self._session.model
        self.filter.setEnabled(model is not None)
        self._show_counts()
        if model:
            self.table.scrollToTop()

    def _filter_changed(self, wanted: str) -> None:
        self.model.set_filter(wanted)
        self._show_counts()
        self._follow_selection()

    def _show_counts(self) -> None:
        model = self._session.model
        shown = self.model.rowCount()
        if model is None:
            self._stack.setCurrentIndex(0)
            self.note.set_text("")
            return
        self._stack.setCurrentIndex(1 if shown else 2)
        of = f"{shown:,} of {self.model.total:,} tensors" if shown != self.model.total else f"{shown:,} tensors"
        self.note.set_text(f"{of} · {text.count(model.parameters)} parameters · {text.size(model.nbytes)}")

    def _row_changed(self, current: QModelIndex, _before: QModelIndex) -> None:
        name = self.model.name_at(current.row()) if current.isValid() else None
        if name:
            self._session.select(name)
            if not self.table.selectionModel().hasSelection():  # focus alone made it current
                self.table.selectRow(current.row())

    def _follow_selection(self) -> None:
        row = self.model.row_of(self._session.selected)
        if row is None or self.table.selectionModel().isRowSelected(row):
            return
        index = self.model.index(row, 0)
        flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
        self.table.selectionModel().setCurrentIndex(index, flags)
        self.table.scrollTo(index)

    def copy_rows(self) -> None:
        """The selected rows as tab-separated text."""
        rows = sorted(index.row() for index in self.table.selectionModel().selectedRows())
        lines = ["\t".join(str(self.model.index(row, c).data() or "") for c in range(self.model.columnCount())) for row in rows]
        QGuiApplication.clipboard().setText("\n".join(lines))

    def _menu(self, place: QPoint) -> None:
        names = self.selected_names()
        if names:
            menu = self.context_menu(names)
            menu.exec(self.table.viewport().mapToGlobal(place))
            menu.deleteLater()

    def context_menu(self, names: list[str]) -> QMenu:
        """What can be done to these layers."""
        session = self._session
        menu = QMenu(self)
        what = "this layer" if len(names) == 1 else f"{len(names)} layers"
        schemes = menu.addMenu(f"Scheme of {what}")
        for scheme in QUICK_SCHEMES:
            schemes.addAction(scheme, _assign(session, names, scheme))
        clear = menu.addAction("Remove rules made for it" if len(names) == 1 else "Remove rules made for them")
        clear.setEnabled(session.mending.has_rules(names))
        clear.triggered.connect(lambda: session.mending.unassign(names))
        menu.addSeparator()
        menu.addAction("Copy rows", self.copy_rows)
        menu.addAction(tr("Save as CSV…"), self.save_wanted.emit)
        menu.addAction("Copy names", lambda: QGuiApplication.clipboard().setText("\n".join(names)))
        return menu


def _assign(session: Session, names: list[str], scheme: str) -> Callable[[], None]:
    return lambda: session.mending.assign(names, scheme)


class NameDelegate(QStyledItemDelegate):
    """Gives way on the left: the end of a name tells layers apart."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().initStyleOption(option, index)
        option.textElideMode = Qt.TextElideMode.ElideLeft  # type: ignore[attr-defined]


class SqnrDelegate(QStyledItemDelegate):
    """A number and a short bar; hurt layers in their own colour, and the number says so too."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        value = index.data(SQNR_ROLE)
        if value is None:
            super().paint(painter, option, index)
            return
        bare = QStyleOptionViewItem(option)
        self.initStyleOption(bare, index)
        bare.text = ""
        style = option.widget.style() if option.widget else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, bare, painter, option.widget)
        colors = theme.current()
        area: QRect = option.rect.adjusted(6, 0, -8, 0)
        bar = min(34, area.width() // 3)
        painter.save()
        painter.setPen(index.data(Qt.ItemDataRole.ForegroundRole) or QColor(colors.text))
        painter.drawText(
            area.adjusted(0, 0, -bar - 6, 0), Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, index.data() or ""
        )
        length = round(bar * min(max(value, 0) / FULL_BAR_DB, 1))
        low = value < LOW_SQNR_DB
        painter.fillRect(
            area.right() - bar, area.center().y() - 3, max(length, 2), 7, QColor(colors.bad if low else colors.quantized)
        )
        painter.restore()
