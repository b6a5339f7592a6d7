"""What a recipe costs, and what it still lacks: always in sight below what scrolls."""

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import label

PLACES = {
    "Size": (0, 0, 1),
    "Before": (0, 1, 1),
    "Compression": (0, 2, 1),
    "Bits per weight": (1, 0, 2),
    "Time": (1, 2, 1),
    "Takes": (2, 0, 3),
    "To calibrate": (3, 0, 3),
}
"""Row, first column and columns of each figure."""


class Totals(QWidget):
    """Predicted size, bits a weight and memory for calibration, a line each."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(4)
        self.figures: dict[str, QLabel] = {}
        for name, (row, column, span) in PLACES.items():
            figure = self.figures[name] = label("–", "strong" if name == "Size" else "muted")
            figure.setAlignment(Qt.AlignmentFlag.AlignRight if column == 2 else Qt.AlignmentFlag.AlignLeft)
            grid.addWidget(figure, row, column, 1, span)
        grid.setColumnStretch(2, 1)
        session.plan_changed.connect(self._show)
        session.model_changed.connect(self._show)
        session.plan_time.changed.connect(self._show)
        self._show()

    def _show(self) -> None:
        plan, model = self._session.plan, self._session.model
        known = model is not None and plan.predicted is not None and not plan.errors
        predicted = plan.predicted or 0
        ratio = model.nbytes / predicted if model and known and predicted else 0
        need = plan.calibration or {}
        self._figure("Size", text.size(predicted) if known else "–", text.exact_bytes(predicted) if known else "")
        before = tr("of {size}").format(size=text.size(model.nbytes)) if model else ""
        self._figure("Before", before, text.exact_bytes(model.nbytes) if model else "")
        self._figure("Compression", f"{ratio:.2f} ×" if ratio else "", tr("How many times smaller"))
        bits = tr("{bits} bits per weight").format(bits=f"{plan.bits_per_weight:.3f}") if known else ""
        self._figure("Bits per weight", bits, tr("Of the quantized layers, scales included"))
        takes = plan.takes or {}
        words = tr("{memory} memory, {disk} disk")
        sizes = words.format(memory=text.size(takes["memory"]), disk=text.size(takes["disk"])) if takes else ""
        self._figure("Takes", sizes, tr("What a run will take"))
        seconds = takes.get("seconds")
        time = "" if seconds is None else tr("about {time}").format(time=text.duration(seconds))
        earlier = tr("How long a run will take, as fast as earlier runs of its kind")
        estimated = tr("How long a run will take: an estimate, for which some rows of its layers were encoded just now")
        self._figure("Time", time, earlier if takes.get("runs") else estimated)
        memory = tr("{size} to calibrate").format(size=text.size(need["nbytes"])) if need else ""
        self._figure("To calibrate", memory, tr("Memory for statistics beside the model itself"))

    def _figure(self, name: str, words: str, tip: str) -> None:
        self.figures[name].setText(words)
        self.figures[name].setVisible(bool(words))
        self.figures[name].setToolTip(tip if words else "")


class Missing(QFrame):
    """What a recipe that needs calibration still lacks, and the button that leads there."""

    data_wanted = Signal()
    network_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.setObjectName("framed")
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(8)
        self.words = label("")
        self.words.setWordWrap(True)
        self.button = QPushButton()
        self.button.clicked.connect(self._supply)
        column.addWidget(self.words)
        column.addWidget(self.button, 0, Qt.AlignmentFlag.AlignLeft)
        session.plan_changed.connect(self._show)
        session.model_changed.connect(self._show)
        session.calibrating.changed.connect(self._show)
        self._show()

    def _show(self) -> None:
        lacks = self._session.missing_data
        self.setVisible(bool(lacks) and not self._session.plan.errors)
        self.words.setText(lacks)
        self.button.setText(tr("Choose data…") if self._runs else tr("Add network…"))

    def _supply(self) -> None:
        (self.data_wanted if self._runs else self.network_wanted).emit()

    @property
    def _runs(self) -> bool:
        return self._session.model is not None and self._session.model.runs
