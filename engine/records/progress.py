"""How long work reports and stops: the engine calls a Monitor and knows nothing of threads or windows."""

from dataclasses import dataclass

from engine.errors import Cancelled
from engine.records.report import LayerFailure, LayerReport


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` bytes; ``seconds_left`` is None until there is enough to judge by."""

    stage: str
    layer: str
    done: int
    total: int
    seconds: float
    seconds_left: float | None


class Monitor:
    """Progress out, cancellation in. Subclass what you need; the defaults do nothing."""

    def progress(self, progress: Progress) -> None:
        """Called about twenty times a second, from any thread of the engine."""

    def layer_done(self, report: LayerReport) -> None:
        """Called once for every quantized layer, in file order."""

    def layer_failed(self, failure: LayerFailure) -> None:
        """Called for every layer that could not be quantized; the run goes on to measure the others, and then fails."""

    def cancelled(self) -> bool:
        """Polled often; a true answer ends the work with ``Cancelled``."""
        return False

    def paused(self) -> bool:
        """Asked between layers; a true answer ends a run with ``Paused``, and what is finished is kept for ``resume``."""
        return False

    def check(self) -> None:
        """Raise ``Cancelled`` if the user asked to stop."""
        if self.cancelled():
            raise Cancelled()
