"""The compare window: runs, artifacts and float models side by side. Stays beside the main window; not modal."""

import re
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QAbstractItemModel, QModelIndex, Qt
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import text, theme
from mono_quant_gui.comparing import Comparing, letter
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.comparison import ComparisonModel, WordsModel
from mono_quant_gui.plots.both_histograms import BothHistogramsPlot
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import ElidedLabel, label
from mono_quant_gui.widgets.sides import SidesBox

ARROW = 14
"""Pixels of the mark of the order of rows, beside a head."""


class ComparisonWindow(QDialog):
    """``sides`` are at least two ids of runs, or paths."""

    def __init__(self, session: Session, sides: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.comparing = Comparing(session, self)
        self.setWindowTitle(tr("Compare"))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.sides = SidesBox(session.runs, sides)
        self.sides.changed.connect(lambda chosen: self.comparing.compare(tuple(chosen)))
        self.status = ElidedLabel(role="muted", mode=Qt.TextElideMode.ElideRight)
        self.totals = WordsModel(self)
        self.layers = ComparisonModel(self)
        self.matrix = WordsModel(self)
        self.totals_view = _table(self.totals, tr("Totals of every side"))
        self.layers_view = _table(self.layers, tr("Layers of every side"))
        self.matrix_view = _table(self.matrix, tr("Schemes that became others, in layers"))
        self.recipes = QPlainTextEdit()
        self.recipes.setReadOnly(True)
        self.recipes.setFont(theme.monospace())
        self.recipes.setAccessibleName(tr("What differs between the recipes"))
        self.side = QComboBox()
        self.side.setAccessibleName(tr("Side that is told against the first"))
        self.side.activated.connect(self._show_side)
        self.hover = ElidedLabel(role="hint")
        self.plot = BothHistogramsPlot(self.hover.set_text)
        self.plot.setAccessibleName(tr("Weights of the layer on every side"))
        self.save_button = QPushButton(tr("Save…"))
        self.save_button.clicked.connect(self._ask_save)
        self._lay_out()
        self._connect()
        self.comparing.compare(tuple(sides))

    def _lay_out(self) -> None:
        below = QWidget()
        column = QVBoxLayout(below)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.plot, 1)
        column.addWidget(self.hover)
        split = QSplitter(Qt.Orientation.Vertical)
        split.setChildrenCollapsible(False)
        split.addWidget(self.layers_view)
        split.addWidget(below)
        split.setSizes([320, 220])
        self._layers_page = split
        change = QWidget()
        line = QVBoxLayout(change)
        line.setContentsMargins(0, 8, 0, 0)
        pick = QHBoxLayout()
        pick.addWidget(label(tr("A against"), "muted"))
        pick.addWidget(self.side)
        pick.addStretch()
        line.addLayout(pick)
        line.addWidget(self.matrix_view, 1)
        line.addWidget(self.recipes, 2)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.addTab(split, tr("Layers"))
        self.tabs.addTab(change, tr("Schemes and recipes"))
        self.totals_view.setSortingEnabled(False)
        self.totals_view.setMaximumHeight(250)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.addButton(self.save_button, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.rejected.connect(self.close)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(12, 12, 12, 12)
        outer.setSpacing(8)
        for widget, stretch in ((self.sides, 0), (self.status, 0), (self.totals_view, 0), (self.tabs, 1), (buttons, 0)):
            outer.addWidget(widget, stretch)
        self.resize(1040, 760)

    def _connect(self) -> None:
        comparing = self.comparing
        comparing.changed.connect(self._update)
        comparing.failed.connect(self._tell)
        comparing.progressed.connect(lambda layer: self._say(tr("comparing {layer}").format(layer=text.plain(layer))))
        comparing.histograms_changed.connect(self._draw)
        self.layers_view.selectionModel().currentRowChanged.connect(self._row_changed)

    # -- what is shown ---------------------------------------------------------------------------------------------

    def _update(self) -> None:
        comparing, found = self.comparing, self.comparing.found
        self.save_button.setEnabled(found is not None)
        if found is None:
            self._say(tr("comparing…") if comparing.running else "")
            self.totals.show([], [])
            self.matrix.show([], [])
            self.recipes.clear()
        else:
            self._say(" ".join(text.plain(note) for note in found.notes))
            self.totals.show(*comparing.totals)
            self.side.clear()
            self.side.addItems([f"{letter(n)}: {text.plain(side.title, 60)}" for n, side in enumerate(found.sides) if n])
            self._show_side()
        self.layers.show(found)
        self.plot.show_histograms([])
        if found is not None:
            self._first_look()

    def _first_look(self) -> None:
        """What got worse most stands above and is looked at."""
        view = self.layers_view
        view.sortByColumn(self.layers.first_change, Qt.SortOrder.AscendingOrder)
        view.horizontalHeader().resizeSections(QHeaderView.ResizeMode.ResizeToContents)
        for column in range(1, self.layers.columnCount()):
            view.setColumnWidth(column, view.columnWidth(column) + ARROW)
        view.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self._fit_totals()
        view.selectRow(0)

    def _fit_totals(self) -> None:
        view = self.totals_view
        view.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        view.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        rows = self.totals.rowCount() * view.verticalHeader().defaultSectionSize()
        view.setFixedHeight(min(rows + view.horizontalHeader().sizeHint().height() + 4, 250))

    def _show_side(self) -> None:
        """The matrix and the recipes' difference of the chosen side."""
        comparing, place = self.comparing, max(self.side.currentIndex(), 0)
        if comparing.found is None or place >= len(comparing.matrices):
            return
        self.matrix.show(*comparing.matrices[place])
        change, sides = comparing.found.recipe_changes[place + 1], comparing.found.sides
        if not change:
            both = bool(sides[0].recipe and sides[place + 1].recipe)
            change = tr("The recipes are the same.") if both else tr("Only runs keep their recipe.")
        self.recipes.setPlainText("\n".join(text.plain(line, 2000) for line in change.splitlines()))

    def _draw(self) -> None:
        comparing = self.comparing
        shown = [(letter(n), one) for n, one in enumerate(comparing.histograms) if one is not None]
        self.plot.show_histograms(shown)
        words = tr("{layer}: its histogram was not measured on any side")
        self.hover.set_text("" if shown else words.format(layer=text.plain(comparing.layer)))

    def _tell(self, message: str) -> None:
        self._say(text.plain(message, 2000))

    def _say(self, words: str) -> None:
        self.status.set_text(words)
        self.status.setVisible(bool(words))

    # -- what the user does ----------------------------------------------------------------------------------------

    def _row_changed(self, current: QModelIndex) -> None:
        name = self.layers.name_at(current.row())
        if name is not None:
            self.comparing.look(name)
            model = self._session.model
            if model is not None and name in model.index:
                self._session.select(name)

    def _ask_save(self) -> None:
        titles = "-".join(side.title for side in self.comparing.found.sides) if self.comparing.found else ""
        name = re.sub(r"[^\w.]+", "-", f"compare-{titles}").strip("-.")[:80]
        kinds = tr("Page (*.html);;Values (*.csv)")
        path, chosen = QFileDialog.getSaveFileName(self, tr("Save comparison"), str(Path.home() / f"{name}.html"), kinds)
        if path:
            known = Path(path).suffix.lower() in (".html", ".csv")
            self.comparing.save(path if known else path + (".csv" if "csv" in chosen else ".html"))

    def done(self, result: int) -> None:
        """However it is closed, nothing that was asked for arrives any more."""
        self.comparing.close()
        super().done(result)

    def closeEvent(self, event: QCloseEvent) -> None:
        self.comparing.close()
        super().closeEvent(event)


def _table(model: QAbstractItemModel, name: str) -> QTableView:
    view = QTableView()
    view.setModel(model)
    view.setAccessibleName(name)
    view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    view.setShowGrid(False)
    view.setWordWrap(False)
    view.setTabKeyNavigation(False)
    view.verticalHeader().hide()
    view.verticalHeader().setDefaultSectionSize(theme.px(25))
    view.horizontalHeader().setHighlightSections(False)
    view.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    view.setSortingEnabled(isinstance(model, ComparisonModel))
    return view
