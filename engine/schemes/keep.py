"""``keep``: the tensor is copied byte for byte."""

from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import KEEP, Scheme, SchemeChoices
from engine.schemes.base import Encoder, Family, part


class Keep(Family):
    names = ("keep",)
    examples = "keep"
    choices = SchemeChoices("Keep as it is", "copied byte for byte", (("keep", "keep as it is"),))

    def parse(self, text: str) -> Scheme | None:
        return KEEP if text in ("keep", "none") else None

    def format(self, scheme: Scheme) -> str:
        return "keep"

    def problems(self, scheme: Scheme, layer: LayerInfo) -> list[str]:
        return []

    def parts(self, scheme: Scheme, layer: LayerInfo, activations: str) -> tuple[PartPlan, ...]:
        return tuple(part(t.name, t.dtype, t.shape, "copy") for t in layer.parts)

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        raise TypeError("a kept layer is copied, not encoded")
