"""Weights that are not on disk in this form: written once to a private folder, from where they are read like any others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import InputError, OutputError
from engine.models.kinds import corrected, exact_kinds
from engine.records.model import Kind, ModelSummary, Source

if TYPE_CHECKING:
    import torch

MARGIN = 64 << 20
"""Bytes that stay free beside a snapshot."""


def take(
    module: torch.nn.Module,
    title: str,
    source: Source,
    known: Mapping[str, tuple[Kind, int]],
    config: dict[str, Any] | None = None,
) -> tuple[ModelSummary, str]:
    """Write the state dict and open it. Returns the summary (whose path is ``title``) and the folder to remove afterwards.

    Tied tensors are written once, under the first of their names. Raises InputError, OutputError when the disk is full.
    """
    from safetensors.torch import save_file

    from engine.readers import open_path

    tensors, ties = _tensors(module, title)
    _check_space(sum(value.numel() * value.element_size() for value in tensors.values()))
    folder = tempfile.mkdtemp(prefix="mono-quant-")  # readable by this user alone
    try:
        path = os.path.join(folder, "model.safetensors")
        save_file(_apart(tensors), path)
        summary = open_path(path)
        order = {name: number for number, name in enumerate(tensors)}
        layers = corrected(summary.layers, exact_kinds(module) | dict(known))
        layers = tuple(replace(layer, tied=ties.get(layer.tensor.name, ())) for layer in layers)
        layers = tuple(sorted(layers, key=lambda layer: order[layer.tensor.name]))
        return replace(summary, path=title, source=source, layers=layers, config=config), folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(f"The weights of {title} cannot be written to {folder}: {error.strerror}.") from None
        raise


def _tensors(module: torch.nn.Module, title: str) -> tuple[dict[str, torch.Tensor], dict[str, tuple[str, ...]]]:
    """The state dict with each tensor once, and the other names of those that have several."""
    import torch

    first: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, torch.Tensor] = {}
    ties: dict[str, tuple[str, ...]] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            continue  # extra state of a module is no weight
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            raise InputError(
                f"{title}: {name} is {_what(value)}, which cannot be quantized; hand over a model with plain weights."
            )
        same = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and same in first:
            ties[first[same]] = (*ties.get(first[same], ()), name)
        else:
            first[same] = name
            tensors[name] = value
    if not tensors:
        raise InputError(f"{title} has no weights.")
    return tensors, ties


def _what(value: torch.Tensor) -> str:
    return "on the meta device, without values" if value.is_meta else f"a {value.layout} tensor of {value.dtype}"


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors on the CPU that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    apart = {}
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != plain.numel() * plain.element_size()
        apart[name] = plain.clone() if shared else plain
        seen.add(storage.data_ptr())
    return apart


def _check_space(nbytes: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < nbytes + MARGIN:
        raise OutputError(f"The weights need {nbytes / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free.")
