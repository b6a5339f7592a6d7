"""Runs as a tree: newest first, those that mend another one under it. Thousands of rows cost no widgets."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QItemSelection, QItemSelectionRange, QModelIndex, QPersistentModelIndex, Qt, Signal
from PySide6.QtGui import QColor, QFont

import engine
from mono_quant_gui import text, theme
from mono_quant_gui.exporting import EXACT_ROLE
from mono_quant_gui.i18n import tr
from mono_quant_gui.kept_runs import place_words
from mono_quant_gui.models.run_words import part, progress_words, result_words
from mono_quant_gui.run import Run
from mono_quant_gui.session import Session

NAME, STAR, RESULT, SQNR, SIZE, TIME, WHEN, ACTION = range(8)
COLUMNS = 8
NUMBERS = (SQNR, SIZE, TIME, WHEN)
SHARE, TAGS, ACTION_KEY = (int(Qt.ItemDataRole.UserRole) + n for n in range(1, 4))
"""Roles: how far a run is (0 to 1) while it goes, its tags, and what the link in its row does."""

SELECTABLE = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
EDITABLE = SELECTABLE | Qt.ItemFlag.ItemIsEditable
"""Made once: views ask for flags of every row."""

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


@dataclass(slots=True)
class _Node:
    run: Run
    parent: int
    row: int
    children: list[int] = field(default_factory=list)


class RunsModel(QAbstractItemModel):
    """Follows the session's runs. An index carries the place of its node in a list; 0 is the root."""

    arranging = Signal()
    """Rows are about to be put in another order."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self._text, self._starred = "", False
        self._sorted: tuple[int, Qt.SortOrder] | None = None
        self._nodes: list[_Node | None] = [None]
        self._top: list[int] = []
        self._place: dict[str, int] = {}
        self.shown = 0
        """Rows in all."""
        session.kept.changed.connect(self._rearrange)
        session.kept.altered.connect(self._rewritten)
        session.run_progress.connect(self._altered)
        session.runs_changed.connect(self._all_altered)
        self._rearrange()

    # -- Qt's questions ----------------------------------------------------------------------------------------

    def index(self, row: int, column: int, parent: Index = _ROOT) -> QModelIndex:
        rows = self._children(parent)
        if not (0 <= row < len(rows) and 0 <= column < COLUMNS):
            return QModelIndex()
        return self.createIndex(row, column, rows[row])

    def parent(self, index: Index = _ROOT) -> QModelIndex:  # type: ignore[override]
        node = self._node(index)
        above = self._nodes[node.parent] if node else None
        return self.createIndex(above.row, 0, node.parent) if node and above else QModelIndex()

    def rowCount(self, parent: Index = _ROOT) -> int:
        return len(self._children(parent))

    def columnCount(self, parent: Index = _ROOT) -> int:
        return COLUMNS

    def hasChildren(self, parent: Index = _ROOT) -> bool:
        return bool(self._children(parent))

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if orientation == Qt.Orientation.Horizontal and 0 <= section < COLUMNS:
            if role == Qt.ItemDataRole.DisplayRole:
                return _heads()[section]
            if role == Qt.ItemDataRole.TextAlignmentRole:
                return _alignment(section)
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        return EDITABLE if index.column() == NAME else SELECTABLE

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        node = self._node(index)
        if node is None:
            return None
        run, column = node.run, index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._display(run, column)
        if role == Qt.ItemDataRole.EditRole and column == NAME:
            return run.name
        if role == EXACT_ROLE and column in (SQNR, SIZE, TIME):
            return _key(column)(run)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(run, column)
        if role == Qt.ItemDataRole.AccessibleTextRole and column == NAME:
            return self._spoken(run)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column)
        if role == Qt.ItemDataRole.FontRole and run is self._session.shown_run and column == NAME:
            font = QFont()
            font.setPixelSize(theme.px(theme.TEXT_PX))
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.ForegroundRole:
            return _color(run, column)
        if role == SHARE and column == RESULT:
            return _share(run)
        if role == TAGS and column == NAME:
            return [text.plain(tag, 40) for tag in run.record.tags]
        if role == ACTION_KEY and column == ACTION:
            return action_of(run)[0]
        return None

    def setData(self, index: Index, value: Any, role: int = int(Qt.ItemDataRole.EditRole)) -> bool:
        """The only thing that is edited in place is the name."""
        run, name = self.run(index), str(value).strip()
        if run is None or role != Qt.ItemDataRole.EditRole or index.column() != NAME or not name or name == run.name:
            return False
        try:
            self._session.kept.rename(run, name)
        except engine.EngineError as error:
            self._session.failed.emit(str(error), error.details)
            return False
        return True

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        wanted = (column, order) if column >= 0 else None
        if wanted != self._sorted:
            self._sorted = wanted
            self._rearrange()

    # -- ours --------------------------------------------------------------------------------------------------

    def set_filter(self, words: str, starred: bool) -> None:
        """Show only runs in which every word occurs, or only starred ones."""
        if (words, starred) != (self._text, self._starred):
            self._text, self._starred = words, starred
            self._rearrange()

    def run(self, index: Index) -> Run | None:
        node = self._node(index)
        return node.run if node else None

    def index_of(self, run: Run | None, column: int = NAME) -> QModelIndex:
        """Where a run stands; invalid where it is filtered away."""
        place = self._place.get(run.id, 0) if run else 0
        node = self._nodes[place]
        return self.createIndex(node.row, column, place) if node else QModelIndex()

    def rows_of(self, runs: Iterable[Run]) -> QItemSelection:
        """The rows of these runs that are listed, as few spans as there can be."""
        places = sorted((node.parent, node.row) for run in runs if (node := self._nodes[self._place.get(run.id, 0)]))
        found = QItemSelection()
        start = 0
        for end in range(1, len(places) + 1):
            if end == len(places) or places[end] != (places[end - 1][0], places[end - 1][1] + 1):
                rows = self._rows_under(places[start][0])
                first, last = places[start][1], places[end - 1][1]
                span = self.createIndex(first, 0, rows[first]), self.createIndex(last, COLUMNS - 1, rows[last])
                found.append(QItemSelectionRange(*span))
                start = end
        return found

    def _rows_under(self, place: int) -> list[int]:
        node = self._nodes[place]
        return node.children if node else self._top

    def parents(self) -> list[Run]:
        """Runs that have others under them."""
        return [node.run for node in self._nodes if node and node.children]

    def _node(self, index: Index) -> _Node | None:
        place = int(index.internalId()) if index.isValid() else 0
        return self._nodes[place] if place < len(self._nodes) else None

    def _children(self, parent: Index) -> list[int]:
        if not parent.isValid():
            return self._top
        node = self._node(parent)
        return node.children if node and parent.column() == 0 else []

    def _display(self, run: Run, column: int) -> str:
        if column == NAME:
            words = f"#{run.number}  {text.plain(run.name, 120)}"
            model = self._session.model
            other = model is None or model.path != run.model_path
            return f"{words} · {text.plain(Path(run.model_path).name, 60)}" if other else words
        if column == STAR:
            return "★" if run.record.starred else "☆"
        if column == RESULT:
            return self._result(run)
        if column == ACTION:
            return action_of(run)[1]
        if column == WHEN:
            return text.when(run.record.created, time.time())
        totals = run.totals
        if not totals:
            return ""
        if column == SQNR:
            return tr("exact") if totals["sqnr_db"] is None else f"{totals['sqnr_db']:.2f} dB"
        return text.size(totals["bytes_after"]) if column == SIZE else text.duration(totals["seconds"])

    def _result(self, run: Run) -> str:
        """What came of a run, or how far it is."""
        if run.state == "queued":
            queue = self._session.queue
            return place_words(queue.index(run)) if run in queue else tr("waits in another window")
        if run.state == "running":
            return progress_words(run.progress) if run.here else tr("running in another window")
        if run.state == "unfinished":
            what = tr("did not finish") if run.record.started else tr("did not start")
            return f"{what}: {text.plain(run.message)}" if run.message else what
        return result_words(run) if run.totals else text.plain(run.message) or run.state

    def _tip(self, run: Run, column: int) -> str | None:
        if column == STAR:
            return tr("Remove the star") if run.record.starred else tr("Give it a star")
        if column == SIZE and run.totals:
            return text.exact_bytes(run.totals["bytes_after"])
        if column == WHEN:
            return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(run.record.created))}"
        if column == RESULT:
            lines = [self._result(run), *(f"⚠ {words}" for words in run.warnings[:12])]
            return "\n".join(text.plain(line, 600) for line in lines)
        lines = [self._display(run, NAME), text.path(run.model_path), run.data, ", ".join(run.record.tags), run.record.note]
        return "\n".join(text.plain(line, 600) for line in lines if line)

    def _spoken(self, run: Run) -> str:
        words = [tr("run {number}, {name}").format(number=run.number, name=text.plain(run.name, 120)), self._result(run)]
        words += [self._display(run, SQNR), self._display(run, SIZE), tr("starred") if run.record.starred else ""]
        return ", ".join(filter(None, words))

    # -- rows --------------------------------------------------------------------------------------------------

    def _rewritten(self, run: Run) -> None:
        """A record changed: perhaps it is not among those searched for any more, or has become so."""
        if self._wanted(run) == (run.id in self._place):
            self._altered(run)
        else:
            self._rearrange()

    def _wanted(self, run: Run) -> bool:
        return (run.record.starred or not self._starred) and run.matches(self._text.casefold().split())

    def _altered(self, run: Run) -> None:
        first, last = self.index_of(run, NAME), self.index_of(run, ACTION)
        if first.isValid():
            self.dataChanged.emit(first, last)

    def _all_altered(self) -> None:
        """Another run is shown: only what is seen is painted again."""
        if self._top:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._top) - 1, ACTION))

    def _rearrange(self) -> None:
        """Rows anew; what views hold on to (selection, what is open) goes with its run."""
        self.arranging.emit()
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        held = [(self.run(index), index.column()) for index in before]
        self._fill()
        self.changePersistentIndexList(before, [self.index_of(run, column) for run, column in held])
        self.layoutChanged.emit()

    def _fill(self) -> None:
        filtered = self._starred or bool(self._text.split())
        runs = list(filter(self._wanted, self._session.runs)) if filtered else list(self._session.runs)
        if self._sorted:
            column, order = self._sorted
            runs = _ranked(runs, _key(column), order == Qt.SortOrder.DescendingOrder)
        queue = self._session.queue
        # What runs or waits here stands above all, in the order in which it will go.
        if any(run.here for run in runs):
            runs.sort(key=lambda run: 1 + (queue.index(run) if run in queue else -1) if run.here else math.inf)
        self._top = []
        self._place = {run.record.id: place for place, run in enumerate(runs, 1)}
        nodes = [_Node(run, 0, 0) for run in runs]
        self._nodes = [None, *nodes]
        for place, node in enumerate(nodes, 1):
            if node.run.record.parent in self._place:
                node.parent = self._parent_place(node.run)
            rows = self._rows_under(node.parent)
            node.row = len(rows)
            rows.append(place)
        self.shown = len(runs)

    def _parent_place(self, run: Run) -> int:
        """0 while it goes and where the run before is not listed; a record that claims to be its own ancestor stands alone."""
        if run.here:
            return 0
        place, seen = self._place.get(run.record.parent, 0), {run.id}
        at = place
        while node := self._nodes[at]:
            if node.run.id in seen:
                return 0
            seen.add(node.run.id)
            at = self._place.get(node.run.record.parent, 0)
        return place


def _heads() -> tuple[str, ...]:
    return (tr("Run"), "", tr("Result"), tr("SQNR"), tr("Size"), tr("Took"), tr("When"), "")


def action_of(run: Run) -> tuple[str, str]:
    """Key and words of the link in a run's row."""
    if run.here:
        return "cancel", tr("Cancel") if run.state == "running" else tr("Remove")
    if run.state == "done":
        return "export", tr("Export…")
    if run.going:
        return "", ""
    return "again", tr("Go on") if run.state == "unfinished" else tr("Run again")


