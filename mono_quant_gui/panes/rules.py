"""The list of rules: two lines for each of the recipe's own, moved by dragging or Alt+Up and Alt+Down."""

from collections.abc import Callable

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QKeySequence, QPainter, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHBoxLayout,
    QListView,
    QMenu,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.rules import EFFECT, IDLE, SCHEME, SOURCE, RulesModel
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import ElidedLabel, label

TALL, LOW = 42, 25
"""Height of an own rule, with what it comes to on a line of its own, and of the others."""
MOST = 420
"""Beyond this height the list scrolls by itself."""


class RulesBox(QWidget):
    """Rules with their buttons. ``rule_wanted`` asks for a dialog, with the row of the rule to change or None for a new one."""

    rule_wanted = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.model = RulesModel(session)
        self.view = self._make_view()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(self._make_head())
        column.addWidget(self.view)
        for signal in (self.model.rowsInserted, self.model.rowsRemoved, self.model.modelReset, self.model.rowsMoved):
            signal.connect(self._changed)
        self._changed()

    # -- building ----------------------------------------------------------------------------------------------

    def _make_head(self) -> QHBoxLayout:
        line = QHBoxLayout()
        line.setSpacing(4)
        line.addWidget(label(tr("RULES"), "head"))
        line.addWidget(ElidedLabel(tr("first wins"), "muted", Qt.TextElideMode.ElideRight), 1)
        self.buttons: dict[str, QToolButton] = {}
        actions = (
            ("add", tr("Add a rule…"), lambda: self.rule_wanted.emit(None)),
            ("remove", tr("Remove the selected rule (Del)"), self.remove),
            ("up", tr("Move the rule up (Alt+Up, or drag it)"), lambda: self.move_by(-1)),
            ("down", tr("Move the rule down (Alt+Down, or drag it)"), lambda: self.move_by(1)),
        )
        for name, tip, slot in actions:
            button = QToolButton()
            button.setProperty("kind", "icon")
            button.setToolTip(tip)
            button.setAccessibleName(tip)
            button.clicked.connect(slot)
            self.buttons[name] = button
            line.addWidget(button)
        self.refresh_icons()
        return line

    def refresh_icons(self) -> None:
        """Draw the buttons in the current theme's colours."""
        for name, button in self.buttons.items():
            button.setIcon(theme.icon(name))

    def _make_view(self) -> QListView:
        view = QListView()
        view.setAccessibleName(tr("Rules"))
        view.setModel(self.model)
        view.setItemDelegate(RuleDelegate(view))
        view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        view.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        view.setDefaultDropAction(Qt.DropAction.MoveAction)
        view.setDropIndicatorShown(True)
        view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        view.customContextMenuRequested.connect(self._menu)
        view.clicked.connect(lambda index: self.select_layers(index.row()))
        view.activated.connect(lambda index: self.edit(index.row()))
        view.selectionModel().selectionChanged.connect(self._enable_buttons)
        for keys, slot in (
            ("Alt+Up", lambda: self.move_by(-1)),
            ("Alt+Down", lambda: self.move_by(1)),
            ("Del", self.remove),
            ("Space", lambda: self.select_layers(self.row)),
        ):
            shortcut = QShortcut(QKeySequence(keys), view)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(slot)
        return view

    # -- what is done to rules ---------------------------------------------------------------------------------

    @property
    def row(self) -> int:
        """The selected row, or -1."""
        rows = self.view.selectionModel().selectedRows()
        return rows[0].row() if rows else -1

    def select_row(self, row: int) -> None:
        self.view.setCurrentIndex(self.model.index(row))

    def edit(self, row: int) -> None:
        if self.model.is_own(row):
            self.rule_wanted.emit(row)

    def remove(self) -> None:
        self.model.remove(self.row)

    def move_by(self, by: int) -> None:
        """The selected rule up or down; the selection goes with it."""
        self.model.move(self.row, self.row + by)
        self._enable_buttons()

    def select_layers(self, row: int) -> None:
        """Select in the table what a rule decides, or say why there is nothing."""
        if self._session.model is None or not 0 <= row < self.model.rowCount():
            return
        names = self.model.layers(row)
        if names:
            self._session.select(names[0])
            self._session.set_selection(names)
        else:
            index = self.model.index(row)
            known = index.data(EFFECT)
            self._session.notice.emit(f"{index.data()}: {known}" if known else tr("The plan is being made."))

    def context_menu(self, row: int) -> QMenu:
        """What can be done to one row."""
        menu = QMenu(self)
        own = self.model.is_own(row)
        effect = self.model.effect(row)
        entries: tuple[tuple[str, Callable[[], object], bool] | None, ...] = (
            (tr("Select its layers"), lambda: self.select_layers(row), bool(effect and effect.decides)),
            None,
            (tr("Change…"), lambda: self.edit(row), own),
            (tr("Duplicate"), lambda: self.model.duplicate(row), own),
            (tr("Move up"), lambda: self.model.move(row, row - 1), own and row > 0),
            (tr("Move down"), lambda: self.model.move(row, row + 1), own and row < self.model.own - 1),
            None,
            (tr("Remove"), lambda: self.model.remove(row), own),
        )
        for entry in entries:
            if entry is None:
                menu.addSeparator()
                continue
            words, slot, can = entry
            action = menu.addAction(words)
            action.triggered.connect(lambda _=False, slot=slot: slot())
            action.setEnabled(can)
        return menu

    def _menu(self, place: QPoint) -> None:
        index = self.view.indexAt(place)
        if index.isValid():
            menu = self.context_menu(index.row())
            menu.exec(self.view.viewport().mapToGlobal(place))
            menu.deleteLater()

    def _changed(self, *_: object) -> None:
        """As high as its rows, up to a point."""
        own, count = self.model.own, self.model.rowCount()
        self.view.setFixedHeight(min(theme.px(own * TALL + (count - own) * LOW) + 2, theme.px(MOST)))
        self._enable_buttons()

    def _enable_buttons(self, *_: object) -> None:
        row, own = self.row, self.model.is_own(self.row)
        self.buttons["remove"].setEnabled(own)
        self.buttons["up"].setEnabled(own and row > 0)
        self.buttons["down"].setEnabled(own and row < self.model.own - 1)


