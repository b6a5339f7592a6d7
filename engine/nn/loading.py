"""An artifact into a module: quantized layers stay quantized, everything else is loaded as it is stored."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from engine.decoding import decoded, from_bytes, stored_name
from engine.errors import InputError
from engine.layer_inputs import LayerInput, inputs_of
from engine.nn.halves import HALVES, half_like, is_half, whole_like
from engine.nn.modules import CONVOLUTIONS, plain_like, quantized_like
from engine.nn.storage import QuantizedModule
from engine.readers.prequantized import RUNTIME_PARTS
from engine.readers.source import TensorFiles
from engine.records.model import LayerInfo, ModelSummary
from engine.schemes.base import role_of

Home = tuple[torch.nn.Module, str]


def quantized_module(module: torch.nn.Module, summary: ModelSummary) -> torch.nn.Module:
    """A copy of ``module`` with the artifact's tensors, in which quantized Linear, Conv and Embedding layers hold codes.

    ``module`` gives the structure and is left alone; it may lie on the meta device. Names must be its parameters' own, and
    ties of the module hold. A quantized weight of any other module (subclasses too, whose forward is unknown) is decoded.
    Raises InputError naming the first tensor that one side lacks or that has another shape; DataError.
    """
    if summary.quantized and not summary.quantized.readable:
        raise InputError(f"{summary.name} is {summary.quantized.method}, which cannot be decoded here.")
    made = _without_weights(module)
    work = _Loading(made, summary.name, inputs_of(summary))
    with TensorFiles(summary) as files:
        for layer in summary.layers:
            work.take(layer, files)
    work.require_all()
    return _replaced(made, work.quantized)


def dequantize_model(module: torch.nn.Module) -> torch.nn.Module:
    """A copy in which every quantized module is the ordinary one, with the decoded weight in its own type. Ties hold.

    Layers that were stored as halves have the type back that they had before.
    """
    return _plain(copy.deepcopy(module), lambda part: part.weight)


def blank_like(module: torch.nn.Module) -> torch.nn.Module:
    """The structure of a quantized module with ordinary layers, all of whose stored tensors lie on the meta device."""
    return _plain(_without_weights(module), lambda part: torch.empty(part.shape, dtype=part.dtype, device="meta"))


def _plain(made: torch.nn.Module, weight: Callable[[QuantizedModule], torch.Tensor]) -> torch.nn.Module:
    """The module with ordinary layers in the place of quantized ones, tied where their codes are."""
    weights: dict[tuple, torch.nn.Parameter] = {}
    plain: dict[int, torch.nn.Module] = {}
    for part in made.modules():
        if is_half(part):
            plain[id(part)] = whole_like(part)
        if isinstance(part, QuantizedModule):
            place = (id(part.stored()["codes"]), part.scheme)
            if place not in weights:
                weights[place] = torch.nn.Parameter(weight(part))
            plain[id(part)] = plain_like(part)
            plain[id(part)].weight = weights[place]
    return _replaced(made, plain)


def revert_to_standard_modules(module: torch.nn.Module) -> torch.nn.Module:
    """Put torch's ordinary layers, with decoded weights, in the place of quantized ones in this very module, and return it."""
    return _plain(module, lambda part: part.weight)


def is_quantized(module: torch.nn.Module) -> bool:
    """Whether any part of a module holds codes."""
    return any(isinstance(part, QuantizedModule) for part in module.modules())


