"""Which layers take in channels whose scale may be moved: found by following tensors through one forward.

A norm's output, or a layer's, is tagged; the tag stays on through everything that commutes with a positive scale per channel
(views, ReLU, pooling, a product with something else, attention's values) and ends at the layers that multiply it. Any other use
spoils it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from engine.calibration.collect import is_routed
from engine.calibration.sites import Operator, Sites, Watched, in_layout, in_rows
from engine.calibration.units import call
from engine.errors import DataError
from engine.models.base import RunnableModel
from engine.schemes.grouping import Matrix

if TYPE_CHECKING:
    from engine.calibration.batches import Batch

aten = torch.ops.aten
MOST_PROVEN = 64
"""Places that are tried one by one, a forward each, when not all of them hold."""
_NUMBER = re.compile(r"(?<=experts\.)\d+")
COMMUTING = {
    aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_, aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d,
    aten._adaptive_avg_pool2d, aten.mean, aten.clone, aten._unsafe_view, aten.dropout, aten.native_dropout, aten.alias,
    aten._to_copy, aten.max_pool1d_with_indices, aten.avg_pool1d, aten.contiguous,
}  # fmt: skip
SHAPE_ONLY = {aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.new_zeros, aten.new_empty, aten.new_ones}
"""What looks at a tensor's shape and not at its values."""
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_attention_math,
}  # fmt: skip
NORMS = {
    aten.native_layer_norm: 2, aten.native_batch_norm: 1, aten._native_batch_norm_legit_no_training: 1, aten.cudnn_batch_norm: 1,
    aten.native_group_norm: 1,
}  # fmt: skip
"""Norms with an affine weight, and where it stands among the arguments."""


@dataclass(slots=True)
class Movable:
    """A place from which scale can be taken: parameters whose rows (or elements) are divided, and the layers whose columns take
    it.

    ``layer`` is the name of the layer that makes the channels, "" for a norm. ``repeats``: columns of a consumer per channel.
    """

    parameters: tuple[str, ...]
    channels: int
    layer: str = ""
    spatial: bool = False
    consumers: dict[str, int] = field(default_factory=dict)
    spoiled: bool = False


def movable(model: RunnableModel, sites: Sites, batch: Batch) -> list[Movable]:
    """All places of a model, from one forward of a batch."""
    batch = _least(model, batch)
    tracer = _Tracer(model)
    with Watched(sites, tracer.visit, tracer.seen):
        output = call(model, batch)
    for tensor in _tensors(output):
        tracer.spoil(tensor)
    sources = [s for s in tracer.sources.values() if s.consumers and not s.spoiled and _complete(s, model, tracer.looked_up)]
    return _proven(model, batch, sources)


def _least(model: RunnableModel, batch: Batch) -> Batch:
    """One sample, where the model takes one alone: every tensor of the forward is kept while it is followed."""
    keywords = {name: value[:1] for name, value in batch.keywords.items()}
    arguments = tuple(value[:1] for value in batch.arguments)
    one = replace(batch, arguments=arguments, keywords=keywords, labels=None, indices=batch.indices[:1])
    try:
        call(model, one)
    except DataError:  # its code counts on so many samples
        return batch
    return one


def _complete(source: Movable, model: RunnableModel, looked_up: set[str]) -> bool:
    """Whether all that take the channels in are known: experts that no token reached are not, nor is a weight that is looked up
    too."""
    routed = {_NUMBER.sub("#", name) for name in source.consumers if is_routed(name)}
    weights = [layer.name for layer in model.summary.layers if len(layer.shape) >= 2]
    siblings = {name for name in weights if _NUMBER.sub("#", name) in routed}
    return siblings <= source.consumers.keys() and not looked_up & source.consumers.keys()


