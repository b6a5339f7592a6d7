"""Export: what will load it, exact size, free space, where to; then progress and the result."""

from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

import engine
from mono_quant_gui import text, theme
from mono_quant_gui.jobs.host import Failure
from mono_quant_gui.session import Run, Session
from mono_quant_gui.widgets.parts import label

MARKS = {"yes": ("✓", "good"), "no": ("✗", "bad"), "untested": ("?", "warning")}


class ExportDialog(QDialog):
    """Repackages a run's artifact; the numbers come from the same plan that the writer follows."""

    def __init__(self, session: Session, run: Run, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session, self._run = session, run
        self._plan_call: int | None = None
        self._export_call: int | None = None
        self._fits = False
        self.setWindowTitle(f"Export run #{run.number} · {run.name}")
        self.setMinimumWidth(560)
        self.format = QComboBox()
        for form in engine.formats():
            self.format.addItem(form.title, form)
        self.format.currentIndexChanged.connect(self._format_changed)
        self.about = label("", "muted")
        self.about.setWordWrap(True)
        self._consumers = QGridLayout()
        self._consumers.setHorizontalSpacing(10)
        self._consumers.setContentsMargins(0, 0, 0, 0)
        consumers = QWidget()
        consumers.setLayout(self._consumers)
        self.destination = QLineEdit()
        self.destination.textChanged.connect(self._destination_changed)
        browse = QPushButton("Browse…")
        browse.clicked.connect(self._browse)
        place = QHBoxLayout()
        place.addWidget(self.destination, 1)
        place.addWidget(browse)
        self.shards = QComboBox()
        for words, size in (
            ("one file", None),
            ("at most 1 GB", 10**9),
            ("at most 2 GB", 2 * 10**9),
            ("at most 5 GB", 5 * 10**9),
        ):
            self.shards.addItem(words, size)
        self.shards.currentIndexChanged.connect(self._ask)
        self.overwrite = QCheckBox("Replace what is there")
        self.size_label = label("–", "strong")
        self.free = label("–")
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(8)
        form.addRow("&Format", self.format)
        form.addRow("", self.about)
        form.addRow("Loads in", consumers)
        destination = label("&Destination")
        destination.setBuddy(self.destination)
        form.addRow(destination, place)
        form.addRow("&Shards", self.shards)
        form.addRow("", self.overwrite)
        form.addRow("Size", self.size_label)
        form.addRow("Free space", self.free)
        self.message = label("", "muted")
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.hide()
        self.export_button = QPushButton("Export")
        self.export_button.setProperty("kind", "primary")
        self.export_button.setDefault(True)
        self.export_button.clicked.connect(self._export)
        self.close_button = QPushButton("Close")
        self.close_button.clicked.connect(self.reject)
        buttons = QHBoxLayout()
        buttons.addWidget(self.message, 1)
        buttons.addWidget(self.close_button)
        buttons.addWidget(self.export_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addLayout(form)
        column.addWidget(self.bar)
        column.addLayout(buttons)
        has_config = bool(session.model and session.model.has_config)
        self.format.setCurrentIndex(0 if has_config else 1)
        self._format_changed()

    def reject(self) -> None:
        """Closing stops an export in progress; nothing half-written stays."""
        if self._export_call is not None:
            self._session.heavy.cancel(self._export_call)
            self.message.setText("Stopping…")
            return
        self._session.peeks.drop(self._plan_call)
        super().reject()

    def _format_changed(self) -> None:
        form = self.format.currentData()
        self.about.setText(form.summary)
        self.shards.setEnabled(form.is_folder)
        last = self._session.settings.text("export_folder") or str(Path.home())
        stem = Path(self._run.artifact.name).stem if self._run.artifact.suffix else self._run.artifact.name
        name = f"{stem}-{self._run.name}".replace(":", "-").replace("/", "-")
        self.destination.setText(str(Path(last) / (name if form.is_folder else f"{name}.safetensors")))
        self._ask()

    def _destination_changed(self) -> None:
        exists = Path(self.destination.text()).expanduser().exists() if self.destination.text() else False
        self.overwrite.setVisible(exists)
        self.overwrite.setChecked(False)
        self._ask()

    def _browse(self) -> None:
        current = self.destination.text()
        if self.format.currentData().is_folder:
            parent = QFileDialog.getExistingDirectory(self, "Export into", str(Path(current).parent))
            chosen = str(Path(parent) / Path(current).name) if parent else ""
        else:
            chosen, _ = QFileDialog.getSaveFileName(self, "Export to", current, "safetensors (*.safetensors)")
        if chosen:
            self.destination.setText(chosen)

    def _ask(self) -> None:
        """Size, space and consumers for what is chosen now."""
        session = self._session
        session.peeks.drop(self._plan_call)
        self._fits = False
        self.export_button.setEnabled(False)
        form = self.format.currentData()
        params = {
            "path": str(self._run.artifact), "format": form.name,
            "folder": str(Path(self.destination.text()).expanduser().parent),
            "shard_size": self.shards.currentData() if form.is_folder else None,
        }  # fmt: skip
        self._plan_call = session.peeks.call("plan_export", params, self._planned, self._plan_failed)

    def _planned(self, data: dict[str, Any]) -> None:
        total, free = data["total_bytes"], data["free_bytes"]
        errors = [p["message"] for p in data["problems"] if p["severity"] == "error"]
        self.size_label.setText(f"{text.size(total)}  ({text.exact_bytes(total)})" if not errors else "–")
        self._fits = free is None or total <= free
        self.free.setText("unknown" if free is None else text.size(free) + ("" if self._fits else "  not enough"))
        self._show_consumers(data["consumers"])
        self.message.setText(text.plain(errors[0]) if errors else "")
        self.export_button.setEnabled(self._fits and not errors and self._export_call is None)

    def _plan_failed(self, failure: Failure) -> None:
        if not failure.cancelled:
            self.size_label.setText("–")
            self._show_consumers([])
            self.message.setText(text.plain(failure.message))

    def _show_consumers(self, consumers: list[dict[str, str]]) -> None:
        while item := self._consumers.takeAt(0):
            if widget := item.widget():
                widget.deleteLater()
        colors = theme.current()
        for row, consumer in enumerate(consumers):
            mark, color = MARKS[consumer["loads"]]
            sign = label(mark, "strong")
            sign.setStyleSheet(f"color: {getattr(colors, color)}")
            sign.setToolTip(consumer["loads"])
            reason = label(consumer["reason"], "muted")
            reason.setWordWrap(True)
            self._consumers.addWidget(sign, row, 0)
            self._consumers.addWidget(label(consumer["name"]), row, 1)
            self._consumers.addWidget(reason, row, 2)
        self._consumers.setColumnStretch(2, 1)
        for row in range(len(consumers)):
            self._consumers.setRowMinimumHeight(row, 22)
        self.adjustSize()

    def _export(self) -> None:
        output = str(Path(self.destination.text()).expanduser())
        form = self.format.currentData()
        params = {
            "path": str(self._run.artifact), "output": output, "format": form.name,
            "overwrite": self.overwrite.isChecked(), "shard_size": self.shards.currentData() if form.is_folder else None,
        }  # fmt: skip
        self.bar.setValue(0)
        self.bar.show()
        self._set_busy(True)
        self._export_call = self._session.heavy.call("export", params, self._done, self._failed, progress=self._progressed)

    def _progressed(self, data: dict[str, Any]) -> None:
        self.bar.setValue(round(1000 * data["done"] / data["total"]) if data["total"] else 1000)

    def _done(self, data: dict[str, Any]) -> None:
        self._export_call = None
        self.bar.setValue(1000)
        self._set_busy(False)
        self.export_button.setEnabled(False)
        self._session.settings.set_text("export_folder", str(Path(data["output"]).parent))
        self.message.setText(
            f"Wrote {text.plain(data['output'])} ({text.size(data['bytes'])} in {text.duration(data['seconds'])})."
        )
        self._session.notice.emit(f"Exported to {text.plain(data['output'])}")

    def _failed(self, failure: Failure) -> None:
        self._export_call = None
        self.bar.hide()
        self._set_busy(False)
        self.message.setText(text.plain(failure.message))

    def _set_busy(self, busy: bool) -> None:
        for widget in (self.format, self.destination, self.shards, self.overwrite):
            widget.setEnabled(not busy)
        self.shards.setEnabled(not busy and self.format.currentData().is_folder)
        self.export_button.setEnabled(not busy and self._fits)
        self.close_button.setText("Cancel" if busy else "Close")
