"""Long work of the window's thread, cut into turns of the event loop."""

import time
from collections.abc import Iterator

from PySide6.QtCore import QObject, QTimer

TURN_MS = 6.0
"""Work is put down after this long; the window answers in between."""


class Turns:
    """One piece of work at a time: a generator that pauses; new work takes the place of the old."""

    def __init__(self, owner: QObject) -> None:
        self._work: Iterator[None] | None = None
        self._timer = QTimer(owner, singleShot=True, interval=0)
        self._timer.timeout.connect(self._turn)

    @property
    def busy(self) -> bool:
        return self._work is not None

    def start(self, work: Iterator[None], *, at_once: bool = False) -> None:
        """Begin; ``at_once``: to its end, now."""
        self.drop()
        self._work = work
        if at_once:
            self._work = None
            for _ in work:
                pass
        else:
            self._timer.start()

    def finish(self) -> None:
        """Do what is left of it now."""
        work = self._work
        self.drop()
        for _ in work or ():
            pass

    def drop(self) -> None:
        """Forget what was not finished."""
        self._timer.stop()
        self._work = None

    def _turn(self) -> None:
        until = time.perf_counter() + TURN_MS / 1000
        work = self._work
        while work is not None and work is self._work:
            try:
                next(work)
            except StopIteration:
                if self._work is work:
                    self._work = None
                return
            if time.perf_counter() >= until:
                self._timer.start()
                return
