"""Microscaling floats: ``mxfp8``, ``mxfp6``, ``mxfp4``: groups of 32 values share a power of two.

OCP Microscaling Formats specification v1.0: the scale is ``2**(e - 127)`` with ``e`` stored in a byte (E8M0); elements are
E4M3 or E5M2, E2M3 or E3M2, and E2M1. The specification takes ``floor(log2(amax)) - emax``; as compressed-tensors does, the
exponent is raised by one when the largest value would saturate by more than half a step. Values decode to bfloat16, exactly.
On disk as compressed-tensors lays them out; it knows no E5M2 and no E3M2.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import KEEP, Scheme, SchemeChoices
from engine.schemes import grammar
from engine.schemes.base import OWN, Encoder
from engine.schemes.scaled import ScaledCodec, ScaledFamily

if TYPE_CHECKING:
    import numpy as np

    from engine.numerics.grids import Grid
    from engine.numerics.scales import Scales

GROUP = 32
ELEMENTS = {
    "mxfp8": ("E4M3", 8),
    "mxfp8_e5m2": ("E5M2", 8),
    "mxfp6": ("E2M3", 6),
    "mxfp6_e3m2": ("E3M2", 6),
    "mxfp4": ("E2M1", 4),
}
ALIASES = {"mxfp8_e4m3": "mxfp8", "mxfp6_e2m3": "mxfp6", "mxfp4_e2m1": "mxfp4"}
STORAGE = {"mxfp8": "mxfp8-quantized", "mxfp6": "mxfp6-pack-quantized", "mxfp4": "mxfp4-pack-quantized"}


@cache
def _powers() -> "np.ndarray":
    """What the bytes of scales stand for, as float32."""
    import numpy as np

    # The byte is the exponent as float32 has it; 0 alone would be no power of two there, but zero.
    return np.maximum(np.arange(256, dtype=np.uint32) << np.uint32(23), np.uint32(1 << 22)).view(np.float32)


class Microscaling(ScaledFamily):
    names = tuple(ELEMENTS)
    examples = "mxfp8, mxfp8_e5m2, mxfp6, mxfp6_e3m2, mxfp4"
    scale_type = "U8"
    decoded_type, decodes_exactly = "BF16", True
    choices = SchemeChoices(
        "Microscaling (MX)",
        "groups of 32 share a power of two; OCP MX v1.0",
        (
            ("mxfp8", "mxfp8 E4M3"),
            ("mxfp8_e5m2", "mxfp8 E5M2"),
            ("mxfp6", "mxfp6 E2M3"),
            ("mxfp6_e3m2", "mxfp6 E3M2"),
            ("mxfp4", "mxfp4 E2M1"),
        ),
    )

    def parse(self, text: str) -> Scheme | None:
        name = text.split(":")[0]
        family = ALIASES.get(name, name)
        if family not in ELEMENTS:
            return None
        grammar.parse(text, ())
        return Scheme(family, ELEMENTS[family][1], "group", GROUP)

    def format(self, scheme: Scheme) -> str:
        return scheme.family

    def wider(self, scheme: Scheme) -> Scheme:
        family = {"mxfp4": "mxfp6", "mxfp6": "mxfp8", "mxfp6_e3m2": "mxfp8"}.get(scheme.family)
        return Scheme(family, ELEMENTS[family][1], "group", GROUP) if family else KEEP

    def grid(self, scheme: Scheme) -> "Grid":
        from engine.numerics import grids

        return grids.small_float(*getattr(grids, ELEMENTS[scheme.family][0]))

    def code_bits(self, scheme: Scheme) -> int:
        return scheme.bits

    def plain_type(self, scheme: Scheme, layer: LayerInfo, activations: str) -> str:
        return f"F8_{ELEMENTS[scheme.family][0]}" if scheme.bits == 8 else ""

    def stored_plain(self, scheme: Scheme) -> str:
        return f"F8_{ELEMENTS[scheme.family][0]}" if scheme.bits == 8 else ""

    def _remedy(self, scheme: Scheme, cols: int) -> str:
        return "keep the layer, or choose a format with another group"

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return MicroscalingEncoder(self, scheme, layer, parts, divide_in_f32=True)

    def stored_scales(self, layer: LayerInfo, stored: Mapping[str, "np.ndarray"]) -> "Scales":
        from engine.numerics.scales import table

        return table(stored["scale"], _powers())

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        return {"mxfp8": ("mxfp8",), "mxfp6": ("mxfp8",), "mxfp4": ("mxfp4",)}.get(scheme.family, ())

    def storage(self, scheme: Scheme, parts: tuple[PartPlan, ...], activations: str) -> str:
        plain = not parts[0].name.endswith("_packed")
        return STORAGE.get(scheme.family, OWN) if plain == (scheme.bits == 8) else OWN

    def quantization_args(self, scheme: Scheme) -> dict[str, Any]:
        if scheme.family not in STORAGE:
            return super().quantization_args(scheme)
        return {
            "type": "float", "num_bits": scheme.bits, "strategy": "group", "group_size": GROUP, "symmetric": True,
            "dynamic": False, "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8",
        }  # fmt: skip

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        bits = args.get("num_bits")
        family = {8: "mxfp8", 6: "mxfp6", 4: "mxfp4"}.get(bits) if isinstance(bits, int) else None
        grouped = args.get("strategy") == "group" and args.get("group_size") == GROUP
        if args.get("type") != "float" or not grouped or args.get("scale_dtype") != "torch.uint8" or not family:
            return super().scheme_from_args(args)
        return Scheme(family, ELEMENTS[family][1], "group", GROUP) if args.get("symmetric", True) is not False else None


class MicroscalingEncoder(ScaledCodec):
    def scales(self, amax: "np.ndarray") -> "np.ndarray":
        import numpy as np

        return np.ldexp(np.float32(1), self._exponents(amax) - 127).astype(np.float32)

    def _exponents(self, amax: "np.ndarray") -> "np.ndarray":
        """Biased exponent of each group's scale."""
        import numpy as np

        top = float(self.grid.high)
        emax = int(np.floor(np.log2(top)))
        # The mantissa from which on the largest value is nearer to the next power of two; compressed-tensors takes
        # 1.75 for E4M3 too, although 448 is 1.75 * 2**8 itself.
        step = top - float(np.nanmax(self.grid.values[self.grid.values < top]))
        turn = 1.75 if self.scheme.family == "mxfp8" else (top + step / 2) / 2**emax
        raised = np.ascontiguousarray(amax, np.float32).view(np.int32) + np.int32(round((2 - turn) * 2**23))
        # 254 is the last exponent of a finite float32: raising it would decode to infinity.
        return np.clip(np.minimum(raised >> 23, 254) - emax, 0, 254)

    def small_parts(self, scale, zero, first: int, row: int) -> Mapping[str, tuple[int, bytes]]:
        import numpy as np

        exponents = np.frexp(scale)[1] + 126
        return {"scale": (first, exponents.astype(np.uint8).tobytes())}
