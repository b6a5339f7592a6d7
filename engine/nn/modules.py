"""Linear, convolution and embedding on stored codes."""

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from torch.nn import functional

from engine.errors import InputError
from engine.layer_inputs import LayerInput
from engine.nn.choice import Choice, Mode
from engine.nn.product import reference
from engine.nn.storage import QuantizedModule, options_of
from engine.records.model import LayerInfo

Parts = Mapping[str, torch.Tensor]
_CONV_OPTIONS = ("stride", "padding", "dilation", "groups", "padding_mode")


class QuantizedLinear(QuantizedModule):
    """``torch.nn.Linear`` on stored codes; x (..., in) to (..., out) in x's own type.

    ``kernel``: ``reference`` decodes block by block, always; ``auto`` takes whichever product was found right and fastest for
    so many rows at first use; ``compact`` the same among those that hold no copy of the codes. What is held counts in ``nbytes``.
    """

    def __init__(
        self,
        layer: LayerInfo,
        parts: Parts,
        bias: torch.Tensor | None = None,
        *,
        inputs: LayerInput | None = None,
        kernel: Mode = "auto",
    ) -> None:
        super().__init__(layer, parts, bias, inputs=inputs)
        _require(layer, 2)
        if kernel not in get_args(Mode):
            raise InputError(f"kernel is one of {', '.join(get_args(Mode))}, not {kernel!r}.")
        self.kernel: Mode = kernel
        self.out_features, self.in_features = layer.shape
        self._choice = Choice()

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._choice.nbytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1:] != self.shape[1:]:
            raise RuntimeError(f"{self.layer.name} takes {self.in_features} values, but is given {list(x.shape)}.")
        x = _cast(x)
        flat = x.reshape(-1, self.in_features)
        bias_learns = self.bias is not None and self.bias.requires_grad
        learns = torch.is_grad_enabled() and (x.requires_grad or bias_learns)
        out = None if learns or self.kernel == "reference" else self._choice.run(self, flat, copies=self.kernel == "auto")
        out = reference(self, self.incoming(flat)) if out is None else out
        return out.reshape(*x.shape[:-1], self.out_features)

    def forget(self) -> None:
        self._choice = Choice()

    def __getstate__(self) -> dict[str, Any]:
        """Kernels are found anew by a copy, on whatever machine it is."""
        return super().__getstate__() | {"_choice": Choice()}


