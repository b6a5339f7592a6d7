"""Export: what will load it, exact size, free space, where to; then progress and the result."""

import os
import re
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
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.host import Failure
from mono_quant_gui.run import Run
from mono_quant_gui.session import Session
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
        self._wrote = ""
        self.setWindowTitle(tr("Export run #{number} · {name}").format(number=run.number, name=text.plain(run.name, 60)))
        self.setMinimumWidth(theme.px(700))
        self.format = QComboBox()
        for form in engine.formats():
            self.format.addItem(form.title, form)
        self.format.currentIndexChanged.connect(self._format_changed)
        self.about = label("", "muted")
        self.about.setWordWrap(True)
        self._consumers = QGridLayout()
        self._consumers.setHorizontalSpacing(12)
        self._consumers.setContentsMargins(0, 0, 0, 0)
        consumers = QWidget()
        consumers.setLayout(self._consumers)
        self.destination = QLineEdit()
        self.destination.textChanged.connect(self._destination_changed)
        browse = QPushButton(tr("Browse…"))
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
        self.overwrite = QCheckBox(tr("Replace what is there"))
        self.overwrite.toggled.connect(self._ask)
        self.size_label = label("–", "strong")
        self.free = label("–")
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(8)
        form.addRow(tr("&Format"), self.format)
        form.addRow("", self.about)
        form.addRow(tr("Loads in"), consumers)
        destination = label(tr("&Destination"))
        destination.setBuddy(self.destination)
        form.addRow(destination, place)
        form.addRow(tr("&Shards"), self.shards)
        form.addRow("", self.overwrite)
        form.addRow(tr("Size"), self.size_label)
        form.addRow(tr("Free space"), self.free)
        self.message = label("", "muted")
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.hide()
        self.export_button = QPushButton(tr("Export"))
        self.export_button.setProperty("kind", "primary")
        self.export_button.setDefault(True)
        self.export_button.clicked.connect(self._export)
        self.save_button = QPushButton(tr("Save certificate…"))
        self.save_button.setToolTip(
            tr("Every check, every layer's SQNR from disk, hashes and versions: a page that prints, or JSON")
        )
        self.save_button.clicked.connect(self._save_certificate)
        self.save_button.hide()
        self.close_button = QPushButton(tr("Close"))
        self.close_button.clicked.connect(self.reject)
        buttons = QHBoxLayout()
        buttons.addWidget(self.message, 1)
        buttons.addWidget(self.save_button)
        buttons.addWidget(self.close_button)
        buttons.addWidget(self.export_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addLayout(form)
        column.addWidget(self.bar)
        column.addLayout(buttons)
        self.format.setCurrentIndex(1 if run.artifact.suffix == ".safetensors" else 0)  # as the run stored it
        self._format_changed()

    def reject(self) -> None:
        """Closing stops an export in progress; nothing half-written stays."""
        if self._export_call is not None:
            self._session.heavy.cancel(self._export_call)
            self._say(tr("Stopping…"))
            return
        self._session.peeks.drop(self._plan_call)
        super().reject()

    def _format_changed(self) -> None:
        form = self.format.currentData()
        self.about.setText(form.summary)
        self.shards.setEnabled(form.is_folder)
        last = self._session.settings.text("export_folder") or str(Path.home())
        stem = Path(self._run.artifact.name).stem if self._run.artifact.suffix else self._run.artifact.name
        name = re.sub(r"[^\w.+-]+", "-", f"{stem}-{self._run.name}")[:100]
        self.destination.setText(os.path.join(last, name if form.is_folder else f"{name}.safetensors"))
        self._ask()

    def _destination_changed(self) -> None:
        self.overwrite.setVisible(self._exists())
        self.overwrite.setChecked(False)
        self._ask()

    def _output(self) -> str:
        """The destination as a path; ``~`` stands for home."""
        return os.path.expanduser(self.destination.text().strip())

    def _exists(self) -> bool:
        output = self._output()
        return bool(output) and "\0" not in output and os.path.exists(output)

    def _obstacle(self) -> str:
        """Why nothing can be written there; empty when something can."""
        output = self._output()
        if not output or "\0" in output:
            return tr("Name a destination.")
        if not os.path.isabs(output):
            return tr("Give the whole path of the destination.")
        if len(os.path.basename(output.rstrip(os.sep)).encode()) > 200:
            return tr("The destination's name is too long.")
        if not os.path.isdir(os.path.dirname(output.rstrip(os.sep))):
            return tr("The destination's folder does not exist.")
        if self._exists() and not self.overwrite.isChecked():
            return tr("There is something already: tick “Replace what is there”, or choose another name.")
        return ""

    def _browse(self) -> None:
        current = self.destination.text()
        if self.format.currentData().is_folder:
            parent = QFileDialog.getExistingDirectory(self, tr("Export into"), str(Path(current).parent))
            chosen = str(Path(parent) / Path(current).name) if parent else ""
        else:
            chosen, _ = QFileDialog.getSaveFileName(self, tr("Export to"), current, tr("safetensors (*.safetensors)"))
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
            "folder": os.path.dirname(self._output()) or os.sep,
            "shard_size": self.shards.currentData() if form.is_folder else None,
        }  # fmt: skip
        self._plan_call = session.peeks.call("plan_export", params, self._planned, self._plan_failed)

    def _planned(self, data: dict[str, Any]) -> None:
        weights, total, free = data["predicted_bytes"], data["total_bytes"], data["free_bytes"]
        errors = [p["message"] for p in data["problems"] if p["severity"] == "error"]
        words = tr("{weights} of tensors and {rest} of other files") if total > weights else tr("{weights} of tensors")
        words = words.format(weights=text.size(weights), rest=text.size(total - weights))
        self.size_label.setText("–" if errors else words)
        exact = tr("{weights} of tensors, {total} in all").format(
            weights=text.exact_bytes(weights), total=text.exact_bytes(total)
        )
        self.size_label.setToolTip("" if errors else exact)
        fits = free is None or total <= free
        words = tr("unknown") if free is None else "{size}" if fits else tr("{size}: not enough")
        self.free.setText(words.format(size=text.size(free or 0)))
        self.free.setToolTip("" if free is None else text.exact_bytes(free))
        self._show_consumers(data["consumers"])
        obstacle = errors[0] if errors else self._obstacle() or ("" if fits else tr("The disk has not enough free space."))
        self._say(obstacle, wrong=bool(obstacle))
        self._fits = not obstacle
        self.export_button.setEnabled(self._fits and self._export_call is None)

    def _say(self, words: str, *, wrong: bool = False) -> None:
        self.message.setText(text.plain(words, 900))
        self.message.setStyleSheet(f"color: {theme.current().bad}" if wrong else "")

    def _plan_failed(self, failure: Failure) -> None:
        if not failure.cancelled:
            self.size_label.setText("–")
            self._show_consumers([])
            self._say(failure.message, wrong=True)

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
            self._consumers.addWidget(sign, row, 0)
            self._consumers.addWidget(label(consumer["name"]), row, 1)
            self._consumers.addWidget(reason, row, 2)
        self._consumers.setColumnStretch(2, 1)
        for row in range(len(consumers)):
            self._consumers.setRowMinimumHeight(row, 22)
        self._fit()

    def _fit(self) -> None:
        """As high as the wrapped words need, known only once the layout has been made."""
        layout = self.layout()
        if layout is not None:
            layout.activate()
            self.resize(self.width(), max(layout.heightForWidth(self.width()), self.minimumSizeHint().height()))

    def _export(self) -> None:
        form = self.format.currentData()
        params = {
            "path": str(self._run.artifact), "output": self._output(), "format": form.name,
            "overwrite": self.overwrite.isChecked(), "shard_size": self.shards.currentData() if form.is_folder else None,
        }  # fmt: skip
        self.bar.setValue(0)
        self.bar.show()
        self.save_button.hide()
        self._set_busy(True)
        running = self._session.running
        self._say(tr("Waiting for run #{number} to end…").format(number=running.number) if running else tr("Writing…"))
        self._export_call = self._session.heavy.call("export", params, self._done, self._failed, progress=self._progressed)

    def _progressed(self, data: dict[str, Any]) -> None:
        left = data.get("seconds_left")
        self._say(tr("Writing…") if left is None else tr("Writing… {time} left").format(time=text.duration(left)))
        self.bar.setValue(round(1000 * data["done"] / data["total"]) if data["total"] else 1000)

    def _done(self, data: dict[str, Any]) -> None:
        self._session.settings.set_text("export_folder", str(Path(data["output"]).parent))
        size, seconds = text.size(data["bytes"]), text.duration(data["seconds"])
        self._wrote = tr("Wrote {path} ({size} in {time}).").format(path=text.path(data["output"]), size=size, time=seconds)
        self._say(" ".join([self._wrote, tr("Opening it again in a fresh process…")]))
        self.bar.setRange(0, 0)
        source = self._run.model_path
        params = {
            "path": data["output"], "against": source if os.path.exists(source) else None, "keep": str(self._run.folder),
        }  # fmt: skip
        self._export_call = self._session.heavy.call("certify", params, self._certified, self._uncertified)

    def _certified(self, data: dict[str, Any]) -> None:
        """The certificate of what was written, good or bad."""
        self._finish(f"{self._wrote} {text.certificate(data)}", wrong=not data["certified"])
        self.save_button.show()
        words = tr("Exported {path}") if data["certified"] else tr("Not certified: {path}")
        self._session.notice.emit(words.format(path=text.path(data["artifact"])))

    def _uncertified(self, failure: Failure) -> None:
        why = tr("stopped.") if failure.cancelled else failure.message
        words = tr("It was not certified: {why}").format(why=why)
        self._finish(f"{self._wrote} {words}", wrong=not failure.cancelled)
        self._session.notice.emit(tr("Exported, not certified"))

    def _finish(self, words: str, *, wrong: bool) -> None:
        self._export_call = None
        self.bar.setRange(0, 1000)
        self.bar.setValue(1000)
        self._set_busy(False)
        self.export_button.setEnabled(False)
        self._say(words, wrong=wrong)
        self._fit()

    def _save_certificate(self) -> None:
        name = f"{Path(self._output().rstrip(os.sep)).stem}-certificate.html"
        folder = os.path.dirname(self._output().rstrip(os.sep))
        kinds = "Page (*.html);;JSON (*.json)"
        chosen, _ = QFileDialog.getSaveFileName(self, tr("Save certificate"), os.path.join(folder, name), kinds)
        if chosen:
            self.save_certificate(chosen)

    def save_certificate(self, path: str) -> None:
        """Write the certificate of the latest export."""

        def saved(data: dict[str, Any]) -> None:
            self._session.notice.emit(tr("Saved {path}").format(path=text.path(data["output"])))

        self._session.heavy.call(
            "save_certificate", {"output": path}, saved, lambda failure: self._say(failure.message, wrong=True)
        )

    def _failed(self, failure: Failure) -> None:
        self._export_call = None
        self.bar.hide()
        self._set_busy(False)
        self._say(failure.message, wrong=not failure.cancelled)

    def _set_busy(self, busy: bool) -> None:
        for widget in (self.format, self.destination, self.shards, self.overwrite):
            widget.setEnabled(not busy)
        self.shards.setEnabled(not busy and self.format.currentData().is_folder)
        self.export_button.setEnabled(not busy and self._fits)
        self.close_button.setText(tr("Cancel") if busy else tr("Close"))
