"""The window's end of an engine process: calls out, results back, on the window's thread."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QMetaObject, QObject, Qt, QThread, Signal, Slot

from mono_quant_gui.jobs.process import EngineProcess


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call ended: the error's class, one sentence, and details to show behind it."""

    kind: str
    message: str
    details: str = ""

    @property
    def cancelled(self) -> bool:
        return self.kind == "Cancelled"


def _ignore(*_: Any) -> None:
    return None


@dataclass(slots=True)
class _Call:
    done: Callable[[Any], None]
    failed: Callable[[Failure], None]
    progress: Callable[[dict[str, Any]], None]
    rows: Callable[[list[Any]], None]
    layer: Callable[[dict[str, Any]], None]


class EngineHost(QObject):
    """One engine process behind a worker thread. One call runs at a time; others wait their turn in it."""

    _start = Signal()
    _send = Signal(str)
    _cancel = Signal(int)
    _in_time = Signal()
    died = Signal(str)
    """The process ended by itself and was started again; calls in flight have failed."""

    said = Signal(str)
    """Lines that the process wrote to its stderr."""

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._calls: dict[int, _Call] = {}
        self._cancelled: set[int] = set()
        self._next = 1
        self._closed = False
        self.pid: int | None = None
        self._thread = QThread()
        self._thread.setObjectName(f"engine-{name}")
        self._process = EngineProcess()
        self._process.moveToThread(self._thread)
        self._start.connect(self._process.start)
        self._send.connect(self._process.send)
        self._cancel.connect(self._process.cancel)
        self._in_time.connect(self._process.in_time)
        self._process.messages.connect(self._receive)
        self._process.died.connect(self._fail_all)
        self._process.gave_up.connect(self._fail_all)
        self._process.said.connect(self.said)
        # Deleted in its own thread, where its timers live.
        self._thread.finished.connect(self._process.deleteLater)
        self._thread.start()
        self._start.emit()

    def call(
        self,
        name: str,
        params: dict[str, Any],
        done: Callable[[Any], None] = _ignore,
        failed: Callable[[Failure], None] = _ignore,
        *,
        progress: Callable[[dict[str, Any]], None] = _ignore,
        rows: Callable[[list[Any]], None] = _ignore,
        layer: Callable[[dict[str, Any]], None] = _ignore,
    ) -> int:
        """Start a call; exactly one of ``done`` and ``failed`` follows, on this thread."""
        number, self._next = self._next, self._next + 1
        self._calls[number] = _Call(done, failed, progress, rows, layer)
        self._send.emit(json.dumps({"id": number, "call": name, "params": params}))
        return number

    def cancel(self, number: int) -> None:
        """Ask a call to end; it fails as Cancelled, or its process is ended after a deadline."""
        if number in self._calls:
            self._cancelled.add(number)
            self._cancel.emit(number)

    def pause(self, number: int) -> None:
        """Ask a run to end after the layer it is at; it fails as Paused, and the same call with ``resume`` goes on with it."""
        if number in self._calls:
            self._send.emit(json.dumps({"pause": number}))

    def drop(self, number: int | None) -> None:
        """Forget a call whose answer is stale; no callback follows."""
        if number is not None and number in self._calls:
            self._calls[number] = _Call(_ignore, _ignore, _ignore, _ignore, _ignore)
            self._send.emit(json.dumps({"cancel": number}))

    def close(self) -> None:
        """End the process and the thread; no callback follows."""
        if self._closed:
            return
        self._closed = True
        self._calls.clear()
        self._process.stopped.connect(self._thread.quit, Qt.ConnectionType.DirectConnection)
        QMetaObject.invokeMethod(self._process, "close", Qt.ConnectionType.QueuedConnection)
        self._thread.wait()

    @Slot(list)
    def _receive(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            if message["event"] == "ready":
                self.pid = message["pid"]
                continue
            self._dispatch(message)

    def _dispatch(self, message: dict[str, Any]) -> None:
        number, event = message.get("id"), message["event"]
        call = self._calls.get(number) if isinstance(number, int) else None
        if call is None or not isinstance(number, int):
            return
        if event in ("result", "error"):
            del self._calls[number]
            if number in self._cancelled:
                self._cancelled.discard(number)
                if not self._cancelled:
                    self._in_time.emit()
        if event == "result":
            call.done(message["data"])
        elif event == "error":
            call.failed(Failure(message["kind"], message["message"], message["details"]))
        else:
            {"progress": call.progress, "rows": call.rows, "layer": call.layer}[event](message["data"])

    @Slot(str)
    def _fail_all(self, message: str) -> None:
        calls, self._calls = self._calls, {}
        self._cancelled.clear()
        for call in calls.values():
            call.failed(Failure("HostDied", message))
        self.died.emit(message)
