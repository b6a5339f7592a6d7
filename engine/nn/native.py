"""Quantized layers as torch's own dynamically quantized ones, for runtimes that know only those."""

import copy
import warnings
from typing import Any

import torch

from engine.nn.halves import HalfLinear
from engine.nn.kernels import ByteCodes
from engine.nn.loading import dequantize_model
from engine.nn.modules import QuantizedLinear


def convert_to_pytorch_native(module: torch.nn.Module) -> torch.nn.Module:
    """A copy whose layers are torch's: ``torch.ao.nn.quantized.dynamic.Linear`` where that holds the weight (int8 per channel or
    tensor, float16), else ordinary layers with the decoded weight.

    torch's layers quantize their input per tensor as they run, to 7 or 8 bits as its engine does, and compute in float32.
    """
    made = copy.deepcopy(module)
    for part in list(made.modules()):
        for name, child in part._modules.items():
            found = _native(child)
            if found is not None:
                part._modules[name] = found
    return _native(made) or dequantize_model(made)


def _native(module: torch.nn.Module | None) -> torch.nn.Module | None:
    if isinstance(module, HalfLinear) and module.weight.dtype == torch.float16:
        return _linear(module, module.weight.float(), torch.float16)
    if not isinstance(module, QuantizedLinear) or not ByteCodes.suits(module):
        return None
    codes, bits = ByteCodes(module), torch.qint8
    zero = torch.zeros(len(codes.scale), dtype=torch.int64) if codes.zero is None else codes.zero.long()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says of these tensors that they will go some day
        make: Any = torch._make_per_channel_quantized_tensor  # pyright: ignore[reportPrivateImportUsage]
        return _linear(module, make(codes.whole().clone(), codes.scale.double(), zero, 0), bits)


def _linear(module: Any, weight: torch.Tensor, dtype: torch.dtype) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.nn.quantized.dynamic import Linear

        made = Linear(module.in_features, module.out_features, bias_=module.bias is not None, dtype=dtype)
        made.set_weight_bias(weight, None if module.bias is None else module.bias.detach().float())
    return made.train(module.training)