class RuleDelegate(QStyledItemDelegate):
    """Which layers on the left and their scheme on the right; of own rules, what they come to below."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(80, theme.px(TALL if index.data(SOURCE) == "own" else LOW))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        bare = QStyleOptionViewItem(option)
        self.initStyleOption(bare, index)
        bare.text = ""
        style = option.widget.style() if option.widget else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, bare, painter, option.widget)
        colors = theme.current()
        area: QRect = option.rect.adjusted(4, 0, -4, 0)
        painter.save()
        if index.data(SOURCE) == "own":
            half = area.height() // 2
            top, below = area.adjusted(0, 3, 0, -half), area.adjusted(0, half, 0, -3)
            name = f"{index.row() + 1}  {index.data()}"
            self._line(painter, top, option, (name, colors.text, True), (index.data(SCHEME), colors.accent))
            mark = colors.bad if index.data(IDLE) else colors.muted
            self._line(painter, below, option, ("    " + index.data(EFFECT), mark, False), ("", colors.muted))
        else:
            self._line(painter, area, option, (index.data(), colors.muted, False), (index.data(EFFECT), colors.muted))
        painter.restore()

    def _line(
        self, painter: QPainter, area: QRect, option: QStyleOptionViewItem, left: tuple[str, str, bool], right: tuple[str, str]
    ) -> None:
        """Words on the left, elided in front of those on the right. ``left``: words, colour, whether they are a layer's name."""
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.setFont(option.font)
        words = QFontMetrics(option.font).elidedText(right[0], Qt.TextElideMode.ElideRight, area.width() // 2)
        painter.setPen(QColor(right[1]))
        painter.drawText(area, Qt.AlignmentFlag.AlignRight | middle, words)
        taken = QFontMetrics(option.font).horizontalAdvance(words) + 8 if words else 0
        font = theme.monospace() if left[2] else option.font
        painter.setFont(font)
        painter.setPen(QColor(left[1]))
        room = area.adjusted(0, 0, -taken, 0)
        mode = Qt.TextElideMode.ElideMiddle if left[2] else Qt.TextElideMode.ElideRight
        painter.drawText(room, Qt.AlignmentFlag.AlignLeft | middle, QFontMetrics(font).elidedText(left[0], mode, room.width()))