@dataclass(slots=True)
class _Loading:
    """One artifact on its way into one module."""

    module: torch.nn.Module
    artifact: str
    inputs: Mapping[str, LayerInput]
    named: dict[str, torch.Tensor] = field(default_factory=dict)
    homes: dict[int, list[Home]] = field(default_factory=dict)
    """Every place of each tensor of the module, by its identity: ties have several."""
    loaded: set[int] = field(default_factory=set)
    quantized: dict[int, torch.nn.Module] = field(default_factory=dict)
    """What stands in for each ordinary module, by its identity."""
    halves: dict[int, tuple[torch.nn.Module, torch.dtype]] = field(default_factory=dict)
    waiting: list[tuple[torch.nn.Module, LayerInfo, Mapping[str, torch.Tensor]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for prefix, part in self.module.named_modules(remove_duplicate=False):
            for key, value in [*part._parameters.items(), *part._buffers.items()]:
                if value is None or key in part._non_persistent_buffers_set:
                    continue
                self.named[f"{prefix}.{key}" if prefix else key] = value
                places = self.homes.setdefault(id(value), [])
                if (part, key) not in places:
                    places.append((part, key))

    def take(self, layer: LayerInfo, files: TensorFiles) -> None:
        """Put one layer where it belongs."""
        name = stored_name(layer)
        if name not in self.named:
            if name.rpartition(".")[2] in RUNTIME_PARTS:
                return
            raise InputError(f"{self.artifact} has {name}, which the module lacks.")
        aliases = [tied for tied in layer.tied if tied in self.named]
        targets = {id(self.named[alias]): self.named[alias] for alias in (name, *aliases)}
        if tuple(self.named[name].shape) != tuple(layer.shape):
            found, wanted = list(layer.shape), list(self.named[name].shape)
            raise InputError(f"{name} is {found} in {self.artifact}, but {wanted} in the module.")
        places = [home for target in targets for home in self.homes[target]]
        if layer.scheme:
            places = self._quantized(layer, places, files)
        if places:
            value = decoded(files, layer)
            self._note_halves(places, self.named[name].dtype, value.dtype)
            _put(value, places, self.named[name])
        self.loaded.update(targets)

    def _quantized(self, layer: LayerInfo, places: list[Home], files: TensorFiles) -> list[Home]:
        """Note the modules that will hold codes; give back the places that need the decoded weight."""
        able = [home for home in places if _can_hold_codes(*home, layer)]
        if able:
            parts = {role_of(p.name): from_bytes(files.read(p), p.dtype, p.shape, p.name) for p in layer.parts}
            # Biases may come later, so the modules are made at the end.
            self.waiting += [(part, layer, parts) for part, _ in able]
        return [home for home in places if home not in able]

    def _note_halves(self, places: list[Home], full: torch.dtype, stored: torch.dtype) -> None:
        """Weights stored in fewer bits than the module computes in are widened at every call."""
        if full.is_floating_point and stored.is_floating_point and stored.itemsize < full.itemsize:
            self.halves |= {id(part): (part, full) for part, key in places if key == "weight" and type(part) in HALVES}

    def require_all(self) -> None:
        """Raise InputError for what the module needs and was not given; then make the quantized modules."""
        for name, value in self.named.items():
            if id(value) not in self.loaded:
                raise InputError(f"The module needs {name}, which {self.artifact} lacks.")
        for part, layer, parts in self.waiting:
            self.quantized[id(part)] = quantized_like(part, layer, parts, self.inputs.get(layer.name))
        for place, (part, full) in self.halves.items():
            self.quantized[place] = half_like(part, full)
        for name, value in self.module.named_buffers():
            if value.is_meta and name not in self.named:
                raise InputError(f"The module's {name} is in no file; build it on the CPU instead of the meta device.")


def _can_hold_codes(part: torch.nn.Module, key: str, layer: LayerInfo) -> bool:
    plain = type(part) in (torch.nn.Linear, torch.nn.Embedding) and layer.axis == 0
    renormed = isinstance(part, torch.nn.Embedding) and part.max_norm is not None  # its forward changes the weight
    return key == "weight" and (plain or type(part) in CONVOLUTIONS) and not renormed


def _put(value: torch.Tensor, places: list[Home], old: torch.Tensor) -> None:
    new = value
    if isinstance(old, torch.nn.Parameter):
        new = torch.nn.Parameter(value, requires_grad=old.requires_grad and value.is_floating_point())
    for part, key in places:
        home: dict = part._parameters if key in part._parameters else part._buffers
        home[key] = new


def _without_weights(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy whose parameters and stored buffers have shapes only: they are about to be replaced."""
    memo: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for key, value in [*part._parameters.items(), *part._buffers.items()]:
            if value is None or key in part._non_persistent_buffers_set:
                continue
            empty = torch.empty_like(value, device="meta", requires_grad=False)
            learns = value.requires_grad
            memo[id(value)] = torch.nn.Parameter(empty, requires_grad=learns) if key in part._parameters else empty
    return copy.deepcopy(module, memo)


def _replaced(module: torch.nn.Module, replacements: Mapping[int, torch.nn.Module]) -> torch.nn.Module:
    """The module with parts exchanged wherever they are used."""
    for part in list(module.modules()):
        for name, child in part._modules.items():
            if child is not None and id(child) in replacements:
                part._modules[name] = replacements[id(child)]
    return replacements.get(id(module), module)
