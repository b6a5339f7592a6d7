"""Where a running model multiplies by a stored weight, found by the weight's storage in every operator that torch dispatches.

It works alike for modules of any make, exported programs and functional code, and leaves nothing behind in the model: no hook, no
wrapper. A stored tensor may be a part of a parameter (fused experts) and a parameter of several stored ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.models.base import Place, RunnableModel
from engine.records.model import LayerInfo
from engine.schemes.grouping import Matrix

aten = torch.ops.aten
PLAIN = {aten.mm.default: (0, 1), aten.addmm.default: (1, 2), aten.bmm.default: (0, 1), aten.baddbmm.default: (1, 2)}
"""Matrix products: where input and weight (in, out) stand among the arguments."""
ROWS_FIRST = {aten.linear.default: (0, 1), aten.mv.default: (1, 0)}
"""Products whose weight is (out, in)."""
CONVOLUTIONS = {aten.convolution.default, aten.mkldnn_convolution.default}
PATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Use:
    """Rows of one layer's matrix in one operator: ``of_operator`` of its weight's outputs are ``of_layer``. ``group`` of the
    inputs."""

    layer: LayerInfo
    of_operator: slice
    of_layer: slice
    group: int = 0


class Operator:
    """One multiplication by a stored weight, ready to be carried out with other inputs or weights."""

    kind = "linear"

    def __init__(self, func: Any, args: tuple, kwargs: dict, places: tuple[int, int], uses: tuple[Use, ...]) -> None:
        self._func, self._args, self._kwargs, self._places = func, list(args), kwargs, places
        self.uses = uses

    @property
    def input(self) -> torch.Tensor:
        return self._args[self._places[0]]

    @property
    def weight(self) -> torch.Tensor:
        return self._args[self._places[1]]

    def run(
        self,
        x: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        *,
        widen: bool = False,
        out: torch.Tensor | None = None,
        others: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The operator's output, with another input or weight (of the same shape) where given.

        ``widen``: the rest in float32; ``out``: where a plain product puts its result; ``others``: what takes the place of the
        rest, such as a bias.
        """
        args = list(self._args)
        if widen:
            args = [a.float() if isinstance(a, torch.Tensor) and n not in self._places else a for n, a in enumerate(args)]
        if others:
            rest = [isinstance(a, torch.Tensor) and n not in self._places for n, a in enumerate(args)]
            args = [others(a) if tensor else a for a, tensor in zip(args, rest, strict=True)]
        for place, value in zip(self._places, (x, weight), strict=True):
            if value is not None:
                args[place] = value
        if out is not None:
            return self._func.overloadpacket.out(*args, **self._kwargs, out=out)
        return self._func(*args, **self._kwargs)

    @property
    def is_product(self) -> bool:
        """Whether it is a plain product of matrices, which may put its result anywhere."""
        return self._func in (aten.mm.default, aten.addmm.default)

    @property
    def groups(self) -> tuple[int, int]:
        """Input groups of the layer, and values of one input vector."""
        layer = self.uses[0].layer
        matrix = Matrix.of(layer)
        return matrix.slices, matrix.cols

    def vectors(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(group, vectors (n, size)) that rows of the weight are multiplied by."""
        x = self.input
        yield self.uses[0].group, x.reshape(-1, x.shape[-1])

    def replaced(self, use: Use, matrix: torch.Tensor) -> torch.Tensor:
        """The operator's weight with one layer's rows taken from its decoded matrix (rows, cols)."""
        weight = self.weight.clone()
        rows = matrix[use.of_layer].to(weight.dtype)
        if self._func in ROWS_FIRST or self.kind == "embedding":
            weight[use.of_operator] = rows
        else:
            weight[..., use.of_operator] = rows.T
        return weight

    def output_of(self, y: torch.Tensor, use: Use) -> torch.Tensor:
        """The part of an output that is this layer's."""
        return y[use.of_operator] if y.dim() == 1 else y[..., use.of_operator]


class Batched(Operator):
    """All experts at once: (experts, tokens, in) times (experts, in, out)."""

    def vectors(self) -> Iterator[tuple[int, torch.Tensor]]:
        yield from enumerate(self.input)

    def replaced(self, use: Use, matrix: torch.Tensor) -> torch.Tensor:
        experts, width, rows = self.weight.shape
        return matrix.view(experts, rows, width).transpose(1, 2).to(self.weight.dtype)

    def output_of(self, y: torch.Tensor, use: Use) -> torch.Tensor:
        return y


class Lookup(Operator):
    """An embedding: rows are fetched, nothing is multiplied."""

    kind = "embedding"

    def vectors(self) -> Iterator[tuple[int, torch.Tensor]]:
        return iter(())

    def output_of(self, y: torch.Tensor, use: Use) -> torch.Tensor:
        return y


class Convolution(Operator):
    """Any convolution; its vectors are the patches under the kernel."""

    kind = "convolution"

    @property
    def _shape(self) -> tuple:
        stride, padding, dilation, transposed, extra, groups = self._args[3:9]
        count = self.weight.dim() - 2
        wide = [tuple(v) * count if len(v) == 1 else tuple(v) for v in (stride, padding, dilation, extra)]
        return *wide, bool(transposed), groups

    @property
    def groups(self) -> tuple[int, int]:
        transposed, groups = self._shape[4:]
        # A transposed kernel's rows are shared by its groups, which lie side by side in its columns.
        return (1 if transposed else groups), Matrix.of(self.uses[0].layer).cols

    def vectors(self) -> Iterator[tuple[int, torch.Tensor]]:
        stride, padding, dilation, extra, transposed, groups = self._shape
        kernel = self.weight.shape[2:]
        x = self.input if self.input.dim() == self.weight.dim() else self.input[None]
        pieces = max(1, PATCH_BYTES // max(x[0].numel() * x.element_size() * int(torch.tensor(kernel).prod()), 1))
        for some in x.split(pieces):
            if transposed:
                patches = _transposed_patches(some, kernel, stride, padding, dilation, extra)
            else:
                patches = _patches(some, kernel, stride, padding, dilation)
            for group, part in enumerate(patches.chunk(groups, dim=1)):  # (n, channels, positions..., kernel...)
                flat = part.movedim(1, 1 + len(kernel)).flatten(1 + len(kernel)).flatten(0, len(kernel))
                if transposed and groups > 1:
                    wide = flat.new_zeros(len(flat), flat.shape[1] * groups)
                    wide[:, group * flat.shape[1] : (group + 1) * flat.shape[1]] = flat
                    yield 0, wide
                else:
                    yield group, flat

    def replaced(self, use: Use, matrix: torch.Tensor) -> torch.Tensor:
        return in_layout(matrix, use.layer).to(self.weight.dtype)

    def output_of(self, y: torch.Tensor, use: Use) -> torch.Tensor:
        return y


def _patches(x: torch.Tensor, kernel, stride, padding, dilation) -> torch.Tensor:
    """(n, channels, positions..., kernel...) without copying more than the padding."""
    pad = [p for size in reversed(padding) for p in (size, size)]
    x = torch.nn.functional.pad(x, pad).contiguous()
    spans = [(d * (k - 1) + 1) for d, k in zip(dilation, kernel, strict=True)]
    counts = [(size - span) // s + 1 for size, span, s in zip(x.shape[2:], spans, stride, strict=True)]
    strides = x.stride()
    steps = [s * step for s, step in zip(strides[2:], stride, strict=True)]
    taps = [s * d for s, d in zip(strides[2:], dilation, strict=True)]
    return x.as_strided((*x.shape[:2], *counts, *kernel), (*strides[:2], *steps, *taps), x.storage_offset())


def _transposed_patches(x: torch.Tensor, kernel, stride, padding, dilation, extra) -> torch.Tensor:
    """A transposed convolution is an ordinary one over inputs set apart by zeros, its kernel turned round."""
    spread = x.new_zeros(*x.shape[:2], *[(size - 1) * s + 1 for size, s in zip(x.shape[2:], stride, strict=True)])
    spread[(..., *[slice(None, None, s) for s in stride])] = x
    around = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    ends = [size + more for size, more in zip(around, extra, strict=True)]
    # More padding than the kernel reaches cuts outputs off, which a negative pad does here too.
    pad = [p for size, end in zip(reversed(around), reversed(ends), strict=True) for p in (size, end)]
    spread = torch.nn.functional.pad(spread, pad)
    found = _patches(spread, kernel, [1] * len(kernel), [0] * len(kernel), dilation)
    return found.flip(list(range(-len(kernel), 0)))


def in_rows(weight: torch.Tensor, layer: LayerInfo) -> torch.Tensor:
    """A weight in its own layout as the matrix (rows, cols) that encoders work on."""
    first = 1 if layer.kind == "experts" else 0
    return weight.movedim(layer.axis, first).reshape(Matrix.of(layer).rows, -1)


def in_layout(matrix: torch.Tensor, layer: LayerInfo) -> torch.Tensor:
    """The inverse of ``in_rows``."""
    first = 1 if layer.kind == "experts" else 0
    shape = list(layer.shape)
    shape.insert(first, shape.pop(layer.axis))
    return matrix.reshape(shape).movedim(first, layer.axis)


class Sites:
    """The stored weights of a running model, by the storage of the parameters that hold them."""

    def __init__(self, model: RunnableModel, layers: Iterable[LayerInfo]) -> None:
        self._model = model
        self._placed: dict[str, list[tuple[LayerInfo, Place]]] = defaultdict(list)
        for layer in layers:
            place = model.places.get(layer.tensor.name)
            if place is not None:
                self._placed[place.parameter].append((layer, place))
        self.refresh()

    def refresh(self) -> None:
        """Look again where parameters are, after one of them was given other values."""
        self._by_storage: dict[int, tuple[torch.Tensor, str]] = {}
        for name in self._placed:
            parameter = self._model.parameter(name)
            self._by_storage[parameter.untyped_storage().data_ptr()] = (parameter.detach(), name)

    def operator(self, func: Any, args: tuple, kwargs: dict) -> Operator | None:
        """What this call multiplies by, if it is a stored weight."""
        places = PLAIN.get(func) or ROWS_FIRST.get(func)
        if func in CONVOLUTIONS:
            places = (0, 1)
        elif func is aten.embedding.default:
            places = (1, 0)
        if places is None or not isinstance(args[places[1]], torch.Tensor):
            return None
        weight = args[places[1]]
        found = self._by_storage.get(weight.untyped_storage().data_ptr())
        if found is None:
            return None
        parameter, name = found
        if func in CONVOLUTIONS or func is aten.embedding.default:
            uses = tuple(Use(layer, slice(None), slice(None)) for layer, _ in self._placed[name])
            make: Callable[..., Operator] = Convolution if func in CONVOLUTIONS else Lookup
        elif weight.dim() == 3:
            uses = tuple(Use(layer, slice(None), slice(None)) for layer, _ in self._placed[name])
            make = Batched
        else:
            uses = self._uses(weight if func in ROWS_FIRST else weight.T, parameter, name)
            make = Operator
        return make(func, args, kwargs, places, uses) if uses else None

    def _uses(self, matrix: torch.Tensor, parameter: torch.Tensor, name: str) -> tuple[Use, ...]:
        """Which layers' rows a view (out, in) of a parameter holds."""
        width = parameter.shape[-1]
        offset = matrix.storage_offset() - parameter.storage_offset()
        row, column = divmod(int(offset), max(int(width), 1))
        by_rows = matrix.stride(1) == 1 and matrix.shape[1] == width and not column
        if matrix.shape[0] == 1 or matrix.shape[1] == 1:  # strides of axes of one say nothing
            by_rows = matrix.shape[1] == width
        found = []
        for layer, place in self._placed[name]:
            use = _by_rows(matrix, row, layer, place) if by_rows else _by_columns(matrix, parameter, row, column, layer, place)
            if use:
                found.append(use)
        return tuple(found)


def _by_rows(matrix: torch.Tensor, row: int, layer: LayerInfo, place: Place) -> Use | None:
    """Outputs along the parameter's rows, as torch stores linear layers."""
    count = place.rows or Matrix.of(layer).rows
    first, last = max(row, place.first), min(row + matrix.shape[0], place.first + count)
    if first >= last or place.transposed:
        return None
    of_layer = slice(first - place.first, last - place.first)
    group = of_layer.start // Matrix.of(layer).slice_rows
    return Use(layer, slice(first - row, last - row), of_layer, group)


def _by_columns(
    matrix: torch.Tensor, parameter: torch.Tensor, row: int, column: int, layer: LayerInfo, place: Place
) -> Use | None:
    """Outputs along the parameter's columns, as in transformers' Conv1D and in experts stored (in, out)."""
    own = Matrix.of(layer)
    if place.transposed:  # one expert of a parameter (experts, in, out), on disk by itself as (out, in)
        outputs = parameter.shape[-1]
        expert, first = divmod(place.first, outputs)
        here = not column and row // max(parameter.shape[-2] if parameter.dim() > 2 else row + 1, 1) == expert
        return Use(layer, slice(first, first + own.rows), slice(0, own.rows)) if here else None
    slice_inputs = own.cols
    if column or matrix.shape[1] != slice_inputs or not place.first <= row < place.first + max(place.rows, 1):
        return None
    expert = (row - place.first) // slice_inputs
    return Use(layer, slice(0, own.slice_rows), slice(expert * own.slice_rows, (expert + 1) * own.slice_rows), expert)


Visit = Callable[[Operator], torch.Tensor]


class Watched(TorchDispatchMode):
    """While it is entered, ``visit`` carries out every multiplication by a stored weight; ``seen`` is told of every other
    call."""

    def __init__(self, sites: Sites, visit: Visit, seen: Callable[[Any, tuple, Any], None] | None = None) -> None:
        super().__init__()
        self._sites, self._visit, self._seen = sites, visit, seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operator = self._sites.operator(func, args, kwargs or {})
        if operator is not None:
            return self._visit(operator)
        result = func(*args, **(kwargs or {}))
        if self._seen:
            self._seen(func, args, result)
        return result
