"""The recipe pane: preset or by hand, ordered rules, and what it will cost."""

import dataclasses

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

import engine
from engine.records.recipe import Recipe
from engine.records.scheme import Scheme
from mono_quant_gui import text
from mono_quant_gui.panes.rules import RulesBox
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.algorithm_form import AlgorithmForm, ObserverForm, needs_data
from mono_quant_gui.widgets.parts import Pane, label, yielding
from mono_quant_gui.widgets.scheme_form import SchemeForm

CUSTOM = "Custom"
SHOWN_PROBLEMS = 2


class RecipePane(Pane):
    """Edits the session's recipe; every edit can be undone."""

    rule_wanted = Signal(object)
    """The row of a rule to change in a dialog, or None for a new one."""
    data_wanted = Signal()
    network_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Recipe", parent)
        self._session = session
        self._filling = False
        content = QFrame()
        content.setObjectName("pane")
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 4, 0)
        column.setSpacing(8)
        column.addLayout(self._make_form())
        self.rules = RulesBox(session)
        self.rules.rule_wanted.connect(self.rule_wanted)
        column.addWidget(self.rules)
        self.builtin = QCheckBox("Built-in rules")
        self.builtin.setToolTip("\n".join(rule.note for rule in engine.builtin_rules()))
        self.builtin.toggled.connect(self._builtin_toggled)
        column.addWidget(self.builtin)
        column.addStretch(1)
        self.problems = label("", "problem")
        self.problems.setWordWrap(True)
        self.problems.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(content)
        self.body.addWidget(scroll, 1)
        # Outside what scrolls: what it costs and what is wrong must always be in sight.
        self.body.addLayout(self._make_totals())
        self.body.addWidget(self.problems)
        self.body.addWidget(self._make_missing())
        session.recipe_changed.connect(self._fill)
        session.plan_changed.connect(self._show_totals)
        session.model_changed.connect(self._show_totals)
        session.calibrating.changed.connect(self._show_problems)
        self._fill()
        self._show_totals()

    # -- building ----------------------------------------------------------------------------------------------

    def _make_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.preset = QComboBox()
        self.preset.addItems([recipe.name for recipe in engine.presets()] + [CUSTOM])
        self.preset.activated.connect(self._preset_chosen)
        yielding(self.preset)
        form.addRow("&Preset", self.preset)
        self.scheme = SchemeForm(form)
        self.scheme.changed.connect(self._scheme_chosen)
        self.algorithm = AlgorithmForm(form)
        self.algorithm.changed.connect(lambda text: self._edit("algorithm", algorithm=text))
        self.activations = QComboBox()
        for info in engine.activation_choices():
            self.activations.addItem(info.title, info.name)
            self.activations.setItemData(self.activations.count() - 1, info.summary, Qt.ItemDataRole.ToolTipRole)
        self.activations.setToolTip("What a runtime does to activations; weights are not affected.")
        self.activations.activated.connect(self._activations_chosen)
        yielding(self.activations)
        form.addRow("&Activations", self.activations)
        self.observer = ObserverForm(form)
        self.observer.changed.connect(lambda text: self._edit("observer", observer=text))
        self.sequential = QCheckBox("Sequential")
        self.sequential.setToolTip(
            "Each layer is calibrated on what the quantized layers before it give it.\n"
            "Otherwise on what the float model gives it: faster, and errors add up."
        )
        self.sequential.toggled.connect(lambda on: self._edit("sequential", sequential=on))
        form.addRow("", self.sequential)
        self._form = form
        return form

    def _make_missing(self) -> QFrame:
        """What a recipe that needs calibration still lacks, and the button that leads there."""
        self.missing = QFrame()
        self.missing.setObjectName("framed")
        column = QVBoxLayout(self.missing)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(6)
        self.missing_words = label("")
        self.missing_words.setWordWrap(True)
        self.missing_button = QPushButton("Choose data…")
        self.missing_button.clicked.connect(self._supply)
        column.addWidget(self.missing_words)
        column.addWidget(self.missing_button, 0, Qt.AlignmentFlag.AlignLeft)
        self.missing.hide()
        return self.missing

    def _supply(self) -> None:
        model = self._session.model
        (self.data_wanted if model and model.runs else self.network_wanted).emit()

    def _make_totals(self) -> QFormLayout:
        form = QFormLayout()
        form.setVerticalSpacing(4)
        form.setHorizontalSpacing(12)
        self.totals: dict[str, QLabel] = {}
        for name in ("Size", "Before", "Compression", "Bits per weight", "To calibrate"):
            value = label("–", "strong" if name == "Size" else "")
            value.setAlignment(Qt.AlignmentFlag.AlignRight)
            self.totals[name] = value
            value.setMinimumWidth(120)
            form.addRow(label(name, "muted"), value)
        self._totals_form = form
        return form

    # -- recipe to widgets ---------------------------------------------------------------------------------------

    def _fill(self) -> None:
        recipe = self._session.recipe
        self._filling = True
        self.preset.setCurrentText(_preset_of(recipe))
        self.scheme.set_scheme(recipe.default)
        if self.algorithm.text() != recipe.algorithm:
            self.algorithm.set_text(recipe.algorithm)
        self.activations.setCurrentIndex(self.activations.findData(recipe.activations))
        self.observer.set_visible(_static(recipe))
        if self.observer.text() != recipe.observer:
            self.observer.set_text(recipe.observer)
        self.sequential.setChecked(recipe.sequential)
        self._form.setRowVisible(self.sequential, any(needs_data(x.algorithm) for x in (recipe, *recipe.rules)))
        self.builtin.setChecked(recipe.builtin)
        self.note.set_text(recipe.name + (f" · {len(recipe.rules)} rules" if recipe.rules else ""))
        self._filling = False

    def _show_totals(self) -> None:
        session, plan = self._session, self._session.plan
        model = session.model
        self.totals["Before"].setText(text.size(model.nbytes) if model else "–")
        self.totals["Before"].setToolTip(text.exact_bytes(model.nbytes) if model else "")
        known = model is not None and plan.predicted is not None and not plan.errors
        predicted = plan.predicted or 0
        self.totals["Size"].setText(text.size(predicted) if known else "–")
        self.totals["Size"].setToolTip(text.exact_bytes(predicted) if known else "")
        ratio = model.nbytes / predicted if model and known and predicted else 0
        self.totals["Compression"].setText(f"{ratio:.2f} ×" if ratio else "–")
        self.totals["Bits per weight"].setText(f"{plan.bits_per_weight:.3f}" if known else "–")
        need = plan.calibration or {}
        self.totals["To calibrate"].setText(f"{text.size(need['nbytes'])} of memory" if need else "")
        self.totals["To calibrate"].setToolTip("Memory for statistics beside the model itself")
        self._totals_form.setRowVisible(self.totals["To calibrate"], bool(need))
        self._show_problems()

    def _show_problems(self) -> None:
        plan = self._session.plan
        problems = [plan.error] if plan.error else [str(p["message"]) for p in plan.errors]
        role = "error" if problems else "problem"
        problems = problems or [str(p["message"]) for p in plan.problems]
        more = len(problems) - SHOWN_PROBLEMS
        lines = [text.plain(p) for p in problems[:SHOWN_PROBLEMS]] + (
            [f"… and {more} more: filter the table by “problem”."] if more > 0 else []
        )
        self.problems.setVisible(bool(problems))
        self.problems.setText("\n".join(lines))
        if self.problems.property("role") != role:
            self.problems.setProperty("role", role)
            self.problems.style().polish(self.problems)
        model, lacks = self._session.model, self._session.missing_data
        self.missing.setVisible(bool(lacks) and not plan.errors)
        self.missing_words.setText(lacks)
        self.missing_button.setText("Choose data…" if model and model.runs else "Add network…")

    # -- widgets to recipe ---------------------------------------------------------------------------------------

    def _edit(self, words: str, **changes: object) -> None:
        if not self._filling:
            self._session.edit_recipe(dataclasses.replace(self._session.recipe, **changes), words)

    def _preset_chosen(self) -> None:
        chosen = self.preset.currentText()
        if chosen == CUSTOM:
            self._fill()
            return
        preset = engine.recipe(chosen)
        self._edit(
            f"preset {chosen}",
            default=preset.default,
            activations=preset.activations,
            builtin=preset.builtin,
            name=preset.name,
        )

    def _scheme_chosen(self, scheme: Scheme) -> None:
        before = self._session.recipe.activations
        activations = before if before in engine.activations_for(scheme) else "none"
        named = dataclasses.replace(self._session.recipe, default=scheme, activations=activations)
        self._edit("weights", default=scheme, activations=activations, name=_name_for(named))

    def _activations_chosen(self) -> None:
        chosen = self.activations.currentData()
        named = dataclasses.replace(self._session.recipe, activations=chosen)
        self._edit("activations", activations=chosen, name=_name_for(named))

    def _builtin_toggled(self, on: bool) -> None:
        self._edit("built-in rules", builtin=on)


def _preset_of(recipe: Recipe) -> str:
    """The preset that a recipe's default and activations are, or Custom."""
    for preset in engine.presets():
        if (preset.default, preset.activations) == (recipe.default, recipe.activations):
            return preset.name
    return CUSTOM


def _name_for(recipe: Recipe) -> str:
    preset = _preset_of(recipe)
    return engine.scheme_name(recipe.default) if preset == CUSTOM else preset


def _static(recipe: Recipe) -> bool:
    """Whether activations get their range from calibration."""
    return any(info.data for info in engine.activation_choices() if info.name == recipe.activations)
