"""A row of fields that takes the place of a form where there is little height: tooltips stand for the labels."""

from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QWidget

NARROWEST = 7
"""Letters of a field where there is no more room."""


class FieldRow(QHBoxLayout):
    """The part of QFormLayout's interface that forms of fields need."""

    def __init__(self, most: int, rest: QHBoxLayout) -> None:
        """Fields beyond ``most`` go to the row ``rest``."""
        super().__init__()
        self.setSpacing(4)
        self._most, self._rest, self._fields = most, rest, 0

    def addRow(self, words: str, field: QWidget) -> None:
        """Put a field at the end of the row."""
        if words and not field.toolTip():
            field.setToolTip(words.replace("&", ""))
        field.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        if isinstance(field, QComboBox):
            field.setMinimumContentsLength(NARROWEST)
        row = self if self._fields < self._most else self._rest
        row.addWidget(field, 1)
        self._fields += 1

    def setRowVisible(self, field: QWidget, visible: bool) -> None:
        """Show or hide a field."""
        field.setVisible(visible)

    def labelForField(self, field: QWidget) -> None:
        """There are no labels."""
        return None
