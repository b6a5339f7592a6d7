"""Stored tensors as torch tensors, and into modules by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.decoding import from_bytes
from engine.errors import InputError
from engine.readers.source import TensorFiles
from engine.records.model import ModelSummary

if TYPE_CHECKING:
    import torch


def read_all(summary: ModelSummary) -> dict[str, torch.Tensor]:
    """Every stored tensor of a model that is not quantized. Raises DataError."""
    with TensorFiles(summary) as files:
        return {
            layer.tensor.name: from_bytes(files.read(layer.tensor), layer.dtype, layer.tensor.shape, layer.name)
            for layer in summary.layers
        }


def fill(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: str, *, strict: bool = True) -> None:
    """Put tensors into a module under their own names. Raises InputError naming the first that does not fit.

    The module's own parameters stay the same objects when shapes and types agree with what is put in, so that ties hold.
    """
    state = module.state_dict(keep_vars=True)
    unknown = [name for name in weights if name not in state]
    if unknown:
        raise InputError(f"{where} has {len(unknown)} tensors that the network lacks: {_few(unknown)}.")
    shared = {id(value) for name, value in state.items() if name in weights}
    missing = [
        name for name, value in state.items() if name not in weights and id(value) not in shared and hasattr(value, "shape")
    ]
    if strict and missing:
        raise InputError(f"{where} lacks {len(missing)} tensors of the network: {_few(missing)}.")
    for name, value in weights.items():
        if tuple(state[name].shape) != tuple(value.shape):
            raise InputError(
                f"{where}: {name} is {list(value.shape)}, but the network's is {list(state[name].shape)}; "
                "check the factory's arguments."
            )
    _assign(module, dict(weights))


def _assign(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """``load_state_dict(assign=True)`` would part tied parameters; each is replaced wherever it is used."""
    import torch

    homes: dict[int, list[tuple[torch.nn.Module, str]]] = {}
    named: dict[str, torch.Tensor] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for key, value in [*part._parameters.items(), *part._buffers.items()]:
            if value is not None:
                homes.setdefault(id(value), []).append((part, key))
                named[f"{prefix}.{key}" if prefix else key] = value
    for name, value in weights.items():
        old = named[name]
        new = value
        if isinstance(old, torch.nn.Parameter):
            new = torch.nn.Parameter(value, requires_grad=old.requires_grad and value.is_floating_point())
        for part, key in homes[id(old)]:
            home: dict[str, Any] = part._parameters if key in part._parameters else part._buffers
            home[key] = new


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
