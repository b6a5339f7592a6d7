"""One cell of the layers tables: words, tooltip, colour, bar, and what is written to a file."""

import math
from typing import Any

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor

from mono_quant_gui import text, theme
from mono_quant_gui.exporting import EXACT_ROLE
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.layer_columns import (
    BITS,
    CAUSE,
    DECIBELS,
    FIGURES,
    KIND,
    NAME,
    PARAMETERS,
    SCHEME,
    SHAPE,
    SIZE,
    SIZES,
    SQNR,
    TEXTS,
)  # fmt: skip
from mono_quant_gui.models.layer_data import LayerData
from mono_quant_gui.session import Session

LOW_SQNR_DB = 15.0
"""Below this a layer is marked as hurt: four-bit groups of a Gaussian weight reach 19 to 20 dB."""
FULL_BAR_DB = 50.0
BAR_ROLE = int(Qt.ItemDataRole.UserRole) + 1
"""(length of the inline bar, 0 to 1; whether it is a bad one), or None."""
SHORT = "▾ "
"""Stands before the dB of a layer that falls short of a Gaussian one."""
CAUSE_AFTER = " · "
"""Between how far a layer falls short and why."""
Words = str


class LayerCells:
    """Answers for a layer, by its row in file order."""

    def __init__(self, data: LayerData, session: Session) -> None:
        self._data, self._session = data, session

    def answer(self, row: int, column: int, role: int) -> Any:
        """What Qt asks of a cell."""
        if role == Qt.ItemDataRole.DisplayRole:
            return self.words(row, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self.tip(row, column)
        if role == Qt.ItemDataRole.ForegroundRole:
            return self.color(row, column)
        if role == Qt.ItemDataRole.BackgroundRole:
            marked = self._data.marked
            return QColor(theme.current().selection) if marked is not None and marked[row] else None
        if role == BAR_ROLE:
            return self.bar(row, column)
        if role == EXACT_ROLE:
            return self.exact(row, column)
        return shared(column, role)

    def words(self, row: int, column: int) -> str:
        data = self._data
        if column == NAME:
            return text.plain(data.names[row])
        if column == SHAPE:
            return text.shape(data.layers[row].shape)
        if column == CAUSE:
            return self._finding(row)
        if column == SQNR and data.names[row] in self._failures():
            return tr("failed")
        if column in TEXTS:
            word = str(data.words[column].values[data.words[column].codes[row]])
            if column == KIND:
                return word + (" ?" if data.layers[row].guessed else "")
            return f"⚠ {word}" if column == SCHEME and data.problems[row] else word
        value = data.numbers[column][row]
        mark = SHORT if column == SQNR and self._falls_short(row) else ""
        return mark + figure(column, value)

    def exact(self, row: int, column: int) -> object:
        """With all digits; None where the words say it."""
        data = self._data
        if column == NAME:
            return data.names[row]
        if column == SCHEME:
            return data.words[SCHEME].values[data.words[SCHEME].codes[row]]
        if column in data.numbers and not (column == SQNR and data.names[row] in self._failures()):
            value = data.numbers[column][row].item()
            return tr("exact") if column in DECIBELS and math.isinf(value) else value
        return None

    def tip(self, row: int, column: int) -> str | None:
        data, plan = self._data, self._session.plan
        name, layer = data.names[row], data.layers[row]
        problem = plan.problem_of.get(name)
        trouble = f"{problem['severity']}: {text.plain(problem['message'])}" if problem else ""
        if column == NAME:
            return text.plain(name) + (f"\n{trouble}" if trouble else "")
        if column == KIND and layer.guessed:
            return tr("Guessed from names and shapes: the file has no configuration.")
        if column == SCHEME and trouble:
            return trouble
        if column == SCHEME and row < len(plan.rules):
            return tr("Because of {rule}").format(rule=text.plain(plan.rules[row]))
        if column in SIZES:
            words = tr("{planned}; in the file {before}")
            return words.format(planned=text.exact_bytes(int(data.numbers[SIZE][row])), before=text.exact_bytes(layer.nbytes))
        if column == PARAMETERS:
            return f"{layer.parameters:,}"
        if column in FIGURES and name in self._session.surveying.notes:
            return text.plain(self._session.surveying.notes[name]) or None
        return self._about_measured(row, column)

    def _about_measured(self, row: int, column: int) -> str | None:
        name = self._data.names[row]
        if column == SQNR and name in self._failures():
            return text.plain(self._failures()[name])
        if column not in (*DECIBELS, CAUSE):
            return None
        if self.stale(row):
            report = self._session.report_of(name)
            return tr("Measured with {scheme}; the recipe has changed since.").format(scheme=report.scheme) if report else None
        if column in (SQNR, CAUSE) and self._falls_short(row):
            cause = self._session.surveying.causes.get(name)
            words = tr("{short:.1f} dB below a Gaussian layer").format(short=self._data.short[row])
            return text.plain(cause.words if cause else words)
        return None

    def color(self, row: int, column: int) -> QColor | None:
        data, colors = self._data, theme.current()
        if column in DECIBELS or column == CAUSE:
            if column == SQNR and data.names[row] in self._failures():
                return QColor(colors.bad)
            return QColor(colors.muted) if self.stale(row) else None
        if column in (NAME, SCHEME) and data.problems[row]:
            return QColor(colors.bad)
        if column == NAME or (column == SCHEME and self.words(row, SCHEME) != "keep"):
            return None
        return QColor(colors.muted)

    def bar(self, row: int, column: int) -> tuple[float, bool] | None:
        value = float(self._data.numbers[column][row]) if column in (*DECIBELS, *SIZES) else math.nan
        if column in SIZES:
            return value / max(self._data.largest.values()), False
        return decibel_bar(value)

    def stale(self, row: int) -> bool:
        """The measurement belongs to another scheme than the recipe now gives this layer."""
        report = self._session.report_of(self._data.names[row])
        schemes = self._session.plan.schemes
        return report is not None and row < len(schemes) and report.scheme != schemes[row]

    def _finding(self, row: int) -> str:
        if not self._falls_short(row):
            return ""
        cause = self._session.surveying.causes.get(self._data.names[row])
        return f"−{self._data.short[row]:.1f} dB" + (f"{CAUSE_AFTER}{cause.cause}" if cause else "")

    def _falls_short(self, row: int) -> bool:
        return bool(self._data.short[row] >= self._session.surveying.short_db)

    def _failures(self) -> dict[str, str]:
        run = self._session.shown_run
        return run.failures if run else {}


def shared(column: int, role: int) -> Any:
    """What all rows have in common."""
    if role == Qt.ItemDataRole.TextAlignmentRole:
        side = Qt.AlignmentFlag.AlignLeft if column in TEXTS else Qt.AlignmentFlag.AlignRight
        return side | Qt.AlignmentFlag.AlignVCenter
    if role == Qt.ItemDataRole.FontRole and column == NAME:
        return theme.monospace()
    return None


def decibel_bar(value: float) -> tuple[float, bool] | None:
    """None for what was not measured or is exact."""
    return (min(max(value, 0.0) / FULL_BAR_DB, 1.0), value < LOW_SQNR_DB) if math.isfinite(value) else None


def figure(column: int, value: Any) -> str:
    """A number of a column in words; nothing where it is not known."""
    if np.isnan(value):
        return ""
    if column in DECIBELS:
        return tr("exact") if np.isinf(value) else text.decibel(float(value))
    if column in SIZES:
        return text.size(int(value))
    if column == PARAMETERS:
        return text.count(int(value))
    if np.isinf(value):
        return ""
    return f"{value:.2f}" if column == BITS else f"{value:.3g}"
