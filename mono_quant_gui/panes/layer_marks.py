"""Which rows of the layers' two views are marked, kept together with the layers that the session has selected."""

from collections.abc import Callable, Iterator, Sequence

from PySide6.QtCore import QItemSelection, QItemSelectionModel, QModelIndex, QObject

from mono_quant_gui.models.layer_columns import NAME, columns
from mono_quant_gui.models.layer_tree import LayerTree
from mono_quant_gui.models.layers import LayersModel
from mono_quant_gui.panes.layer_views import View
from mono_quant_gui.session import Session
from mono_quant_gui.turns import Turns

CARRIED = 200
"""Selected rows that Qt may carry along to another order."""
MOST_RUNS = 300
"""Runs of rows that are selected in the view; Qt asks all of them for every cell it paints. More are painted as selected."""
PIECE = 100
"""Of these, so many at a time."""
Flag = QItemSelectionModel.SelectionFlag


class LayerMarks(QObject):
    """``shown`` gives the view that is in sight: the table or the tree."""

    def __init__(
        self, session: Session, table: View, tree: View, shown: Callable[[], View], parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._session, self._table, self._tree, self._shown = session, table, tree, shown
        self._following = self._cleared = False
        self._partly = False
        """Whether more was picked elsewhere than the view has selected; the rest is painted like it."""
        self._marking = Turns(self)
        for view in (table, tree):
            selection = view.selectionModel()
            selection.selectionChanged.connect(lambda *_, view=view: self._changed(view))
            selection.currentRowChanged.connect(lambda current, _, view=view: self._moved(view, current))
        session.selection_changed.connect(self.follow_current)
        session.selection_set_changed.connect(self.follow_set)

    # -- what is marked ------------------------------------------------------------------------------------------------

    @property
    def _model(self) -> LayersModel:
        return self._table.model()  # type: ignore[return-value]

    @property
    def _nodes(self) -> LayerTree:
        return self._tree.model()  # type: ignore[return-value]

    @property
    def _as_tree(self) -> bool:
        return self._shown() is self._tree

    def names(self) -> list[str]:
        """Layers of the selected rows; a module stands for all of its layers. All that were picked, where not all are marked."""
        if self._partly:
            return list(self._session.selection)
        if not self._as_tree:
            return self._model.names_of(self.ranges())
        found: dict[str, None] = {}
        for index in self._tree.selectionModel().selectedRows():
            found.update(dict.fromkeys(self._nodes.names_at(index)))
        return list(found)

    def rows(self) -> list[int]:
        """Selected rows of the table in file order of the file's rows, as they stand in sight."""
        return self._model.rows_of(self._session.selection) if self._partly else self._model.rows_in(self.ranges()).tolist()

    def ranges(self) -> list[tuple[int, int]]:
        """Runs of selected rows (first, last) of the table."""
        return [(part.top(), part.bottom()) for part in self._table.selectionModel().selection().toList()]

    # -- what the user does --------------------------------------------------------------------------------------------

    def _changed(self, view: View) -> None:
        if view is self._shown() and not self._following:
            self._marking.drop()
            self._paint_others(())
            self._following = True
            self._session.set_selection(self.names())
            self._following = False

    def _moved(self, view: View, current: QModelIndex) -> None:
        if not current.isValid() or view is not self._shown() or self._following:
            return
        name = self._nodes.layer_at(current) if self._as_tree else self._model.name_at(current.row())
        if name:
            self._session.select(name)
            if not view.selectionModel().hasSelection():  # focus alone made it current
                view.selectionModel().select(current, Flag.Select | Flag.Rows)

    # -- what is picked elsewhere --------------------------------------------------------------------------------------

    def follow_current(self) -> None:
        """Show the layer that was selected elsewhere."""
        view, name = self._shown(), self._session.selected
        if self._as_tree:
            index = self._nodes.find(name)
        else:
            row = self._model.row_of(name)
            index = QModelIndex() if row is None else self._model.index(row, NAME)
        selection = view.selectionModel()
        if not index.isValid() or self._partly or self._marking.busy or selection.isRowSelected(index.row(), index.parent()):
            return
        self._following = True
        selection.setCurrentIndex(index, Flag.ClearAndSelect | Flag.Rows)
        self._following = False
        view.scrollTo(index)
        self._session.set_selection(self.names())

    def follow_set(self) -> None:
        """Mark the layers that were picked elsewhere, in a plot or by a rule."""
        names = self._session.selection
        if self._following or not names:
            return
        self._paint_others(())
        same = set(self.names()) == set(names) if self._as_tree else self._model.holds(self.ranges(), names)
        if not same:
            self._mark(names)

    def _mark(self, names: Sequence[str]) -> None:
        last_column = len(columns()) - 1
        if self._as_tree:
            indexes = [index for index in map(self._nodes.find, names[:MOST_RUNS]) if index.isValid()]
            spans = [(index, index.siblingAtColumn(last_column)) for index in indexes]
            several = len(names) > MOST_RUNS
        else:
            runs = self._model.runs_of(names)
            spans = [(self._model.index(first, 0), self._model.index(last, last_column)) for first, last in runs[:MOST_RUNS]]
            several = len(runs) > MOST_RUNS
        self._paint_others(names if several else ())
        self._marking.start(self._mark_spans(spans), at_once=len(spans) <= PIECE)

    def _paint_others(self, names: Sequence[str]) -> None:
        """Rows that are selected in the session and not in the view."""
        self._partly = bool(names)
        if self._model.paint_marked(names):
            self._shown().viewport().update()

    def _mark_spans(self, spans: Sequence[tuple[QModelIndex, QModelIndex]]) -> Iterator[None]:
        """Qt takes a tenth of a second for two thousand: piece by piece, with the window answering in between."""
        view = self._shown()
        for start in range(0, max(len(spans), 1), PIECE):
            wanted = QItemSelection()
            for first, last in spans[start : start + PIECE]:
                wanted.select(first, last)
            self._following = True
            view.selectionModel().select(wanted, Flag.Rows | (Flag.Select if start else Flag.ClearAndSelect))
            if not start and not wanted.isEmpty():
                view.scrollTo(wanted.at(0).topLeft())
            self._following = False
            if start + PIECE < len(spans):
                yield

    # -- another order -------------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Forget rows that are gone."""
        self._marking.drop()
        self._paint_others(())
        self._cleared = False

    def before_arranging(self) -> None:
        """Qt carries every selected cell along, one by one: a large selection is made anew instead."""
        self._marking.drop()
        selection = self._table.selectionModel()
        self._cleared = sum(part.height() for part in selection.selection().toList()) > CARRIED
        if self._cleared:
            self._following = True
            selection.clearSelection()
            self._following = False

    def after_arranging(self) -> None:
        """Mark again what was taken off."""
        if self._cleared and not self._as_tree:
            self._mark(self._session.selection)
        self.follow_current()
