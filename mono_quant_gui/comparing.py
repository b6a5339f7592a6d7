"""One comparison in a session: which sides, and what the engine found. No widgets here."""

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal

from engine.records.codec import from_data
from engine.records.comparison import ComparedLayer, Comparison
from engine.records.report import Histogram
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.host import EngineHost, Failure

if TYPE_CHECKING:
    from mono_quant_gui.session import Session

MOST = 4
"""Sides that are told apart side by side."""

Table = tuple[list[str], list[list[str]]]


def letter(side: int) -> str:
    """A, B, … for the sides."""
    return chr(ord("A") + side)


class Comparing(QObject):
    """Sides are ids of runs, or paths. What was asked for before another choice is dropped."""

    changed = Signal()
    histograms_changed = Signal()
    progressed = Signal(str)
    failed = Signal(str)

    def __init__(self, session: "Session", parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self.sides: tuple[str, ...] = ()
        self.found: Comparison | None = None
        self.totals: Table = ([], [])
        self.matrices: list[Table] = []
        self.layer = ""
        self.histograms: list[Histogram | None] = []
        self._call: tuple[EngineHost, int] | None = None
        self._layer_call: int | None = None

    @property
    def running(self) -> bool:
        return self._call is not None

    def compare(self, sides: tuple[str, ...]) -> None:
        """Another comparison; fewer than two sides are none."""
        self.close()
        self.sides, self.found, self.layer, self.histograms = sides, None, "", []
        self.changed.emit()
        if len(sides) < 2:
            return
        rows: list[ComparedLayer] = []
        host = self._host()

        def done(data: dict[str, Any]) -> None:
            self._call = None
            self.totals = tuple(data.pop("totals"))  # type: ignore[assignment]
            self.matrices = [tuple(matrix) for matrix in data.pop("matrices")]  # type: ignore[misc]
            bare = from_data(Comparison, data)
            self.found = Comparison(bare.sides, tuple(rows), bare.transitions, bare.recipe_changes, bare.against, bare.notes)
            self.changed.emit()

        def failed(failure: Failure) -> None:
            self._call = None
            self.changed.emit()
            if not failure.cancelled:
                self.failed.emit(failure.message)

        def take(batch: list[Any]) -> None:
            rows.extend(from_data(ComparedLayer, data) for data in batch)

        params = {"sides": list(sides), "runs": self._folder()}
        number = host.call("compare", params, done, failed, rows=take, progress=lambda data: self.progressed.emit(data["layer"]))
        self._call = host, number
        self.changed.emit()

    def look(self, layer: str) -> None:
        """Ask for a layer's histograms; only runs have them."""
        if self.found is None or layer == self.layer:
            return
        self.layer, self.histograms = layer, []
        self._session.peeks.drop(self._layer_call)
        folders = {run.id: str(run.folder) for run in self._session.runs}

        def done(data: dict[str, Any]) -> None:
            self.histograms = [from_data(Histogram, one) if one else None for one in data["histograms"]]
            self.histograms_changed.emit()

        params = {"folders": [folders.get(side, "") for side in self.sides], "layer": layer}
        self._layer_call = self._session.peeks.call(
            "compare_layer", params, done, lambda failure: None if failure.cancelled else self.failed.emit(failure.message)
        )

    def save(self, path: str) -> None:
        """Write it as a page or as CSV; what comes of it is said."""

        def saved(data: dict[str, str]) -> None:
            self._session.notice.emit(tr("Saved {path}").format(path=text.path(data["output"])))

        params = {"sides": list(self.sides), "runs": self._folder(), "output": path}
        self._host().call("save_comparison", params, saved, self._session.report_failure)

    def close(self) -> None:
        """Stop what is asked for."""
        if self._call:
            host, number = self._call
            self._call = None
            host.drop(number)
        self._session.peeks.drop(self._layer_call)

    def _host(self) -> EngineHost:
        """Runs are read from the ledger at once; files wait for the run that goes on."""
        known = {run.id for run in self._session.runs}
        return self._session.peeks if all(side in known for side in self.sides) else self._session.heavy

    def _folder(self) -> str:
        return str(self._session.settings.runs_folder())
