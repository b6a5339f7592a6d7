"""One call's way out: what the engine reports becomes events."""

from typing import Any, Protocol

from engine.records.codec import to_data
from engine.records.look import Trial
from engine.records.progress import Monitor, Progress
from engine.records.report import LayerFailure, LayerReport

BATCH = 500
"""Rows per message: about 50 kB of JSON, decoded in a millisecond."""
FEW = 5
"""Reports per message: 100 kB of histograms and channels."""


class Host(Protocol):
    """What calls are answered by."""

    def send(self, message: dict[str, Any]) -> None: ...

    def is_stopped(self, call: int) -> bool: ...

    def is_paused(self, call: int) -> bool: ...


class Channel(Monitor):
    """One call's way out: what the engine reports becomes events."""

    def __init__(self, host: Host, call: int) -> None:
        self._host, self.call = host, call

    def _event(self, event: str, data: Any) -> None:
        self._host.send({"id": self.call, "event": event, "data": data})

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
        return self._host.is_stopped(self.call)

    def paused(self) -> bool:
        return self._host.is_paused(self.call)


class Keeper(Monitor):
    """Passes everything on, and keeps what was measured."""

    def __init__(self, channel: Channel) -> None:
        self.progress = channel.progress  # type: ignore[method-assign]
        self.cancelled = channel.cancelled  # type: ignore[method-assign]
        self.paused = channel.paused  # type: ignore[method-assign]
        self.layer_failed = channel.layer_failed  # type: ignore[method-assign]
        self._channel = channel
        self.reports: dict[str, LayerReport] = {}

    def layer_done(self, report: LayerReport) -> None:
        self.reports[report.name] = report
        self._channel.layer_done(report)


class Quiet(Monitor):
    """Cancellation of a call whose progress nobody waits for."""

    def __init__(self, channel: Channel) -> None:
        self.cancelled = channel.cancelled  # type: ignore[method-assign]
