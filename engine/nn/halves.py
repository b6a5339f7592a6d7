"""Layers whose weight is stored in a narrower float type than the rest of the module computes in."""

from typing import Any

import torch
from torch.nn import functional


class _Half:
    """``full``: the type that the weight had. The weight is widened to the input's type at every call."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    full: torch.dtype

    def _bias(self, x: torch.Tensor) -> torch.Tensor | None:
        return None if self.bias is None else self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight={str(self.weight.dtype).removeprefix('torch.')}"  # pyright: ignore


class HalfLinear(_Half, torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.linear(input, self.weight.to(input.dtype), self._bias(input))


class _HalfConv(_Half):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        here: Any = self
        return here._conv_forward(input, self.weight.to(input.dtype), self._bias(input))


class HalfConv1d(_HalfConv, torch.nn.Conv1d):
    pass


class HalfConv2d(_HalfConv, torch.nn.Conv2d):
    pass


class HalfConv3d(_HalfConv, torch.nn.Conv3d):
    pass


HALVES: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Linear: HalfLinear, torch.nn.Conv1d: HalfConv1d, torch.nn.Conv2d: HalfConv2d, torch.nn.Conv3d: HalfConv3d,
}  # fmt: skip
_PLAIN = {half: plain for plain, half in HALVES.items()}


def is_half(module: torch.nn.Module) -> bool:
    return type(module) in _PLAIN


def half_like(module: torch.nn.Module, full: torch.dtype) -> torch.nn.Module:
    """An ordinary layer as one that widens its weight; parameters and hooks are shared."""
    return _as(module, HALVES[type(module)], full)


def whole_like(module: torch.nn.Module) -> torch.nn.Module:
    """The ordinary layer of one that widens its weight."""
    full: Any = module.full
    made = _as(module, _PLAIN[type(module)], full)
    made.weight = torch.nn.Parameter(module.weight.to(full), requires_grad=False)  # pyright: ignore
    return made


def _as(module: torch.nn.Module, kind: type[torch.nn.Module], full: torch.dtype) -> Any:
    made = kind.__new__(kind)
    made.__dict__.update(module.__dict__)
    made._parameters = dict(module._parameters)  # not those of the other module when one is given a new weight
    object.__setattr__(made, "full", full)
    return made
