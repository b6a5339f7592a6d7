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
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from engine import api, choices
from engine.allocator import keep_freed_memory
from engine.errors import Cancelled, DataError, EngineError, InputError, OutputError, PlanError, TrustNeeded, lacks_memory
from engine.history import read_measurements, save_measurements
from engine.pages import report as report_page
from engine.planning import budget, duration
from engine.planning.planner import plan_export
from engine.records.calibration import DataSpec
from engine.records.codec import from_data, to_data
from engine.records.dtypes import FLOATS
from engine.records.look import Trial, WeightFigures
from engine.records.model import LayerInfo, ModelSummary, TensorInfo
from engine.records.plan import Plan, Problem
from engine.records.progress import Monitor, Progress
from engine.records.report import LayerFailure, LayerReport
from engine.records.run import RunRecord
from engine.schemes import parse_scheme
from engine.serve import fresh, opening
from engine.serve.comparing import CompareCalls
from engine.serve.searching import SearchCalls
from engine.writers import format_named
from engine.writers.whole import write_text

BATCH = 500
"""Rows per message: about 50 kB of JSON, decoded in a millisecond."""
FEW = 5
"""Reports per message: 100 kB of histograms and channels."""
LIGHT = {"warm_up", "open", "plan", "read_run", "save_report", "compare_layer", "save_comparison"}
"""Calls that read headers only (without a network): they do not wait until the arithmetic is loaded."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: StrictInt
    call: str
    params: dict[str, Any] = {}


class _Factory(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: str
    name: str
    arguments: dict[str, Any] = {}


class _How(BaseModel):
    """How a model comes to run: ``trusted`` are the SHA-256 sums of code that the user agreed to in this window."""

    model_config = ConfigDict(extra="forbid")
    factory: _Factory | None = None
    trusted: list[str] = []
    fold_batch_norm: bool = False

    @property
    def needs_code(self) -> bool:
        return self.factory is not None or self.fold_batch_norm or bool(self.trusted)


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
        self._summary: ModelSummary | None = None
        self._stamp: tuple[int, ...] = ()
        self._runnable: tuple[str, Any] | None = None
        self._certified: fresh.Certified | None = None
        self._bench: Any = None
        self._artifact: tuple[tuple[int, ...], ModelSummary] | None = None
        self._calls: dict[str, Callable[..., Any]] = {
            "warm_up": self._warm_up,
            "open": self._open,
            "plan": self._plan,
            "histogram": self._histogram,
            "try_scheme": self._try_scheme,
            "look": self._look,
            "expected": self._expected,
            "describe": self._describe,
            "preview_data": self._preview_data,
            "calibrate": self._calibrate,
            "quantize": self._quantize,
            "read_run": self._read_run,
            "plan_export": self._plan_export,
            "export": self._export,
            "certify": self._certify,
            "save_certificate": self._save_certificate,
            "save_report": self._save_report,
            **SearchCalls(self._model, lambda path, how: self._running(path, _How.model_validate(how or {}))).calls(),
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
            self._forget()

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
                result = call(_Channel(self, request.id), **request.params)
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

    def _model(self, path: str, how: "dict[str, Any] | None" = None) -> ModelSummary:
        """The summary of ``path``, read again only if another model or a changed file is asked for."""
        chosen = _How.model_validate(how or {})
        if chosen.needs_code or opening.is_program(path):
            return self._running(path, chosen).summary
        cached = self._summary
        if cached is None or cached.path != path or self._stamp != opening.stamp(cached):
            cached = self._remember(opening.open_weights(path))
        return cached

    def _running(self, path: str, how: "_How") -> Any:
        """The running model, loaded again only if another one is asked for."""
        from engine.records.trust import Factory

        parts = sorted(entry.path for entry in os.scandir(path)) if os.path.isdir(path) else [path]
        parts += [how.factory.path] if how.factory else []
        key = json.dumps([path, how.model_dump(), [opening.stat(part) for part in parts]])
        if self._runnable is None or self._runnable[0] != key:
            self._forget()
            factory = Factory(**how.factory.model_dump()) if how.factory else None
            loaded = api.load_runnable(path, factory=factory, trusted=how.trusted, fold_batch_norm=how.fold_batch_norm)
            self._runnable = (key, loaded)
        return self._runnable[1]

    def _forget(self) -> None:
        if self._runnable:
            self._runnable[1].close()
        self._runnable = None

    def _remember(self, summary: ModelSummary) -> ModelSummary:
        self._summary, self._stamp = summary, opening.stamp(summary)
        return summary

    def _warm_up(self, channel: "_Channel") -> None:
        """Load the arithmetic beside the calls that do not need it: the first time after an installation it is compiled."""
        if self._warming.ident is None:
            self._warming.start()

    def _wait_until_warm(self, call: int) -> None:
        """Loading cannot be stopped, waiting for it can: so that a call is cancelled in time also where it is the first."""
        if self._warming.ident is None:
            self._warming.start()
        while self._warming.is_alive():
            if self.is_stopped(call):
                raise Cancelled()
            self._warming.join(timeout=0.1)

    def _open(self, channel: "_Channel", path: str, how: dict[str, Any] | None = None) -> Any:
        self._summary = None
        summary = self._model(path, how)
        for start in range(0, len(summary.layers), BATCH):
            channel.rows(
                [
                    [x.name, x.kind, x.guessed, list(x.shape), x.scheme or x.dtype, x.nbytes, x.parameters, x.scheme is None]
                    for x in summary.layers[start : start + BATCH]
                ]
            )
        return {
            "path": summary.path, "name": summary.name, "source": summary.source, "count": len(summary.layers),
            "parameters": summary.parameters, "bytes": summary.nbytes, "quantized": to_data(summary.quantized),
            "problems": list(summary.problems), "has_config": summary.config is not None,
            "runs": bool(how and (how.get("factory") or opening.is_program(path))) or opening.runs_by_itself(summary, path),
        }  # fmt: skip

    def _plan(
        self, channel: "_Channel", path: str, recipe: str, format: str | None = None, how: dict[str, Any] | None = None,
        runs: str = "", memory_limit: int | None = None,
    ) -> Any:  # fmt: skip
        """``runs``: the folder of the ledger by which its time is reckoned."""
        plan = api.plan(self._model(path, how), choices.recipe_from_text(recipe), format=format)
        for start in range(0, len(plan.layers), BATCH):
            if channel.cancelled():
                raise Cancelled()
            lines = plan.layers[start : start + BATCH]
            channel.rows([[x.scheme_name, x.nbytes, x.rule, x.algorithm, x.decided_by] for x in lines])
        return _plan_totals(plan) | _plan_takes(plan, runs, memory_limit)

    def _histogram(self, channel: "_Channel", path: str, layer: str, how: dict[str, Any] | None = None) -> Any:
        histogram, ranges = api.layer_histogram(self._model(path, how), layer)
        return {"layer": layer, "histogram": to_data(histogram), "ranges": to_data(ranges)}

    def _layer(self, path: str, name: str, how: dict[str, Any] | None) -> tuple[Any, LayerInfo]:
        """The bench on which schemes are tried, and a layer to try them on."""
        from engine.looking.trying import Bench

        summary = self._model(path, how)
        if self._bench is None or self._bench.summary is not summary:
            self._bench = Bench(summary)
        layer = next((layer for layer in summary.layers if layer.name == name), None)
        if layer is None or layer.scheme or layer.dtype not in FLOATS or not layer.parameters:
            raise InputError(f"{name} has no float weights to look at.")
        return self._bench, layer

    def _try_scheme(
        self, channel: "_Channel", path: str, layer: str, scheme: str, algorithm: str, activations: str = "none",
        limit: float = 0.0, how: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """A first answer as a layer's event where the layer is large, then the exact one."""
        bench, found = self._layer(path, layer, how)
        text = api.algorithm_without_data(algorithm)
        quiet = _Quiet(channel)
        return to_data(bench.attempt(found, parse_scheme(scheme), text, activations, quiet, channel.layer_tried, limit))

    def _look(
        self, channel: "_Channel", path: str, layer: str, artifact: str = "", report: dict[str, Any] | None = None,
        how: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Where the error lies of what was tried last, or of what a run wrote; and why."""
        from engine.looking.trying import look

        bench, found = self._layer(path, layer, how)
        written = self._opened_artifact(artifact) if artifact else None
        detail, diagnosis = look(bench, found, channel, written, from_data(LayerReport, report) if report else None)
        return {"detail": to_data(detail), "diagnosis": to_data(diagnosis)}

    def _opened_artifact(self, path: str) -> ModelSummary:
        if self._artifact is None or self._artifact[1].path != path or self._artifact[0] != opening.stamp(self._artifact[1]):
            summary = api.open_model(path)
            self._artifact = (opening.stamp(summary), summary)
        return self._artifact[1]

    def _expected(self, channel: "_Channel", path: str, lines: list[list[str]], how: dict[str, Any] | None = None) -> Any:
        """SQNR of Gaussian weights beside layers: rows of dB for (layer, scheme, algorithm)."""
        from engine.looking.expected import expected_db

        layers = {layer.name: layer for layer in self._model(path, how).layers}
        found = []
        for name, scheme, algorithm in lines:
            channel.check()
            found.append(expected_db(parse_scheme(scheme), algorithm, layers[name]) if name in layers else None)
        for start in range(0, len(found), BATCH):
            channel.rows(found[start : start + BATCH])
        return {"count": len(found)}

    def _describe(self, channel: "_Channel", path: str, layers: list[str], how: dict[str, Any] | None = None) -> Any:
        """Figures of layers' weights, a row each: name, least, greatest, deviation, kurtosis, furthest in deviations, note.

        A layer that cannot be read says why in the note.
        """
        from engine.looking.detail import describe
        from engine.readers.source import TensorFiles

        summary, wanted, quiet = self._model(path, how), set(layers), _Quiet(channel)
        with TensorFiles(summary) as files:
            for layer in summary.layers:
                if layer.name not in wanted or layer.scheme or layer.dtype not in FLOATS or not layer.parameters:
                    continue
                try:
                    x = describe(files, layer, quiet)
                except DataError as error:
                    x = WeightFigures(layer.name, note=str(error))
                channel.rows([[x.layer, x.low, x.high, x.std, x.kurtosis, x.sigmas, x.note]])
        return {"count": len(layers)}

    def _preview_data(self, channel: "_Channel", path: str, data: dict[str, Any], how: dict[str, Any] | None = None) -> Any:
        """What data hold, and one forward of their first batch."""
        return to_data(api.preview_data(self._running(path, _How.model_validate(how or {})), from_data(DataSpec, data)))

    def _calibrate(self, channel: "_Channel", path: str, data: dict[str, Any], how: dict[str, Any] | None = None) -> Any:
        """Run the float model; layers' activities come in batches of rows."""
        loaded = self._running(path, _How.model_validate(how or {}))
        report = api.calibrate(loaded, from_data(DataSpec, data), monitor=channel)
        for start in range(0, len(report.layers), 20):
            channel.rows([to_data(layer) for layer in report.layers[start : start + 20]])
        return {key: value for key, value in to_data(report).items() if key != "layers"}

    def _quantize(
        self, channel: "_Channel", path: str, recipe: str, output: str, format: str | None = None,
        data: dict[str, Any] | None = None, how: dict[str, Any] | None = None, run_folder: str = "",
        resume: bool = False, reuse: str | None = None, memory_limit: int | None = None,
    ) -> Any:  # fmt: skip
        """With data, the recipe is calibrated on them and outputs are measured; activities come as rows.

        What was measured is put into ``run_folder``, also of a run that ends early. ``resume``: go on with what a killed or
        paused call left of the same output. ``reuse``: id or folder of a run whose unchanged layers are taken over.
        """
        plan = api.plan(self._model(path, how), choices.recipe_from_text(recipe), format=format)
        chosen = from_data(DataSpec, data) if data else None
        loaded = self._running(path, _How.model_validate(how or {})) if data else None
        keeper = _Keeper(channel)
        self._keeps = channel.call if run_folder else None
        try:
            report = api.quantize_to(
                plan, output, monitor=keeper, data=chosen, runnable=loaded, record=False, resume=resume, reuse=reuse,
                memory_limit=memory_limit,
            )  # fmt: skip
        except EngineError:
            if run_folder and keeper.reports:
                with contextlib.suppress(OutputError):  # why it ended matters more
                    save_measurements(Path(run_folder), list(keeper.reports.values()), [])
            raise
        finally:
            self._keeps = None
        if run_folder:
            try:
                save_measurements(Path(run_folder), list(report.layers), list(report.activities))
            except OutputError as error:
                report = replace(report, warnings=(*report.warnings, str(error)))
        for start in range(0, len(report.activities), 20):
            channel.rows([to_data(activity) for activity in report.activities[start : start + 20]])
        return {key: value for key, value in to_data(report).items() if key not in ("layers", "activities")}

    def _read_run(self, channel: "_Channel", folder: str) -> Any:
        """What was measured in a run, from its folder: layers and activities as rows of [kind, record]."""
        layers, activities = read_measurements(Path(folder))
        for kind, records in (("layer", layers), ("activity", activities)):
            for start in range(0, len(records), FEW):
                channel.check()
                channel.rows([[kind, record] for record in records[start : start + FEW]])
        return {"layers": len(layers), "activities": len(activities)}

    def _plan_export(self, channel: "_Channel", path: str, format: str, folder: str, shard_size: int | None = None) -> Any:
        plan = plan_export(api.open_model(path), format, shard_size)
        return _plan_totals(plan) | {"total_bytes": plan.total_bytes, "free_bytes": opening.free(folder)}

    def _export(
        self, channel: "_Channel", path: str, output: str, format: str, overwrite: bool, shard_size: int | None = None
    ) -> Any:
        report = api.export(path, output, format=format, shard_size=shard_size, overwrite=overwrite, monitor=channel)
        return {"output": report.output, "bytes": report.bytes_after, "seconds": report.seconds}

    def _certify(self, channel: "_Channel", path: str, against: str | None = None, keep: str = "") -> Any:
        """In a fresh process. Layers stay here: ``save_certificate`` writes them all. ``keep``: folder of the run it is of."""
        self._certified = fresh.certify(path, against, channel.check)
        if keep:
            write_text(Path(keep) / report_page.CERTIFICATE, json.dumps(self._certified.document))
        return {key: value for key, value in self._certified.document.items() if key != "layers"}

    def _save_report(self, channel: "_Channel", run: dict[str, Any], output: str) -> Any:
        """A run's record as a page, with what was measured in its folder."""
        write_text(output, report_page.of_run(from_data(RunRecord, run)))
        return {"output": output}

    def _save_certificate(self, channel: "_Channel", output: str) -> Any:
        """The latest certificate as a page, or as JSON where the name says so."""
        if self._certified is None:
            raise OutputError("There is no certificate yet; export something first.")
        as_json = output.lower().endswith(".json")
        write_text(output, json.dumps(self._certified.document) if as_json else self._certified.page)
        return {"output": output}


class _Channel(Monitor):
    """One call's way out: what the engine reports becomes events."""

    def __init__(self, server: Server, call: int) -> None:
        self._server, self.call = server, call

    def _event(self, event: str, data: Any) -> None:
        self._server.send({"id": self.call, "event": event, "data": data})

    def rows(self, rows: list[Any]) -> None:
        self._event("rows", rows)

    def progress(self, progress: Progress) -> None:
        self._event("progress", to_data(progress))

    def layer_done(self, report: LayerReport) -> None:
        self._event("layer", to_data(report))

    def layer_tried(self, trial: Trial) -> None:
        self._event("layer", to_data(trial))

    def layer_failed(self, failure: LayerFailure) -> None:
        self._event("layer", to_data(failure))

    def cancelled(self) -> bool:
        return self._server.is_stopped(self.call)

    def paused(self) -> bool:
        return self._server.is_paused(self.call)


class _Keeper(Monitor):
    """Passes everything on, and keeps what was measured."""

    def __init__(self, channel: _Channel) -> None:
        self.progress = channel.progress  # type: ignore[method-assign]
        self.cancelled = channel.cancelled  # type: ignore[method-assign]
        self.paused = channel.paused  # type: ignore[method-assign]
        self.layer_failed = channel.layer_failed  # type: ignore[method-assign]
        self._channel = channel
        self.reports: dict[str, LayerReport] = {}

    def layer_done(self, report: LayerReport) -> None:
        self.reports[report.name] = report
        self._channel.layer_done(report)


class _Quiet(Monitor):
    """Cancellation of a call whose progress nobody waits for."""

    def __init__(self, channel: _Channel) -> None:
        self.cancelled = channel.cancelled  # type: ignore[method-assign]


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


def _plan_takes(plan: Plan, runs: str, memory_limit: int | None) -> dict[str, Any]:
    """Memory, disk and seconds of a run; what cannot fit is an error of the plan."""
    if plan.errors:
        return {"takes": None}
    try:
        needs = budget.within(plan, memory_limit)
    except PlanError as error:
        problems = [Problem("error", str(error)), *plan.problems[:999]]
        return {"takes": None, "problems": [to_data(problem) for problem in problems]}
    time = duration.expected(plan, runs) if runs else None
    return {"takes": {"memory": needs.memory, "disk": needs.disk, "seconds": time.seconds if time else None}}


def _plan_totals(plan: Plan) -> dict[str, Any]:
    return {
        "format": plan.format,
        "is_folder": format_named(plan.format).is_folder,
        "calibration": to_data(plan.calibration),
        "predicted_bytes": plan.predicted_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "quantized": sum(not line.kept for line in plan.layers),
        "problems": [to_data(problem) for problem in plan.problems[:1000]],
        "rules": [to_data(effect) for effect in plan.rules],
        "consumers": [to_data(consumer) for consumer in api.consumers(plan)] if plan.files else [],
    }


def main() -> None:
    """Serve on this process's stdin and stdout; stray prints of any library go to stderr instead."""
    keep_freed_memory()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    Server(sys.stdin, out).serve()
    # Not a normal exit: a worker inside a long read must not keep the process alive.
    os._exit(0)
