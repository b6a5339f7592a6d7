"""The rows of a form that choose an algorithm and its options, built from what each algorithm says of them."""

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QSpinBox

import engine
from engine.records.recipe import OptionInfo
from mono_quant_gui.widgets.parts import yielding

Editor = QComboBox | QSpinBox | QDoubleSpinBox


class AlgorithmForm(QObject):
    """Adds its rows to a form; ``changed`` carries the algorithm's text, such as ``mse:norm=2.4``."""

    changed = Signal(str)

    def __init__(self, form: QFormLayout) -> None:
        super().__init__(form)
        self._form = form
        self._filling = False
        self.algorithm = QComboBox()
        self.algorithm.setAccessibleName("Algorithm")
        yielding(self.algorithm)
        form.addRow("A&lgorithm", self.algorithm)
        self.options: dict[tuple[str, str], Editor] = {}
        for info in engine.algorithm_choices():
            self.algorithm.addItem(info.title, info.name)
            for option in info.options:
                editor = _editor(option)
                editor.setToolTip(option.help)
                editor.setAccessibleName(f"{info.title}, {option.name}")
                (editor.currentIndexChanged if isinstance(editor, QComboBox) else editor.valueChanged).connect(self._edited)
                self.options[info.name, option.name] = editor
                form.addRow(option.name.capitalize(), editor)
        self.algorithm.currentIndexChanged.connect(self._edited)
        self.set_text("rtn")

    def text(self) -> str:
        """The algorithm and options that the widgets say, in canonical form."""
        name = self.algorithm.currentData()
        words = [f"{option}={_value(editor)}" for (owner, option), editor in self.options.items() if owner == name]
        return engine.algorithm_name(":".join([name, *words]))

    def set_text(self, text: str) -> None:
        """Show an algorithm; options that its text leaves out stand at their defaults."""
        name, *words = text.split(":")
        given = dict(word.split("=", 1) for word in words)
        self._filling = True
        self.algorithm.setCurrentIndex(max(self.algorithm.findData(name), 0))
        for info in engine.algorithm_choices():
            for option in info.options:
                value = given.get(option.name, option.default) if info.name == name else option.default
                _set_value(self.options[info.name, option.name], value)
        self._filling = False
        self._show_options()

    def _edited(self, *_: object) -> None:
        if not self._filling:
            self._show_options()
            self.changed.emit(self.text())

    def _show_options(self) -> None:
        chosen = self.algorithm.currentData()
        self.algorithm.setToolTip(next(info.summary for info in engine.algorithm_choices() if info.name == chosen))
        for (owner, _), editor in self.options.items():
            self._form.setRowVisible(editor, owner == chosen)


def _editor(option: OptionInfo) -> Editor:
    if option.choices:
        box = QComboBox()
        box.addItems(list(option.choices))
        yielding(box)
        return box
    number = QSpinBox() if option.type == "int" else QDoubleSpinBox()
    low, high = option.low or 0, option.high if option.high is not None else 1e6
    if isinstance(number, QSpinBox):
        number.setRange(int(low), int(high))
    else:
        number.setDecimals(3)
        number.setRange(low, high)
        number.setSingleStep(0.1 if high > 2 else 0.01)
    number.setSuffix(f" {option.unit}" if option.unit else "")
    number.setKeyboardTracking(False)  # one edit, not one for every digit
    return number


def _value(editor: Editor) -> str:
    if isinstance(editor, QComboBox):
        return editor.currentText()
    return str(editor.value()) if isinstance(editor, QSpinBox) else repr(round(editor.value(), 3))


def _set_value(editor: Editor, value: object) -> None:
    if isinstance(editor, QComboBox):
        editor.setCurrentText(str(value))
    elif isinstance(editor, QSpinBox):
        editor.setValue(int(str(value)))
    else:
        editor.setValue(float(str(value)))
