"""Calibration: which data, what was read of them, whether one forward works; then use them, or run the model on them now."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QShowEvent
from PySide6.QtWidgets import QDialog, QFrame, QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from engine.records.calibration import DataPreview, DataSpec
from mono_quant_gui import text, theme
from mono_quant_gui.i18n import tr
from mono_quant_gui.jobs.host import Failure
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.data_form import DataForm, dropped
from mono_quant_gui.widgets.data_view import DataView
from mono_quant_gui.widgets.parts import label

WEIGHTS_ONLY = "Weights only: no forward comes with this file, so calibrated algorithms need a model."


class CalibrationDialog(QDialog):
    """Data are looked at before they are used: ``use`` and ``calibrate`` check first what was not checked."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._checking: DataSpec | None = None
        self._checked: tuple[DataSpec, DataPreview] | None = None
        self._then = ""
        self._cancelled = False
        self.setWindowTitle(tr("Calibration data"))
        self.setAcceptDrops(True)
        self.resize(940, 600)
        self.form = DataForm(session.model.path if session.model else "")
        self.form.setMinimumWidth(theme.px(330))
        self.form.changed.connect(self._update)
        self.view = DataView()
        body = QHBoxLayout()
        body.setSpacing(16)
        left = QVBoxLayout()
        left.addWidget(self.form)
        left.addStretch()
        body.addLayout(left, 2)
        body.addWidget(self.view, 3)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addWidget(self._make_network())
        column.addLayout(body, 1)
        self.bar = QProgressBar()
        self.bar.setRange(0, 0)
        self.bar.setTextVisible(False)
        self.bar.hide()
        column.addWidget(self.bar)
        self.message = label("", "muted")
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        column.addWidget(self.message)
        column.addLayout(self._make_buttons())
        session.model_changed.connect(self._update)
        session.calibrating.changed.connect(self._update)
        if session.calibrating.data:
            self.form.set_spec(session.calibrating.data)
        self._update()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.form.path.setFocus()

    def reject(self) -> None:
        """Closing while data are looked at stops that, and stays."""
        if self._checking is not None:
            self._cancelled = True
            self._say(tr("Stopping…"))
            self._session.calibrating.cancel_check()
            return
        super().reject()

    # -- building ----------------------------------------------------------------------------------------------

    def _make_network(self) -> QFrame:
        """What stands here while the model has no forward."""
        self.network = QFrame()
        self.network.setObjectName("framed")
        line = QHBoxLayout(self.network)
        line.setContentsMargins(12, 8, 8, 8)
        words = label(WEIGHTS_ONLY)
        words.setWordWrap(True)
        self.network_button = QPushButton(tr("Add one…"))
        self.network_button.setAutoDefault(False)
        line.addWidget(words, 1)
        line.addWidget(self.network_button)
        return self.network

    def _make_buttons(self) -> QHBoxLayout:
        self.clear_button = QPushButton(tr("Use no data"))
        self.clear_button.clicked.connect(self._clear)
        self.close_button = QPushButton(tr("Close"))
        self.close_button.clicked.connect(self.reject)
        self.check_button = QPushButton(tr("Check"))
        self.check_button.setToolTip(tr("Read the data and run one forward"))
        self.check_button.clicked.connect(lambda: self._go(""))
        self.calibrate_button = QPushButton(tr("Calibrate now"))
        self.calibrate_button.setToolTip(tr("Run the float model on all of them, to see what its layers are given"))
        self.calibrate_button.clicked.connect(lambda: self._go("calibrate"))
        self.use_button = QPushButton(tr("Use"))
        self.use_button.setToolTip(tr("Calibrate and measure the next runs on these data"))
        self.use_button.setProperty("kind", "primary")
        self.use_button.clicked.connect(lambda: self._go("use"))
        buttons = QHBoxLayout()
        buttons.addWidget(self.clear_button)
        buttons.addStretch()
        for button in (self.close_button, self.check_button, self.calibrate_button, self.use_button):
            button.setAutoDefault(False)
            buttons.addWidget(button)
        self.check_button.setDefault(True)
        return buttons

    # -- what is possible --------------------------------------------------------------------------------------

    def _update(self) -> None:
        """After an edit, or when the model changed."""
        session = self._session
        runs = session.model is not None and session.model.runs
        idle = self._checking is None
        ready = runs and idle and self.form.complete
        self.network.setVisible(not runs)
        self.form.setEnabled(idle)
        self.bar.setVisible(not idle)
        self.check_button.setEnabled(ready)
        self.use_button.setEnabled(ready)
        self.calibrate_button.setEnabled(ready and not session.busy)
        self.clear_button.setVisible(session.calibrating.data is not None)
        self.clear_button.setEnabled(idle)
        self.close_button.setText(tr("Close") if idle else tr("Cancel"))
        if self._checked and self._checked[0] != self.form.spec():
            self._checked = None
            self.view.show_nothing()
            self._say("")

    # -- what the user wants -----------------------------------------------------------------------------------

    def _go(self, then: str) -> None:
        """Check what was not checked, then ``use`` or ``calibrate``."""
        if self._checking is not None or not self.form.complete:
            return
        self._then = then
        if then and self._checked:
            self._finish()
            return
        self._checking, self._cancelled = self.form.spec(), False
        self.view.show_nothing()
        self._say(tr("Reading the data and running one forward…"))
        self._update()
        self._session.calibrating.check(self._checking, self._found, self._failed)

    def _found(self, preview: DataPreview) -> None:
        assert self._checking is not None
        self._checked, self._checking = (self._checking, preview), None
        self.view.show_preview(preview)
        self._say(tr("Ready: the model runs on these data."))
        self._update()
        self.use_button.setDefault(True)
        if self._then:
            self._finish()

    def _failed(self, failure: Failure) -> None:
        self._checking = self._checked = None
        stopped = self._cancelled or failure.cancelled
        words = "Cancelled." if self._cancelled else failure.message
        self._say(words, wrong=not stopped)
        self._update()

    def _finish(self) -> None:
        assert self._checked
        spec, preview = self._checked
        self._session.calibrating.choose(spec, text.data(spec, preview.kind, preview.count))
        if self._then == "calibrate":
            self._session.calibrating.start()
        self.accept()

    def _clear(self) -> None:
        self._session.calibrating.choose(None)
        self.accept()

    def _say(self, words: str, *, wrong: bool = False) -> None:
        self.message.setText(text.plain(words, 600))
        self.message.setStyleSheet(f"color: {theme.current().bad}" if wrong else "")

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if dropped(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        if (path := dropped(event)) and self._checking is None:
            self.form.take(path)
