"""What the layers tables show, as arrays in file order: 90,000 rows sort and filter within a few frames.

Both the flat table and the tree read from one ``LayerData``. Work longer than a frame is done in turns of the event loop.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QObject, Qt, QTimer, Signal

from mono_quant_gui.models.filtering import Columns, Factor, FilterError, Term, matching, parse
from mono_quant_gui.models.layer_columns import (
    ALGORITHM,
    ALONE,
    BITS,
    BYTES,
    CAUSE,
    DTYPE,
    FIGURES,
    HIGH,
    KIND,
    KURTOSIS,
    LOW,
    NAME,
    OUTLIERS,
    PARAMETERS,
    SCHEME,
    SHAPE,
    SIZE,
    SO_FAR,
    SQNR,
    STD,
)  # fmt: skip
from mono_quant_gui.session import Session
from mono_quant_gui.state import LayerRow
from mono_quant_gui.turns import Turns

MEASURED = (SQNR, CAUSE, ALONE, SO_FAR)
PLANNED = (SCHEME, ALGORITHM, BITS, SIZE)
LIVE_MS = 120
"""Layers that finish fast are shown together."""
Order = NDArray[np.int64]


class LayerData(QObject):
    """Arrays of the session's model, plan and shown run, and which rows are shown in which order."""

    about_to_reset = Signal()
    reset = Signal()
    about_to_arrange = Signal()
    arranged = Signal()
    """``order`` is a new one."""
    changed = Signal()
    """Other values in the same rows."""
    filter_problem = Signal(str)
    """What is wrong with the filter, or nothing."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self.order: Order = np.empty(0, np.int64)
        self.names: list[str] = []
        self.words: dict[int, Factor] = {}
        self.numbers: dict[int, NDArray] = {}
        self.problems = self.unreached = np.empty(0, bool)
        self.short = np.empty(0)
        self.marked: NDArray | None = None
        """Rows to be painted as selected beside those that a view has selected."""
        self.largest = {BYTES: 1, SIZE: 1}
        """The longest bar."""
        self._lowered: list[str] = []
        self._ranks: dict[int, NDArray] = {}
        self._terms: list[Term] = []
        self._misunderstood = ""
        self._sorted: tuple[int, Qt.SortOrder] | None = None
        self._paths: Paths | None = None
        self._run: object = None
        self._taken: object = None
        self.layers: list[LayerRow] = []
        self._reports_seen = 0
        self._turns, self._path_turns = Turns(self), Turns(self)
        self._live = QTimer(self, singleShot=True, interval=LIVE_MS)
        self._live.timeout.connect(self._more_reports)
        self._connect(session)
        self._model_changed()

    def _connect(self, session: Session) -> None:
        session.model_changed.connect(self._model_changed)
        session.plan_changed.connect(self._plan_changed)
        session.runs_changed.connect(self._runs_changed)
        session.run_layers.connect(lambda *_: self._live.isActive() or self._live.start())
        session.calibrating.changed.connect(self._unreached_changed)
        session.surveying.figures_changed.connect(self._figures_changed)
        session.surveying.causes_changed.connect(self._causes_changed)

    @property
    def total(self) -> int:
        return len(self.names)

    @property
    def short_db(self) -> float:
        """From so many dB below a Gaussian layer one falls short."""
        return self._session.surveying.short_db

    # -- what is wanted -----------------------------------------------------------------------------------------------

    @property
    def filtered(self) -> bool:
        return bool(self._terms)

    def set_filter(self, wanted: str) -> None:
        """Show only layers that match; a filter that says nothing leaves what is shown and says what is wrong."""
        try:
            self._terms, self._misunderstood = parse(wanted), ""
        except FilterError as error:
            self._misunderstood = str(error)
            self.filter_problem.emit(self._misunderstood)
            return
        self.arrange()

    def set_sorted(self, column: int, order: Qt.SortOrder) -> None:
        """A negative column: as in the file."""
        self._sorted = (column, order) if column >= 0 else None
        self.arrange()

    def arrange(self) -> None:
        """Find the rows to show; ``arranged`` follows, at once where there are few."""
        self._turns.start(self._arranging(), at_once=self.total <= AT_ONCE)

    def row_of(self, name: str | None) -> int | None:
        """The row of a layer in file order."""
        model = self._session.model
        return None if model is None or name is None else model.index.get(name)

    def rows_of(self, names: Sequence[str]) -> Order:
        """The rows of layers in file order, without those that there are not."""
        model = self._session.model
        if model is None:
            return np.empty(0, np.int64)
        found = np.fromiter(map(model.index.get, names, repeat(-1)), np.int64, len(names))  # 90,000 of them in one go
        return found[(found >= 0) & (found < self.total)]

    def visible_place(self, name: str | None) -> int | None:
        """Where a layer stands among those shown."""
        row = self.row_of(name)
        places = np.flatnonzero(self.order == row) if row is not None else np.empty(0, int)
        return int(places[0]) if len(places) else None

    @property
    def has_paths(self) -> bool:
        return self._paths is not None or self.total <= AT_ONCE

    def paths(self) -> "Paths":
        """Names by their parts, for the tree; made when first asked for."""
        if self._paths is None:
            for found in split_names(self.names):
                self._paths = found
        assert self._paths is not None
        return self._paths

    def prepare_paths(self, then: Callable[[], None]) -> None:
        """Make ``paths`` in turns, and call."""

        def work() -> Iterator[None]:
            for found in split_names(self.names) if self._paths is None else ():
                self._paths = found
                yield
            then()

        self._path_turns.start(work(), at_once=self.total <= AT_ONCE or self._paths is not None)

    # -- arranging ----------------------------------------------------------------------------------------------------

    def _columns(self) -> Columns:
        words = {"kind": KIND, "scheme": SCHEME, "dtype": DTYPE, "algorithm": ALGORITHM}
        numbers = {
            "parameters": PARAMETERS, "bytes": BYTES, "after": SIZE, "bits": BITS, "sqnr": SQNR, "output": ALONE, "min": LOW,
            "max": HIGH, "std": STD, "kurtosis": KURTOSIS, "outliers": OUTLIERS,
        }  # fmt: skip
        with np.errstate(invalid="ignore"):
            short = self.short >= self.short_db
        return Columns(
            self._lowered,
            {key: self.words[column] for key, column in words.items()},
            {"short": self.short, **{key: self.numbers[column] for key, column in numbers.items()}},
            {"problem": self.problems, "unreached": self.unreached, "short": short},
        )

    def _arranging(self) -> Iterator[None]:
        mask = np.ones(self.total, bool)
        try:
            for found in matching(self._terms, self._columns()) if self._terms else ():
                if found is None:
                    yield
                else:
                    mask = found
        except FilterError as error:
            self.filter_problem.emit(str(error))
            return
        self.filter_problem.emit(self._misunderstood)
        order = np.flatnonzero(mask)
        if self._sorted is not None:
            column, direction = self._sorted
            yield
            if column == NAME and NAME not in self._ranks:
                yield from self._rank_names()
            keys = self._keys(column)[order]
            yield
            order = order[_ranked(keys, direction)]
            yield
        self.about_to_arrange.emit()
        yield
        self.order = order
        self.arranged.emit()

    def _keys(self, column: int) -> NDArray:
        if column == CAUSE:
            return self.short
        if column == SHAPE:
            return self.numbers[PARAMETERS]
        if column in self.words and column not in self._ranks:
            self._ranks[column] = self.words[column].ranks()
        return self._ranks[column] if column in self._ranks else self.numbers[column]

    def _rank_names(self) -> Iterator[None]:
        """Alphabetical places: sorted piece by piece, and then merged two by two."""
        names, runs = self.names, [list(range(start, min(start + PIECE, self.total))) for start in range(0, self.total, PIECE)]
        for run in runs:
            run.sort(key=names.__getitem__)
            yield
        while len(runs) > 1:
            merged = []
            for pair in zip(runs[::2], [*runs[1::2], []], strict=False):
                both: list[int] = []
                yield from _merging(pair[0], pair[1], names, both)
                merged.append(both)
            runs = merged
        rank = np.empty(self.total, np.int64)
        rank[np.array(runs[0] if runs else [], np.int64)] = np.arange(self.total)
        self._ranks[NAME] = rank

    # -- what the session says ----------------------------------------------------------------------------------------

    def _model_changed(self) -> None:
        self._turns.start(self._filling(), at_once=self._count() <= AT_ONCE)

    def _count(self) -> int:
        return len(self._session.model.layers) if self._session.model else 0

    def _filling(self) -> Iterator[None]:
        """Take over a model: columns that the file decides."""
        model = self._session.model
        layers = model.layers if model else []
        count = len(layers)
        names = [row.name for row in layers]
        yield
        lowered = [name.lower() for name in names]
        yield
        words = {KIND: Factor.of([row.kind for row in layers])}
        yield
        words[DTYPE] = Factor.of([row.dtype for row in layers])
        yield
        numbers: dict[int, NDArray] = {PARAMETERS: np.fromiter((row.parameters for row in layers), np.int64, count)}
        yield
        numbers[BYTES] = np.fromiter((row.nbytes for row in layers), np.int64, count)
        yield
        self.about_to_reset.emit()
        self._taken, self.layers = model, layers
        self.names, self._lowered, self._ranks, self._paths = names, lowered, {}, None
        self.words, self.numbers = words, numbers
        for column in FIGURES:
            numbers[column] = np.full(count, np.nan)
        self.problems = self.unreached = np.zeros(count, bool)
        self._take_plan()
        self._take_run()
        self._take_unreached()
        self.largest[BYTES] = int(numbers[BYTES].max(initial=1))
        self.order = np.arange(count)
        self.reset.emit()
        if self._terms or self._sorted:
            self.arrange()

    @property
    def _stale(self) -> bool:
        """Another model is open already: its own columns come in a moment."""
        return self._taken is not self._session.model

    def _plan_changed(self) -> None:
        if not self._stale:
            self._take_plan()
            self._updated(*PLANNED)

    def _runs_changed(self) -> None:
        if not self._stale:
            self._take_run()
            self._updated(*MEASURED)

    def _unreached_changed(self) -> None:
        if not self._stale:
            self._take_unreached()
            self._updated(NAME)

    def _take_plan(self) -> None:
        plan = self._session.plan
        made = len(plan.schemes) == self.total
        self.words[SCHEME] = Factor.of(plan.schemes) if made else self.words[DTYPE]
        self.words[ALGORITHM] = Factor.of(plan.algorithms) if made else Factor([""], np.zeros(self.total, np.int32))
        self.numbers[SIZE] = np.array(plan.nbytes, np.int64) if made else self.numbers[BYTES]
        self.largest[SIZE] = int(self.numbers[SIZE].max(initial=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            self.numbers[BITS] = 8 * self.numbers[SIZE] / self.numbers[PARAMETERS]
        problems = np.zeros(self.total, bool)
        index = self._session.model.index if self._session.model else {}
        problems[[index[name] for name in plan.problem_of if name in index]] = True
        self.problems = problems
        for column in PLANNED:
            self._ranks.pop(column, None)

    def _take_run(self) -> None:
        for column in (SQNR, ALONE, SO_FAR):
            self.numbers[column] = np.full(self.total, np.nan)
        self.short = np.full(self.total, np.nan)
        self._run, self._reports_seen = self._session.shown_run, 0
        self._take_reports()
        self._take_causes()

    def _take_reports(self) -> None:
        """Reports that came since."""
        run, index = self._session.shown_run, self._session.model.index if self._session.model else {}
        reports = run.reports if run else {}
        for name, report in islice(reports.items(), self._reports_seen, None):
            place = index.get(name)
            if place is None:
                continue
            self.numbers[SQNR][place] = np.inf if report.sqnr_db is None else report.sqnr_db
            if report.output:
                self.numbers[ALONE][place] = np.inf if report.output.alone_db is None else report.output.alone_db
                if report.output.accumulated_db is not None:
                    self.numbers[SO_FAR][place] = report.output.accumulated_db
        self._reports_seen = len(reports)

    def _more_reports(self) -> None:
        if self._stale:
            return
        if self._run is not self._session.shown_run:
            self._take_run()
        else:
            self._take_reports()
        self._updated(*MEASURED)

    def _take_unreached(self) -> None:
        index = self._session.model.index if self._session.model else {}
        self.unreached = np.zeros(self.total, bool)
        self.unreached[[index[name] for name in self._session.unreached if name in index]] = True

    def _take_causes(self) -> None:
        """How far measured layers fall short, where that is known."""
        run, index = self._session.shown_run, self._session.model.index if self._session.model else {}
        short = self._session.surveying.shortfalls if run else {}
        for name, value in short.items():
            if name in index:
                self.short[index[name]] = value

    def _causes_changed(self) -> None:
        if not self._stale:
            self._take_causes()
            self._updated(CAUSE, SQNR)

    def _figures_changed(self, names: list[str]) -> None:
        index, found = self._session.model.index if self._session.model else {}, self._session.surveying.figures
        if self._stale:
            return
        for name in names:
            if name in found and name in index:
                for column, value in zip(FIGURES, found[name], strict=True):
                    self.numbers[column][index[name]] = value
        self._updated(*FIGURES)

    def _updated(self, *columns: int) -> None:
        """Other values; the order changes only where it depends on them."""
        if self._terms or (self._sorted and self._sorted[0] in columns):
            self.arrange()
        self.changed.emit()


@dataclass(frozen=True, slots=True)
class Paths:
    """Parts of names between dots: for each row a code for every part and -1 behind the last, and how many there are."""

    codes: NDArray[np.int32]
    lengths: NDArray[np.int64]


def split_names(names: list[str]) -> Iterator[Paths | None]:
    """None while it works, the paths at last."""
    places: dict[str, int] = {}
    flat: list[int] = []
    lengths: list[int] = []
    for start in range(0, len(names), PIECE // 4):
        for name in names[start : start + PIECE // 4]:
            parts = name.split(".")
            flat.extend([places.setdefault(part, len(places)) for part in parts])
            lengths.append(len(parts))
        yield None
    sizes = np.array(lengths, np.int64)
    codes = np.full((len(names), int(sizes.max(initial=1))), -1, np.int32)
    codes[np.arange(codes.shape[1]) < sizes[:, None]] = flat
    yield Paths(codes, sizes)


AT_ONCE = 8_000
"""Layers up to which nothing is worth several turns."""
PIECE = 6_000


def _ranked(keys: NDArray, direction: Qt.SortOrder) -> NDArray:
    """Places in order, equal ones as in the file; what is not known stands last both ways."""
    if direction == Qt.SortOrder.DescendingOrder:
        keys = -keys
    return np.argsort(keys, kind="stable")


def _merging(first: list[int], second: list[int], names: list[str], into: list[int]) -> Iterator[None]:
    """Merge two sorted lists of rows into a third, pausing now and then. Timsort merges runs it is given."""
    at = other = 0
    while at < len(first) or other < len(second):
        left, right = first[at : at + PIECE], second[other : other + PIECE]
        if left and right:  # up to the lesser of both ends everything is known
            end = min(names[left[-1]], names[right[-1]])
            left = [row for row in left if names[row] <= end]
            right = [row for row in right if names[row] <= end]
        into.extend(sorted(left + right, key=names.__getitem__))
        at, other = at + len(left), other + len(right)
        yield
