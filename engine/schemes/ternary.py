"""``ternary`` (1.58 bits) and ``binary``: signs under the mean magnitude of a group, by default of 128 weights.

Ternary: BitNet b1.58 (Ma et al. 2024): ``q = clip(round(w / s), -1, 1)``, ``s = mean |w|``; five digits to a byte, the first
column the least significant. Binary: XNOR-Net (Rastegari et al. 2016): ``q = sign(w)``, ``s = mean |w|``, the least-squares
scale; eight to a byte, least significant bit first, 1 for +1. A weight of zero becomes ``+s`` there. Algorithms that search may
choose another scale than the mean.

On disk: ``<weight>_packed`` U8, ``<weight>_scale`` in the model's dtype.
"""

from typing import TYPE_CHECKING, Any

from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import Scheme, SchemeChoices
from engine.schemes import grammar
from engine.schemes.base import Encoder
from engine.schemes.scaled import ScaledCodec, ScaledFamily

if TYPE_CHECKING:
    import numpy as np

    from engine.numerics.grids import Grid

GROUP = 128


class Ternary(ScaledFamily):
    names = ("ternary", "binary")
    examples = "ternary, ternary:channel, binary:g64"
    choices = SchemeChoices(
        "Ternary and binary",
        "signs under the mean magnitude of a group",
        (("ternary", "ternary, 1.6 bits"), ("binary", "binary, 1 bit")),
        ("group", "channel", "tensor"),
        (32, 64, 128, 256),
        True,
    )

    def parse(self, text: str) -> Scheme | None:
        family = text.split(":")[0]
        if family not in self.names:
            return None
        words = grammar.parse(text, ("tensor", "channel", "group"))
        granularity = words.granularity or "group"
        group = words.group or (GROUP if granularity == "group" else None)
        return Scheme(family, 2 if family == "ternary" else 1, granularity, group)

    def format(self, scheme: Scheme) -> str:
        return f"{scheme.family}:{grammar.where(scheme)}"

    def wider(self, scheme: Scheme) -> Scheme:
        """Binary to ternary; ternary to 3 bits, since four levels are hardly better than three."""
        if scheme.family == "binary":
            return Scheme("ternary", 2, scheme.granularity, scheme.group)
        return Scheme("int", 3, scheme.granularity, scheme.group)

    def grid(self, scheme: Scheme) -> "Grid":
        from engine.numerics import grids

        return grids.ternary() if scheme.family == "ternary" else grids.binary()

    def code_bits(self, scheme: Scheme) -> int:
        return 0 if scheme.family == "ternary" else 1

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return MeanEncoder(self, scheme, layer, parts, divide_in_f32=True)


class MeanEncoder(ScaledCodec):
    def first_parameters(self, low: "np.ndarray", high: "np.ndarray", means: Any) -> tuple["np.ndarray", "np.ndarray"]:
        import numpy as np

        scale = self.scales(means())
        return scale, np.zeros_like(scale)
