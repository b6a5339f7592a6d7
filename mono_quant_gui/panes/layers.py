"""The layers pane: filter, table or tree, and what can be done to the selected layers."""

from PySide6.QtCore import QModelIndex, QPoint, Qt, Signal
from PySide6.QtGui import QKeySequence, QResizeEvent, QShortcut
from PySide6.QtWidgets import (
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QMenu,
    QStackedWidget,
    QToolButton,
    QToolTip,
    QWidget,
)

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.filtering import help_text, hint
from mono_quant_gui.models.layer_columns import ALONE, CAUSE, FIGURES, KIND, NAME, SHAPE, SIZE, SO_FAR, STANDARD, columns
from mono_quant_gui.models.layer_data import LayerData
from mono_quant_gui.models.layer_tree import LayerTree
from mono_quant_gui.models.layers import LayersModel
from mono_quant_gui.panes.layer_marks import LayerMarks
from mono_quant_gui.panes.layer_menu import columns_menu, layers_menu
from mono_quant_gui.panes.layer_views import View, make_table, make_tree
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.copying import Copying
from mono_quant_gui.widgets.empty import Empty, no_model
from mono_quant_gui.widgets.parts import Choice, Pane, label

WANTED, ROOM_FOR_NAMES = 150, 110
"""Pixels for names: for so many the shape and the kind give way, and for so many figures too."""
NARROW_FINDING = 128
"""Pixels for how far a layer falls short and, in a word or two, why."""
OPENED = 300
"""A filter that leaves no more layers than this shows them all in the tree."""


