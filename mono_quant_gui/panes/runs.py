"""The runs pane: what ran, what came of it, and what runs now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from mono_quant_gui import text, theme
from mono_quant_gui.runs_store import Run
from mono_quant_gui.session import Session
from mono_quant_gui.state import Calibration
from mono_quant_gui.widgets.parts import ElidedLabel, Pane, label

WARNINGS = 12
"""Warnings that are shown at once; the rest is behind them."""


class RunsPane(Pane):
    """One line a run, newest first; a click shows its measurements."""

    export_wanted = Signal(object)
    delete_wanted = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Runs", parent)
        self._session = session
        self._lines: dict[int, RunLine] = {}
        self.calibration: CalibrationLine | None = None
        self._list = QFrame()
        self._list.setObjectName("pane")
        self._column = QVBoxLayout(self._list)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(0)
        self._empty = label("No runs yet: press Quantize to make the first.", "muted")
        self._column.addWidget(self._empty)
        self._column.addStretch()
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setWidget(self._list)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.body.addWidget(scroll, 1)
        session.runs_changed.connect(self._rebuild)
        session.run_progress.connect(self._progressed)
        session.calibrating.changed.connect(self._rebuild)
        session.calibrating.progressed.connect(self._calibration_progressed)

    def line(self, run: Run) -> "RunLine | None":
        return self._lines.get(id(run))

    def _rebuild(self) -> None:
        calibration, runs = self._session.calibrating.last, self._session.runs
        for made in (*self._lines.values(), *([self.calibration] if self.calibration else [])):
            self._column.removeWidget(made)
            made.hide()
            made.deleteLater()
        self._lines = {}
        self.calibration = CalibrationLine(calibration, self._session) if calibration else None
        if self.calibration:
            self._column.insertWidget(0, self.calibration)
        for place, run in enumerate(runs, 1 if calibration else 0):
            line = RunLine(run, self._session, self.export_wanted.emit, self.delete_wanted.emit)
            self._lines[id(run)] = line
            self._column.insertWidget(place, line)
        self._empty.setVisible(not runs and not calibration)
        self.note.set_text(text.path(str(self._session.settings.runs_folder())) if runs else "")

    def _calibration_progressed(self) -> None:
        if self.calibration:
            self.calibration.show_progress()

    def _progressed(self, run: Run) -> None:
        made = self._lines.get(id(run))
        if made:
            made.show_progress()


class RunLine(QWidget):
    """One run: its number and recipe, then progress or results, then what can be done with it."""

    def __init__(self, run: Run, session: Session, export: Callable[[Run], None], delete: Callable[[Run], None]) -> None:
        super().__init__()
        self._run, self._session = run, session
        self.setMinimumHeight(30)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        line = QHBoxLayout(self)
        line.setContentsMargins(6, 2, 6, 2)
        line.setSpacing(12)
        shown = session.shown_run is run
        number = label(f"#{run.number}", "strong" if shown else "")
        number.setFixedWidth(34)
        other = bool(session.model and session.model.path != run.model_path)
        words = f"{run.name} · {Path(run.model_path).name}" if other else run.name
        name = ElidedLabel(text.plain(words), "strong" if shown else "")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(f"Run {run.number}, {words}")
        line.addWidget(number)
        line.addWidget(name, 2)
        if shown:
            self.setAutoFillBackground(True)
            palette = self.palette()
            palette.setColor(self.backgroundRole(), theme.current().selection)
            self.setPalette(palette)
        if run.state == "running":
            self._add_progress(line)
        else:
            self._add_result(line, export, delete)

    def _add_progress(self, line: QHBoxLayout) -> None:
        self._progress = ProgressParts(line, self._session.cancel)
        self.cancel = self._progress.cancel
        self.show_progress()

    def show_progress(self) -> None:
        self._progress.show(self._run.progress)

    def _add_result(self, line: QHBoxLayout, export: Callable[[Run], None], delete: Callable[[Run], None]) -> None:
        run, totals = self._run, self._run.totals
        if totals:
            line.addWidget(ElidedLabel(_result(run), "muted", Qt.TextElideMode.ElideRight), 8)
            if run.warnings:
                line.addWidget(self._make_warnings())
            sqnr = "exact" if totals["sqnr_db"] is None else f"{totals['sqnr_db']:.2f} dB"
            for words, width in ((sqnr, 76), (text.size(totals["bytes_after"]), 80), (text.duration(totals["seconds"]), 56)):
                value = label(words)
                value.setFixedWidth(width)
                value.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                line.addWidget(value)
            button = QPushButton("Export…")
            button.setProperty("kind", "link")
            button.clicked.connect(lambda: export(run))
            line.addWidget(button)
        else:
            line.addWidget(ElidedLabel(run.message or run.state, "muted"), 8)
        remove = QPushButton("Delete")
        remove.setProperty("kind", "link")
        remove.setToolTip("Remove this run and its files" if totals else "Remove this line")
        remove.clicked.connect(lambda: delete(run))
        line.addWidget(remove)

    def _make_warnings(self) -> QPushButton:
        warnings = [text.plain(words) for words in self._run.warnings]
        button = QPushButton(f"⚠ {len(warnings)} warning{'s' * (len(warnings) > 1)}")
        button.setProperty("kind", "link")
        button.setToolTip("\n".join(warnings[:WARNINGS]))
        button.clicked.connect(lambda: _show_warnings(self, self._run.number, warnings))
        return button

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and (self._run.state in ("done", "running") or self._run.failures):
            self._session.show_run(self._run)
        else:
            super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        keys = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)
        if event.key() in keys and (self._run.state in ("done", "running") or self._run.failures):
            self._session.show_run(self._run)
        else:
            super().keyPressEvent(event)


class CalibrationLine(QWidget):
    """The open model's newest calibration: progress, or what came of it."""

    def __init__(self, calibration: Calibration, session: Session) -> None:
        super().__init__()
        self._calibration = calibration
        self.setMinimumHeight(30)
        line = QHBoxLayout(self)
        line.setContentsMargins(6, 2, 6, 2)
        line.setSpacing(12)
        name = label("Calibration")
        name.setMinimumWidth(120)
        line.addWidget(name)
        if calibration.state == "running":
            self._progress = ProgressParts(line, session.cancel)
            self.cancel = self._progress.cancel
            self.show_progress()
            return
        line.addWidget(ElidedLabel(_seen(calibration), "muted", Qt.TextElideMode.ElideRight), 1)
        forget = QPushButton("Forget")
        forget.setProperty("kind", "link")
        forget.setToolTip("Remove this line, and the ranges it brought")
        forget.clicked.connect(session.calibrating.forget)
        line.addWidget(forget)

    def show_progress(self) -> None:
        self._progress.show(self._calibration.progress)


