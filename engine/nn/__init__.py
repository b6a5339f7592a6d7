"""Modules that hold quantized weights as they are stored, and run: nothing decoded is kept between calls."""

from engine.nn.loading import dequantize_module, is_quantized, quantized_module
from engine.nn.modules import QuantizedConv1d, QuantizedConv2d, QuantizedConv3d, QuantizedEmbedding, QuantizedLinear
from engine.nn.storage import QuantizedModule

__all__ = [
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedModule",
    "dequantize_module",
    "is_quantized",
    "quantized_module",
]