def _proven(model: RunnableModel, batch: Batch, sources: list[Movable]) -> list[Movable]:
    """The places where halving some channels and doubling what takes them in leaves the output as it is; powers of two are exact.

    Following tensors cannot see everything (a view may mix channels, a parameter may be used twice): this does.
    """
    plain = _output(model, batch)
    if _same(plain, _halved(model, batch, sources)):
        return sources
    return [source for source in sources[:MOST_PROVEN] if _same(plain, _halved(model, batch, [source]))]


def _halved(model: RunnableModel, batch: Batch, sources: list[Movable]) -> list[torch.Tensor]:
    """The output with every other channel moved at some places. The model comes back as it was."""
    layers = {layer.name: layer for layer in model.summary.layers}
    stored = {place.parameter: name for name, place in model.places.items()}
    kept: dict[str, torch.Tensor] = {}
    try:
        for source in sources:
            factor = torch.ones(source.channels)
            factor[::2] = 2.0
            for name, repeats in source.consumers.items():
                layer = layers[name]
                _keep(model, layer.tensor.name, kept)
                matrix = in_rows(model.weight(layer.tensor.name).reshape(layer.shape), layer)
                wide = factor.repeat_interleave(repeats)[None] if repeats else factor[:, None]
                model.put(layer.tensor.name, in_layout(matrix * wide.to(matrix.dtype), layer))
            for parameter in source.parameters:
                name = parameter if parameter in model.places else stored[parameter]
                _keep(model, name, kept)
                value = model.weight(name)
                model.put(name, value / factor.view(-1, *[1] * (value.dim() - 1)).to(value.dtype))
        return _output(model, batch)
    finally:
        for name, value in kept.items():
            model.put(name, value)


def _keep(model: RunnableModel, name: str, kept: dict[str, torch.Tensor]) -> None:
    if name not in kept:
        kept[name] = model.weight(name).clone()


