"""What a model's forward takes: from its configuration, else from its signature and its first layer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from engine.records.calibration import InputInfo, ModelInputs

if TYPE_CHECKING:
    import torch

Role = Literal["tokens", "mask", "pixels", "tensor"]
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_NOT_DATA = (
    "labels", "past_key_values", "cache_position", "use_cache", "position_ids", "inputs_embeds", "logits_to_keep",
)  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a torch type as safetensors spells it."""
    name = str(dtype).removeprefix("torch.")
    return _DTYPES.get(name, name.upper())


def role_of(name: str) -> Role:
    """What an argument is, from its name."""
    if name in ("input_ids", "decoder_input_ids", "tokens", "token_ids", "idx"):
        return "tokens"
    if name.endswith("mask"):
        return "mask"
    return "pixels" if name in ("pixel_values", "images", "image") else "tensor"


def describe_inputs(module: torch.nn.Module, config: Any, folder: str, example: Any = None) -> ModelInputs:
    """Arguments with their types and shapes, as far as can be known without running the model.

    config   of transformers, or None
    example  a batch that is known to run (mapping, tuple or tensor); its shapes are taken, without the batch
    """
    length = _max_length(config)
    if example is not None:
        return ModelInputs(_from_example(module, example), folder, True, length)
    if config is not None:
        arguments = _from_config(module, config)
        if arguments:
            return ModelInputs(arguments, folder, True, length)
    arguments = _from_signature(module, guess=config is None)
    return ModelInputs(arguments, folder, any(item.shape is not None for item in arguments), length)


def _text(config: Any) -> Any:
    """The part of a configuration that is about text; composite ones have one of their own."""
    get = getattr(config, "get_text_config", None)
    return get() if callable(get) else config


def _max_length(config: Any) -> int | None:
    text = None if config is None else _text(config)
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx", "max_target_positions"):
        value = getattr(text, key, None)
        if isinstance(value, int) and value > 0:
            # RoBERTa's positions start behind its padding token.
            padded = getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert")
            return value - 2 if padded else value
    return None


def _from_config(module: torch.nn.Module, config: Any) -> tuple[InputInfo, ...]:
    names = _parameters(module)
    main = getattr(module, "main_input_name", "")
    found = []
    if "pixel_values" in names and main != "input_ids":
        found.append(_pixels(module, config))
    elif "input_ids" in names:
        found.append(_tokens(config, "input_ids"))
        if "attention_mask" in names:
            found.append(InputInfo("attention_mask", "mask", "I64", (None,), 0, 1, required=False))
        if "pixel_values" in names:
            # A model that compares text and image needs both; one that talks of images can do without them.
            found.append(replace(_pixels(module, config), required=hasattr(module, "logit_scale")))
    elif main in ("input_values", "input_features") and main in names:
        found.append(InputInfo(main, "tensor", _float_of(module), _sound(config, main)))
    if found and getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in names:
        found.append(_tokens(config, "decoder_input_ids"))
    return tuple(found)


def _tokens(config: Any, name: str) -> InputInfo:
    vocabulary = getattr(_text(config), "vocab_size", None)
    high = vocabulary - 1 if isinstance(vocabulary, int) and vocabulary > 0 else None
    return InputInfo(name, "tokens", "I64", (None,), 0, high)


def _sound(config: Any, name: str) -> tuple[int | None, ...]:
    """Samples of a waveform, or a spectrogram of (bands, frames); Whisper takes two frames per position."""
    if name == "input_values":
        return (None,)
    positions = getattr(config, "max_source_positions", None)
    return getattr(config, "num_mel_bins", None), 2 * positions if isinstance(positions, int) else None


def _pixels(module: torch.nn.Module, config: Any) -> InputInfo:
    vision = getattr(config, "vision_config", None) or config
    channels, size = getattr(vision, "num_channels", 3), getattr(vision, "image_size", None)
    height, width = (size, size) if isinstance(size, int) else tuple(size) if size else (None, None)
    return InputInfo("pixel_values", "pixels", _float_of(module), (channels, height, width))


def _float_of(module: torch.nn.Module) -> str:
    first = next((value for value in module.parameters() if value.is_floating_point()), None)
    return "F32" if first is None else dtype_name(first.dtype)


def _parameters(module: torch.nn.Module) -> dict[str, inspect.Parameter]:
    try:
        found = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return {}
    return {name: item for name, item in found.items() if name not in _NOT_DATA}


def _from_example(module: torch.nn.Module, example: Any) -> tuple[InputInfo, ...]:
    import torch

    if isinstance(example, Mapping):
        named = dict(example)
    else:
        values = example if isinstance(example, (tuple, list)) else (example,)
        names = [name for name, item in _parameters(module).items() if item.kind not in _VARIADIC]
        names += [f"input{number}" for number in range(len(names), len(values))]
        named = dict(zip(names, values, strict=False))
    required = _parameters(module)
    return tuple(
        InputInfo(
            name, _role(name, value), dtype_name(value.dtype), tuple(value.shape[1:]),
            required=name not in required or required[name].default is inspect.Parameter.empty,
        )
        for name, value in named.items()
        if isinstance(value, torch.Tensor)
    )  # fmt: skip


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _role(name: str, value: torch.Tensor) -> Role:
    role = role_of(name)
    return "tokens" if role == "tensor" and not value.is_floating_point() and value.ndim == 2 else role


def _from_signature(module: torch.nn.Module, *, guess: bool) -> tuple[InputInfo, ...]:
    """Names and whether they are required. A single required argument goes, as a guess, into the first layer as it is."""
    items = {name: item for name, item in _parameters(module).items() if item.kind not in _VARIADIC}
    required = [name for name, item in items.items() if item.default is inspect.Parameter.empty]
    hint = _first_layer(module, required[0]) if guess and len(required) == 1 else None
    found = []
    for name in items:
        if hint is not None and name == required[0]:
            found.append(hint)
        else:
            role = role_of(name)
            dtype = "I64" if role in ("tokens", "mask") else _float_of(module)
            found.append(InputInfo(name, role, dtype, required=name in required))
    return tuple(found)


def _first_layer(module: torch.nn.Module, name: str) -> InputInfo | None:
    """The input that the first layer with weights wants: registered first, which mostly is run first."""
    from torch import nn

    for part in module.modules():
        if isinstance(part, nn.Embedding):
            return InputInfo(name, "tokens", "I64", (None,), 0, part.num_embeddings - 1)
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            sizes = (None,) * len(part.kernel_size)
            role: Role = "pixels" if len(sizes) == 2 and part.in_channels in (1, 3, 4) else "tensor"
            return InputInfo(name, role, _float_of(module), (part.in_channels, *sizes))
        if isinstance(part, nn.MultiheadAttention):
            return InputInfo(name, "tensor", _float_of(module), (None, part.embed_dim))
        if isinstance(part, nn.Linear):
            return InputInfo(name, "tensor", _float_of(module), (part.in_features,))
    return None