class LayersPane(Pane):
    """Selecting a row selects the layer everywhere."""

    open_wanted = Signal()
    save_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(tr("Layers"), parent)
        self._session = session
        self.rows = LayerData(session)
        self.model, self.tree_model = LayersModel(self.rows, session), LayerTree(self.rows, session)
        self.table = make_table(self.model)
        self.tree = make_tree(self.tree_model, self.table)
        self._as_tree = session.settings.flag("layers_tree", False)
        self._chosen = _saved_columns(session.settings.text("layer_columns"))
        self._opened: set[str] = set()
        self.marks = LayerMarks(session, self.table, self.tree, lambda: self.view, self)
        self._copying = Copying(self, session.notice.emit)
        for work in (self._copying, self.marks):
            self.rows.about_to_reset.connect(work.drop)
        self._build()
        for view in (self.table, self.tree):
            self._connect_view(view)
        self._connect(session)
        self.set_tree(self._as_tree)
        self._show_state()

    # -- building ----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.filter = QLineEdit()
        self.filter.setPlaceholderText(hint())
        self.filter.setAccessibleName(tr("Filter layers"))
        self.filter.setToolTip(help_text())
        self.filter.setClearButtonEnabled(True)
        self._help = QToolButton()
        self._help.setText("?")
        self._help.setProperty("kind", "choice")
        self._help.setToolTip(help_text())
        self._help.setAccessibleName(tr("Words of the filter"))
        self._help.clicked.connect(
            lambda: QToolTip.showText(self._help.mapToGlobal(QPoint(0, self._help.height())), help_text(), self._help)
        )
        self._choice = Choice(
            {"flat": (tr("table"), tr("Layers in one table")), "tree": (tr("tree"), tr("Layers by module path"))},
            "tree" if self._as_tree else "flat", lambda key: self.set_tree(key == "tree"),
        )  # fmt: skip
        self._columns_button = QToolButton()
        self._columns_button.setText(tr("columns"))
        self._columns_button.setProperty("kind", "choice")
        self._columns_button.setToolTip(tr("Choose the columns"))
        self._columns_button.clicked.connect(
            lambda: self._exec(self.columns_menu(), self._columns_button.mapToGlobal(QPoint(0, self._columns_button.height())))
        )
        self.problem = label("", "problem")
        self.problem.setWordWrap(True)
        self.problem.hide()
        self._stack = QStackedWidget()
        empty = no_model(self.open_wanted.emit)
        nothing = Empty(tr("No layer matches the filter."), (tr("Show all"), self.filter.clear))
        for page in (empty, self.table, self.tree, nothing):
            self._stack.addWidget(page)
        line = QHBoxLayout()
        line.setContentsMargins(12, 0, 12, 0)
        line.setSpacing(4)
        for widget in (self.filter, self._help):
            line.addWidget(widget)
        self.head.addWidget(self._choice)
        self.head.addWidget(self._columns_button)
        self.body.addLayout(line)
        told = QHBoxLayout()
        told.setContentsMargins(12, 0, 12, 0)
        told.addWidget(self.problem)
        self.body.addLayout(told)
        self.body.addWidget(self._stack, 1)
        self.body.setContentsMargins(0, 8, 0, 0)
        self.head.setContentsMargins(12, 0, 12, 0)

    def _connect_view(self, view: View) -> None:
        view.customContextMenuRequested.connect(lambda place, view=view: self._menu(view, place))
        header = _header(view)
        header.customContextMenuRequested.connect(lambda place: self._exec(self.columns_menu(), header.mapToGlobal(place)))
        copy = QShortcut(QKeySequence.StandardKey.Copy, view)
        copy.setContext(Qt.ShortcutContext.WidgetShortcut)
        copy.activated.connect(self.copy_rows)
        for keys in ("Shift+F10", "Menu"):
            menu = QShortcut(QKeySequence(keys), view)
            menu.setContext(Qt.ShortcutContext.WidgetShortcut)
            menu.activated.connect(self.open_menu)

    def _connect(self, session: Session) -> None:
        self.filter.textChanged.connect(self.rows.set_filter)
        self.rows.filter_problem.connect(self._filter_problem)
        self.rows.reset.connect(self._model_reset)
        self.rows.about_to_arrange.connect(self.marks.before_arranging)
        self.rows.arranged.connect(self._arranged)
        self.rows.changed.connect(self.tree.viewport().update)
        self.tree.expanded.connect(lambda index: self._opened.add(self.tree_model.prefix_of(index)))
        self.tree.collapsed.connect(lambda index: self._opened.discard(self.tree_model.prefix_of(index)))
        self.tree_model.modelReset.connect(self._reopen)
        for changed in (session.runs_changed, session.run_layers, session.surveying.causes_changed):
            changed.connect(self._fit_columns)

    # -- columns -----------------------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_columns()

    def columns_menu(self) -> QMenu:
        """Which columns are shown."""
        return columns_menu(
            self, lambda place: not self.table.isColumnHidden(place), self.show_column, self.show_standard_columns
        )

    def show_column(self, place: int, on: bool = True) -> None:
        """Show or hide a column from now on."""
        shown = {n for n in range(len(columns())) if not self.table.isColumnHidden(n)}
        self._chosen = (shown | {place}) if on else shown - {place}
        self._remember_columns()

    def show_standard_columns(self) -> None:
        """Those that fit, and those of outputs and findings where there are any."""
        self._chosen = None
        self._remember_columns()

    def _remember_columns(self) -> None:
        names = columns()
        words = ",".join(names[place].key for place in sorted(self._chosen)) if self._chosen else ""
        self._session.settings.set_text("layer_columns", words)
        self._fit_columns()

    def _fit_columns(self, *_: object) -> None:
        """Outputs and findings have columns where there are any; others give way where names would get no room."""
        shown = set(STANDARD) if self._chosen is None else self._chosen | {NAME}
        if self._chosen is None:
            run = self._session.shown_run
            shown |= {ALONE, SO_FAR} if run and run.has_outputs else set()
            shown |= {CAUSE} if self._session.surveying.causes else set()
            for place, room in ((SHAPE, WANTED), (KIND, WANTED), *((n, ROOM_FOR_NAMES) for n in (SIZE, SO_FAR, ALONE))):
                if self._room_for_names(shown) < theme.px(room):
                    shown.discard(place)
                if place == SIZE:
                    self._narrow_finding(shown)
        for view in (self.table, self.tree):
            header = _header(view)
            for place in range(len(columns())):
                if view.isColumnHidden(place) == (place in shown):
                    view.setColumnHidden(place, place not in shown)
            room = self._room_for_names(shown)
            header.setSectionResizeMode(
                NAME, QHeaderView.ResizeMode.Stretch if room >= theme.px(ROOM_FOR_NAMES) else QHeaderView.ResizeMode.Interactive
            )
            if room < theme.px(ROOM_FOR_NAMES):
                header.resizeSection(NAME, theme.px(columns()[NAME].width))
        self._session.surveying.want_all(bool(shown & set(FIGURES)))

    def _narrow_finding(self, shown: set[int]) -> None:
        """Before a column of outputs goes, findings get less room, where the user has not chosen how much."""
        header, wide = _header(self.view), theme.px(columns()[CAUSE].width)
        narrow = theme.px(NARROW_FINDING)
        if CAUSE not in shown or (header.sectionSize(CAUSE) or wide) not in (wide, narrow):
            return
        self.view.setColumnHidden(CAUSE, False)  # a hidden one has no size
        header.resizeSection(CAUSE, wide)
        if shown & {ALONE, SO_FAR} and self._room_for_names(shown) < theme.px(ROOM_FOR_NAMES):
            header.resizeSection(CAUSE, narrow)

    def _room_for_names(self, shown: set[int]) -> int:
        header = _header(self.view)
        others = sum(header.sectionSize(n) or theme.px(columns()[n].width) for n in shown if n != NAME)
        return self.width() - self.table.verticalScrollBar().sizeHint().width() - others

    # -- table and tree ----------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """The one of both that is shown."""
        return self.tree if self._as_tree else self.table

    def set_tree(self, tree: bool) -> None:
        """Show layers by module path, or in one table."""
        self._as_tree = tree
        self._choice.choose("tree" if tree else "flat")
        self._session.settings.set_flag("layers_tree", tree)
        self.tree_model.set_wanted(tree)
        self._fit_columns()
        self._show_state()
        self.marks.follow_set()
        self.marks.follow_current()

    def _reopen(self) -> None:
        """What was open before the rows were put in another order."""
        if not self._as_tree:
            return
        if self.rows.filtered and self.tree_model.node(QModelIndex()) and len(self.rows.order) <= OPENED:
            opened = set(self._opened)
            self.tree.expandAll()
            self._opened = opened  # the filter opened them, not the user
        else:
            for prefix in sorted(self._opened, key=len):
                index = self.tree_model.find(prefix)
                if index.isValid():
                    self.tree.setExpanded(index, True)
            if self.tree_model.rowCount() == 1:
                self.tree.setExpanded(self.tree_model.index(0, 0), True)
        self.marks.follow_set()
        self.marks.follow_current()

    # -- what is shown -----------------------------------------------------------------------------------------

    def _model_reset(self) -> None:
        self._opened.clear()
        self._show_state()
        self.view.scrollToTop()

    def _arranged(self) -> None:
        self._show_state()
        self.marks.after_arranging()

    def _filter_problem(self, words: str) -> None:
        self.problem.setText(text.plain(words))
        self.problem.setVisible(bool(words))

    def _show_state(self) -> None:
        model, shown, total = self._session.model, len(self.rows.order), self.rows.total
        self.filter.setEnabled(model is not None)
        self._choice.setEnabled(model is not None)
        if model is None:
            self._stack.setCurrentIndex(0)
            self.note.set_text("")
            return
        self._stack.setCurrentWidget(self.view) if shown or not total else self._stack.setCurrentIndex(3)
        words = tr("{shown} of {total} tensors") if shown != total else tr("{total} tensors")
        of = words.format(shown=f"{shown:,}", total=f"{total:,}")
        self.note.set_text(f"{of} · {text.size(model.nbytes)}", text.exact_bytes(model.nbytes))

    def focus_filter(self) -> None:
        self.filter.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.filter.selectAll()

    # -- selecting ---------------------------------------------------------------------------------------------

    def selected_names(self) -> list[str]:
        """Layers of the selected rows; a module stands for all of its layers."""
        return self.marks.names()

    # -- what can be done --------------------------------------------------------------------------------------

    def copy_rows(self) -> None:
        """The selected rows as tab-separated text, in the columns shown; many of them in turns of the event loop."""
        header, view = _header(self.view), self.view
        places = [n for n in map(header.logicalIndex, range(header.count())) if not view.isColumnHidden(n)]
        if self._as_tree:
            indexes = sorted(view.selectionModel().selectedRows(), key=lambda index: view.visualRect(index).top())
            lines = ("\t".join(str(index.siblingAtColumn(n).data() or "") for n in places) for index in indexes)
            self._copying.copy(lines, len(indexes))
        else:
            rows = self.marks.rows()
            self._copying.copy((self.model.words_at(row, places) for row in rows), len(rows))

    def open_menu(self) -> None:
        """The menu of the selected layers, by keyboard."""
        place = self.view.visualRect(self.view.currentIndex()).bottomLeft()
        self._menu(self.view, place if self.view.viewport().rect().contains(place) else QPoint(8, 8))

    def _menu(self, view: View, place: QPoint) -> None:
        names = self.selected_names()
        if names:
            self._exec(self.context_menu(names), view.viewport().mapToGlobal(place))

    def _exec(self, menu: QMenu, place: QPoint) -> None:
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(place)

    def context_menu(self, names: list[str]) -> QMenu:
        """What can be done to these layers."""
        return layers_menu(self, self._session, names, self.copy_rows, self.save_wanted.emit)

    # -- remembering -------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        """Widths and order of the columns."""
        for view, key in ((self.table, "layer_table"), (self.tree, "layer_tree")):
            self._session.settings.set_state(key, _header(view).saveState())

    def restore_state(self) -> None:
        for view, key in ((self.table, "layer_table"), (self.tree, "layer_tree")):
            state = self._session.settings.state(key)
            if state is not None:
                _header(view).restoreState(state)
        self._fit_columns()


def _header(view: View) -> QHeaderView:
    return view.header() if hasattr(view, "header") else view.horizontalHeader()  # type: ignore[union-attr]


def _saved_columns(words: str) -> set[int] | None:
    """What was chosen; None for the standard columns."""
    places = {column.key: place for place, column in enumerate(columns())}
    found = {places[word] for word in words.split(",") if word in places}
    return found or None
