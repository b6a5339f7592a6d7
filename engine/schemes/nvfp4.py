"""``nvfp4``: E2M1 elements, a scale in E4M3 for each 16 of them, and one float32 for the whole weight.

As NVIDIA describes it and compressed-tensors lays it out: ``<weight>_packed`` U8, two to a byte, the even column low;
``<weight>_scale`` F8_E4M3 (rows, cols / 16); ``<weight>_global_scale`` F32 ``g = 448 * 6 / amax``; ``w = q * scale / g``. Layers
that a runtime fuses share ``amax``. Values decode to bfloat16.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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

GROUP = 16
TOP = 448.0 * 6.0
LARGEST = 0.9 * 3.3895e38
"""Magnitudes beyond are clipped: bfloat16 ends here, and a scale in E4M3 may be a sixteenth too large."""
EMPTY = 0.125
"""Stored scale of a group of zeros."""


class NvFp4(ScaledFamily):
    names = ("nvfp4",)
    examples = "nvfp4"
    scale_type = "F8_E4M3"
    decoded_type = "BF16"
    shares_limit = True
    choices = SchemeChoices("NVFP4", "E2M1 in groups of 16; scales in E4M3 under one float32", (("nvfp4", "nvfp4"),))

    def parse(self, text: str) -> Scheme | None:
        if text.split(":")[0] != "nvfp4":
            return None
        grammar.parse(text, ())
        return Scheme("nvfp4", 4, "group", GROUP)

    def format(self, scheme: Scheme) -> str:
        return "nvfp4"

    def wider(self, scheme: Scheme) -> Scheme:
        return Scheme("fp8_e4m3", 8)

    def grid(self, scheme: Scheme) -> "Grid":
        from engine.numerics import grids

        return grids.small_float(*grids.E2M1)

    def code_bits(self, scheme: Scheme) -> int:
        return 4

    def other_parts(self, scheme: Scheme, layer: LayerInfo, grouping: Grouping, plain: bool) -> list[PartPlan]:
        name = layer.parts[0].name.removesuffix("_packed")
        return [part(f"{name}_global_scale", "F32", (1,), "global_scale")]

    def _remedy(self, scheme: Scheme, cols: int) -> str:
        return "keep the layer, or choose a format with another group"

    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        return NvFp4Encoder(self, scheme, layer, parts, divide_in_f32=True)

    def stored_scales(self, layer: LayerInfo, stored: Mapping[str, "np.ndarray"]) -> "Scales":
        import numpy as np

        from engine.numerics import grids
        from engine.numerics.scales import table

        return table(stored["scale"], grids.small_float(*grids.E4M3).values, stored["global_scale"].view(np.float32)[0])

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        return ("nvfp4",)

    def storage(self, scheme: Scheme, parts: tuple[PartPlan, ...], activations: str) -> str:
        return "nvfp4-pack-quantized"

    def quantization_args(self, scheme: Scheme) -> dict[str, Any]:
        return {
            "type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": GROUP, "symmetric": True,
            "dynamic": False, "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn",
        }  # fmt: skip

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        described = (args.get("type"), args.get("num_bits"), args.get("strategy"), args.get("group_size"))
        if described != ("float", 4, "tensor_group", GROUP) or args.get("symmetric", True) is False:
            return super().scheme_from_args(args)
        return Scheme("nvfp4", 4, "group", GROUP)


class NvFp4Encoder(ScaledCodec):
    def begin(self, limit: float) -> None:
        import numpy as np

        from engine.numerics import affine, grids

        self._scale_grid = grids.small_float(*grids.E4M3)
        amax = np.array([max(limit, float(np.finfo(np.float32).tiny))], np.float32)
        with np.errstate(over="ignore"):
            # Rounded twice, since torch takes a number over a tensor as the tensor's reciprocal times the number.
            exact = (affine.round_to((1 / amax).astype(np.float32), self.dtype) * np.float32(TOP)).astype(np.float32)
            rounded = affine.round_to(exact, self.dtype)
        if not np.isfinite(rounded[0]) and np.isfinite(exact[0]):
            self.notes.add(f"the global scale is beyond {affine.NAMES[self.dtype]} and kept in float32")
            rounded = exact
        self._global = rounded[0] if np.isfinite(rounded[0]) else np.float32(1)

    def scales(self, amax: "np.ndarray") -> "np.ndarray":
        return self._local(amax) / self._global

    def _local(self, amax: "np.ndarray") -> "np.ndarray":
        """Scales as stored, on the grid of E4M3."""
        import numpy as np

        from engine.numerics import affine, grids

        amax = np.minimum(amax, np.float32(LARGEST))
        wanted = affine.round_to((amax / np.float32(6)).astype(np.float32), self.dtype) * self._global
        local, _ = grids.on_grid(wanted.astype(np.float32), self._scale_grid)
        least = self._scale_grid.values[1]
        if ((local == 0) & (amax > 0)).any():
            self.notes.add(f"group scales below the range of E4M3 were raised to its least, {least:.3g}")
        return np.where(local > 0, local, np.where(amax > 0, least, np.float32(EMPTY))).astype(np.float32)

    def small_parts(self, scale, zero, first: int, row: int) -> Mapping[str, tuple[int, bytes]]:
        from engine.numerics import grids

        _, codes = grids.on_grid(scale * self._global, self._scale_grid)
        return {"scale": (first, codes.tobytes())}

    def layer_parts(self) -> Mapping[str, bytes]:
        return dict(super().layer_parts()) | {"global_scale": self._global.tobytes()}
