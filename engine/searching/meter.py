"""How far a pass is: told to the monitor at most twenty times a second, which is asked for cancellation every time."""

import threading
import time

from engine.records.progress import Monitor, Progress


class Meter:
    """``done`` of ``total``, in whatever the pass counts."""

    def __init__(self, monitor: Monitor, stage: str, total: int) -> None:
        self.monitor, self.stage, self.total = monitor, stage, max(total, 1)
        self.layer, self.done = "", 0
        self._started, self._last = time.perf_counter(), 0.0
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
            seconds = now - self._started
            left = seconds * (self.total - self.done) / self.done if self.done and seconds > 0.5 else None
            self.monitor.progress(Progress(self.stage, self.layer, min(self.done, self.total), self.total, seconds, left))
