"""One layer's weight as each scheme would store it, decoded as a reader decodes it."""

from __future__ import annotations

import torch

from engine.calibration.sites import in_rows
from engine.chunks import Hold
from engine.decoding import decoded
from engine.looking.detail import decoder_of
from engine.looking.trying import stored_layer
from engine.quantizing.encoding import attempt
from engine.readers.source import TensorFiles
from engine.records.progress import Monitor
from engine.schemes.grouping import Matrix
from engine.searching.candidates import Candidates


class Quiet(Monitor):
    """Cancellation alone: what one layer does is no progress of the whole."""

    def __init__(self, monitor: Monitor) -> None:
        self.cancelled = monitor.cancelled  # type: ignore[method-assign]


class DecodedLayers:
    """Weights as matrices (rows, cols) in float32; files are open while it is entered."""

    def __init__(self, found: Candidates, monitor: Monitor) -> None:
        self._found, self._monitor = found, Quiet(monitor)
        self._files, self._hold = TensorFiles(found.summary), Hold()

    def __enter__(self) -> DecodedLayers:
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()

    def original(self, name: str) -> torch.Tensor:
        """The float weight."""
        layer = self._found.lines[name]["keep"].layer
        return in_rows(decoded(self._files, layer).float(), layer)

    def under(self, name: str, scheme: str) -> torch.Tensor:
        """What a reader decodes. Raises DataError for NaN or Inf, Cancelled."""
        if scheme == "keep":
            return self.original(name)
        tried = attempt(self._found.plans[scheme], name, self._files, self._monitor, self._hold)
        layer = stored_layer(tried)
        return decoder_of(layer, tried.stored)(0, Matrix.of(layer).rows)
