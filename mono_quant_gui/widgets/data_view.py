"""What was read of calibration data: counts, inputs, a few samples as plain text, and one forward."""

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QPlainTextEdit,
    QStackedWidget,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from engine.records.calibration import DataPreview, InputPreview
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.parts import label

LISTED = 50
"""Skipped samples and unmatched layers that are named."""


class DataView(QStackedWidget):
    """Shows a DataPreview."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        empty = label(tr("Choose data and press Check to see what is in them,\nand whether the model runs on them."), "empty")
        empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        empty.setWordWrap(True)
        self.addWidget(empty)
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self.title = label("", "strong")
        self.title.setWordWrap(True)
        warning = tr("⚠ Synthetic: random numbers of the right shape. What is measured on them says little about real inputs.")
        self.synthetic = label(warning, "problem")
        self.synthetic.setWordWrap(True)
        self.inputs = self._make_inputs()
        self.forward = label("")
        self.forward.setWordWrap(True)
        self.words = QPlainTextEdit()
        self.words.setReadOnly(True)
        self.words.setAccessibleName(tr("Samples"))
        self.words.setFont(theme.monospace())
        for widget in (self.title, self.synthetic, self.inputs, self.forward):
            column.addWidget(widget)
        column.addWidget(self.words, 1)
        self.addWidget(page)

    def show_nothing(self) -> None:
        self.setCurrentIndex(0)

    def show_preview(self, preview: DataPreview) -> None:
        """Everything that was found."""
        words = [preview.title, tr("with labels")] if preview.labelled else [preview.title]
        self.title.setText(text.plain(" · ".join(words)))
        self.synthetic.setVisible(preview.synthetic)
        self.inputs.setRowCount(len(preview.inputs))
        for row, given in enumerate(preview.inputs):
            cells = (given.name, given.dtype, text.shape(given.shape), _span(given))
            for place, words in enumerate(cells):
                self.inputs.setItem(row, place, QTableWidgetItem(text.plain(words)))
        rows = min(len(preview.inputs), 4)
        self.inputs.setFixedHeight(self.inputs.horizontalHeader().sizeHint().height() + theme.px(25) * rows + 4)
        outputs = ", ".join(map(text.plain, preview.outputs))
        if preview.seconds is not None:
            words = tr("One forward of the first batch: {time} → {outputs}")
            self.forward.setText(words.format(time=text.duration(preview.seconds), outputs=outputs or tr("no tensors")))
        self.forward.setVisible(preview.seconds is not None)
        self.words.setPlainText("\n".join(_lines(preview)))
        self.setCurrentIndex(1)

    def _make_inputs(self) -> QTableWidget:
        table = QTableWidget(0, 4)
        table.setAccessibleName(tr("Inputs"))
        table.setHorizontalHeaderLabels([tr("Input"), tr("Type"), tr("First batch"), tr("Range")])
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(theme.px(25))
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(3, QHeaderView.ResizeMode.Stretch)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        table.setTabKeyNavigation(False)
        table.setShowGrid(False)
        return table


def _span(given: InputPreview) -> str:
    return tr("{low} to {high}").format(low=f"{given.low:.4g}", high=f"{given.high:.4g}")


def _lines(preview: DataPreview) -> list[str]:
    lines: list[str] = []
    for given in preview.inputs:
        lines += _samples(given)
    skipped = [f"{item.name}: {item.reason}" for item in preview.skipped]
    lines += _section(tr("Skipped: {count}").format(count=f"{len(skipped):,}"), skipped)
    lines += _section(
        tr("Layers not found in the running model: {count}").format(count=f"{len(preview.unmatched):,}"), preview.unmatched
    )
    return lines


def _samples(given: InputPreview) -> list[str]:
    return [f"{given.name}", *(f"  {text.plain(words)}" for words in given.samples), ""] if given.samples else []


def _section(title: str, items: Sequence[str]) -> list[str]:
    more = ["  " + tr("… and {count} more").format(count=f"{len(items) - LISTED:,}")] if len(items) > LISTED else []
    return [title, *(f"  {text.plain(item)}" for item in items[:LISTED]), *more, ""] if items else []
