"""What a runtime may do to activations: named in recipes, written into configurations, and done by no code here."""

from typing import Any

from engine.records.recipe import ActivationInfo
from engine.records.scheme import Scheme

NONE = "none"
ACTIVATIONS: tuple[ActivationInfo, ...] = (
    ActivationInfo(NONE, "float", "Activations stay float; weights are decoded or multiplied in mixed precision."),
    ActivationInfo("int8-dynamic", "int8, per token", "Needs int8:channel weights."),
    ActivationInfo("fp8-dynamic", "fp8, per token", "Needs fp8_e4m3 weights, per tensor, channel or block of 128 columns."),
    ActivationInfo("mxfp8-dynamic", "mxfp8, groups of 32", "Needs mxfp8 or mxfp6 weights."),
    ActivationInfo("mxfp4-dynamic", "mxfp4, groups of 32", "Needs mxfp4 weights."),
)
NAMES = tuple(info.name for info in ACTIVATIONS)


def arguments(name: str, weights: Scheme) -> dict[str, Any] | None:
    """The ``input_activations`` of a configuration's group."""
    if name == NONE:
        return None
    common = {"symmetric": True, "dynamic": True}
    if name.startswith("mx"):
        scales = {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
        return common | {"type": "float", "num_bits": 8 if "8" in name else 4, "strategy": "group", "group_size": 32} | scales
    if weights.granularity == "block":
        return common | {"type": "float", "num_bits": 8, "strategy": "group", "group_size": weights.group}
    return common | {
        "type": name[: name.index("8")].replace("fp", "float"),
        "num_bits": 8,
        "strategy": "token",
        "group_size": None,
    }


def name_of(arguments: Any) -> str:
    """The recipe's word for the ``input_activations`` of a group."""
    if not isinstance(arguments, dict):
        return NONE
    if arguments.get("type") == "int":
        return "int8-dynamic"
    if arguments.get("scale_dtype"):
        return f"mxfp{arguments.get('num_bits')}-dynamic"
    return "fp8-dynamic"
