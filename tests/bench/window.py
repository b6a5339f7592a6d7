"""``make bench``: how long the window takes, and how long it keeps its event loop waiting.

Start-up in fresh processes, beside one that only imports PySide6. Then one window on a 90,000-tensor checkpoint and on a
language model: a 5 ms timer runs through opening, sorting, filtering, what-if, plotting and a run, and the gaps between its
ticks are printed. Plots: an update and a full redraw, medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from many import many_tensors  # noqa: E402
from PySide6.QtCore import QEventLoop, Qt, QTimer, SignalInstance  # noqa: E402

SAMPLE = HERE.parents[1] / "assets" / "samples" / "docstring_lm"
TICK_MS = 5
START = """
import sys, time
started = time.perf_counter()
import PySide6.QtWidgets
imported = time.perf_counter() - started
from PySide6.QtCore import QTimer
from mono_quant_gui import app, main_window
figures = [imported]
last = [0.0]
longest = [0.0]

def painted():  # what the frame's own paint event asked for comes after all of the window was painted
    figures.append(time.perf_counter() - started)
    assert not {"torch", "matplotlib", "numpy"} & set(sys.modules), sorted(set(sys.modules) & {"torch", "matplotlib"})
    last[0] = time.perf_counter()
    ticks.start(5)

def tick():
    longest[0], last[0] = max(longest[0], time.perf_counter() - last[0]), time.perf_counter()

def furnished():
    figures.extend([time.perf_counter() - started, longest[0]])
    print(*figures)
    window[0].close_now()

class Watched(main_window.MainWindow):
    def __init__(self, settings):
        super().__init__(settings)
        window.append(self)
        self.painted.connect(lambda: QTimer.singleShot(0, painted))
        self.furnished.connect(lambda: QTimer.singleShot(0, furnished))

window = []
app.MainWindow = Watched
app.application()
ticks = QTimer(interval=5)
ticks.timeout.connect(tick)
app.main(["--fresh"])
"""


class Gaps:
    """Times between the ticks of a 5 ms timer: how long the event loop was away, in milliseconds.

    Beside each, the processor time that the window's thread itself took meanwhile: on a shared machine a gap may be another's.
    """

    def __init__(self) -> None:
        self.of: dict[str, list[tuple[float, float]]] = {}
        self._phase, self._last = "", (0.0, 0.0)
        self._timer = QTimer(timerType=Qt.TimerType.PreciseTimer, interval=TICK_MS)
        self._timer.timeout.connect(self._tick)

    @contextmanager
    def during(self, phase: str):
        """Ticks are counted under this name."""
        self._phase, self._last = phase, (time.perf_counter(), time.thread_time())
        self.of.setdefault(phase, [])
        self._timer.start()
        yield
        self._tick()
        self._timer.stop()

    def _tick(self) -> None:
        now = (time.perf_counter(), time.thread_time())
        self.of[self._phase].append((1000 * (now[0] - self._last[0]), 1000 * (now[1] - self._last[1])))
        self._last = now

    def print(self) -> None:
        every = [gap for gaps in self.of.values() for gap in gaps]
        print(f"gaps (ms)      {'':28}  median     p99  longest   own work: p99  longest")
        for phase, gaps in (*self.of.items(), ("all together", every)):
            wall, own = (sorted(column) for column in zip(*gaps, strict=True))
            last = max(0, round(0.99 * len(gaps)) - 1)
            print(
                f"gaps           {phase:28} {statistics.median(wall):7.1f} {wall[last]:7.1f} {wall[-1]:8.1f}"
                f" {own[last]:15.1f} {own[-1]:8.1f}"
            )


def start_up(rounds: int) -> None:
    """``mono-quant-gui --fresh``: the window painted and furnished, beside what importing PySide6 takes in the same process."""
    rows = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
        rows.append([float(word) for word in done.stdout.split()])
    imported, shown, furnished, longest = (statistics.median(column) for column in zip(*rows, strict=True))
    beyond = shown - imported
    print(f"window         painted {shown:.2f} s after start: {beyond:.2f} s beyond importing PySide6 ({imported:.2f} s)")
    print(f"window         furnished {furnished - shown:.2f} s later; the longest gap meanwhile {1000 * longest:.0f} ms")


def wait(
    signal: SignalInstance | None, act: Callable[[], object], until: Callable[[], bool] = lambda: True, ms: int = 60_000
) -> float:
    """Act, and run the event loop until the signal comes and the condition holds; seconds that took."""
    loop, started = QEventLoop(), time.perf_counter()

    def look(*_: object) -> None:
        if until():
            loop.quit()

    if signal is not None:
        signal.connect(look)
    QTimer.singleShot(ms, loop.quit)
    QTimer.singleShot(0, act)
    loop.exec()
    if signal is not None:
        signal.disconnect(look)
    return time.perf_counter() - started


def settle(ms: int) -> None:
    """Run the event loop for a while."""
    loop = QEventLoop()
    QTimer.singleShot(ms, loop.quit)
    loop.exec()


def session_of(folder: Path, gaps: Gaps) -> None:
    """One person's session, its steps under the timer."""
    from mono_quant_gui import theme
    from mono_quant_gui.app import application, keep_objects
    from mono_quant_gui.main_window import MainWindow
    from mono_quant_gui.session import Session
    from mono_quant_gui.settings import Settings

    settings = Settings(folder / "settings.ini")
    settings.set_text("runs_folder", str(folder / "runs"))
    app = application()
    theme.apply(app, "light")
    window = MainWindow(settings)
    window.furnish(Session(settings))
    window.resize(1440, 900)
    window.show()
    window.inspector.load_plots()
    keep_objects()
    session, layers = window.session, window.layers
    settle(3000)  # both hosts import torch meanwhile
    try:
        many = folder / "many.safetensors"
        many_tensors(many)
        with gaps.during("open 90,000 tensors"):
            rows = wait(session.model_changed, lambda: window.open_path(str(many)))
            wait(session.plan_changed, lambda: None)
        print(f"open           90,000 tensors: rows on the screen after {rows:.2f} s")
        with gaps.during("sort 90,000 rows"):
            for column in range(layers.model.columnCount()):
                wait(None, lambda column=column: layers.table.sortByColumn(column, Qt.SortOrder.DescendingOrder), ms=60)
        with gaps.during("sort 90,000 selected rows"):
            wait(None, layers.table.selectAll, ms=200)
            for column in range(layers.model.columnCount()):
                wait(None, lambda column=column: layers.table.sortByColumn(column, Qt.SortOrder.DescendingOrder), ms=200)
        with gaps.during("a third selected elsewhere"):
            some = session.selection[::3]
            wait(None, lambda: session.set_selection(some), ms=500)
            for column in range(3):
                wait(None, lambda column=column: layers.table.sortByColumn(column, Qt.SortOrder.DescendingOrder), ms=500)
        with gaps.during("copy 90,000 rows"):
            layers.table.selectAll()
            layers.copy_rows()
            wait(session.notice, lambda: None)
        with gaps.during("filter 90,000 rows"):
            for words in ("w1", "w12", "w12 kind:linear", "re:experts.1[0-9]", ">1", ""):
                wait(None, lambda words=words: layers.filter.setText(words), ms=250)
        with gaps.during("open a language model"):
            planned = lambda: session.model is not None and len(session.plan.schemes) == len(session.model.layers) < 1000  # noqa: E731
            wait(session.plan_changed, lambda: window.open_path(str(SAMPLE)), planned)
        looking = session.looking
        names = [row.name for row in session.model.layers if row.kind == "linear"] if session.model else []
        with gaps.during("select layers, histograms"):
            for name in names[:8]:
                wait(looking.detail_changed, lambda name=name: session.select(name), lambda: looking.detail is not None, 5000)
        box = window.inspector.what_if.scheme.number
        with gaps.during("what-if"):
            for number in [n for n in range(box.count()) if box.itemData(n)]:
                wait(None, lambda number=number: (box.setCurrentIndex(number), box.activated.emit(number)), ms=120)
            settle(1500)
        with gaps.during("a run, bars as layers finish"):
            wait(session.run_finished, session.quantize)
        with gaps.during("plots: views, orders, scales"):
            for view in ("channels", "error", "outliers", "weights"):
                wait(None, lambda view=view: window.inspector.set_view(view), ms=120)
            for order in ("sorted", "spread", "sizes", "network"):
                wait(None, lambda order=order: window.inspector.set_order(order), ms=120)
        plots(window)
    finally:
        session.close()
        window.close()


