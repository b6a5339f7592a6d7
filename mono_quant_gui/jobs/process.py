"""One engine process, owned by a worker thread: its pipes, its deadline, its end."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from PySide6.QtCore import QElapsedTimer, QObject, QProcess, QProcessEnvironment, QTimer, Signal, Slot

import engine
from mono_quant_gui.i18n import tr

BATCH_MS = 40
"""Messages reach the window at most twenty-five times a second, several at once."""
DEADLINE_MS = 3000
"""How long a cancelled call may take to end before its process is ended."""

LONGEST = 64_000
"""Bytes of the engine's stderr that are passed on at once."""


class EngineProcess(QObject):
    """Lives in a worker thread; all its slots run there."""

    messages = Signal(list)
    died = Signal(str)
    """The process ended without being asked; the text says how. Another is started; what it is sent waits for it."""
    gave_up = Signal(str)
    said = Signal(str)
    """Whole lines that it wrote to its stderr."""
    stopped = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._process: QProcess | None = None
        self._partial = b""
        self._batch: list[dict[str, Any]] = []
        self._closing = False
        self._overdue: str | None = None
        self._deaths = 0
        """How often it has ended one after the other before it said anything of a call."""

    @Slot()
    def start(self) -> None:
        """Start the process; called in the worker thread."""
        self._flushed = QElapsedTimer()
        self._flush_timer = QTimer(self)
        self._flush_timer.setSingleShot(True)
        self._flush_timer.timeout.connect(self._flush)
        self._deadline = QTimer(self)
        self._deadline.setSingleShot(True)
        self._deadline.timeout.connect(self._end_overdue)
        self._launch()

    def _launch(self) -> None:
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        source = str(Path(engine.__file__).parent.parent)
        inherited = environment.value("PYTHONPATH")
        environment.insert("PYTHONPATH", os.pathsep.join(filter(None, [source, inherited])))
        environment.insert("PYTHONUNBUFFERED", "1")
        process.setProcessEnvironment(environment)
        process.setProcessChannelMode(QProcess.ProcessChannelMode.SeparateChannels)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._read_errors)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._failed)
        self._process, self._partial = process, b""
        self._stderr = self._unsaid = b""
        # -P: a file called torch.py in the working folder must not be taken for the real one.
        process.start(sys.executable, ["-P", "-m", "engine.serve"])

    @Slot(str)
    def send(self, line: str) -> None:
        """Write one request."""
        if self._process and self._process.state() != QProcess.ProcessState.NotRunning:
            self._process.write(line.encode() + b"\n")

    @Slot(int)
    def cancel(self, call: int) -> None:
        """Ask a call to end, and see to it that it does."""
        self.send(json.dumps({"cancel": call}))
        self._deadline.start(DEADLINE_MS)

    @Slot()
    def in_time(self) -> None:
        """The cancelled call ended."""
        self._deadline.stop()

    @Slot()
    def close(self) -> None:
        """End the process: politely, by closing its stdin, and else by force."""
        self._closing = True
        self._deadline.stop()
        self._flush_timer.stop()
        process = self._process
        if process and process.state() != QProcess.ProcessState.NotRunning:
            process.closeWriteChannel()
            if not process.waitForFinished(DEADLINE_MS):
                process.kill()
                process.waitForFinished(DEADLINE_MS)
        self._process = None
        self.stopped.emit()

    @Slot()
    def _read(self) -> None:
        assert self._process
        self._partial += bytes(self._process.readAllStandardOutput().data())
        *lines, self._partial = self._partial.split(b"\n")
        for line in lines:
            self._batch.append(json.loads(line))
            if "id" in self._batch[-1]:  # it answers: what ends it later is not what keeps it from starting
                self._deaths = 0
        if self._batch and not self._flush_timer.isActive():
            # The first after a pause goes at once: somebody waits for it.
            self._flush_timer.start(max(BATCH_MS - self._flushed.elapsed(), 0) if self._flushed.isValid() else 0)

    @Slot()
    def _read_errors(self) -> None:
        assert self._process
        came = bytes(self._process.readAllStandardError().data())
        self._stderr = (self._stderr + came)[-8000:]
        whole, newline, self._unsaid = (self._unsaid + came)[-LONGEST:].rpartition(b"\n")
        if newline:
            self.said.emit(whole.decode(errors="replace"))

    @Slot()
    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        self._flushed.start()
        if batch:
            self.messages.emit(batch)

    @Slot()
    def _end_overdue(self) -> None:
        if self._process:
            self._overdue = tr("did not stop when asked, so it was ended")
            self._process.kill()

    @Slot(QProcess.ProcessError)
    def _failed(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart and not self._closing:
            self.gave_up.emit(tr("The engine process could not be started; the installation is damaged."))

    @Slot(int, QProcess.ExitStatus)
    def _finished(self, code: int, status: QProcess.ExitStatus) -> None:
        if self._closing:
            return
        self._flush()
        self._deadline.stop()
        how = self._overdue or _words(code, status)
        self._overdue = None
        self._deaths += 1
        assert self._process
        self._process.deleteLater()
        if self._deaths > 3:
            self._process = None
            last = self._stderr.decode(errors="replace").strip().splitlines()
            words = tr("The engine process keeps ending ({how}); {last}.")
            self.gave_up.emit(words.format(how=how, last=last[-1] if last else tr("it says nothing")))
            return
        # Told first: starting another may take a while on a busy machine.
        self.died.emit(tr("The engine process {how}; it was started again and nothing was half-written.").format(how=how))
        self._launch()


def _words(code: int, status: QProcess.ExitStatus) -> str:
    if status == QProcess.ExitStatus.NormalExit:
        return tr("ended with code {code}").format(code=code)
    name = signal.Signals(code).name if code in signal.Signals._value2member_map_ else f"signal {code}"
    words = tr("was killed ({name}, perhaps for want of memory)") if name == "SIGKILL" else tr("was killed ({name})")
    return words.format(name=name)
