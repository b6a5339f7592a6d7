"""``fp16`` and ``bf16``: weights rounded to nearest even; values beyond the range saturate, never infinity."""

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import Scheme, SchemeChoices
from engine.schemes.base import Encoder, Family, part
from engine.schemes.grouping import Grouping, Matrix

if TYPE_CHECKING:
    from engine.measure.tally import Tally

NAMES = {"fp16": "F16", "bf16": "BF16"}


class Half(Family):
    names = tuple(NAMES)
    examples = "fp16, bf16"
    choices = SchemeChoices("Half precision", "16-bit floats, rounded to nearest", (("fp16", "fp16"), ("bf16", "bf16")))

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
        return HalfEncoder(scheme, layer, NAMES[scheme.family])


class HalfEncoder(Encoder):
    def __init__(self, scheme: Scheme, layer: LayerInfo, dtype: str) -> None:
        from engine import numerics
        from engine.numerics.affine import LARGEST

        self.layer = replace(layer, axis=0, kind="other")  # every element for itself, in the order stored
        self.grouping = Grouping(Matrix.of(self.layer), replace(scheme, granularity="channel"))
        self._kernels = numerics.backend()
        self._kind = numerics.KINDS[layer.dtype]
        self._to = numerics.KINDS[dtype]
        self._largest = LARGEST[dtype]

    def encode(self, raw, rows, parameters, bin_scale, out, tally: "Tally") -> None:
        import numpy as np

        largest = np.float32(self._largest)
        cols = self.grouping.matrix.cols
        self._kernels.cast_rows(raw, rows, cols, self._kind, self._to, largest, bin_scale, out, tally.sums, tally.counts)