class ProgressParts:
    """The parts of a line that say how far something is, and stop it."""

    def __init__(self, line: QHBoxLayout, stop: Callable[[], None]) -> None:
        self._stop = stop
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self._layer = ElidedLabel(role="muted")
        self._layer.setFont(theme.monospace())
        self._stage: QLabel = label("", "muted")
        self._left = label("starting")
        self._left.setFixedWidth(130)
        self.cancel = QPushButton("Cancel")
        self.cancel.setProperty("kind", "link")
        self.cancel.clicked.connect(self._cancel)
        line.addWidget(self.bar, 6)
        line.addWidget(self._layer, 4)
        line.addWidget(self._stage)
        line.addWidget(self._left)
        line.addWidget(self.cancel)

    def show(self, progress: dict[str, Any] | None) -> None:
        """``progress`` as the engine sends it; None before the first."""
        if not progress or not self.cancel.isEnabled():
            return
        share = progress["done"] / progress["total"] if progress["total"] else 1.0
        self.bar.setValue(round(1000 * share))
        self._layer.set_text(text.plain(progress["layer"]))
        self._stage.setText("" if progress["stage"] in ("quantizing", "finishing") else text.plain(progress["stage"]))
        left = progress["seconds_left"]
        words = f"{100 * share:.0f} %" + (f" · {text.duration(left)} left" if left is not None else "")
        self._left.setText("finishing" if progress["stage"] == "finishing" else words)

    def _cancel(self) -> None:
        self.cancel.setEnabled(False)
        self._left.setText("stopping")
        self._stop()


def _result(run: Run) -> str:
    """What came of a run, beside its numbers."""
    totals = run.totals or {}
    words = [text.evaluation(run.evaluation)] if run.evaluation else []
    if totals["worst_layer"]:
        words.append(f"worst {totals['worst_sqnr_db']:.1f} dB · {text.plain(totals['worst_layer'])}")
    return " · ".join(words)


def _seen(calibration: Calibration) -> str:
    report = calibration.report
    if not report:
        return text.plain(calibration.message)
    synthetic = ["synthetic"] if report["synthetic"] and "synthetic" not in report["data"] else []
    words = [text.plain(report["data"]), *synthetic, f"{len(calibration.activities):,} layers"]
    words += [f"{len(calibration.unreached):,} never reached"] if calibration.unreached else []
    words += [f"{len(report['skipped']):,} samples skipped"] if report["skipped"] else []
    words += [f"{len(report['unmatched']):,} not found in the running model"] if report["unmatched"] else []
    return " · ".join([*words, text.duration(report["seconds"])])


def _show_warnings(parent: QWidget, number: int, warnings: list[str]) -> None:
    words = "\n\n".join([f"Run #{number}: what went otherwise than planned.", *warnings[:WARNINGS]])
    box = QMessageBox(QMessageBox.Icon.NoIcon, "Mono Quant", words, QMessageBox.StandardButton.Close, parent.window())
    box.setTextFormat(Qt.TextFormat.PlainText)
    if len(warnings) > WARNINGS:
        box.setDetailedText("\n".join(warnings))
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()
