"""What is found out about all layers in the background: figures of their weights, and why measured ones fall short."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Signal

import engine
from engine.records.look import Diagnosis
from mono_quant_gui.jobs.host import Failure
from mono_quant_gui.looking import FLOATS
from mono_quant_gui.turns import Turns

if TYPE_CHECKING:
    from mono_quant_gui.session import Session

PIECE = 32 << 20
"""Bytes of weights looked through in one call: other questions wait for no more than that."""
MOST = 300
"""Layers in one call."""
FEW = 500
"""Layers that are gone through at once."""
REST_MS = 400
"""Pause after the user asked for something else."""

Figures = tuple[float, float, float, float, float]
"""Least, greatest, deviation, excess kurtosis, and the furthest weight in deviations from the mean."""


class Surveying(QObject):
    """Asks for figures of layers piece by piece; what the user looks at goes first."""

    figures_changed = Signal(list)
    """Layers whose figures, or the reason for none, came just now."""
    causes_changed = Signal()

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self.figures: dict[str, Figures] = {}
        self.notes: dict[str, str] = {}
        """Why a layer has no figures."""
        self.causes: dict[str, Diagnosis] = {}
        """Layers of the shown run that fall short of a Gaussian one, and why."""
        self.shortfalls: dict[str, float] = {}
        """By how many dB each layer of the shown run is worse than a Gaussian one."""
        self._short: list[str] = []
        self._diagnosed: dict[str, tuple[Any, Diagnosis]] = {}
        self._wants_all = False
        self._turns = Turns(self)
        self._call: int | None = None
        self._rest = QTimer(self, singleShot=True, interval=REST_MS)
        self._rest.timeout.connect(self._next)
        session.model_changed.connect(self._forget)
        session.selection_changed.connect(self._step_aside)
        session.looking.trial_changed.connect(self._step_aside)
        session.looking.expected_changed.connect(self._expected)
        session.runs_changed.connect(self._expected)

    def want_all(self, wanted: bool) -> None:
        """Whether figures of every layer are shown somewhere."""
        self._wants_all = wanted
        self._next()

    def short_of(self, name: str) -> Diagnosis | None:
        """Why a layer of the shown run falls short; None where it does not, or where that is not known yet."""
        return self.causes.get(name)

    @property
    def short_db(self) -> float:
        """A layer that falls short by less is as it should be."""
        return engine.SHORT_DB

    # -- figures ------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._session.peeks.drop(self._call)
        self._call = None
        self.figures.clear()
        self.notes.clear()
        self._turns.drop()
        self.causes, self.shortfalls, self._short, self._diagnosed = {}, {}, [], {}
        self._next()

    def _step_aside(self) -> None:
        """Let what the user asked for go first; what this call had found already stays."""
        if self._call is not None:
            self._session.peeks.drop(self._call)
            self._call = None
            self._rest.start()

    def _missing(self) -> list[str]:
        model = self._session.model
        if model is None:
            return []
        rows = (
            model.layers if self._wants_all else [model.layers[model.index[name]] for name in self._short if name in model.index]
        )
        found, size = [], 0
        for row in rows:
            if (
                row.name in self.figures
                or row.name in self.notes
                or not row.plain
                or row.dtype not in FLOATS
                or not row.parameters
            ):
                continue
            if found and (size + row.nbytes > PIECE or len(found) >= MOST):
                break
            found.append(row.name)
            size += row.nbytes
        return found

    def _next(self) -> None:
        session = self._session
        if self._call is not None or session.model is None or self._rest.isActive():
            return
        names = self._missing()
        if not names:
            return

        def more(rows: list[list[Any]]) -> None:
            for name, low, high, std, kurtosis, sigmas, note in rows:
                if note:
                    self.notes[name] = note
                else:
                    self.figures[name] = (low, high, std, kurtosis, sigmas)

        def done(_: Any) -> None:
            self._call = None
            for name in names:  # asked for and not told: there is nothing to tell
                if name not in self.figures:
                    self.notes.setdefault(name, "")
            self.figures_changed.emit(names)
            if set(names) & set(self._short):
                self._expected()
            self._next()

        def failed(failure: Failure) -> None:
            self._call = None
            if not failure.cancelled:
                self.notes.update(dict.fromkeys(names, failure.message))
                self._next()

        params = {"path": session.model.path, "layers": names, **session.model.how.params()}
        self._call = session.peeks.call("describe", params, done, failed, rows=more)

    # -- causes -------------------------------------------------------------------------------------------------------

    def _expected(self) -> None:
        self._turns.start(self._sweeping(), at_once=len(self._reports()) <= FEW)

    def _reports(self) -> dict[str, Any]:
        run = self._session.shown_run
        return run.reports if run else {}

    def _sweeping(self) -> Iterator[None]:
        """Which layers of the shown run fall short, and why, as far as figures are known; the others' are asked for."""
        looking, reports = self._session.looking, list(self._reports().items())
        found: dict[str, float] = {}
        for done, (name, _) in enumerate(reports):
            value = looking.shortfall(name)
            if value is not None:
                found[name] = value
            if done % 200 == 199:
                yield
        causes: dict[str, Diagnosis] = {}
        short = [(name, report) for name, report in reports if found.get(name, 0.0) >= self.short_db]
        for name, report in short:
            if cause := self._cause(name, report):
                causes[name] = cause
                yield
        self._short = [name for name, _ in short]
        if (found, causes) != (self.shortfalls, self.causes):
            self.shortfalls, self.causes = found, causes
            self.causes_changed.emit()
        self._next()

    def _cause(self, name: str, report: Any) -> Diagnosis | None:
        figures = self.figures.get(name)
        if figures is None:
            return None
        known = self._diagnosed.get(name)
        if known is None or known[0] is not report:
            expected = self._session.looking.expected_db(name, report.scheme, report.algorithm)
            known = self._diagnosed[name] = (report, engine.diagnose(report, figures[3], figures[4], expected))
        return known[1] if known[1].cause else None
