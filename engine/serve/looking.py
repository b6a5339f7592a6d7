"""Looking at layers over JSON lines: histograms, trials, figures, what a Gaussian would give."""

from collections.abc import Callable, Mapping
from typing import Any

from engine import api
from engine.errors import DataError, InputError
from engine.records.codec import from_data, to_data
from engine.records.dtypes import FLOATS
from engine.records.look import WeightFigures
from engine.records.model import LayerInfo, ModelSummary
from engine.records.report import LayerReport
from engine.schemes import parse_scheme
from engine.serve import opening
from engine.serve.channel import BATCH, Channel, Quiet
from engine.serve.opened import Opened


class LookCalls:
    """Calls on one layer, or on some."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._bench: Any = None
        self._artifact: tuple[tuple[int, ...], ModelSummary] | None = None

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        """By name."""
        return {
            "histogram": self._histogram,
            "try_scheme": self._try_scheme,
            "look": self._look,
            "expected": self._expected,
            "describe": self._describe,
        }

    def _histogram(self, channel: Channel, path: str, layer: str, how: dict[str, Any] | None = None) -> Any:
        histogram, ranges = api.layer_histogram(self._opened.summary(path, how), layer)
        return {"layer": layer, "histogram": to_data(histogram), "ranges": to_data(ranges)}

    def _layer(self, path: str, name: str, how: dict[str, Any] | None) -> tuple[Any, LayerInfo]:
        """The bench on which schemes are tried, and a layer to try them on."""
        from engine.looking.trying import Bench

        summary = self._opened.summary(path, how)
        if self._bench is None or self._bench.summary is not summary:
            self._bench = Bench(summary)
        layer = next((layer for layer in summary.layers if layer.name == name), None)
        if layer is None or layer.scheme or layer.dtype not in FLOATS or not layer.parameters:
            raise InputError(f"{name} has no float weights to look at.")
        return self._bench, layer

    def _try_scheme(
        self, channel: Channel, path: str, layer: str, scheme: str, algorithm: str, activations: str = "none",
        limit: float = 0.0, how: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """A first answer as a layer's event where the layer is large, then the exact one."""
        bench, found = self._layer(path, layer, how)
        text = api.algorithm_without_data(algorithm)
        quiet = Quiet(channel)
        return to_data(bench.attempt(found, parse_scheme(scheme), text, activations, quiet, channel.layer_tried, limit))

    def _look(
        self, channel: Channel, path: str, layer: str, artifact: str = "", report: dict[str, Any] | None = None,
        how: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Where the error lies of what was tried last, or of what a run wrote; and why."""
        from engine.looking.trying import look

        bench, found = self._layer(path, layer, how)
        written = self._opened_artifact(artifact) if artifact else None
        detail, diagnosis = look(bench, found, channel, written, from_data(LayerReport, report) if report else None)
        return {"detail": to_data(detail), "diagnosis": to_data(diagnosis)}

    def _opened_artifact(self, path: str) -> ModelSummary:
        if self._artifact is None or self._artifact[1].path != path or self._artifact[0] != opening.stamp(self._artifact[1]):
            summary = api.open_model(path)
            self._artifact = (opening.stamp(summary), summary)
        return self._artifact[1]

    def _expected(self, channel: Channel, path: str, lines: list[list[str]], how: dict[str, Any] | None = None) -> Any:
        """SQNR of Gaussian weights beside layers: rows of dB for (layer, scheme, algorithm)."""
        from engine.looking.expected import expected_db

        layers = {layer.name: layer for layer in self._opened.summary(path, how).layers}
        found = []
        for name, scheme, algorithm in lines:
            channel.check()
            found.append(expected_db(parse_scheme(scheme), algorithm, layers[name]) if name in layers else None)
        for start in range(0, len(found), BATCH):
            channel.rows(found[start : start + BATCH])
        return {"count": len(found)}

    def _describe(self, channel: Channel, path: str, layers: list[str], how: dict[str, Any] | None = None) -> Any:
        """Figures of layers' weights, a row each: name, least, greatest, deviation, kurtosis, furthest in deviations, note.

        A layer that cannot be read says why in the note.
        """
        from engine.looking.detail import describe
        from engine.readers.source import TensorFiles

        summary, wanted, quiet = self._opened.summary(path, how), set(layers), Quiet(channel)
        with TensorFiles(summary) as files:
            for layer in summary.layers:
                if layer.name not in wanted or layer.scheme or layer.dtype not in FLOATS or not layer.parameters:
                    continue
                try:
                    x = describe(files, layer, quiet)
                except DataError as error:
                    x = WeightFigures(layer.name, note=str(error))
                channel.rows([[x.layer, x.low, x.high, x.std, x.kurtosis, x.sigmas, x.note]])
        return {"count": len(layers)}
