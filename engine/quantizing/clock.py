"""How far work is: what is done and what is left, and how much each layer of a plan is of it."""

import threading
import time

from engine.algorithms import chain
from engine.records.plan import LayerPlan
from engine.records.progress import Monitor, Progress


class Clock:
    """``done`` of ``total``, in whatever the work counts; told to the monitor at most twenty times a second, which is asked for
    cancellation every time."""

    def __init__(self, monitor: Monitor, stage: str, total: int) -> None:
        self.monitor, self.stage, self.total = monitor, stage, max(total, 1)
        self.layer, self.done = "", 0
        self.started, self._last = time.perf_counter(), 0.0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Cancelled if the user asked to stop."""
        self.monitor.check()

    def advance(self, count: int) -> None:
        """So much more is done. Raises Cancelled."""
        self.monitor.check()
        with self._lock:
            self.done += count
            now = time.perf_counter()
            due = now - self._last >= 0.05
            self._last = now if due else self._last
        if due:
            self.report()

    def report(self) -> None:
        """Tell it now."""
        seconds, done = time.perf_counter() - self.started, min(self.done, self.total)
        left = seconds * (self.total - done) / done if done and seconds > 0.5 else None
        self.monitor.progress(Progress(self.stage, self.layer, done, self.total, seconds, left))


def cost(line: LayerPlan) -> int:
    """Bytes to go through: encoded layers are read twice, and once more for every choice made before the encoding."""
    if not line.encoded:
        return line.layer.nbytes
    whole_tensor = line.scheme.granularity == "tensor"
    chosen = bool(chain(line.algorithm).solver.algorithm.shortlist) and not whole_tensor
    return line.layer.nbytes * (2 + chosen + (line.scheme.variant == "double" and not whole_tensor))
