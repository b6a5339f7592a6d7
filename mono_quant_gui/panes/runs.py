"""The runs pane: what waits and runs, what ran and what came of it."""

from collections.abc import Callable, Sequence

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QPoint, Qt, Signal
from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QMenu,
    QStackedWidget,
    QToolButton,
    QTreeView,
    QWidget,
)

import engine
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.runs import ACTION, ACTION_KEY, NAME, RESULT, SIZE, SQNR, STAR, TIME, WHEN, RunsModel
from mono_quant_gui.panes.calibration_line import CalibrationLine
from mono_quant_gui.panes.run_rows import RunDelegate
from mono_quant_gui.run import Run
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.empty import Empty
from mono_quant_gui.widgets.parts import Pane
from mono_quant_gui.widgets.strip import Strip

MANY = 20
"""Parents that are opened one by one; more are opened all at once."""
CARRIED = 200
"""Selected rows that Qt may carry along to another order."""
MOST_SPANS = 3000
"""Runs of selected rows that are picked up again."""
WIDTHS = {STAR: 24, SQNR: 78, SIZE: 80, TIME: 60, WHEN: 76, ACTION: 96}


class RunsPane(Pane):
    """One row a run, newest first; picking one shows what it measured and its recipe."""

    open_wanted = Signal()
    export_wanted = Signal(object)
    report_wanted = Signal(object)
    compare_wanted = Signal(list)
    delete_wanted = Signal(list)
    details_wanted = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(tr("Runs"), parent)
        self._session = session
        self.model = RunsModel(session)
        self._make_head()
        self.strip = Strip()
        self.calibration: CalibrationLine | None = None
        self.view = self._make_view()
        self.empty = Empty(flat=True)
        self._stack = QStackedWidget()
        for page in (self.empty, self.view):
            self._stack.addWidget(page)
        self.body.addWidget(self.strip)
        self.body.addWidget(self._stack, 1)
        self.body.setSpacing(4)
        self.body.setContentsMargins(12, 0, 12, 4)
        self._closed: set[str] = set()
        """Ids of runs whose children were folded away."""
        self._unfolded: set[str] = set()
        self._lost: list[Run] = []
        self._held: tuple[list[Run], Run | None, int] | None = None
        self.model.arranging.connect(self._before_arranging)
        self.model.layoutChanged.connect(self._after_arranging)
        self.model.layoutChanged.connect(self._rows_changed)
        session.model_changed.connect(self._model_changed)
        session.plan_changed.connect(lambda: self.model.shown or self._rows_changed())
        session.calibrating.changed.connect(self._calibration_changed)
        session.calibrating.progressed.connect(self._calibration_progressed)
        session.kept.lost.connect(self._tell_lost)
        session.kept.set_aside.connect(self._tell_damage)
        self._rows_changed()

    # -- building ----------------------------------------------------------------------------------------------

    def _make_head(self) -> None:
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("name, tag, note, recipe, #3, failed…"))
        self.search.setAccessibleName(tr("Search runs"))
        self.search.setClearButtonEnabled(True)
        self.search.setFixedWidth(theme.px(250))
        self.starred = QToolButton()
        self.starred.setText("★")
        self.starred.setCheckable(True)
        self.starred.setProperty("kind", "choice")
        self.starred.setToolTip(tr("Only runs with a star"))
        self.starred.setAccessibleName(self.starred.toolTip())
        self.whose = QComboBox()
        self.whose.addItems([tr("This model"), tr("All models")])
        self.whose.setAccessibleName(tr("Whose runs are listed"))
        self.whose.setEnabled(False)
        self.search.textChanged.connect(self._filter)
        self.starred.toggled.connect(self._filter)
        self.whose.activated.connect(self._list)
        for widget in (self.search, self.starred, self.whose):
            self.head.addWidget(widget)

    def _make_view(self) -> "RunsView":
        view = RunsView()
        view.setModel(self.model)
        view.setItemDelegate(RunDelegate(view))
        header = view.header()
        header.setStretchLastSection(False)
        header.setFixedHeight(theme.px(24))
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        view.setSortingEnabled(True)
        for column, width in WIDTHS.items():
            view.setColumnWidth(column, theme.px(width))
        view.setColumnWidth(NAME, theme.px(330))
        header.setSectionResizeMode(RESULT, QHeaderView.ResizeMode.Stretch)
        view.clicked.connect(self._clicked)
        view.activated.connect(lambda index: self.pick(self.model.run(index), sure=True))
        view.moved.connect(lambda index: self.pick(self.model.run(index)))
        view.customContextMenuRequested.connect(self._menu)
        view.collapsed.connect(lambda index: self._opened(index, False))
        view.expanded.connect(lambda index: self._opened(index, True))
        for keys, slot in (
            (QKeySequence(QKeySequence.StandardKey.Delete), lambda: self.delete(self.selected())),
            (QKeySequence(QKeySequence.StandardKey.Copy), self.copy_rows),
        ):
            shortcut = QShortcut(keys, view)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(slot)
        return view

    # -- what is listed ----------------------------------------------------------------------------------------

    def _before_arranging(self) -> None:
        """Qt carries a selection along row by row, which takes seconds for thousands: those are put down and picked up again."""
        selection = self.view.selectionModel()
        spans = selection.selection().toList()
        if sum(span.height() for span in spans) > CARRIED:
            rows = [self.model.index(row, NAME, span.parent()) for span in spans for row in range(span.top(), span.bottom() + 1)]
            current = self.view.currentIndex()
            self._held = [run for run in map(self.model.run, rows) if run], self.model.run(current), current.column()
            selection.reset()

    def _after_arranging(self) -> None:
        if self._held:
            (runs, current, column), self._held = self._held, None
            selection, flags = self.view.selectionModel(), QItemSelectionModel.SelectionFlag
            selection.setCurrentIndex(self.model.index_of(current, column), flags.NoUpdate)
            spans = self.model.rows_of(runs)
            if spans.size() <= MOST_SPANS:
                selection.select(spans, flags.ClearAndSelect)

    def _filter(self) -> None:
        self.model.set_filter(self.search.text(), self.starred.isChecked())

    def _show_all(self) -> None:
        self.search.clear()
        self.starred.setChecked(False)

    def _list(self) -> None:
        model = self._session.model
        self._session.kept.list_model(model.path if model and self.whose.currentIndex() == 0 else "")

    def _model_changed(self) -> None:
        self.whose.setEnabled(self._session.model is not None)
        self.whose.setCurrentIndex(0)

    def _rows_changed(self) -> None:
        kept = self._session.kept
        if self._lost and all(run.state != "unfinished" for run in self._lost):
            self._lost = []  # gone on with by other means
            self.strip.hide()
        self._unfold()
        filtered = bool(self.search.text().split() or self.starred.isChecked())
        self._stack.setCurrentIndex(1 if self.model.shown else 0)
        count = len(kept.runs)
        if count and not self.model.shown:
            self.empty.say(tr("No run matches the search."), (tr("Show all"), self._show_all))
        elif self._session.model is None:
            words = tr("No runs yet: open a model, choose a recipe and press Quantize.")
            self.empty.say(words, (tr("Open…"), self.open_wanted.emit))
        else:
            words = tr("No runs yet: press Quantize to make the first.") if kept.looked else ""
            self.empty.say(words, (tr("Quantize"), self._session.quantize) if words and self._session.can_quantize else None)
        words = tr("{shown:,} of {count:,}") if filtered else tr("{count:,}")
        self.note.set_text(words.format(shown=self.model.shown, count=count) if count else "")
        self.note.setToolTip(text.path(str(self._session.settings.runs_folder())))

    def _unfold(self) -> None:
        """Open what has children for the first time; views remember the rest."""
        parents = {run.id: run for run in self.model.parents()}
        new = parents.keys() - self._unfolded
        self._unfolded = set(parents)
        if len(new) > MANY:
            self.view.expandAll()
            for run in (parents[id] for id in self._closed & parents.keys()):
                self.view.collapse(self.model.index_of(run))
        else:
            for run in (parents[id] for id in new - self._closed):
                self.view.expand(self.model.index_of(run))

    def _opened(self, index: QModelIndex, opened: bool) -> None:
        """What was folded stays so when rows change."""
        run = self.model.run(index)
        if run:
            (self._closed.discard if opened else self._closed.add)(run.id)

    # -- what is told ------------------------------------------------------------------------------------------

    def _tell_lost(self, runs: Sequence[Run]) -> None:
        names = ", ".join(f"#{run.number} {text.plain(run.name, 40)}" for run in runs[:4]) + (", …" if len(runs) > 4 else "")
        words = tr("{count} run did not finish") if len(runs) == 1 else tr("{count} runs did not finish")
        words = tr("{what}, because the window or the machine stopped: {names}").format(
            what=words.format(count=len(runs)), names=names
        )
        self._session.notice.emit(words)
        self._lost = list(runs)
        self.strip.tell(words, tr("Go on"), lambda: self._again(runs))

    def _again(self, runs: Sequence[Run]) -> None:
        for run in reversed(runs):  # the oldest first, as they were asked for
            self._session.run_again(run)

    def _tell_damage(self, name: str) -> None:
        words = tr("The list of runs was damaged and was made again from the folders of the runs; it is kept as {name}.")
        self._session.notice.emit(words.format(name=name))
        self.strip.tell(words.format(name=name))

    # -- what is done ------------------------------------------------------------------------------------------

    def selected(self) -> list[Run]:
        """Runs whose rows are selected, from above."""
        rows = self.view.selectionModel().selectedRows(NAME)
        rows.sort(key=lambda index: self.view.visualRect(index).top())
        return [run for run in map(self.model.run, rows) if run]

    def pick(self, run: Run | None, sure: bool = False) -> None:
        """Show a run; one of another model is shown once ``sure``, since its model has to be opened."""
        session = self._session
        if run is None:
            return
        if session.model is not None and session.model.path == run.model_path:
            session.show_run(run)
        elif sure:
            session.open(run.model_path, then=lambda: session.show_run(run))
        else:
            words = tr("Run #{number} is of {path}: press Enter or click twice to open it.")
            session.notice.emit(words.format(number=run.number, path=text.path(run.model_path)))

    def _clicked(self, index: QModelIndex) -> None:
        run = self.model.run(index)
        if run is None:
            return
        if index.column() == STAR:
            self._try(lambda: self._session.kept.star(run, not run.record.starred))
        elif index.column() == ACTION and index.data(ACTION_KEY):
            self.act(run, index.data(ACTION_KEY))
        elif QGuiApplication.keyboardModifiers() == Qt.KeyboardModifier.NoModifier:
            self.pick(run)

    def act(self, run: Run, key: str) -> None:
        """What the link in a run's row does."""
        slots: dict[str, Callable[[Run], object]] = {
            "cancel": self._session.cancel_run, "export": self.export_wanted.emit, "again": self._session.run_again,
        }  # fmt: skip
        slots[key](run)

    def delete(self, runs: Sequence[Run]) -> None:
        """Ask for runs to be deleted; what waits or runs is left alone."""
        gone = [run for run in runs if not run.here]
        if gone:
            self.delete_wanted.emit(gone)

    def copy_rows(self) -> None:
        """The selected rows as tab-separated text."""
        columns = (NAME, RESULT, SQNR, SIZE, TIME, WHEN)
        lines = ["\t".join(str(self.model.index_of(run, c).data() or "") for c in columns) for run in self.selected()]
        QGuiApplication.clipboard().setText("\n".join(lines))

    def context_menu(self, runs: Sequence[Run]) -> QMenu:
        """What can be done to these runs."""
        menu, session, run = QMenu(self), self._session, runs[0]
        one, here = len(runs) == 1, [run for run in runs if run.here]
        waits = one and run in session.queue
        starred = all(run.record.starred for run in runs)
        index = self.model.index_of(run)
        entries: tuple[tuple[str, Callable[[], object], bool] | None, ...] = (
            (tr("Show it"), lambda: self.pick(run, sure=True), one),
            (tr("Export…"), lambda: self.export_wanted.emit(run), one and run.state == "done"),
            (tr("Compare…"), lambda: self.compare_wanted.emit(list(runs)), any(run.totals is not None for run in runs)),
            (tr("Save report…"), lambda: self.report_wanted.emit(run), one and not run.going),
            (
                tr("Go on") if run.state == "unfinished" else tr("Run again"),
                lambda: session.run_again(run),
                one and not run.going,
            ),
            (tr("Copy its recipe as TOML"), lambda: QGuiApplication.clipboard().setText(run.recipe), one),
            None,
            (tr("Earlier in the queue"), lambda: session.move(run, -1), waits and session.queue.index(run) > 0),
            (tr("Later in the queue"), lambda: session.move(run, 1), waits and session.queue[-1] is not run),
            (tr("Pause"), lambda: session.pause_run(run), one and run is session.running),
            (tr("Cancel"), lambda: [session.cancel_run(run) for run in here], bool(here)),
            None,
            (tr("Rename (F2)"), lambda: self.view.edit(index), one and index.isValid()),
            (tr("Remove the star") if starred else tr("Star"), lambda: self._star(runs, not starred), True),
            (tr("Name, tags and note…"), lambda: self.details_wanted.emit(run), one),
            None,
            (tr("Delete… (Del)"), lambda: self.delete(runs), any(not run.here for run in runs)),
        )
        for entry in entries:
            if entry is None:
                menu.addSeparator()
                continue
            action = menu.addAction(entry[0])
            action.triggered.connect(lambda _=False, slot=entry[1]: slot())
            action.setEnabled(entry[2])
        return menu

    def _menu(self, place: QPoint) -> None:
        runs = self.selected()
        if runs:
            menu = self.context_menu(runs)
            menu.exec(self.view.viewport().mapToGlobal(place))
            menu.deleteLater()

    def _star(self, runs: Sequence[Run], starred: bool) -> None:
        for run in runs:
            self._try(lambda run=run: self._session.kept.star(run, starred))

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except engine.EngineError as error:
            self._session.failed.emit(str(error), error.details)

    # -- the calibration above them ----------------------------------------------------------------------------

    def _calibration_changed(self) -> None:
        last = self._session.calibrating.last
        if self.calibration:
            self.body.removeWidget(self.calibration)
            self.calibration.hide()
            self.calibration.deleteLater()
        self.calibration = CalibrationLine(last, self._session) if last else None
        if self.calibration:
            self.body.insertWidget(self.body.indexOf(self._stack), self.calibration)

    def _calibration_progressed(self) -> None:
        if self.calibration:
            self.calibration.show_progress()


class RunsView(QTreeView):
    """A tree whose rows are picked by the keyboard as well."""

    moved = Signal(QModelIndex)
    """The keyboard went to another row."""

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName(tr("Runs"))
        self.setUniformRowHeights(True)
        self.setIndentation(14)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self.setExpandsOnDoubleClick(False)
        self.setAllColumnsShowFocus(True)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        before = self.currentIndex().siblingAtColumn(NAME)
        super().keyPressEvent(event)
        now = self.currentIndex().siblingAtColumn(NAME)
        if now.isValid() and now != before and len(self.selectionModel().selectedRows()) == 1:
            self.moved.emit(now)