def plots(window) -> None:
    """Each plot drawn whole, and the bars' and histogram's update of one selection."""
    inspector = window.inspector
    for plot in (inspector.bars, inspector.histogram, inspector.channels, inspector.error, inspector.spread, inspector.sizes):
        plot.resize(560, 260)
        whole, own = zip(*(_ms(plot.draw) for _ in range(20)), strict=True)
        print(
            f"plot           {type(plot).__name__:16} full redraw {statistics.median(whole):5.1f} ms"
            f", own work {statistics.median(own):5.1f} ms"
        )
    histogram, show = inspector.histogram, inspector._draw_layer
    inspector.set_view("weights")
    settle(300)
    updates = [_ms(lambda: (show(), histogram.repaint()))[1] for _ in range(20)]
    print(f"plot           HistogramPlot    update of a what-if, own work {statistics.median(updates):5.1f} ms")
    names = [row[0] for row in inspector.bars.table()[1]]
    if not names:
        print("plot           SqnrBars         no run was shown: the selection was not moved")
        return
    marks = [_ms(lambda n=n: (inspector.bars.select([names[n % len(names)]]), inspector.bars.repaint()))[0] for n in range(20)]
    print(f"plot           SqnrBars         selection moved {statistics.median(marks):5.1f} ms")


def _ms(act: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds on the clock, and of the processor: on a busy machine others take their share of the first."""
    started = time.perf_counter(), time.thread_time()
    act()
    return 1000 * (time.perf_counter() - started[0]), 1000 * (time.thread_time() - started[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the window.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the gaps here")
    options = parser.parse_args()
    start_up(options.rounds)
    gaps = Gaps()
    with tempfile.TemporaryDirectory() as folder:
        session_of(Path(folder), gaps)
    gaps.print()
    if options.json:
        options.json.write_text(json.dumps(gaps.of))


if __name__ == "__main__":
    main()
