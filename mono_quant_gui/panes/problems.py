"""What is wrong with a plan, in a list that takes no more room than it needs; a click selects the layers."""

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QListView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui.i18n import tr
from mono_quant_gui.models.problems import ProblemsModel
from mono_quant_gui.session import Session

MOST = 108
"""Beyond this height the list scrolls."""
EDGES = QSize(14, 6)
"""What a style puts around the words of an item."""


class ProblemList(QFrame):
    """Framed in the colour of the severest problem; hidden when there is none."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.setObjectName("problems")
        self.model = ProblemsModel(session)
        view = self.view = QListView()
        view.setAccessibleName(tr("Problems"))
        view.setModel(self.model)
        view.setItemDelegate(WrappingDelegate(view))
        view.setWordWrap(True)
        view.setResizeMode(QListView.ResizeMode.Adjust)
        view.setTextElideMode(Qt.TextElideMode.ElideNone)
        view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        view.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.clicked.connect(self.select_layers)
        view.activated.connect(self.select_layers)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(view)
        self.model.modelReset.connect(self._show)
        self._show()

    def text(self) -> str:
        """Everything listed, a line for each."""
        return "\n".join(str(self.model.index(row).data()) for row in range(self.model.rowCount()))

    def select_layers(self, index: QModelIndex) -> None:
        """Select in the table what a problem is about."""
        names = self.model.layers(index.row())
        if names:
            self._session.select(names[0])
            self._session.set_selection(names)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _show(self) -> None:
        self.setVisible(bool(self.model.worst))
        if self.property("severity") != self.model.worst:
            self.setProperty("severity", self.model.worst)
            self.style().polish(self)
        self._fit()

    def _fit(self) -> None:
        """As high as the words, wrapped at this width, up to a point."""
        words = [str(self.model.index(row).data()) for row in range(min(self.model.rowCount(), MOST // 16))]
        width = self.view.width()
        height = sum(wrapped(self.view, line, width).height() for line in words)
        self.view.setFixedHeight(min(height, MOST))
        self.view.scheduleDelayedItemsLayout()


class WrappingDelegate(QStyledItemDelegate):
    """Items as high as their words wrapped at the width that the view has."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        view = self.parent()
        assert isinstance(view, QListView)
        return wrapped(view, str(index.data()), view.viewport().width())


def wrapped(view: QListView, words: str, width: int) -> QSize:
    """The size of an item's words at a width."""
    flags = int(Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignLeft)
    inside = QRect(0, 0, max(width - EDGES.width(), 40), 10_000)
    return QSize(width - 2, view.fontMetrics().boundingRect(inside, flags, words).height() + EDGES.height())
