"""compressed-tensors' own quantization, as the tests' independent oracle."""

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def reference(weight: torch.Tensor, bits: int, strategy: str, group: int | None, symmetric: bool):
    """(codes int8, scale, zero point, decoded weight) of a 2-D weight."""
    arguments = QuantizationArgs(num_bits=bits, type="int", strategy=strategy, group_size=group, symmetric=symmetric)
    if strategy == "tensor":
        low, high = weight.min().reshape(1), weight.max().reshape(1)
    elif strategy == "channel":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    else:
        grouped = weight.unflatten(-1, (-1, group))
        low, high = grouped.amin(-1), grouped.amax(-1)
    scale, zero = calculate_qparams(low, high, arguments)
    # It divides nothing by nothing for a group of zeros, whose zero point is then arbitrary.
    empty = (low == 0) & (high == 0)
    zero = torch.where(empty, torch.zeros_like(zero), zero)
    codes = quantize(weight, scale, zero, arguments, dtype=torch.int8)
    return codes, scale, zero, dequantize(codes, scale, zero, arguments)
