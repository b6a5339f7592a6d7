"""Modules that hold quantized weights as they are stored, and run: nothing decoded is kept between calls."""

from engine.nn.loading import blank_like, dequantize_model, is_quantized, quantized_module, revert_to_standard_modules
from engine.nn.modules import QuantizedConv1d, QuantizedConv2d, QuantizedConv3d, QuantizedEmbedding, QuantizedLinear
from engine.nn.native import convert_to_pytorch_native
from engine.nn.storage import QuantizedModule

__all__ = [
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedModule",
    "blank_like",
    "convert_to_pytorch_native",
    "dequantize_model",
    "is_quantized",
    "quantized_module",
    "revert_to_standard_modules",
]
