"""What is done of a run and what is left, in bytes that are gone through."""

import threading
import time
from dataclasses import dataclass, field

from engine.algorithms import chain
from engine.records.plan import LayerPlan, Plan
from engine.records.progress import Monitor, Progress


@dataclass(slots=True)
class Clock:
    """Counts bytes, tells the monitor at most twenty times a second, asks it for cancellation every time."""

    plan: Plan
    monitor: Monitor
    layer: str = ""
    stage: str = "quantizing"
    done: int = 0
    started: float = field(default_factory=time.perf_counter)
    _last: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    total: int = 0

    def __post_init__(self) -> None:
        self.total = self.total or sum(cost(line) for line in self.plan.layers)

    def advance(self, count: int) -> None:
        self.monitor.check()
        with self._lock:
            self.done += count
            now = time.perf_counter()
            due = now - self._last >= 0.05
            if due:
                self._last = now
        if due:
            self.report()

    def report(self) -> None:
        seconds = time.perf_counter() - self.started
        left = seconds * (self.total - self.done) / self.done if self.done and seconds > 0.5 else None
        self.monitor.progress(Progress(self.stage, self.layer, self.done, self.total, seconds, left))


def cost(line: LayerPlan) -> int:
    """Bytes to go through: encoded layers are read twice, and once more for every choice made before the encoding."""
    if not is_encoded(line):
        return line.layer.nbytes
    whole_tensor = line.scheme.granularity == "tensor"
    chosen = bool(chain(line.algorithm).solver.algorithm.shortlist) and not whole_tensor
    return line.layer.nbytes * (2 + chosen + (line.scheme.variant == "double" and not whole_tensor))


def is_encoded(line: LayerPlan) -> bool:
    return any(part.role == "codes" for part in line.parts)