class QuantizedEmbedding(QuantizedModule):
    """``torch.nn.Embedding`` on stored codes; decodes the rows asked for only, in ``output_dtype``."""

    def __init__(self, layer: LayerInfo, parts: Parts, *, padding_idx: int | None = None) -> None:
        super().__init__(layer, parts)
        _require(layer, 2)
        self.num_embeddings, self.embedding_dim = layer.shape
        self.padding_idx = padding_idx

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: indices of any shape to (*shape, embedding_dim). Raises IndexError for one outside."""
        ids, place = torch.unique(x, return_inverse=True)
        if len(ids) and (ids[0] < 0 or ids[-1] >= self.num_embeddings):
            raise IndexError(f"{self.layer.name} has {self.num_embeddings} rows; indices go from {ids[0]} to {ids[-1]}.")
        return functional.embedding(place, self._rows(ids.tolist()))

    def _rows(self, ids: list[int]) -> torch.Tensor:
        """Decoded rows (len(ids), cols) of ascending indices, neighbours at once."""
        codes = self.stored()["codes"]
        out = torch.empty(len(ids), self.embedding_dim, dtype=self.output_dtype, device=codes.device)
        decoder = self.decoder() if ids and not codes.is_meta else None
        grouping = self.grouping
        tall = grouping.height if grouping.scheme.granularity != "tensor" else 1
        begin = 0
        while decoder and begin < len(ids):
            end = begin + 1
            while end < len(ids) and ids[end] == ids[end - 1] + 1:
                end += 1
            # Decoding starts where a group of rows does.
            first = ids[begin] // tall * tall
            out[begin:end] = self.rows(decoder, first, ids[end - 1] + 1 - first)[ids[begin] - first :]
            begin = end
        return out


class _QuantizedConv(QuantizedModule):
    """Convolutions on stored codes: the weight of this layer is decoded for each call."""

    dimensions: ClassVar[int]
    plain: ClassVar[type[torch.nn.modules.conv._ConvNd]]

    def __init__(
        self,
        layer: LayerInfo,
        parts: Parts,
        bias: torch.Tensor | None = None,
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        inputs: LayerInput | None = None,
    ) -> None:
        super().__init__(layer, parts, bias, inputs=inputs)
        _require(layer, self.dimensions + 2)
        # torch's own module reads and checks the options.
        options: dict[str, Any] = {
            "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": padding_mode,
        }  # fmt: skip
        wanted: Any = self.plain
        geometry = wanted(layer.shape[1] * groups, layer.shape[0], layer.shape[2:], bias=False, device="meta", **options)
        self.in_channels, self.out_channels = geometry.in_channels, geometry.out_channels
        self.kernel_size, self.stride, self.padding = geometry.kernel_size, geometry.stride, geometry.padding
        self.dilation, self.groups, self.padding_mode = geometry.dilation, groups, padding_mode
        self._around = tuple(geometry._reversed_padding_repeated_twice)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.incoming(_cast(x))
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = functional.pad(x, self._around, mode=self.padding_mode), 0
        conv: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[self.dimensions - 1]
        return conv(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def options(self) -> dict[str, Any]:
        """What the constructor takes besides the weight and bias."""
        return options_of(self, _CONV_OPTIONS)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, " + ", ".join(f"{name}={value}" for name, value in self.options().items())


class QuantizedConv1d(_QuantizedConv):
    dimensions, plain = 1, torch.nn.Conv1d


class QuantizedConv2d(_QuantizedConv):
    dimensions, plain = 2, torch.nn.Conv2d


class QuantizedConv3d(_QuantizedConv):
    dimensions, plain = 3, torch.nn.Conv3d


CONVOLUTIONS: dict[type[torch.nn.Module], type[_QuantizedConv]] = {
    conv.plain: conv for conv in (QuantizedConv1d, QuantizedConv2d, QuantizedConv3d)
}


def quantized_like(module: torch.nn.Module, layer: LayerInfo, parts: Parts, inputs: LayerInput | None = None) -> QuantizedModule:
    """The quantized module that stands for an ordinary one, with its bias, options and mode."""
    bias = module._parameters.get("bias")
    if isinstance(module, torch.nn.Embedding):
        made: QuantizedModule = QuantizedEmbedding(layer, parts, padding_idx=module.padding_idx)
    elif isinstance(module, torch.nn.Linear):
        made = QuantizedLinear(layer, parts, bias, inputs=inputs)
    else:
        made = CONVOLUTIONS[type(module)](layer, parts, bias, inputs=inputs, **options_of(module, _CONV_OPTIONS))
    return made.train(module.training)


def plain_like(module: QuantizedModule) -> torch.nn.Module:
    """The ordinary module of a quantized one, its weight on the meta device still."""
    biased = module.bias is not None
    if isinstance(module, QuantizedEmbedding):
        made: torch.nn.Module = torch.nn.Embedding(*module.shape, padding_idx=module.padding_idx, device="meta")
    elif isinstance(module, QuantizedLinear):
        made = torch.nn.Linear(module.in_features, module.out_features, biased, device="meta")
    elif isinstance(module, _QuantizedConv):
        wanted: Any = module.plain
        channels = (module.in_channels, module.out_channels, module.kernel_size)
        made = wanted(*channels, bias=biased, device="meta", **module.options())
    else:
        raise TypeError(f"{type(module).__name__} has no ordinary module")
    if module.bias is not None:
        bias = module.bias
        made.bias = bias if isinstance(bias, torch.nn.Parameter) else torch.nn.Parameter(bias)
    return made.train(module.training)


def _require(layer: LayerInfo, dimensions: int) -> None:
    if len(layer.shape) != dimensions or (layer.axis and dimensions == 2):
        what = f"{layer.kind} {list(layer.shape)} with outputs along axis {layer.axis}"
        raise InputError(f"{layer.name} is {what}, which this module cannot hold.")


def _cast(x: torch.Tensor) -> torch.Tensor:
    """The input as autocast would hand it to a product."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))
