"""Rows of a form that edit options of algorithms or observers, built from what each says of its own."""

from collections.abc import Callable, Sequence

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QSpinBox,
    QStyledItemDelegate,
    QStyleOptionViewItem,
)

from engine.records.recipe import AlgorithmInfo, OptionInfo
from mono_quant_gui.widgets.parts import roomy, yielding

MARK = int(Qt.ItemDataRole.UserRole) + 1
NEEDS_DATA = "needs calibration"


class Decimal(QDoubleSpinBox):
    """A number without the zeros that only fill its decimals."""

    def textFromValue(self, value: float) -> str:
        return f"{value:.10g}"


Editor = QComboBox | QSpinBox | QDoubleSpinBox


class OptionRows:
    """One row an option, shown with ``show``; ``changed`` is called after an edit."""

    def __init__(self, form: QFormLayout, changed: Callable[..., None]) -> None:
        self._form, self._changed = form, changed
        self.editors: dict[tuple[str, str], Editor] = {}
        self._infos: dict[str, AlgorithmInfo] = {}

    def add(self, info: AlgorithmInfo, titled: bool = False) -> None:
        """Rows for one algorithm; ``titled`` ones say whose they are."""
        self._infos[info.name] = info
        for option in info.options:
            editor = _editor(option)
            editor.setToolTip(option.help)
            editor.setAccessibleName(f"{info.title}, {option.name}")
            (editor.currentIndexChanged if isinstance(editor, QComboBox) else editor.valueChanged).connect(self._changed)
            self.editors[info.name, option.name] = editor
            self._form.addRow(f"{info.title} {option.name}" if titled else option.name.capitalize(), editor)

    def show(self, names: Sequence[str]) -> None:
        """Only the options of these."""
        for (owner, _), editor in self.editors.items():
            self._form.setRowVisible(editor, owner in names)

    def text(self, name: str) -> str:
        """An algorithm with the options that differ from its defaults, such as ``mse:norm=2.4``."""
        words = [name]
        for option in self._infos[name].options:
            value = _value(self.editors[name, option.name])
            words += [f"{option.name}={value}"] if value != _words(option.default) else []
        return ":".join(words)

    def set_text(self, name: str, words: Sequence[str] = ()) -> None:
        """Show an algorithm's options; those that are left out stand at their defaults."""
        given = dict(word.split("=", 1) for word in words)
        for option in self._infos[name].options:
            _set_value(self.editors[name, option.name], given.get(option.name, option.default))


class MarkDelegate(QStyledItemDelegate):
    """Adds to an item of an open list what its mark says."""

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().initStyleOption(option, index)
        if mark := index.data(MARK):
            option.text += f"  ·  {mark}"  # type: ignore[attr-defined]


def fill_box(box: QComboBox, infos: Sequence[AlgorithmInfo], *, mark: bool) -> None:
    """Items with tooltips; those that need data are marked in the list."""
    for info in infos:
        box.addItem(info.title, info.name)
        place = box.count() - 1
        box.setItemData(place, info.summary, Qt.ItemDataRole.ToolTipRole)
        box.setItemData(place, NEEDS_DATA if mark and info.data else "", MARK)
    yielding(box)
    box.setItemDelegate(MarkDelegate(box))
    if mark:
        box.view().setMinimumWidth(box.view().sizeHintForColumn(0) + 28)


def _editor(option: OptionInfo) -> Editor:
    if option.choices:
        box = QComboBox()
        box.addItems(list(option.choices))
        yielding(box)
        return box
    number = QSpinBox() if option.type == "int" else Decimal()
    low, high = option.low or 0, option.high if option.high is not None else 1e6
    if isinstance(number, QSpinBox):
        number.setRange(int(low), int(high))
    else:
        number.setDecimals(6 if 0 < low < 1e-3 else 3)
        number.setRange(low, high)
        number.setSingleStep(0.1 if high > 2 else 0.01)
    number.setSuffix(f" {option.unit}" if option.unit else "")
    roomy(number)
    number.setKeyboardTracking(False)  # one edit, not one for every digit
    return number


def _value(editor: Editor) -> str:
    if isinstance(editor, QComboBox):
        return editor.currentText()
    return str(editor.value()) if isinstance(editor, QSpinBox) else _words(round(editor.value(), editor.decimals()))


def _words(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _set_value(editor: Editor, value: object) -> None:
    if isinstance(editor, QComboBox):
        editor.setCurrentText(str(value))
    elif isinstance(editor, QSpinBox):
        editor.setValue(int(str(value)))
    else:
        editor.setValue(float(str(value)))
