"""The engine's process ends at seeded points: the window says why, keeps what it had, and goes on after the last finished layer.

``make soak`` tries 50 points and prints how soon the window said so.
"""

import json
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from pytestqt.qtbot import QtBot

import engine
from mono_quant_gui.jobs.host import Failure
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.run import Run
from tests.engine.faults import SOAK
from tests.gui.conftest import PATIENCE, edit, open_model

POINTS = 50 if SOAK else 6
LAYERS, SIDE = 16, 1024
ENDS = {"KILL": signal.SIGKILL, "SEGV": signal.SIGSEGV, "BUS": signal.SIGBUS, "memory": None}


@dataclass(frozen=True, slots=True)
class Point:
    """``moment``: opening, planning, or so many finished layers of a run."""

    how: str
    moment: str | int


def points(count: int, seed: int) -> list[Point]:
    chance = random.Random(seed)
    moments = [chance.choice(("opening", "planning", *(2 * list(range(LAYERS))))) for _ in range(count)]
    return [Point(list(ENDS)[n % len(ENDS)], moment) for n, moment in enumerate(moments)]


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse checkpoint of zeros in a few layers."""
    size = 2 * SIDE * SIDE
    header = {
        f"layers.{n}.weight": {"dtype": "BF16", "shape": [SIDE, SIDE], "data_offsets": [n * size, (n + 1) * size]}
        for n in range(LAYERS)
    }
    text = json.dumps(header).encode()
    path = tmp_path_factory.mktemp("model") / "layered.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + LAYERS * size)
    return path


def end(pid: int, how: str) -> None:
    """A signal; or not a byte of memory more than it has."""
    if ENDS[how] is not None:
        os.kill(pid, ENDS[how])
        return
    held = psutil.Process(pid).memory_info().vms
    psutil.Process(pid).rlimit(psutil.RLIMIT_AS, (held, psutil.RLIM_INFINITY))


class Scene:
    """A window with a model, a recipe and a selection that must outlive every end of its engine."""

    def __init__(self, qtbot: QtBot, window: MainWindow, path: Path) -> None:
        self.qtbot, self.window, self.session, self.path = qtbot, window, window.session, path
        self.failures: list[str] = []
        self.waited: list[float] = []
        """Seconds from each end by a signal until the window said so."""
        self.deaths: list[str] = []
        self.said: list[float] = []
        """When the window opened a box or said below, by now; it was connected before."""
        self.session.heavy.died.connect(self.deaths.append)
        self.session.failed.connect(lambda sentence, _details: self.failures.append(sentence))
        self.session.failed.connect(lambda *_: self.said.append(time.perf_counter()))
        self.session.notice.connect(lambda *_: self.said.append(time.perf_counter()))
        self.recipe = engine.recipe("int4:g128")
        open_model(qtbot, window, path)
        edit(qtbot, window, self.recipe)
        self.session.select("layers.3")

    def living_host(self) -> int:
        """The process that answers now, by an answer."""
        heard: list[str] = []
        self.session.heavy.call(
            "open", {"path": str(self.path)}, lambda _: heard.append("answered"), lambda failure: heard.append(failure.message)
        )
        self.qtbot.waitUntil(lambda: bool(heard), timeout=PATIENCE)
        assert heard == ["answered"] and self.session.heavy.pid
        return self.session.heavy.pid

    def strike(self, point: Point) -> None:
        pid = self.living_host()
        self.failures.clear()
        self.deaths.clear()
        if isinstance(point.moment, int):
            run, finished = self._strike_run(point, pid)
            self._go_on(run, finished)
        else:
            self._strike_call(point, pid)
        assert self.window.isVisible() and self.window.isEnabled()
        assert self.session.recipe == self.recipe and self.session.selected == "layers.3"
        assert self.session.model and self.session.model.path == str(self.path)
        assert self.session.plan.quantized == LAYERS
        if ENDS[point.how] is not None:
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert self.living_host() != pid or point.how == "memory"

    def _said(self, point: Point) -> None:
        """One sentence says why."""
        assert len(self.failures) == 1, self.failures
        words = "memory" if point.how == "memory" else f"was killed (SIG{point.how}"
        assert words in self.failures[0] and "\n" not in self.failures[0], self.failures

    def _timed(self, point: Point, pid: int, told: Callable[[], bool]) -> None:
        self.said.clear()
        struck = time.perf_counter()
        end(pid, point.how)
        self._wait(point, struck, told)

    def _wait(self, point: Point, struck: float, told: Callable[[], bool]) -> None:
        """Until it is told, also of a process that had already answered when it was struck."""
        signalled = ENDS[point.how] is not None
        self.qtbot.waitUntil(lambda: told() and (bool(self.deaths) or not signalled), timeout=PATIENCE)
        if signalled:
            self.waited.append(self.said[0] - struck)

    def _strike_call(self, point: Point, pid: int) -> None:
        """A stopped process has been asked for something, and ends before it can answer."""
        call = {"opening": "open", "planning": "plan"}[str(point.moment)]
        params = {"path": str(self.path)} | ({"recipe": engine.recipe_to_text(self.recipe)} if call == "plan" else {})
        told: list[str] = []

        def failed(failure: Failure) -> None:
            self.session.report_failure(failure)
            told.append(failure.message)

        os.kill(pid, signal.SIGSTOP)
        self.session.heavy.call(call, params, lambda _: told.append(""), failed)
        end(pid, point.how)
        os.kill(pid, signal.SIGCONT)
        self.said.clear()
        struck = time.perf_counter()
        self._wait(point, struck, lambda: bool(told))
        if told[0]:  # it may have answered before, or with the memory that it has
            self._said(point)
        self._lift_limit(point, pid)

    def _lift_limit(self, point: Point, pid: int) -> None:
        """A process that outlived its want of memory gets it back."""
        if point.how == "memory" and psutil.pid_exists(pid):
            psutil.Process(pid).rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))

    def _strike_run(self, point: Point, pid: int) -> tuple[Run, set[str]]:
        session, qtbot = self.session, self.qtbot
        session.quantize()
        run = session.running
        assert run and isinstance(point.moment, int)
        qtbot.waitUntil(lambda: len(run.reports) >= point.moment or run is not session.running, timeout=PATIENCE)
        self._timed(point, pid, lambda: run is not session.running)
        finished = set(run.reports)
        assert run.state in ("unfinished", "failed", "done"), run.state
        if run.state == "done":  # it was faster
            assert len(finished) == LAYERS and not self.failures
        else:
            self._said(point)
            # The artifact has its name already where the process ended just before it told so; it is whole then.
            size = run.artifact.stat().st_size if run.artifact.exists() else None
            assert run.message and len(finished) >= point.moment and size in (None, self.session.plan.predicted)
        self._lift_limit(point, pid)
        return run, finished

    def _go_on(self, run: Run, finished: set[str]) -> None:
        """What was finished is taken over, and what comes out is a whole artifact."""
        whole = run.artifact.exists()
        if run.state != "done":
            with self.qtbot.waitSignal(self.session.run_finished, timeout=PATIENCE):
                self.session.run_again(run)
            assert run.state == "done" and run.totals and (whole or finished <= set(run.totals["resumed"])), run.message
        assert set(run.reports) == {f"layers.{n}" for n in range(LAYERS)}
        assert run.totals and run.artifact.stat().st_size == run.totals["bytes_after"]
        assert [path.name for path in run.artifact.parent.iterdir() if path.name.startswith(".mono-quant-")] == []
        self.session.delete_runs([run])


def test_the_engine_ends_at_seeded_points(qtbot: QtBot, window: MainWindow, layered: Path) -> None:
    scene = Scene(qtbot, window, layered)
    for point in points(POINTS, seed=11):
        scene.strike(point)
    typical, most = 1000 * statistics.median(scene.waited), 1000 * max(scene.waited)
    print(f"\nengine ended at {POINTS} points: 0 windows lost; said within {most:.0f} ms at most, {typical:.0f} ms in the middle")
