"""The rows of a form that choose how codes are fitted, and from what static activations get their range."""

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QComboBox, QFormLayout, QMenu

import engine
from engine.records.recipe import AlgorithmInfo
from mono_quant_gui.i18n import tr
from mono_quant_gui.widgets.option_rows import NEEDS_DATA, OptionRows, fill_box
from mono_quant_gui.widgets.parts import MenuButton

STAGES = (("transform", "Before the algorithm"), ("correction", "After it"))


class AlgorithmForm(QObject):
    """Adds its rows to a form; ``changed`` carries the algorithm's text, such as ``mse:norm=2.4`` or ``awq+gptq+bias``.

    One solver is picked; transforms before it and corrections after it are ticked in a list.
    """

    changed = Signal(str)

    def __init__(self, form: QFormLayout) -> None:
        super().__init__(form)
        self._form = form
        self._filling = False
        self._infos = {info.name: info for info in engine.algorithm_choices()}
        solvers = [info for info in self._infos.values() if info.stage == "solver"]
        self.algorithm = QComboBox()
        self.algorithm.setAccessibleName(tr("Algorithm"))
        fill_box(self.algorithm, solvers, mark=True)
        form.addRow(tr("A&lgorithm"), self.algorithm)
        self._rows = OptionRows(form, self._edited)
        self.options = self._rows.editors
        for info in solvers:
            self._rows.add(info)
        self._order: list[str] = []
        self.steps: dict[str, QAction] = {}
        self.more = self._make_steps()
        form.addRow(tr("&Steps"), self.more)
        for name in self.steps:
            self._rows.add(self._infos[name], titled=True)
        self.algorithm.currentIndexChanged.connect(self._edited)
        self.set_text("rtn")

    def text(self) -> str:
        """The chain that the widgets say, in canonical form."""
        stages = {stage: [name for name in self._order if self._infos[name].stage == stage] for stage, _ in STAGES}
        names = [*stages["transform"], self.algorithm.currentData(), *stages["correction"]]
        return engine.algorithm_name("+".join(map(self._rows.text, names)))

    def set_text(self, text: str) -> None:
        """Show a chain; options that its text leaves out stand at their defaults."""
        given = {name: words for name, *words in (step.split(":") for step in text.split("+"))}
        self._filling = True
        solver = next((name for name in given if name in self._infos and name not in self.steps), "rtn")
        self.algorithm.setCurrentIndex(self.algorithm.findData(solver))
        self._order = [name for name in given if name in self.steps]
        for name, action in self.steps.items():
            action.setChecked(name in given)
        for name in self._infos:
            self._rows.set_text(name, given.get(name, []))
        self._filling = False
        self._show_options()

    def _make_steps(self) -> MenuButton:
        button = MenuButton()
        button.setAccessibleName(tr("Steps before and after the algorithm"))
        menu = QMenu(button)
        menu.setToolTipsVisible(True)
        for stage, title in STAGES:
            menu.addAction(title).setEnabled(False)
            for info in self._infos.values():
                if info.stage == stage:
                    self.steps[info.name] = action = menu.addAction(_marked(info))
                    action.setCheckable(True)
                    action.setToolTip(info.summary)
                    action.toggled.connect(self._edited)
        button.setMenu(menu)
        return button

    def _edited(self, *_: object) -> None:
        if self._filling:
            return
        checked = [name for name, action in self.steps.items() if action.isChecked()]
        self._order = [name for name in self._order if name in checked] + [name for name in checked if name not in self._order]
        self._show_options()
        self.changed.emit(self.text())

    def _show_options(self) -> None:
        chosen = self.algorithm.currentData()
        self.algorithm.setToolTip(self._infos[chosen].summary)
        self._rows.show([chosen, *self._order])
        self.more.set_text(", ".join(self._infos[name].title for name in self._order) or tr("none"))
        nothing = tr("Transforms before the algorithm, corrections after it.")
        self.more.setToolTip("\n".join(self._infos[name].summary for name in self._order) or nothing)


class ObserverForm(QObject):
    """Adds its rows to a form; ``changed`` carries the observer's text, such as ``percentile:share=99.9``."""

    changed = Signal(str)

    def __init__(self, form: QFormLayout) -> None:
        super().__init__(form)
        self._form = form
        self._filling = False
        self._infos = {info.name: info for info in engine.observer_choices()}
        self.observer = QComboBox()
        self.observer.setAccessibleName(tr("Observer"))
        fill_box(self.observer, list(self._infos.values()), mark=False)
        form.addRow(tr("&Observer"), self.observer)
        self._rows = OptionRows(form, self._edited)
        self.options = self._rows.editors
        for info in self._infos.values():
            self._rows.add(info)
        self.observer.currentIndexChanged.connect(self._edited)
        self._visible = False
        self.set_text("minmax")

    def text(self) -> str:
        """The observer and options that the widgets say."""
        return self._rows.text(self.observer.currentData())

    def set_text(self, text: str) -> None:
        """Show an observer; options that its text leaves out stand at their defaults."""
        name, *words = text.split(":")
        self._filling = True
        self.observer.setCurrentIndex(max(self.observer.findData(name), 0))
        for known in self._infos:
            self._rows.set_text(known, words if known == name else [])
        self._filling = False
        self._show()

    def set_visible(self, visible: bool) -> None:
        """Whether activations get their range from what was seen."""
        self._visible = visible
        self._show()

    def _edited(self, *_: object) -> None:
        if not self._filling:
            self._show()
            self.changed.emit(self.text())

    def _show(self) -> None:
        chosen = self.observer.currentData()
        self.observer.setToolTip(self._infos[chosen].summary)
        self._form.setRowVisible(self.observer, self._visible)
        self._rows.show([chosen] if self._visible else [])


def needs_data(text: str) -> bool:
    """Whether a chain cannot be fitted without calibration."""
    data = {info.name for info in engine.algorithm_choices() if info.data}
    return any(step.split(":")[0] in data for step in text.split("+"))


def _marked(info: AlgorithmInfo) -> str:
    return f"{info.title}  ·  {NEEDS_DATA}" if info.data else info.title
