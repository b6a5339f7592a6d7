"""A module written as it is held: packed codes with their scheme in the header, everything else as it stands."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.errors import InputError, OutputError
from engine.nn import QuantizedModule
from engine.planning import planner
from engine.quantizing import pipeline
from engine.readers import kinds, open_path, state_dict
from engine.readers.header import read_header
from engine.records.model import LayerInfo, ModelSummary, TensorInfo
from engine.schemes.activations import NONE, quantizes
from engine.schemes.base import role_of
from engine.writers.whole import written_whole

TORCH = (".pt", ".pth")


def save_model(model: torch.nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False) -> str:
    """Write a quantized (or float) module to ``.safetensors``, ``.pt`` or ``.pth``; returns the path.

    ``load_model(path)`` reads its tensors and ``load_model(path, into=module)`` a running module. Tied weights are written once.
    Raises InputError for what no file can hold, OutputError.
    """
    target = os.path.expanduser(os.fspath(path))
    suffix = os.path.splitext(target)[1]
    if suffix not in (".safetensors", *TORCH):
        raise InputError(f"{target}: a module is saved as .safetensors, .pt or .pth.")
    if os.path.exists(target) and not overwrite:
        raise OutputError(f"{target} exists; pass overwrite=True to replace it.")
    held = _Held.of(model)
    folder = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(folder):
        raise OutputError(f"{folder} does not exist.")
    try:
        with tempfile.TemporaryDirectory(prefix=".mono-quant-", dir=folder) as private:
            raw = os.path.join(private, "raw.safetensors")
            save_file(held.tensors, raw)
            plan = planner.plan_save(held.summary(raw, type(model).__name__), held.activations)
            if suffix == ".safetensors":
                pipeline.run(plan, target, overwrite=overwrite)
            else:
                laid = os.path.join(private, "laid.safetensors")
                pipeline.run(plan, laid)
                _as_torch(laid, target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from None
    return target


@dataclass(slots=True)
class _Held:
    """What a module holds, by the names it will have in a file; each tensor once."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: dict[str, LayerInfo] = field(default_factory=dict)
    """Quantized layers by the name of their codes."""
    activations: str = NONE
    _seen: dict[tuple, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: torch.nn.Module) -> _Held:
        held = cls()
        quantized = {name: part for name, part in model.named_modules() if isinstance(part, QuantizedModule)}
        stored = {f"{name}.{key}" if name else key for name, part in quantized.items() for key in part.state_dict()}
        for name, value in model.state_dict().items():
            if name not in stored and isinstance(value, torch.Tensor) and not _inside(name, quantized):
                held._put(name, value)
        for name, part in quantized.items():
            held._take(name, part)
        held._check_inputs(quantized)
        if not held.tensors:
            raise InputError(f"{type(model).__name__} has nothing to save.")
        return held

    def _put(self, name: str, value: torch.Tensor) -> bool:
        """Hold one tensor under a name; False where the same memory is held already."""
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            raise InputError(
                f"{name} is a {value.layout} tensor on {value.device}, which cannot be saved; save the float module."
            )
        place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and place in self._seen:
            return False
        self._seen[place] = name
        plain = value.detach().cpu().contiguous()
        whole = plain.untyped_storage().nbytes() == plain.nbytes and plain.data_ptr() != value.data_ptr()
        self.tensors[name] = plain if whole else plain.clone()
        return True

    def _take(self, name: str, part: QuantizedModule) -> None:
        prefix = f"{name}." if name else ""
        before = part.layer.parts[0].name.removesuffix("_packed")
        renamed = tuple(replace(p, name=f"{prefix}weight{p.name.removeprefix(before)}") for p in part.layer.parts)
        if self._put(renamed[0].name, part.stored()["codes"]):
            for new in renamed[1:]:
                self._put_own(new.name, part.stored()[role_of(new.name)])
            self.layers[renamed[0].name] = replace(part.layer, name=name or "weight", parts=renamed, tied=())
            for key, value in part.input_parts().items():
                self._put_own(f"{prefix}{key}", value)
        if part.bias is not None:
            self._put(f"{prefix}bias", part.bias)

    def _put_own(self, name: str, value: torch.Tensor) -> None:
        """Scales may be shared by layers and are still written for each."""
        self.tensors[name] = value.detach().cpu().contiguous().clone()

    def _check_inputs(self, quantized: Mapping[str, QuantizedModule]) -> None:
        """A file says once what is done to inputs."""
        self.activations = next((part.activations for part in quantized.values() if part.activations != NONE), NONE)
        for name, part in quantized.items():
            wanted = self.activations if quantizes(self.activations, part.layer, True) else NONE
            if part.activations != wanted:
                raise InputError(f"{name} has {part.activations} activations and others {wanted}: one file holds one kind.")

    def summary(self, path: str, title: str) -> ModelSummary:
        """The tensors as they lie in the file at ``path``."""
        header = read_header(path)
        places = {tensor.name: tensor for tensor in header.tensors}
        inner = {part.name for layer in self.layers.values() for part in layer.parts}
        plain = {
            layer.tensor.name: layer for layer in kinds.describe(tuple(t for t in header.tensors if t.name not in inner), None)
        }
        names = [name for name in self.tensors if name in self.layers or name in plain]
        layers = tuple(self._placed(self.layers[n], places) if n in self.layers else plain[n] for n in names)
        return ModelSummary(path, "safetensors", (header.file,), layers, metadata={"title": title})

    @staticmethod
    def _placed(layer: LayerInfo, places: Mapping[str, TensorInfo]) -> LayerInfo:
        return replace(layer, parts=tuple(places[part.name] for part in layer.parts))


def _inside(name: str, quantized: Mapping[str, QuantizedModule]) -> bool:
    return any(name.startswith(f"{module}.") for module in quantized if module)


def _as_torch(laid: str, target: str) -> None:
    """A self-describing safetensors file as a state dict that ``torch.load(weights_only=True)`` reads, its header among it."""
    with safe_open(laid, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = {key: text for key, text in (file.metadata() or {}).items() if key != "format"}
    with written_whole(target) as temporary:
        torch.save(tensors | {state_dict.METADATA_KEY: header}, temporary)


def save_artifact(artifact: str, path: str, *, overwrite: bool = False) -> str:
    """An artifact of one safetensors file as ``.pt`` or ``.pth``. Raises OutputError."""
    if os.path.exists(path) and not overwrite:
        raise OutputError(f"{path} exists; pass overwrite=True to replace it.")
    _as_torch(artifact, path)
    return path


def stored_tensors(artifact: str) -> dict[str, torch.Tensor]:
    """Every tensor of an artifact as it is stored: codes, scales, and what was kept."""
    from engine.decoding import from_bytes
    from engine.readers.source import TensorFiles

    summary = open_path(artifact)
    with TensorFiles(summary) as files:
        parts = [part for layer in summary.layers for part in layer.parts]
        return {part.name: from_bytes(files.read(part), part.dtype, part.shape, part.name) for part in parts}
