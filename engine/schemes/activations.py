"""What a runtime may do to activations: named in recipes, written into configurations. The arithmetic is in
``engine/calibration``."""

from typing import Any

from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.recipe import ActivationInfo
from engine.records.scheme import Scheme
from engine.schemes.base import part

NONE = "none"
ACTIVATIONS: tuple[ActivationInfo, ...] = (
    ActivationInfo(NONE, "float", "Activations stay float; weights are decoded or multiplied in mixed precision."),
    ActivationInfo("int8:token", "int8, per token", "Needs int8 weights per channel or tensor."),
    ActivationInfo("int8:static", "int8, calibrated", "Needs int8 weights per channel or tensor, and calibration.", True),
    ActivationInfo(
        "int8:static:asym", "int8, calibrated, zero point", "Needs int8 weights per channel or tensor, and calibration.", True
    ),
    ActivationInfo("fp8:token", "fp8, per token", "Needs fp8_e4m3 weights, per tensor, channel or block of 128 columns."),
    ActivationInfo("fp8:static", "fp8, calibrated", "Needs fp8_e4m3 weights per tensor or channel, and calibration.", True),
    ActivationInfo("mxfp8", "mxfp8, groups of 32", "Needs mxfp8 or mxfp6 weights."),
    ActivationInfo("mxfp4", "mxfp4, groups of 32", "Needs mxfp4 weights."),
    ActivationInfo("nvfp4", "nvfp4, groups of 16, calibrated", "Needs nvfp4 weights, and calibration.", True),
)
NAMES = tuple(info.name for info in ACTIVATIONS)
FORMER = {"int8-dynamic": "int8:token", "fp8-dynamic": "fp8:token", "mxfp8-dynamic": "mxfp8", "mxfp4-dynamic": "mxfp4"}
"""Names in recipes of version 0.1."""
STORED = {
    "int8:static": ("input_scale",), "int8:static:asym": ("input_scale", "input_zero_point"), "fp8:static": ("input_scale",),
    "nvfp4": ("input_global_scale",),
}  # fmt: skip
"""Tensors that calibration gives to a layer, beside its weight."""
WHOLE = ("int8:static", "int8:static:asym", "fp8:static")
"""Names with one scale for a whole input."""
KINDS = ("linear", "conv1d", "conv2d", "conv3d", "transposed")
"""Layers whose inputs are quantized."""


def canonical(name: str) -> str:
    """The name that recipes are written with."""
    return FORMER.get(name.strip().lower(), name.strip().lower())


def quantizes(name: str, layer: LayerInfo, quantized: bool) -> bool:
    """Whether this layer's input is quantized: that of a quantized matrix; with one scale for all of it, a convolution's too."""
    return quantized and layer.kind in (KINDS if name in WHOLE else KINDS[:1] if name != NONE else ())


def parts(name: str, layer: LayerInfo, scale: str) -> tuple[PartPlan, ...]:
    """What calibration stores beside a layer's weight; ``scale`` is the type of its scales."""
    module = layer.tensor.name.removesuffix(".weight")
    types = {"input_scale": scale, "input_zero_point": "I8", "input_global_scale": "F32"}
    return tuple(part(f"{module}.{stored}", types[stored], (1,), "given") for stored in STORED.get(name, ()))


def arguments(name: str, weights: Scheme) -> dict[str, Any] | None:
    """The ``input_activations`` of a configuration's group."""
    if name == NONE:
        return None
    common: dict[str, Any] = {"symmetric": not name.endswith(":asym"), "dynamic": ":static" not in name}
    if name == "nvfp4":
        scales = {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
        return (
            common | {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16, "dynamic": "local"} | scales
        )
    if name.startswith("mx"):
        scales = {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
        return common | {"type": "float", "num_bits": 8 if "8" in name else 4, "strategy": "group", "group_size": 32} | scales
    kind = {"type": "int" if name.startswith("int") else "float", "num_bits": 8}
    if ":static" in name:
        return common | kind | {"strategy": "tensor", "group_size": None}
    if weights.granularity == "block":
        return common | kind | {"strategy": "group", "group_size": weights.group}
    return common | kind | {"strategy": "token", "group_size": None}


def name_of(arguments: Any) -> str:
    """The recipe's word for the ``input_activations`` of a group."""
    if not isinstance(arguments, dict):
        return NONE
    static = arguments.get("dynamic", False) is False
    if arguments.get("type") == "int":
        return ("int8:static" if arguments.get("symmetric", True) else "int8:static:asym") if static else "int8:token"
    if arguments.get("strategy") == "tensor_group":
        return "nvfp4"
    if arguments.get("scale_dtype"):
        return f"mxfp{arguments.get('num_bits')}"
    return "fp8:static" if static else "fp8:token"
