"""The runs pane: what ran, what came of it, and what runs now."""

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QProgressBar, QPushButton, QScrollArea, QVBoxLayout, QWidget

from mono_quant_gui import text, theme
from mono_quant_gui.session import Run, Session
from mono_quant_gui.widgets.parts import ElidedLabel, Pane, label


class RunsPane(Pane):
    """One line a run, newest first; a click shows its measurements."""

    export_wanted = Signal(object)
    delete_wanted = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Runs", parent)
        self._session = session
        self._lines: dict[int, RunLine] = {}
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

    def line(self, run: Run) -> "RunLine | None":
        return self._lines.get(id(run))

    def _rebuild(self) -> None:
        for made in self._lines.values():
            self._column.removeWidget(made)
            made.hide()
            made.deleteLater()
        self._lines = {}
        for place, run in enumerate(self._session.runs):
            made = RunLine(run, self._session, self.export_wanted.emit, self.delete_wanted.emit)
            self._lines[id(run)] = made
            self._column.insertWidget(place, made)
        self._empty.setVisible(not self._session.runs)
        self.note.set_text(text.path(str(self._session.settings.runs_folder())) if self._session.runs else "")

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
        line.addWidget(name, 3)
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
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self._layer = ElidedLabel(role="muted")
        self._layer.setFont(theme.monospace())
        self._left = label("starting")
        self._left.setFixedWidth(150)
        self.cancel = QPushButton("Cancel")
        self.cancel.setProperty("kind", "link")
        self.cancel.clicked.connect(self._cancel)
        line.addWidget(self.bar, 6)
        line.addWidget(self._layer, 4)
        line.addWidget(self._left)
        line.addWidget(self.cancel)
        self.show_progress()

    def _cancel(self) -> None:
        self.cancel.setEnabled(False)
        self._left.setText("stopping")
        self._session.cancel()

    def show_progress(self) -> None:
        progress = self._run.progress
        if not progress or not self.cancel.isEnabled():
            return
        share = progress["done"] / progress["total"] if progress["total"] else 1.0
        self.bar.setValue(round(1000 * share))
        self._layer.set_text(text.plain(progress["layer"]))
        left = progress["seconds_left"]
        words = f"{100 * share:.0f} %" + (f" · {text.duration(left)} left" if left is not None else "")
        self._left.setText("finishing" if progress["stage"] == "finishing" else words)

    def _add_result(self, line: QHBoxLayout, export: Callable[[Run], None], delete: Callable[[Run], None]) -> None:
        run, totals = self._run, self._run.totals
        if totals:
            worst = (
                f"worst {totals['worst_sqnr_db']:.1f} dB · {text.plain(totals['worst_layer'])}" if totals["worst_layer"] else ""
            )
            line.addWidget(ElidedLabel(worst, "muted"), 6)
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
