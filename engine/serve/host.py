"""The engine as a child process: requests as JSON lines on stdin, events as JSON lines on stdout.

    {"id": 7, "call": "quantize", "params": {...}}      start; calls run one at a time, in order
    {"cancel": 7}                                        stop it, also while it waits
    {"pause": 7}                                         end a run after the layer it is at (error of kind Paused), to be gone on
                                                         with by the same call with "resume": true, also by a later process

    {"event": "ready", "pid": 4711}                      once, at the start
    {"id": 7, "event": "progress" | "layer" | "rows", "data": ...}
    {"id": 7, "event": "result", "data": ...}            exactly one of these two ends a call
    {"id": 7, "event": "error", "kind": "DataError", "message": "one sentence", "details": "..."}

Rows come in batches small enough to decode within a frame. When stdin closes, the process stops its work and ends.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from engine.allocator import keep_freed_memory, no_collection
from engine.errors import Cancelled, EngineError, TrustNeeded, lacks_memory
from engine.records.codec import to_data
from engine.records.model import LayerInfo, TensorInfo
from engine.schemes import parse_scheme
from engine.serve import opening
from engine.serve.channel import BATCH, Channel
from engine.serve.comparing import CompareCalls
from engine.serve.exporting import ExportCalls
from engine.serve.looking import LookCalls
from engine.serve.opened import Opened
from engine.serve.running import RunCalls
from engine.serve.searching import SearchCalls

LIGHT = {"warm_up", "open", "plan", "plan_time", "read_run", "save_report", "compare_layer", "save_comparison"}
"""Calls that read headers only (without a network): they do not wait until the arithmetic is loaded."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: StrictInt
    call: str
    params: dict[str, Any] = {}


