"""The newest calibration above the runs: how far it is, or what came of it."""

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QWidget

from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.session import Session
from mono_quant_gui.state import Calibration
from mono_quant_gui.widgets.parts import ElidedLabel, label


class CalibrationLine(QWidget):
    """The open model's newest calibration: progress, or what came of it."""

    def __init__(self, calibration: Calibration, session: Session) -> None:
        super().__init__()
        self._calibration = calibration
        self.setMinimumHeight(theme.px(30))
        line = QHBoxLayout(self)
        line.setContentsMargins(8, 4, 8, 4)
        line.setSpacing(12)
        name = label(tr("Calibration"))
        name.setMinimumWidth(theme.px(120))
        line.addWidget(name)
        if calibration.state == "running":
            self._progress = ProgressParts(line, session.cancel)
            self.cancel = self._progress.cancel
            self.show_progress()
            return
        line.addWidget(ElidedLabel(_seen(calibration), "muted", Qt.TextElideMode.ElideRight), 1)
        forget = QPushButton(tr("Forget"))
        forget.setProperty("kind", "link")
        forget.setToolTip(tr("Remove this line, and the ranges it brought"))
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
        self._left = label(tr("starting"))
        self._left.setFixedWidth(theme.px(130))
        self.cancel = QPushButton(tr("Cancel"))
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
        self._left.setText(tr("finishing") if progress["stage"] == "finishing" else words)

    def _cancel(self) -> None:
        self.cancel.setEnabled(False)
        self._left.setText(tr("stopping"))
        self._stop()


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
