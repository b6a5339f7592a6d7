"""What a stored tensor is in its network, from the configuration where there is one, else from names and shapes."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.records.dtypes import FLOAT8, FLOATS
from engine.records.model import Kind, LayerInfo, TensorInfo

_EMBEDDING = re.compile(
    r"(^|\.)((\w+_)?emb(ed(ding)?s?)?(_tokens|_positions|_in)?|wte|wpe|shared|relative_attention_bias)$", re.I
)
_NORM = re.compile(r"(norm\w*|(^|[._])(ln|bn)(_?\w+)?\d*)$", re.I)
_TRANSPOSED = re.compile(r"(deconv|transpos|convt|upconv|up_conv)", re.I)
_BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked", ".inv_freq", ".position_ids", ".g_idx")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|classifier|score)\.")
_DIGITS = re.compile(r"\d+")
_FLOATING = frozenset(FLOATS + FLOAT8)
_CONV: dict[int, Kind] = {3: "conv1d", 4: "conv2d", 5: "conv3d"}

_EXPERTS_IN_OUT = ("gpt_oss", "llama4", "llama4_text")
"""Architectures whose fused experts are stored (experts, in, out)."""
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that runtimes such as vLLM load as one matrix."""

_CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Architectures of transformers whose projections are its own ``Conv1D``: weights stored (in, out)."""


def layer_name(tensor: str) -> str:
    """A weight is called by its module; every other tensor by its own name."""
    return tensor[: -len(".weight")] if tensor.endswith(".weight") else tensor


def describe(
    tensors: tuple[TensorInfo, ...], config: Mapping[str, Any] | None, tied: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[LayerInfo, ...]:
    """One layer per tensor, in file order. Kinds are marked as guesses when there is no configuration."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    transposed = bool(config) and config.get("model_type") in _CONV1D_MODELS
    layers = []
    for tensor in tensors:
        kind = kind_of(tensor.name, tensor.dtype, tensor.shape, shapes)
        name = layer_name(tensor.name)
        name = tensor.name if name in shapes else name  # a tensor of the module's own name would share it
        axis = 0
        if kind == "transposed" or (transposed and kind == "linear" and name.endswith(("c_attn", "c_proj", "c_fc", "q_attn"))):
            axis = 1
        elif kind == "experts":
            axis = 2 if config and config.get("model_type") in _EXPERTS_IN_OUT else 1
        guessed = config is None and kind not in ("bias", "other")
        ties = (tied or {}).get(tensor.name, ())
        layers.append(LayerInfo(name, kind, tensor.shape, tensor.dtype, (tensor,), axis, guessed, None, ties))
    return tuple(layers)


def fused_with(name: str) -> tuple[str, ...]:
    """Names of the layers that runtimes join with this one, itself not among them."""
    stem, _, last = name.rpartition(".")
    members = next((members for members in FUSED if last in members), ())
    return tuple(f"{stem}.{member}" for member in members if member != last)


def network_order(tensors: Iterable[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Tensors of a file that stores them by name, as the network runs them: embeddings, numbered layers, head."""
    return tuple(sorted(tensors, key=_network_key))


def _network_key(tensor: TensorInfo) -> tuple[int, str]:
    """Numbers padded, so that layer 10 comes after layer 9."""
    name = tensor.name
    parts = name.split(".")
    last = parts[-2] if len(parts) > 1 and parts[-1] == "weight" else parts[-1]
    # Substrings before the pattern: of a hundred thousand names few have one.
    head = ("lm_head." in name or "embed_out." in name or "classifier." in name or "score." in name) and _HEAD.search(name)
    place = 0 if _is_embedding(last) else 2 if head else 1
    return place, ".".join([part.zfill(12) if part.isdecimal() else _padded(part) for part in parts])


@functools.lru_cache(10_000)
def _padded(part: str) -> str:
    """Of a name; the parts of all names that are no numbers are few."""
    return _DIGITS.sub(lambda found: found[0].zfill(12), part)


def kind_of(name: str, dtype: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> Kind:
    """The kind of one tensor; ``shapes`` are all tensors of the model, for its siblings."""
    if name.endswith(("bias", ".beta")):
        return "bias"
    if dtype not in _FLOATING or name.endswith(_BUFFERS):
        return "other"
    module = layer_name(name)
    if len(shape) <= 1:
        named = _is_norm(_last(module)) or f"{module}.running_mean" in shapes or f"{module}.bias" in shapes
        return "norm" if shape and (named or name.endswith((".weight", ".gamma"))) else "other"
    if len(shape) == 3 and "experts" in name:
        return "experts"
    if not name.endswith(".weight") or _in_multihead_attention(module, shapes):
        return "other"
    if len(shape) == 2:
        return "embedding" if _is_embedding(_last(module)) else "linear"
    if len(shape) not in _CONV:
        return "other"
    return "transposed" if _is_transposed(module, shape, shapes.get(f"{module}.bias")) else _CONV[len(shape)]


def _last(module: str) -> str:
    return module.rpartition(".")[2]


# Looked at once each: a checkpoint may have a hundred thousand layers, and the last parts of their names are few.
def _is_embedding(last: str) -> bool:
    return not last.isdecimal() and _calls_embedding(last)


@functools.lru_cache(10_000)
def _calls_embedding(last: str) -> bool:
    return _EMBEDDING.search(last) is not None


@functools.lru_cache(10_000)
def _is_norm(last: str) -> bool:
    return _NORM.search(last) is not None


def _in_multihead_attention(module: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """torch's MultiheadAttention holds bare matrices, and its out_proj is no Linear that anyone may replace."""
    return module.endswith(".out_proj") and f"{module.removesuffix('out_proj')}in_proj_weight" in shapes


def _is_transposed(module: str, shape: tuple[int, ...], bias: tuple[int, ...] | None) -> bool:
    """A transposed convolution stores (in, out, ...): its bias tells, and where it cannot, its name."""
    if bias and shape[0] != shape[1] and bias[0] in shape[:2]:
        return bias[0] == shape[1]
    return _TRANSPOSED.search(module) is not None
