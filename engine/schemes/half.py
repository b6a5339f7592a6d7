"""``fp16`` and ``bf16``: weights rounded to nearest even; values beyond the range saturate, never infinity."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import Scheme
from engine.schemes.base import Encoder, Family, Fit, Matrix, part

if TYPE_CHECKING:
    import numpy as np

    from engine.measure.tally import Tally

NAMES = {"fp16": "F16", "bf16": "BF16"}


class Half(Family):
    names = tuple(NAMES)
    title = "Half precision"
    examples = "fp16, bf16"

    def parse(self, text: str) -> Scheme | None:
        return Scheme(text, bits=16, granularity="tensor") if text in NAMES else None

    def format(self, scheme: Scheme) -> str:
        return scheme.family

    def problems(self, scheme: Scheme, layer: LayerInfo) -> list[str]:
        if layer.dtype not in FLOATS:
            return [f"{layer.dtype} is not a float type that can be rounded to {scheme.family}; use keep"]
        return []

    def parts(self, scheme: Scheme, layer: LayerInfo, activations: str) -> tuple[PartPlan, ...]:
        return (part(layer.tensor.name, NAMES[scheme.family], layer.shape, "codes"),)

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return HalfEncoder(layer, NAMES[scheme.family])


class HalfEncoder(Encoder):
    def __init__(self, layer: LayerInfo, dtype: str) -> None:
        from engine import numerics
        from engine.numerics.affine import LARGEST

        self.matrix = Matrix.of(layer.shape, 0)
        self.group = self.matrix.cols
        self._kernels = numerics.backend()
        self._kind = numerics.KINDS[layer.dtype]
        self._to = numerics.KINDS[dtype]
        self._largest = LARGEST[dtype]

    def fit(self, low: "np.ndarray", high: "np.ndarray", limit: float, fit: Fit) -> None:
        from engine.measure.tally import bin_scale

        self._bin_scale = bin_scale(limit)

    def encode(self, raw: "np.ndarray", row: int, rows: int, out: "np.ndarray", tally: "Tally") -> None:
        import numpy as np

        cols = self.matrix.cols
        largest = np.float32(self._largest)
        self._kernels.cast_rows(raw, rows, cols, self._kind, self._to, largest, self._bin_scale, out, tally.sums, tally.counts)

    def small_parts(self) -> Mapping[str, bytes]:
        return {}