def _output(model: RunnableModel, batch: Batch) -> list[torch.Tensor]:
    return [tensor.detach().float() for tensor in _tensors(call(model, batch)) if tensor.is_floating_point()]


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Equal but for the order of sums."""
    return len(first) == len(second) and all(
        a.shape == b.shape and float((a - b).abs().max()) <= 1e-3 * float(a.abs().max())
        for a, b in zip(first, second, strict=True)
        if a.numel()
    )


class _Tracer:
    def __init__(self, model: RunnableModel) -> None:
        self.looked_up: set[str] = set()
        self.sources: dict[tuple[str, ...], Movable] = {}
        self._tags: dict[int, Movable] = {}
        self._alive: list[torch.Tensor] = []  # freed memory must not be taken for what was there before
        self._vectors = {p.untyped_storage().data_ptr(): name for name, p in model.module.named_parameters() if p.dim() == 1}
        self._stored = {place.parameter for place in model.places.values()}

    def visit(self, operator: Operator) -> torch.Tensor:
        tag = self._tag(operator.input)
        if tag:
            self._consume(tag, operator)
        if operator.kind == "embedding":
            self.looked_up.update(use.layer.name for use in operator.uses)
        result = operator.run()
        self._keep(result)
        bias = [a for a in operator._args if isinstance(a, torch.Tensor) and a.dim() == 1 and a is not operator.input]
        self._tags.pop(_storage(result), None)
        if len(operator.uses) == 1 and operator.kind != "embedding":
            use, matrix = operator.uses[0], Matrix.of(operator.uses[0].layer)
            names = tuple(self._vectors.get(_storage(b), "?") for b in bias)
            whole = (
                use.of_layer in (slice(None), slice(0, matrix.rows))
                and "?" not in names
                and not any(b.numel() == 0 for b in bias)
            )
            if whole and use.layer.axis == 0:
                self._start((use.layer.tensor.name, *names), matrix.rows, use.layer.name, operator.kind == "convolution", result)
        return result

    def seen(self, func: Any, args: tuple, result: Any) -> None:
        packet = func.overloadpacket
        inputs = [a for a in _tensors(args) if self._tag(a)]
        outputs = _tensors(result)
        for tensor in outputs:
            self._keep(tensor)
        if func.is_view:
            return
        if packet in NORMS:
            for tensor in inputs:
                self.spoil(tensor)
            self._norm(args[NORMS[packet]], args[NORMS[packet] + 1], outputs[0], packet is not aten.native_layer_norm)
        elif packet is aten.mul and len(args) == 2:
            self._product(args, outputs[0])
        elif (packet in COMMUTING or _picks_rows(packet, args)) and len(inputs) == 1:
            self._tags[_storage(outputs[0])] = self._tags[_storage(inputs[0])]
        elif packet in ATTENTION:
            self._attention(args, outputs[0])
        else:
            for tensor in inputs if packet not in SHAPE_ONLY else ():
                self.spoil(tensor)
            for tensor in outputs:
                self._tags.pop(_storage(tensor), None)

    def spoil(self, tensor: torch.Tensor) -> None:
        tag = self._tag(tensor)
        if tag:
            tag.spoiled = True

    def _product(self, args: tuple, result: torch.Tensor) -> None:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        vectors = [a for a in tensors if a.dim() == 1 and _storage(a) in self._vectors]
        tagged = [a for a in tensors if self._tag(a)]
        self._tags.pop(_storage(result), None)
        if len(vectors) == 1 and len(tensors) == 2:
            for tensor in tagged:
                self.spoil(tensor)
            self._norm(vectors[0], None, result, False)
        elif len(tagged) == 1:
            self._tags[_storage(result)] = self._tags[_storage(tagged[0])]
        else:
            for tensor in tagged:
                self.spoil(tensor)

    def _attention(self, args: tuple, result: torch.Tensor) -> None:
        query, key, value = args[:3]
        self.spoil(query)
        self.spoil(key)
        tag = self._tag(value)
        self._tags.pop(_storage(result), None)
        if tag:
            self._tags[_storage(result)] = tag

    def _norm(self, weight: Any, bias: Any, result: torch.Tensor, spatial: bool) -> None:
        self._tags.pop(_storage(result), None)
        names = [self._vectors.get(_storage(p), "?") for p in (weight, bias) if isinstance(p, torch.Tensor)]
        if names and isinstance(weight, torch.Tensor) and "?" not in names:
            self._start(tuple(names), weight.numel(), "", spatial, result)

    def _start(self, names: tuple[str, ...], channels: int, layer: str, spatial: bool, result: torch.Tensor) -> None:
        source = self.sources.setdefault(names, Movable(names, channels, layer, spatial))
        if not layer and not set(names) <= self._stored:
            source.spoiled = True  # a norm that is not on disk cannot be written back
        self._tags[_storage(result)] = source

    def _consume(self, tag: Movable, operator: Operator) -> None:
        if operator.kind == "embedding" or operator.input.dim() == 1:
            tag.spoiled = True
            return
        groups, size = operator.groups
        for use in operator.uses:
            layer = use.layer
            if operator.kind == "convolution":
                depthwise = groups == tag.channels and layer.axis == 0 and layer.shape[1] == 1
                fits = depthwise or (groups == 1 and layer.axis == 0 and layer.shape[1] == tag.channels)
                repeats = 0 if depthwise else (size // tag.channels if fits else 1)
            else:
                repeats = size // tag.channels
                fits = groups == 1 and size == repeats * tag.channels and (repeats == 1 or tag.spatial)
            if not fits or tag.consumers.get(layer.name, repeats) != repeats:
                tag.spoiled = True
            tag.consumers[layer.name] = repeats

    def _tag(self, tensor: torch.Tensor) -> Movable | None:
        return self._tags.get(_storage(tensor))

    def _keep(self, tensor: torch.Tensor) -> None:
        self._alive.append(tensor)


def _picks_rows(packet: Any, args: tuple) -> bool:
    """Whether this takes whole rows of its first argument, as a mixture does with the tokens of an expert."""
    if packet is aten.index_select:
        return args[1] not in (-1, args[0].dim() - 1)
    return packet is aten.index and len(args[1]) < args[0].dim()


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return []
