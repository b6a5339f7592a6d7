"""About how long the plan's run would take, where no earlier run of its kind tells: asked for when the plan has come to rest."""

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Signal

if TYPE_CHECKING:
    from mono_quant_gui.session import Session

REST_MS = 400
"""Pause after a plan, and until the arithmetic is asked for again while it is still being loaded."""


class PlanTime(QObject):
    """``changed`` follows when the time is there, in ``session.plan.takes``."""

    changed = Signal()

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self._call: int | None = None
        self._rest = QTimer(self, singleShot=True, interval=REST_MS)
        self._rest.timeout.connect(self._ask)
        session.plan_changed.connect(self._wait)
        session.opening.connect(self.stop)

    def stop(self) -> None:
        """Forget what was asked for."""
        self._rest.stop()
        self._session.peeks.drop(self._call)
        self._call = None

    def _wait(self) -> None:
        self.stop()
        takes = self._session.plan.takes
        if takes and takes["seconds"] is None:
            self._rest.start()

    def _ask(self) -> None:
        plan = self._session.plan

        def done(answer: dict[str, Any]) -> None:
            self._call = None
            if answer["loading"]:
                self._rest.start()
            elif answer["seconds"] is not None and plan is self._session.plan and plan.takes:
                plan.takes |= {"seconds": answer["seconds"], "runs": 0}
                self.changed.emit()

        if plan.takes:
            self._call = self._session.peeks.call("plan_time", {"number": plan.takes["number"]}, done)
