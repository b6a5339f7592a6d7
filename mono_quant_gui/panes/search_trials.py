"""Schemes driven by accuracy: how much worse the model may be, and every trial on the way there."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDoubleSpinBox, QHBoxLayout, QHeaderView, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

from engine.records.search import Attempt
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.searching import Searching
from mono_quant_gui.widgets.parts import action_button, label, roomy

ROWS = 3
"""Trials that are in sight at once."""


class Trials(QWidget):
    """A tolerance, a button that finds the smallest model within it, and the trials as they end."""

    def __init__(self, searching: Searching, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._searching = searching
        self.tolerance = QDoubleSpinBox()
        self.tolerance.setAccessibleName(tr("How much worse than the float model, in per cent"))
        self.tolerance.setRange(0.01, 100.0)
        self.tolerance.setDecimals(2)
        self.tolerance.setValue(1.0)
        self.tolerance.setSuffix(" %")
        roomy(self.tolerance)
        tip = tr("Relax the layers that suffer most until the model, run on the data, is measured within this")
        self.find_button = action_button(tr("Find"), lambda: searching.find_within(self.tolerance.value() / 100), tip)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(label(tr("Or at most"), "muted"))
        row.addWidget(self.tolerance)
        row.addWidget(label(tr("worse than the float model"), "muted"))
        row.addStretch(1)
        row.addWidget(self.find_button)
        self.list = QTreeWidget()
        self.list.setAccessibleName(tr("Trials"))
        self.list.setRootIsDecorated(False)
        measured = (tr("Perplexity"), tr("Accuracy"), tr("Divergence"))
        self.list.setHeaderLabels([tr("Trial"), tr("Bits"), tr("Worse by"), *measured, tr("Size"), tr("Relaxed")])
        self.list.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.list.setFixedHeight(ROWS * (self.list.fontMetrics().height() + 8) + 28)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addLayout(row)
        column.addWidget(self.list)
        searching.changed.connect(self.refresh)
        searching.front_changed.connect(self.refresh)
        searching.trials_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """What can be asked for now, and the trials so far."""
        searching = self._searching
        self.setVisible(searching.can_try)
        self.find_button.setEnabled(not searching.busy)
        self.list.setVisible(bool(searching.trials))
        if self.list.topLevelItemCount() > len(searching.trials):
            self.list.clear()
        for number in range(self.list.topLevelItemCount(), len(searching.trials)):
            item = QTreeWidgetItem(cells(number + 1, *searching.trials[number]))
            for place in range(item.columnCount()):
                item.setTextAlignment(place, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.list.addTopLevelItem(item)
            self.list.scrollToItem(item)


def cells(number: int, attempt: Attempt, relaxed: int) -> list[str]:
    """One trial: which, bits per weight, by how much it is worse, what was measured, bytes, and how many layers were relaxed."""
    perplexity, accuracy = attempt.scores.perplexity, attempt.scores.accuracy
    measured = ["–" if perplexity is None else f"{perplexity:.3f}", "–" if accuracy is None else text.share(accuracy)]
    measured.append("–" if attempt.divergence is None else f"{attempt.divergence:.4f}")
    worse = tr("{nats} nats").format(nats=f"{attempt.loss:.4f}") if perplexity is None else f"{100 * attempt.loss:+.2f} %"
    mark = " ✓" if attempt.within else ""
    return [str(number), f"{attempt.bits:.2f}", worse + mark, *measured, text.size(attempt.nbytes), f"{relaxed:,}"]