class Server:
    """Reads requests on the calling thread, works them off on another."""

    def __init__(self, lines: Iterable[str], out: TextIO) -> None:
        self._lines, self._out = lines, out
        self._write_lock = threading.Lock()
        self._waiting: queue.Queue[_Request | None] = queue.Queue()
        self._stopped: set[int] = set()
        self._paused: set[int] = set()
        self._keeps: int | None = None
        """A call that leaves its work to be gone on with when the window is gone, instead of clearing it away."""
        self._queued: set[int] = set()
        self._state_lock = threading.Lock()
        self._closed = threading.Event()
        self._warming = threading.Thread(target=_warm_up, name="warm-up", daemon=True)
        self._opened = Opened()
        self._calls: dict[str, Callable[..., Any]] = {
            "warm_up": self._warm_up,
            "open": self._open,
            **RunCalls(self._opened, self._keep, self._is_warm).calls(),
            **LookCalls(self._opened).calls(),
            **ExportCalls().calls(),
            **SearchCalls(self._opened.summary, self._opened.network).calls(),
            **CompareCalls().calls(),
        }

    def serve(self) -> None:
        """Until stdin closes."""
        worker = threading.Thread(target=self._work, name="engine", daemon=True)
        worker.start()
        self.send({"event": "ready", "pid": os.getpid()})
        for line in self._lines:
            if line.strip():
                self._receive(line)
        self._closed.set()
        self._waiting.put(None)
        if self._keeps is None:
            worker.join(timeout=3)
            self._opened.forget()

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message, separators=(",", ":"))
        with self._write_lock:
            try:
                self._out.write(text + "\n")
                self._out.flush()
            except (BrokenPipeError, ValueError):  # the window is gone; stdin will close too
                self._closed.set()

    def is_paused(self, call: int) -> bool:
        return call in self._paused

    def is_stopped(self, call: int) -> bool:
        return call in self._stopped or (self._closed.is_set() and call != self._keeps)

    def _keep(self, call: int | None) -> None:
        self._keeps = call

    def _receive(self, line: str) -> None:
        try:
            data = json.loads(line)
            if isinstance(data, dict) and "cancel" in data:
                self._cancel(int(data["cancel"]))
                return
            if isinstance(data, dict) and "pause" in data:
                self._paused.add(int(data["pause"]))
                return
            request = _Request.model_validate(data)
            with self._state_lock:
                self._queued.add(request.id)
            self._waiting.put(request)
        except (ValueError, TypeError, RecursionError, ValidationError) as error:
            self.send(
                {
                    "id": None,
                    "event": "error",
                    "kind": "Defect",
                    "message": "A request was not understood.",
                    "details": str(error),
                }
            )

    def _cancel(self, call: int) -> None:
        """A call that waits is answered at once; the one that runs ends itself when it asks."""
        with self._state_lock:
            self._stopped.add(call)
            waits = call in self._queued
            self._queued.discard(call)
        if waits:
            self._fail(call, "Cancelled", str(Cancelled()), "")

    def _work(self) -> None:
        while (request := self._waiting.get()) is not None:
            with self._state_lock:
                answered = request.id not in self._queued
                self._queued.discard(request.id)
            if answered:
                continue
            try:
                if self._closed.is_set():
                    raise Cancelled()
                call = self._calls.get(request.call)
                if call is None:
                    raise EngineError(f"There is no call {request.call!r}.")
                if request.call not in LIGHT or request.params.get("how"):
                    self._wait_until_warm(request.id)
                result = call(Channel(self, request.id), **request.params)
                self.send({"id": request.id, "event": "result", "data": result})
            except TrustNeeded as error:
                asked = json.dumps({"path": error.path, "sha256": error.sha256, "what": error.what})
                self._fail(request.id, "TrustNeeded", str(error), asked)
            except EngineError as error:
                self._fail(request.id, type(error).__name__, str(error), error.details)
            except Exception as error:
                if lacks_memory(error):
                    what = "The machine has not enough memory for this; close other programs or take a smaller model."
                    self._fail(request.id, "EngineError", what, "")
                    continue
                what = f"The engine failed unexpectedly ({type(error).__name__}: {error}). This is a defect; please report it."
                self._fail(request.id, "Defect", what, traceback.format_exc())

    def _fail(self, call: int, kind: str, message: str, details: str) -> None:
        self.send({"id": call, "event": "error", "kind": kind, "message": message, "details": details})

    def _warm_up(self, channel: Channel) -> None:
        """Load the arithmetic beside the calls that do not need it: the first time after an installation it is compiled."""
        if self._warming.ident is None:
            self._warming.start()

    def _is_warm(self) -> bool | None:
        return None if self._warming.ident is None else not self._warming.is_alive()

    def _wait_until_warm(self, call: int) -> None:
        """Loading cannot be stopped, waiting for it can: so that a call is cancelled in time also where it is the first."""
        if self._warming.ident is None:
            self._warming.start()
        while self._warming.is_alive():
            if self.is_stopped(call):
                raise Cancelled()
            self._warming.join(timeout=0.1)

    def _open(self, channel: Channel, path: str, how: dict[str, Any] | None = None) -> Any:
        self._opened.reread()
        summary = self._opened.summary(path, how)
        with no_collection():
            for start in range(0, len(summary.layers), BATCH):
                channel.rows(
                    [
                        [x.name, x.kind, x.guessed, x.shape, x.scheme or x.dtype, x.nbytes, x.parameters, x.scheme is None]
                        for x in summary.layers[start : start + BATCH]
                    ]
                )
        return {
            "path": summary.path, "name": summary.name, "source": summary.source, "count": len(summary.layers),
            "parameters": summary.parameters, "bytes": summary.nbytes, "quantized": to_data(summary.quantized),
            "problems": list(summary.problems), "has_config": summary.config is not None,
            "runs": bool(how and (how.get("factory") or opening.is_program(path))) or opening.runs_by_itself(summary, path),
        }  # fmt: skip


def _warm_up() -> None:
    """Load and compile what the first histogram, trial or run would wait for; a failure comes back when they try."""
    with contextlib.suppress(Exception):
        from engine import numerics
        from engine.looking import trying  # noqa: F401
        from engine.looking.expected import expected_db
        from engine.quantizing import pipeline  # noqa: F401

        numerics.warm_up()
        tensor = TensorInfo("warm", "F32", (64, 256), 1 << 16, 0, 0)
        expected_db(parse_scheme("int4:g128"), "rtn", LayerInfo("warm", "linear", (64, 256), "F32", (tensor,)))


def main() -> None:
    """Serve on this process's stdin and stdout; stray prints of any library go to stderr instead."""
    keep_freed_memory()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    Server(sys.stdin, out).serve()
    # Not a normal exit: a worker inside a long read must not keep the process alive.
    os._exit(0)
