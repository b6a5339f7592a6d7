"""The what-if strip: another scheme for the selected layer, and what it would do, before anything is decided."""

import dataclasses

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

import engine
from engine.records.recipe import Rule
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.looking import without_data
from mono_quant_gui.mending import exact_pattern
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.field_row import FieldRow
from mono_quant_gui.widgets.parts import ElidedLabel, label, yielding
from mono_quant_gui.widgets.scheme_form import SchemeForm


class WhatIfStrip(QWidget):
    """Edits nothing by itself: "Use here" writes a rule."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session, self._looking = session, session.looking
        self._shown: tuple[str | None, tuple[str, str] | None] = (None, None)
        more = QHBoxLayout()
        fields = FieldRow(3, more)
        fields.addWidget(label(tr("What if"), "strong"))
        self.scheme = SchemeForm(fields)
        self.scheme.changed.connect(self._try)
        self.algorithm = self._make_algorithms()
        self.words = ElidedLabel(mode=Qt.TextElideMode.ElideRight)
        self.back = self._button(tr("Reset"), tr("Show the recipe's scheme again"), self._looking.back_to_recipe)
        self.here = self._button(tr("Use here"), tr("Write a rule for this layer"), self.use_here)
        self.alike = self._button(tr("For all like this"), "", self.use_alike)
        more.setSpacing(4)
        fields.addRow("", self.algorithm)
        for button in (self.here, self.alike):
            more.addWidget(button)
        self.back.setProperty("kind", "link")
        answer = QHBoxLayout()
        answer.addWidget(self.words, 1)
        answer.addWidget(self.back)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 0)
        column.setSpacing(4)
        column.addLayout(fields)
        column.addLayout(more)
        column.addLayout(answer)
        self._looking.trial_changed.connect(self.refresh)
        session.plan_changed.connect(self.refresh)
        session.runs_changed.connect(self.refresh)
        self.refresh()

    def _make_algorithms(self) -> QComboBox:
        box = QComboBox()
        box.setAccessibleName(tr("Algorithm to try"))
        for info in engine.algorithm_choices():
            if info.stage == "solver" and not info.data:
                box.addItem(info.title, info.name)
                box.setItemData(box.count() - 1, info.summary, Qt.ItemDataRole.ToolTipRole)
        box.setToolTip(tr("Algorithms that need calibration data are tried in a run."))
        yielding(box)
        box.activated.connect(self._try)
        return box

    def _button(self, words: str, tip: str, slot) -> QPushButton:
        button = QPushButton(words)
        button.setProperty("kind", "small")
        button.setToolTip(tip)
        button.clicked.connect(lambda _=False: slot())
        return button

    # -- what is asked -------------------------------------------------------------------------------------------------

    def _try(self, *_: object) -> None:
        chosen = engine.scheme_name(self.scheme.scheme()), self.algorithm.currentData()
        self._shown = (self._session.selected, chosen)  # the fields say so already, and the next number may be half typed
        self._looking.try_scheme(*chosen)

    def use_here(self) -> None:
        """A rule for the selected layer."""
        if self._session.selected:
            self._use(exact_pattern(self._session.selected), tr("{scheme} for one layer"))

    def use_alike(self) -> None:
        """A rule for all layers whose name differs in numbers only."""
        if self._session.selected:
            self._use(pattern_of_alike(self._session.selected), tr("{scheme} for all like this"))

    def _use(self, pattern: str, words: str) -> None:
        chosen = engine.scheme_name(self.scheme.scheme()), self.algorithm.currentData()
        session = self._session
        rule = Rule(engine.parse_scheme(chosen[0]), chosen[1], match=pattern)
        others = tuple(other for other in session.recipe.rules if other.match != pattern)
        self._looking.wanted = None
        session.edit_recipe(dataclasses.replace(session.recipe, rules=(rule, *others)), words.format(scheme=chosen[0]))

    # -- what is answered -----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the scheme that was asked for, here or by a remedy, else the recipe's, and the answer."""
        looking, name = self._looking, self._session.selected
        row = self._session.row_of(name)
        self.setVisible(row is not None and row.plain and row.dtype in ("BF16", "F16", "F32", "F64"))
        chosen = looking.wanted or looking.recipe_scheme
        if chosen and (name, chosen) != self._shown:
            self._shown = (name, chosen)
            self.scheme.set_scheme(engine.parse_scheme(chosen[0]))
            solver = without_data(chosen[1]).split("+")[0].split(":")[0]
            self.algorithm.setCurrentIndex(max(self.algorithm.findData(solver), 0))
        self.words.set_text(self._answer(), self._exact_bytes())
        other = looking.wanted is not None and looking.wanted != looking.recipe_scheme
        self.here.setEnabled(other and not self._problem())
        self.alike.setEnabled(bool(name) and (other and not self._problem()))
        self.alike.setToolTip(tr("Write a rule for {pattern}").format(pattern=text.plain(pattern_of_alike(name or ""))))
        self.back.setVisible(looking.wanted is not None)

    def _problem(self) -> str:
        return self._looking.trial.problem if self._looking.trial else ""

    def _answer(self) -> str:
        looking = self._looking
        trial = looking.trial
        if looking.wanted is None:
            report = self._session.report_of(self._session.selected)
            if report is not None and looking.recipe_scheme and report.scheme == looking.recipe_scheme[0]:
                expected = looking.expected_db(report.name, report.scheme, report.algorithm)
                return _words(report.sqnr_db, report.bytes_after, True) + _gaussian(expected)
        if trial is None:
            return tr("kept as it is") if (looking.recipe_scheme or ("",))[0] == "keep" else "…"
        if trial.problem:
            return "⚠ " + text.plain(trial.problem)
        row = self._session.row_of(trial.layer)
        if trial.report is None:
            return tr("kept as it is, {size}").format(size=text.size(row.nbytes if row else 0))
        base = self._base() if looking.wanted is not None else None
        return _words(trial.report.sqnr_db, trial.report.bytes_after, trial.exact, base) + _gaussian(trial.expected_db)

    def _exact_bytes(self) -> str:
        """What the answer's size is to the byte."""
        looking = self._looking
        tried = looking.trial.report if looking.trial else None
        report = tried or (self._session.report_of(self._session.selected) if looking.wanted is None else None)
        return text.exact_bytes(report.bytes_after) if report else ""

    def _base(self) -> tuple[float | None, int] | None:
        """dB and bytes that the recipe's scheme has."""
        looking = self._looking
        report = self._session.report_of(self._session.selected)
        if report is not None and looking.recipe_scheme and report.scheme == looking.recipe_scheme[0]:
            return report.sqnr_db, report.bytes_after
        planned = looking.planned.report if looking.planned else None
        return (planned.sqnr_db, planned.bytes_after) if planned else None


def _words(db: float | None, nbytes: int, exact: bool, base: tuple[float | None, int] | None = None) -> str:
    """→ 31.2 dB (+1.4) · 1.90 MB (−0.20 MB)."""
    shown = tr("exact") if db is None else f"{'' if exact else '≈ '}{db:.2f} dB"
    size = text.size(nbytes)
    if base is not None:
        if db is not None and base[0] is not None:
            shown += f" ({db - base[0]:+.2f})".replace("-", "−")
        sign = "−" if nbytes < base[1] else "+"
        size += f" ({sign}{text.size(abs(nbytes - base[1]))})" if nbytes != base[1] else " (±0)"
    return f"→ {shown} · {size}"


def _gaussian(expected: float | None) -> str:
    return "" if expected is None else " · " + tr("Gaussian {db} dB").format(db=f"{expected:.1f}")


def pattern_of_alike(name: str) -> str:
    """Names that differ in their numbers only: ``layers.3.mlp.up`` gives ``layers.*.mlp.up``."""
    parts = name.split(".")
    if not any(part.isdecimal() for part in parts):
        return exact_pattern(name)
    return ".".join("*" if part.isdecimal() else part for part in parts)
