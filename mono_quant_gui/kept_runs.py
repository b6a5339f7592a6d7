"""The runs in the ledger as the window sees them: also those of other windows, searched and changed without making it wait."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from PySide6.QtCore import QObject, Qt, QTimer, Signal

import engine
from engine.records.run import RunRecord
from mono_quant_gui.i18n import tr
from mono_quant_gui.run import Run

T = TypeVar("T")
LOOK_MS = 1500
"""Between two looks whether another process has written."""
TAKE_OVER_EVERY = 10
"""Looks after which runs are looked for whose process is gone."""


class KeptRuns(QObject):
    """Short writes happen at once; opening, searching, adding up and deleting on a thread of their own.

    Methods that change a run raise EngineError where the ledger cannot be written.
    """

    changed = Signal()
    """Other runs, or another order."""
    altered = Signal(object)
    """The record of one run."""
    lost = Signal(list)
    """Runs that did not finish because their process is gone."""
    set_aside = Signal(str)
    """The ledger was damaged; it was kept under this name and made again."""
    failed = Signal(str)
    _answered = Signal(object, object)

    def __init__(self, folder: Callable[[], Path], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._folder = folder
        self._known: WeakValueDictionary[str, Run] = WeakValueDictionary()
        """Every run is one object for as long as somebody holds it, whatever is listed."""
        self.runs: list[Run] = []
        """Newest first."""
        self.model = ""
        """Whose runs are listed, by path; empty for all."""
        self.looked = False
        """Whether the ledger has been read."""
        self._writes = self._looks = self._stamp = 0
        self._closed = False
        self._worker = ThreadPoolExecutor(1, "ledger")
        self._answered.connect(self._answer, Qt.ConnectionType.QueuedConnection)
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self._look)
        self._open()

    # -- opening and closing -----------------------------------------------------------------------------------

    @property
    def ledger(self) -> engine.Ledger:
        """Waits for it to be opened. Raises EngineError."""
        self.reopen()
        if self._opening.done() and self._opening.exception():
            self._opening = self._worker.submit(engine.Ledger, self._opening_in)
            self._opened(self._opening.result().set_aside)
        return self._opening.result()

    def _open(self) -> None:
        self._opening_in = self._folder()
        self._opening: Future[engine.Ledger] = self._worker.submit(engine.Ledger, self._opening_in)
        self._submit(lambda ledger: ledger.set_aside, self._opened)

    def _opened(self, set_aside: str) -> None:
        if set_aside:
            self.set_aside.emit(set_aside)
        self._timer.start()
        self.refresh(take_over=True)

    def reopen(self) -> None:
        """Where another folder was chosen."""
        if self._opening_in != self._folder():
            self._worker.submit(_close, self._opening)
            self._open()
            self.list_model(self.model)

    def close(self) -> None:
        """Returns when nothing works any more."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        self._worker.shutdown(cancel_futures=True)
        if not self._opening.cancelled():
            _close(self._opening)

    # -- a run's life ------------------------------------------------------------------------------------------

    def begin(self, model_path: str, recipe: str, artifact: str, **more: Any) -> Run:
        """A run that waits; see ``engine.Ledger.begin``."""
        run = self._of(self.ledger.begin(model_path, recipe, artifact, state="queued", **more))
        run.here = True
        self._writes += 1
        self.runs.insert(0, run)
        self.changed.emit()
        return run

    def update(self, run: Run, **changes: Any) -> None:
        """Change fields; with a state of queued or running this process answers for it."""
        self._took(run, self.ledger.update(run.id, **changes))

    def finish(self, run: Run, state: str, **what: Any) -> None:
        """The end of a run; what was measured lies in its folder already."""
        try:
            self._took(run, self.ledger.finish(run.id, state, layers=None, **what))
        except engine.EngineError:
            # Shown as it is, and told by the caller: only the ledger does not know.
            run.record = replace(run.record, state=state, **{"owner": "", **what})
            raise
        if state in ("failed", "cancelled"):
            self._submit(lambda ledger: ledger.clear_half_written(run.id), lambda _: None)

    def rename(self, run: Run, name: str) -> None:
        self._took(run, self.ledger.rename(run.id, name))

    def annotate(self, run: Run, note: str) -> None:
        self._took(run, self.ledger.annotate(run.id, note))

    def star(self, run: Run, starred: bool) -> None:
        self._took(run, self.ledger.star(run.id, starred))

    def tag(self, run: Run, tags: Sequence[str]) -> None:
        self._took(run, self.ledger.tag(run.id, tags))

    def delete(self, runs: Sequence[Run], then: Callable[[], None] = lambda: None) -> None:
        """Remove runs and their folders; one that cannot be deleted comes back, and it is said why."""
        gone = {run.id for run in runs}
        self._writes += 1
        self.runs = [run for run in self.runs if run.id not in gone]
        self.changed.emit()

        def work(ledger: engine.Ledger) -> str:
            return next(filter(None, [_delete(ledger, id) for id in gone]), "")

        def done(problem: str) -> None:
            self._writes += 1
            self.refresh()
            if problem:
                self.failed.emit(problem)
            then()

        self._submit(work, done)

    def disk_use(self, runs: Sequence[Run], then: Callable[[int], None]) -> None:
        """Bytes in the folders of runs."""
        ids = [run.id for run in runs]
        self._submit(lambda ledger: sum(ledger.disk_use(id) for id in ids), then)

    # -- looking -----------------------------------------------------------------------------------------------

    def list_model(self, path: str) -> None:
        """List the runs of one model, or all."""
        self.model, self.looked = path, False
        self.runs = [run for run in self.runs if run.here]
        self.changed.emit()
        self.refresh()

    def find(self, id: str) -> Run | None:
        """A listed run."""
        return next((run for run in self.runs if run.id == id), None)

    def refresh(self, take_over: bool = False) -> None:
        """Read the ledger again; ``changed`` follows where it says something new."""
        model, writes = self.model, self._writes

        def work(ledger: engine.Ledger) -> tuple[list[RunRecord], int, list[RunRecord]]:
            gone = ledger.take_over() if take_over else []
            stamp = ledger.stamp()
            return gone, stamp, ledger.find(model=model)

        def done(found: tuple[list[RunRecord], int, list[RunRecord]]) -> None:
            gone, self._stamp, records = found
            if (model, writes) != (self.model, self._writes):
                self.refresh()  # something was written meanwhile that the answer does not know
            else:
                self._merge(records)
            if gone:
                self.lost.emit([self._of(record) for record in gone])

        self._submit(work, done)

    def _look(self) -> None:
        """Whether another process has written, or is gone."""
        self._looks += 1
        elsewhere = any(run.going and not run.here for run in self.runs)
        take_over = elsewhere and self._looks % TAKE_OVER_EVERY == 0
        with contextlib.suppress(engine.EngineError):  # said when something is to be written
            if take_over or self.ledger.stamp() != self._stamp:
                self.refresh(take_over)

    def _merge(self, records: Sequence[RunRecord]) -> None:
        before = {run.id: run.record for run in self.runs}
        new = not self.looked or any(before.get(record.id) != record for record in records)
        found = [self._of(record) for record in records]
        listed = {record.id for record in records}
        others = [run for run in self.runs if run.here and run.id not in listed]
        order = [*others, *found]
        new = new or order != self.runs
        self.runs, self.looked = order, True
        if new:
            self.changed.emit()

    # -- how ---------------------------------------------------------------------------------------------------

    def _of(self, record: RunRecord) -> Run:
        run = self._known.get(record.id)
        if run is None:
            run = self._known[record.id] = Run(record)
        run.record = record
        return run

    def _took(self, run: Run, record: RunRecord) -> None:
        self._writes += 1
        run.record = record
        self.altered.emit(run)

    def _submit(self, work: Callable[[engine.Ledger], T], then: Callable[[T], None]) -> None:
        opening = self._opening

        def job() -> None:
            try:
                answer = work(opening.result())
            except engine.EngineError as error:
                self._answered.emit(self.failed.emit, str(error))
            else:
                self._answered.emit(then, answer)

        if not self._closed:
            self._worker.submit(job)

    def _answer(self, then: Callable[[Any], None], answer: Any) -> None:
        if not self._closed:
            then(answer)


def _close(opening: "Future[engine.Ledger]") -> None:
    if not opening.exception():
        opening.result().close()


def _delete(ledger: engine.Ledger, id: str) -> str:
    """Why a run cannot be deleted; empty when it was."""
    try:
        ledger.delete(id)
    except engine.EngineError as error:
        return str(error)
    return ""


def place_words(place: int) -> str:
    """Where a run stands in the queue; 0 is next."""
    return tr("waits: next") if place == 0 else tr("waits: {count} before it").format(count=place)
