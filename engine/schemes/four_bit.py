"""4-bit numbers under a float scale: ``nf4`` and ``fp4``, by default 64 to a group, with ``:double`` quantized scales.

NF4: the 16 levels of QLoRA (Dettmers et al. 2023, appendix E), the quantiles of a normal distribution; a group's scale is its
largest magnitude. FP4: E2M1 under ``amax / 6``. Double quantization (QLoRA, section 3): the scales less their mean are stored as
E4M3 in blocks of 256, each block under a float32.

On disk: ``<weight>_packed`` U8, two to a byte, the even column low; ``<weight>_scale`` in the model's dtype, or F8_E4M3 beside
``<weight>_scale_scale`` F32 and ``<weight>_scale_mean`` F32; then values decode to bfloat16.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import Scheme, SchemeChoices
from engine.schemes import grammar
from engine.schemes.base import Encoder, part
from engine.schemes.grouping import Grouping
from engine.schemes.scaled import ScaledCodec, ScaledFamily

if TYPE_CHECKING:
    import numpy as np

    from engine.numerics.grids import Grid
    from engine.numerics.scales import Scales

GROUP = 64
DOUBLE_BLOCK = 256


class FourBit(ScaledFamily):
    names = ("nf4", "fp4")
    examples = "nf4, nf4:g128, nf4:double, fp4"
    choices = SchemeChoices(
        "4-bit float",
        "NF4 suits normally distributed weights; FP4 is E2M1",
        (("nf4", "nf4"), ("fp4", "fp4 E2M1")),
        ("group", "channel", "tensor"),
        (32, 64, 128),
        True,
        (("", "float"), ("double", "double-quantized")),
        variants_title="Scales",
    )

    def parse(self, text: str) -> Scheme | None:
        family = text.split(":")[0]
        if family not in self.names:
            return None
        words = grammar.parse(text, ("tensor", "channel", "group"), ("double",))
        granularity = words.granularity or "group"
        group = words.group or (GROUP if granularity == "group" else None)
        return Scheme(family, 4, granularity, group, variant=words.variant)

    def format(self, scheme: Scheme) -> str:
        return f"{scheme.family}:{grammar.where(scheme)}" + (f":{scheme.variant}" if scheme.variant else "")

    def wider(self, scheme: Scheme) -> Scheme:
        return Scheme("fp8_e4m3", 8, scheme.granularity, scheme.group)

    def grid(self, scheme: Scheme) -> "Grid":
        from engine.numerics import grids

        return grids.codebook(grids.NF4) if scheme.family == "nf4" else grids.small_float(*grids.E2M1)

    def code_bits(self, scheme: Scheme) -> int:
        return 4

    def parts(self, scheme: Scheme, layer: LayerInfo, activations: str) -> tuple[PartPlan, ...]:
        parts = super().parts(scheme, layer, activations)
        if not scheme.variant:
            return parts
        return tuple(part(p.name, "F8_E4M3", p.shape, "scale") if p.role == "scale" else p for p in parts)

    def other_parts(self, scheme: Scheme, layer: LayerInfo, grouping: Grouping, plain: bool) -> list[PartPlan]:
        if not scheme.variant:
            return []
        name = layer.parts[0].name.removesuffix("_packed")
        blocks = -(-grouping.count // DOUBLE_BLOCK)
        return [
            part(f"{name}_scale_scale", "F32", (blocks,), "scale_scale"),
            part(f"{name}_scale_mean", "F32", (1,), "scale_mean"),
        ]

    def stored_types(self, scheme: Scheme) -> tuple[str, ...]:
        return ("F8_E4M3",) if scheme.variant else super().stored_types(scheme)

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return FourBitEncoder(self, scheme, layer, parts, divide_in_f32=True)

    def decoded_dtype(self, scheme: Scheme, layer: LayerInfo, scale: str) -> str:
        return "BF16" if scheme.variant else scale

    def stored_scales(self, layer: LayerInfo, stored: Mapping[str, "np.ndarray"]) -> "Scales":
        import numpy as np

        from engine.numerics import scales

        if "scale_scale" not in stored:
            return super().stored_scales(layer, stored)
        block, mean = (stored[role].view(np.float32) for role in ("scale_scale", "scale_mean"))
        return scales.Scales.of(_undouble(stored["scale"], block, mean[0]))


def _undouble(codes: "np.ndarray", block_scale: "np.ndarray", mean: "np.float32") -> "np.ndarray":
    """Scales from their E4M3 codes, the scale of each block of 256, and the mean."""
    import numpy as np

    from engine.numerics import grids

    values = grids.small_float(*grids.E4M3).values[codes]
    return (values * np.repeat(block_scale, DOUBLE_BLOCK)[: values.size] + mean).astype(np.float32)


class FourBitEncoder(ScaledCodec):
    def scales(self, amax: "np.ndarray") -> "np.ndarray":
        import numpy as np

        # bfloat16, to which these decode, ends here; a scale in E4M3 may be a sixteenth too large.
        return super().scales(np.minimum(amax, np.float32(0.9 * 3.3895e38)) if self.scheme.variant else amax)

    @property
    def settles(self) -> bool:
        return bool(self.scheme.variant)

    def settle(self, scale: "np.ndarray") -> "np.ndarray":
        import numpy as np

        settled = self._quantize_scales(scale, np.float32(scale.mean(dtype=np.float64)))
        if settled.min() > 0:
            return settled
        # A scale far below the mean rounds to nothing: then the scales themselves are stored.
        self.notes.add("scales are too unlike for their mean to be taken off before they are quantized again")
        return self._quantize_scales(scale, np.float32(0))

    def _quantize_scales(self, scale: "np.ndarray", mean: "np.float32") -> "np.ndarray":
        """The scales as E4M3 of what they differ from the mean, in blocks; gives them as they will be read."""
        import numpy as np

        from engine.numerics import grids

        grid = grids.small_float(*grids.E4M3)
        self._mean = mean
        padded = np.zeros(-(-scale.size // DOUBLE_BLOCK) * DOUBLE_BLOCK, np.float32)
        padded[: scale.size] = scale - mean
        blocks = padded.reshape(-1, DOUBLE_BLOCK)
        self._block_scale = np.abs(blocks).max(1) / np.float32(448)
        divisor = np.where(self._block_scale > 0, self._block_scale, np.float32(1))[:, None]
        _, codes = grids.on_grid(blocks / divisor, grid)
        if not mean:
            codes = np.maximum(codes, 1)  # the least scale, rather than none
        self._codes = codes.reshape(-1)[: scale.size]
        return _undouble(self._codes, self._block_scale, self._mean)

    def small_parts(self, scale, zero, first: int, row: int) -> Mapping[str, tuple[int, bytes]]:
        if not self.scheme.variant:
            return super().small_parts(scale, zero, first, row)
        return {"scale": (first, self._codes[first : first + scale.size].tobytes())}

    def layer_parts(self) -> Mapping[str, bytes]:
        parts = dict(super().layer_parts())
        if self.scheme.variant:
            parts |= {"scale_scale": self._block_scale.tobytes(), "scale_mean": self._mean.tobytes()}
        return parts
