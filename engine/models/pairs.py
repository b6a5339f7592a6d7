"""Which batch norm reads nothing but which convolution's result: found by watching one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.models.base import call
from engine.models.state import running

if TYPE_CHECKING:
    import torch

_PRODUCERS = ("addmm", "mm", "linear")


@dataclass(slots=True)
class _Result:
    """What a convolution or linear layer put out; ``tensor`` is kept, so that its memory is not given to another."""

    layer: str
    tensor: torch.Tensor
    uses: int = 0


def find_pairs(module: torch.nn.Module, batch: Any) -> tuple[list[tuple[str, str]], list[torch.Tensor]]:
    """Names of (convolution or linear, batch norm), and the forward's outputs.

    A pair's layers are each run once, the norm on its statistics; the result of the first goes, in the same shape, into the
    second and nowhere else.
    """
    import torch

    with running(module), _watcher()(module) as seen:
        output = call(module, batch)
    outputs = [value for value in tensors_in(output) if isinstance(value, torch.Tensor)]
    for value in outputs:
        seen.use(value)
    return seen.pairs(), outputs


def tensors_in(output: Any) -> list[Any]:
    """The leaves of a forward's output."""
    from torch.utils import _pytree

    if hasattr(output, "to_tuple"):
        output = output.to_tuple()  # transformers' outputs
    return _pytree.tree_leaves(output)


def _key(value: torch.Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _watcher() -> Any:
    """The class is made on first use: it derives from one of torch's."""
    import torch
    from torch import nn
    from torch.nn.modules.conv import _ConvNd
    from torch.utils import _pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

    class Watcher(TorchDispatchMode):
        """Follows memory, not tensors: a view of a result is that result."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self._layers: dict[int, tuple[str, Any]] = {}
            self._norms: dict[int, str] = {}
            self._runs: dict[str, int] = {}
            self._results: dict[int, _Result] = {}
            self._found: list[tuple[_Result, str]] = []
            part: Any
            for name, part in module.named_modules():
                if isinstance(part, (_ConvNd, nn.Linear)) and isinstance(part.weight, torch.Tensor):
                    self._layers.setdefault(part.weight.data_ptr(), (name, part))
                elif type(part) in norms:  # a class of its own may do more than normalize
                    self._know_norm(name, part)

        def _know_norm(self, name: str, part: Any) -> None:
            if part.running_mean is not None:
                self._norms[part.running_mean.data_ptr()] = name

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            given = [value for value in _pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
            made = [value for value in _pytree.tree_leaves(output) if isinstance(value, torch.Tensor)]
            name = func.overloadpacket.__name__
            if not getattr(func, "is_view", False):
                for value in given:
                    self.use(value)
            if "batch_norm" in name:
                self._normalize(args)
            elif ("conv" in name or name in _PRODUCERS) and len(made) == 1:
                self._compute(given, made[0])
            return output

        def use(self, value: torch.Tensor) -> None:
            result = self._results.get(_key(value))
            if result is not None:
                result.uses += 1

        def _compute(self, given: list[torch.Tensor], made: torch.Tensor) -> None:
            known = [self._layers[value.data_ptr()] for value in given if value.data_ptr() in self._layers]
            if len(known) != 1:
                return
            name, part = known[0]
            self._runs[name] = self._runs.get(name, 0) + 1
            expected = {value.data_ptr() for value in (part.weight, part.bias) if value is not None}
            if len(given) == 1 + len(expected) and expected <= {value.data_ptr() for value in given}:
                self._results[_key(made)] = _Result(name, made)

        def _normalize(self, args: Any) -> None:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            name = next((self._norms[value.data_ptr()] for value in tensors[1:] if value.data_ptr() in self._norms), None)
            if name is None:
                return
            self._runs[name] = self._runs.get(name, 0) + 1
            result, value = self._results.get(_key(args[0])), args[0]
            same = result is not None and (value.shape, value.stride()) == (result.tensor.shape, result.tensor.stride())
            if same and result is not None:
                self._found.append((result, name))

        def pairs(self) -> list[tuple[str, str]]:
            return [
                (result.layer, norm)
                for result, norm in self._found
                if result.uses == 1 and self._runs[result.layer] == 1 and self._runs[norm] == 1
            ]

    return Watcher
