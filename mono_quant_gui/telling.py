"""What is said of what happens: in the status bar, and in the log."""

from typing import TYPE_CHECKING

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QLabel, QMainWindow, QSizePolicy

from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.journal import Journal
from mono_quant_gui.widgets.parts import ElidedLabel, label

if TYPE_CHECKING:
    from mono_quant_gui.run import Run
    from mono_quant_gui.session import Session
    from mono_quant_gui.state import Calibration

LONGEST = 900


class Telling(QObject):
    """Follows a session once there is one; ``say`` is for what the window itself has to say."""

    _session: "Session"

    def __init__(self, window: QMainWindow, journal: Journal) -> None:
        super().__init__(window)
        self._journal = journal
        self.status = ElidedLabel(tr("Ready"))
        self.status.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self._engine: QLabel = label("")
        bar = window.statusBar()
        bar.addWidget(self.status, 1)
        bar.setSizeGripEnabled(False)
        bar.addPermanentWidget(self._engine)

    def follow(self, session: "Session") -> None:
        """Say what happens in it from now on."""
        self._session = session
        calibrating = session.calibrating
        session.opening.connect(self._opening)
        session.notice.connect(self.say)
        session.model_changed.connect(self._opened)
        session.run_progress.connect(self._progressed)
        session.run_finished.connect(self._run_finished)
        calibrating.progressed.connect(self._calibration_progressed)
        calibrating.finished.connect(self._calibrated)
        for host in (session.heavy, session.peeks):
            host.said.connect(self._engine_said)

    def say(self, words: str, level: str = "info") -> None:
        """In the status bar and in the log."""
        self.status.set_text(text.plain(words, LONGEST))
        self._journal.add("window", words, level)

    def failed(self, message: str, details: str) -> None:
        """A failure: its details go to the log only."""
        self.say(message, "error")
        self._journal.add("window", details, "error")

    def _engine_said(self, words: str) -> None:
        self._journal.add("engine", words)

    def _opening(self, path: str) -> None:
        self.say(tr("Opening {path}…").format(path=text.path(path)))

    def _opened(self) -> None:
        model = self._session.model
        if model is not None:
            words = model.problems[0] if model.problems else tr("Opened {name}").format(name=model.name)
            self.say(words if model.runs or model.quantized else f"{words} · {_weights_only()}")

    def _calibration_progressed(self) -> None:
        running = self._session.calibrating.running
        if running and running.progress and running.progress["total"]:
            words = tr("Calibrating: {percent} % · {layer}")
            self.status.set_text(words.format(percent=_percent(running.progress), layer=text.plain(running.progress["layer"])))

    def _calibrated(self, calibration: "Calibration") -> None:
        report = calibration.report
        if not report:
            self.say(calibration.message)
            return
        words = tr("Calibrated on {data} in {time}").format(data=report["data"], time=text.duration(report["seconds"]))
        if calibration.unreached:
            words += tr(", {count} layers never reached").format(count=f"{len(calibration.unreached):,}")
        self.say(words)

    def _progressed(self, run: "Run") -> None:
        from mono_quant_gui.models.run_words import progress_words

        progress = run.progress
        if progress and progress["total"]:
            words = tr("Run #{number}: {what}").format(number=run.number, what=progress_words(progress))
            self.status.set_text(words)

    def _run_finished(self, run: "Run") -> None:
        if not run.totals:
            self.say(tr("Run #{number}: {message}").format(number=run.number, message=run.message))
            return
        sqnr = tr("exact") if run.totals["sqnr_db"] is None else f"{run.totals['sqnr_db']:.2f} dB"
        words = tr("Run #{number} done in {time}: {sqnr}, peak memory {memory}").format(
            number=run.number, time=text.duration(run.totals["seconds"]), sqnr=sqnr,
            memory=text.size(run.totals["peak_memory_bytes"]),
        )  # fmt: skip
        words += f" · {text.evaluation(run.evaluation)}" if run.evaluation else ""
        self.say(words + (f" · ⚠ {run.warnings[0]}" if run.warnings else ""))
        for warning in run.warnings:
            self._journal.add("engine", warning, "warning")
        self._engine.setText(tr("{count} threads · CPU").format(count=run.totals["threads"]))


def _weights_only() -> str:
    return tr("weights only: no forward, so calibrated algorithms need a model; add one with Model ▸ Network from a Python File…")


def _percent(progress: dict) -> str:
    return f"{100 * progress['done'] / progress['total']:.0f}"