def _share(run: Run) -> float | None:
    return None if run.state != "running" or not run.here else part(run.progress) if run.progress else 0.0


def _color(run: Run, column: int) -> QColor | None:
    colors = theme.current()
    if column == STAR:
        return QColor(colors.warning if run.record.starred else colors.muted)
    if column == RESULT:
        return QColor(colors.bad if run.state == "failed" else colors.muted)
    return QColor(colors.muted) if column in (TIME, WHEN) else None


def _alignment(column: int) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignRight if column in NUMBERS else Qt.AlignmentFlag.AlignLeft
    return side | Qt.AlignmentFlag.AlignVCenter


def _key(column: int) -> Callable[[Run], Any]:
    """What a column sorts by; None where there is nothing."""

    def total(name: str) -> Callable[[Run], Any]:
        return lambda run: run.totals.get(name) if run.totals else None

    def decibels(run: Run) -> float | None:
        return None if not run.totals else math.inf if run.totals["sqnr_db"] is None else run.totals["sqnr_db"]

    keys: dict[int, Callable[[Run], Any]] = {
        NAME: lambda run: run.name.casefold(), STAR: lambda run: run.record.starred, RESULT: lambda run: run.state,
        SQNR: decibels, SIZE: total("bytes_after"), TIME: total("seconds"), WHEN: lambda run: run.record.created,
        ACTION: lambda run: action_of(run)[0],
    }  # fmt: skip
    return keys[column]


def _ranked(runs: list[Run], key: Callable[[Run], Any], descending: bool) -> list[Run]:
    """What has no value comes last both ways."""
    keys = [key(run) for run in runs]
    known = [place for place, found in enumerate(keys) if found is not None]
    known.sort(key=keys.__getitem__, reverse=descending)
    return [*(runs[place] for place in known), *(run for run, found in zip(runs, keys, strict=True) if found is None)]
