"""What a run is called, what is noted about it, and how it came about."""

import time

from PySide6.QtWidgets import QDialog, QDialogButtonBox, QFormLayout, QLineEdit, QPlainTextEdit, QWidget

import engine
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.run import Run
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.parts import ElidedLabel


class RunDialog(QDialog):
    """Name, tags and note are written when it is accepted."""

    def __init__(self, session: Session, run: Run, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session, self._run = session, run
        self.setWindowTitle(tr("Run #{number}").format(number=run.number))
        self.setMinimumWidth(theme.px(560))
        record = run.record
        self.name = QLineEdit(record.name)
        self.tags = QLineEdit(", ".join(record.tags))
        self.tags.setPlaceholderText(tr("parted by commas"))
        self.note = QPlainTextEdit(record.note)
        self.note.setTabChangesFocus(True)
        self.note.setMinimumHeight(90)
        form = QFormLayout(self)
        form.addRow(tr("&Name"), self.name)
        form.addRow(tr("&Tags"), self.tags)
        form.addRow(tr("N&ote"), self.note)
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started or record.created))
        self.disk = ElidedLabel("…")
        for title, words in (
            (tr("Model"), record.model_path), (tr("Data"), record.data), (tr("Started"), started),
            (tr("With"), versions), (tr("On"), record.machine), (tr("Folder"), record.folder),
        ):  # fmt: skip
            if words:
                form.addRow(title, ElidedLabel(text.plain(words, 600)))
        form.addRow(tr("On disk"), self.disk)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Save | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self._save)
        buttons.rejected.connect(self.reject)
        form.addRow(buttons)
        self._open = True
        self.finished.connect(self._finished)
        session.kept.disk_use([run], self._weighed)

    def _finished(self) -> None:
        self._open = False

    def _weighed(self, size: int) -> None:
        if self._open:  # the answer may come after the dialog is gone
            self.disk.set_text(text.size(size), text.exact_bytes(size))

    def _save(self) -> None:
        kept, record = self._session.kept, self._run.record
        name, tags, note = self.name.text().strip(), self.tags.text().split(","), self.note.toPlainText().strip()
        try:
            if name and name != record.name:
                kept.rename(self._run, name)
            kept.tag(self._run, tags)
            if note != record.note:
                kept.annotate(self._run, note)
        except engine.EngineError as error:
            self._session.failed.emit(str(error), error.details)
            return
        self.accept()
