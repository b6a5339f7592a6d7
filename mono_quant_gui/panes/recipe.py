"""The recipe pane: preset or by hand, ordered rules, and what it will cost."""

import dataclasses

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

import engine
from engine.records.recipe import Recipe
from engine.records.scheme import Scheme
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.panes.preset_box import PresetBox, builtin_preset
from mono_quant_gui.panes.problems import ProblemList
from mono_quant_gui.panes.recipe_totals import Missing, Totals
from mono_quant_gui.panes.rules import RulesBox
from mono_quant_gui.presets import Preset
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.algorithm_form import AlgorithmForm, ObserverForm, needs_data
from mono_quant_gui.widgets.parts import Pane, yielding
from mono_quant_gui.widgets.scheme_form import SchemeForm


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
        self.builtin = QCheckBox(tr("Built-in rules"))
        self.builtin.setToolTip("\n".join(rule.note for rule in engine.builtin_rules()))
        self.builtin.toggled.connect(self._builtin_toggled)
        column.addWidget(self.builtin)
        column.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(content)
        self.body.addWidget(scroll, 1)
        # Outside what scrolls: what it costs and what is wrong must always be in sight.
        self.totals, self.problems, self.missing = Totals(session), ProblemList(session), Missing(session)
        for widget in (self.totals, self.problems, self.missing):
            self.body.addWidget(widget)
        self.missing.data_wanted.connect(self.data_wanted)
        self.missing.network_wanted.connect(self.network_wanted)
        session.recipe_changed.connect(self._fill)
        session.recipe_file.changed.connect(self._show_name)
        session.viewing_changed.connect(self._show_name)
        self._fill()

    # -- building ----------------------------------------------------------------------------------------------

    def _make_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(4)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.presets = PresetBox(self._session)
        self.presets.chosen.connect(self._preset_chosen)
        self.preset = self.presets.box
        form.addRow(tr("&Preset"), self.presets)
        self.scheme = SchemeForm(form)
        self.scheme.changed.connect(self._scheme_chosen)
        self.algorithm = AlgorithmForm(form)
        self.algorithm.changed.connect(lambda text: self._edit("algorithm", algorithm=text))
        self.activations = QComboBox()
        for info in engine.activation_choices():
            self.activations.addItem(info.title, info.name)
            self.activations.setItemData(self.activations.count() - 1, info.summary, Qt.ItemDataRole.ToolTipRole)
        self.activations.setToolTip(tr("What a runtime does to activations; weights are not affected."))
        self.activations.activated.connect(self._activations_chosen)
        yielding(self.activations)
        form.addRow(tr("&Activations"), self.activations)
        self.observer = ObserverForm(form)
        self.observer.changed.connect(lambda text: self._edit("observer", observer=text))
        self.sequential = QCheckBox(tr("Sequential"))
        self.sequential.setToolTip(
            tr(
                "Each layer is calibrated on what the quantized layers before it give it.\n"
                "Otherwise on what the float model gives it: faster, and errors add up."
            )
        )
        self.sequential.toggled.connect(lambda on: self._edit("sequential", sequential=on))
        form.addRow("", self.sequential)
        self._form = form
        return form

    # -- recipe to widgets ---------------------------------------------------------------------------------------

    def _fill(self) -> None:
        recipe = self._session.recipe
        self._filling = True
        self.presets.show_recipe()
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
        self._filling = False
        self._show_name()

    def _show_name(self) -> None:
        file, viewed = self._session.recipe_file, self._session.viewed
        if viewed is not None:
            self.note.set_text(tr("of run #{number}").format(number=viewed.number))
            return
        self.note.set_text(text.plain(file.name) + ("" if file.saved else tr(" · not saved")))

    # -- widgets to recipe ---------------------------------------------------------------------------------------

    def _edit(self, words: str, **changes: object) -> None:
        if not self._filling:
            self._session.edit_recipe(dataclasses.replace(self._session.recipe, **changes), words)

    def _preset_chosen(self, preset: Preset | Recipe) -> None:
        """The user's own is a whole recipe; a built-in one says weights and activations, and the rest stays."""
        if isinstance(preset, Preset):
            if preset.recipe:
                self._session.edit_recipe(preset.recipe, tr("preset {name}").format(name=text.plain(preset.name, 60)))
            return
        self._edit(
            tr("preset {name}").format(name=preset.name),
            default=preset.default, activations=preset.activations, builtin=preset.builtin, name=preset.name,
        )  # fmt: skip

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


def _name_for(recipe: Recipe) -> str:
    known = builtin_preset(recipe)
    return known.name if known else engine.scheme_name(recipe.default)


def _static(recipe: Recipe) -> bool:
    """Whether activations get their range from calibration."""
    return any(info.data for info in engine.activation_choices() if info.name == recipe.activations)
