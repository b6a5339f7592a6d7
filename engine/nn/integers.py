"""Products of int8 activations with int8 weights, summed in int32, on the CPU.

torch's scaled product of 8-bit floats is not among them: on CPUs it was 3 to 40 times slower than float32 (torch 2.13).
"""

from functools import cache

import torch

from engine.nn.kernels import MOST_COLUMNS, SCRATCH, ByteCodes, Kernel, codes_width, int_product
from engine.nn.storage import QuantizedModule
from engine.numerics.activations import format_of, int8_codes
from engine.schemes.activations import NONE

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class IntegerInputs:
    """Codes of a layer's input: what ``int8_codes`` needs, taken from the module."""

    @staticmethod
    def suits(module: QuantizedModule) -> bool:
        return module.activations != NONE and format_of(module.activations).codes == "int8"

    def __init__(self, module: QuantizedModule) -> None:
        self._name, self._stored = module.activations, module.input_parts()

    def codes(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
        """Codes, scale and zero point; None for NaN and Inf, which have no code."""
        if not bool(torch.isfinite(x.abs().amax())):
            return None
        return int8_codes(x, self._name, self._stored)


class IntProductKernel:
    """``_int_mm``: exact sums of the codes' products; scales and zero points afterwards. Copies no codes."""

    name, dtypes, copies, quantizes = "int_mm", FLOATS, False, True

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        return IntegerInputs.suits(module) and ByteCodes.suits(module) and module.shape[1] <= MOST_COLUMNS

    def prepare(self, module: QuantizedModule) -> None:
        self._inputs, self._codes = IntegerInputs(module), ByteCodes(module)
        self._sums = self._codes.whole().sum(1, dtype=torch.int32) if format_of(module.activations).symmetric is False else None
        self.nbytes = self._codes.nbytes + (self._sums.nbytes if self._sums is not None else 0)

    def run(self, x: torch.Tensor) -> torch.Tensor | None:
        found = self._inputs.codes(x)
        if found is None:
            return None
        inputs, scale, zero = found
        total = None
        if self._codes.zero is not None:
            total = inputs.sum(1, keepdim=True, dtype=torch.int32)
            total = total if zero is None else total - zero.to(torch.int32) * x.shape[1]
        out = x.new_empty(len(x), len(self._codes.scale))
        for part, codes in self._codes.blocks(max(SCRATCH // codes_width(self._codes), 1)):
            sums = int_product(inputs, codes)
            if zero is not None and self._sums is not None:
                sums.sub_(zero.to(torch.int32) * self._sums[part])
            if total is not None and self._codes.zero is not None:
                sums.sub_(total * self._codes.zero[part])
            out[:, part] = torch.mul(sums, self._codes.scale[part]).mul_(scale)
        return out


class OneDnnKernel:
    """``onednn.qlinear_pointwise`` on weights in oneDNN's own layout: fastest for many rows, at the price of a copy."""

    name, dtypes, copies, quantizes = "onednn int8", (torch.float32, torch.bfloat16), True, True
    ROWS = 128
    """Rows for which the layout is chosen."""

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        there = torch.backends.mkldnn.is_available() and _sums_exactly()
        return there and IntProductKernel.suits(module) and ByteCodes(module).zero is None

    def prepare(self, module: QuantizedModule) -> None:
        codes = ByteCodes(module)
        self._inputs, self._scale = IntegerInputs(module), codes.scale
        self._zeros = torch.zeros(len(codes.scale), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack(codes.whole(), [self.ROWS, module.shape[1]])
        self.nbytes = codes.bytes.nbytes + self._scale.nbytes + self._zeros.nbytes

    def run(self, x: torch.Tensor) -> torch.Tensor | None:
        found = self._inputs.codes(x)
        if found is None:
            return None
        inputs, scale, zero = found
        # oneDNN's fast path takes unsigned codes: those of int8, 128 higher.
        unsigned = inputs.view(torch.uint8).bitwise_xor_(0x80)
        offset = 128 + (0 if zero is None else int(zero))
        one = scale.numel() == 1
        out = torch.ops.onednn.qlinear_pointwise(
            unsigned, float(scale) if one else 1.0, offset, self._packed, self._scale, self._zeros, None, 1.0, 0,
            x.dtype if one else torch.float32, "none", [], "none",
        )  # fmt: skip
        return out if one else out.mul_(scale).to(x.dtype)


@cache
def _sums_exactly() -> bool:
    """Whether oneDNN's sums are exact on this processor: without VNNI it adds pairs of products in 16 bits, which saturate.

    Asked with the largest codes there are; ordinary inputs would agree by chance, and saturate later.
    """
    width = 64
    packed = torch.ops.onednn.qlinear_prepack(torch.full((16, width), 127, dtype=torch.int8), [4, width])
    out = torch.ops.onednn.qlinear_pointwise(
        torch.full((4, width), 255, dtype=torch.uint8), 1.0, 0, packed, torch.ones(16), torch.zeros(16, dtype=torch.int64),
        None, 1.0, 0, torch.float32, "none", [], "none",
    )  # fmt: skip
    return bool((out == width * 255 * 127).all())


INTEGER: tuple[type[Kernel], ...] = (IntProductKernel, OneDnnKernel)
