"""8-bit floats: ``fp8_e4m3:channel``, ``fp8_e5m2:tensor``, ``fp8_e4m3:b128x128``.

Elements as in the OCP 8-bit Floating Point Specification: E4M3 up to 448, E5M2 up to 57344; a group's scale is its largest
magnitude over that, in the model's dtype. On disk ``<weight>`` F8_E4M3 or F8_E5M2 in the weight's own shape and
``<weight>_scale``, as compressed-tensors lays them out (it knows E4M3 only).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import GRANULARITIES, Scheme, SchemeChoices
from engine.schemes import grammar
from engine.schemes.base import OWN, Encoder
from engine.schemes.integer import granularity_from_args
from engine.schemes.scaled import ScaledCodec, ScaledFamily

if TYPE_CHECKING:
    from engine.numerics.grids import Grid

STORED = {"fp8_e4m3": "F8_E4M3", "fp8_e5m2": "F8_E5M2"}


class Float8(ScaledFamily):
    names = tuple(STORED)
    examples = "fp8_e4m3 (or fp8), fp8_e4m3:tensor, fp8_e4m3:b128x128, fp8_e5m2:channel"
    choices = SchemeChoices(
        "8-bit float",
        "E4M3 keeps more precision, E5M2 more range",
        (("fp8_e4m3", "fp8 E4M3"), ("fp8_e5m2", "fp8 E5M2")),
        ("channel", "tensor", "group", "block"),
        (32, 64, 128),
        True,
    )

    def parse(self, text: str) -> Scheme | None:
        name = text.split(":")[0]
        family = "fp8_e4m3" if name == "fp8" else name
        if family not in STORED:
            return None
        words = grammar.parse(text, GRANULARITIES)
        return Scheme(family, 8, words.granularity or "channel", words.group, block_rows=words.block_rows)

    def format(self, scheme: Scheme) -> str:
        return f"{scheme.family}:{grammar.where(scheme)}"

    def grid(self, scheme: Scheme) -> "Grid":
        from engine.numerics import grids

        return grids.small_float(*(grids.E4M3 if scheme.family == "fp8_e4m3" else grids.E5M2))

    def code_bits(self, scheme: Scheme) -> int:
        return 8

    def plain_type(self, scheme: Scheme, layer: LayerInfo, activations: str) -> str:
        return STORED[scheme.family]

    def stored_plain(self, scheme: Scheme) -> str:
        return STORED[scheme.family]

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return ScaledCodec(self, scheme, layer, parts, divide_in_f32=False)

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        if scheme.family != "fp8_e4m3":
            return ()
        if (scheme.granularity, scheme.group) == ("block", 128):
            return ("fp8:token",)
        return ("fp8:token", "fp8:static") if scheme.granularity in ("tensor", "channel") else ()

    def storage(self, scheme: Scheme, parts: tuple[PartPlan, ...], activations: str) -> str:
        if scheme.family != "fp8_e4m3" or parts[0].name.endswith("_packed"):
            return OWN
        return "naive-quantized" if activations == "none" else "float-quantized"

    def quantization_args(self, scheme: Scheme) -> dict[str, Any]:
        if scheme.family != "fp8_e4m3":
            return super().quantization_args(scheme)
        args = {
            "type": "float",
            "num_bits": 8,
            "strategy": scheme.granularity,
            "group_size": scheme.group if scheme.granularity == "group" else None,
            "symmetric": True,
            "dynamic": False,
        }
        return args | ({"block_structure": [scheme.block_rows, scheme.group]} if scheme.granularity == "block" else {})

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        if args.get("type") != "float" or args.get("num_bits") != 8 or args.get("scale_dtype"):
            return super().scheme_from_args(args)
        found = granularity_from_args(args)
        plain = found and args.get("symmetric", True) is not False
        return Scheme("fp8_e4m3", 8, found[0], found[1], block_rows=found[2]) if found and plain else None
