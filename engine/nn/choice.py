"""Which product a linear module uses for so many rows: tried at first use, never guessed."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from engine.nn.fused import FusedKernel
from engine.nn.integers import INTEGER
from engine.nn.kernels import WEIGHT_ONLY, Kernel
from engine.nn.product import reference
from engine.nn.storage import QuantizedModule

KERNELS: tuple[type[Kernel], ...] = (FusedKernel, *WEIGHT_ONLY, *INTEGER)
Mode = Literal["auto", "compact", "reference"]
BUCKETS = (1, 4, 16, 64)
"""Most rows of each bucket; one more bucket has all above."""
PROBED = 8
"""Rows on which a kernel must agree with the reference."""
CLEARLY = 0.9
"""A kernel must need at most this share of the reference's time."""
ROUNDS = 4
"""Calls of each, in turn; the best of them counts."""
_fastest: dict[tuple, type[Kernel] | None] = {}
"""What was timed in this process: layers of one scheme and shape take equally long."""


class Choice:
    """The kernels of one module: ``run`` gives the product, or None where the reference is to be used."""

    def __init__(self) -> None:
        self._made: dict[type[Kernel], Kernel] = {}
        self._agrees: dict[tuple[type[Kernel], torch.dtype], bool] = {}
        self.chosen: dict[tuple[torch.dtype, int], Kernel | None] = {}

    @property
    def nbytes(self) -> int:
        return sum(kernel.nbytes for kernel in self._made.values())

    def run(self, module: QuantizedModule, x: torch.Tensor, *, copies: bool) -> torch.Tensor | None:
        """x (rows, in) to (rows, out), without gradients. ``copies``: whether a kernel may hold the codes once more."""
        rows = x.shape[0]
        if x.device.type != "cpu" or not rows:
            return None
        key = (x.dtype, bisect_left(BUCKETS, rows))
        if key not in self.chosen:
            self.chosen[key] = self._choose(module, rows, key, copies)
            kept = {type(kernel) for kernel in self.chosen.values() if kernel}
            self._made = {kind: kernel for kind, kernel in self._made.items() if kind in kept}
        kernel = self.chosen[key]
        out = _run(module, kernel, x) if kernel else None
        return out if out is None or module.bias is None else out + module.bias.to(out.dtype)

    def _choose(self, module: QuantizedModule, rows: int, key: tuple[torch.dtype, int], copies: bool) -> Kernel | None:
        dtype, bucket = key
        kinds = [kind for kind in KERNELS if dtype in kind.dtypes and (copies or not kind.copies) and kind.suits(module)]
        timed = (module.scheme, module.activations, module.shape, dtype, bucket, copies, torch.get_num_threads())
        if timed in _fastest:
            kinds = [kind for kind in kinds if kind is _fastest[timed]]
        probe = torch.randn(max(rows, PROBED), module.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
        right = [kernel for kind in kinds if (kernel := self._agreeing(kind, module, probe[:PROBED]))]
        if timed not in _fastest:
            found = fastest(module, right, probe[:rows]) if right else None
            _fastest[timed] = type(found) if found else None
            return found
        return right[0] if right else None

    def _agreeing(self, kind: type[Kernel], module: QuantizedModule, probe: torch.Tensor) -> Kernel | None:
        """The kernel where it agrees for inputs of this type; it may for one and not for another."""
        key = (kind, probe.dtype)
        if self._agrees.get(key) is False:
            return None
        if kind not in self._made:
            self._made[kind] = kind()
            self._made[kind].prepare(module)
        kernel = self._made[kind]
        if key not in self._agrees:
            self._agrees[key] = agrees(module, kernel, probe)
        return kernel if self._agrees[key] else None


def _run(module: QuantizedModule, kernel: Kernel, x: torch.Tensor) -> torch.Tensor | None:
    return kernel.run((x if kernel.quantizes else module.incoming(x)).contiguous())


@torch.no_grad()
def agrees(module: QuantizedModule, kernel: Kernel, x: torch.Tensor) -> bool:
    """Whether a kernel's result for x (rows, in) lies within the rounding of its type around the decoded weight's."""
    found = _run(module, kernel, x)
    if found is None:
        return False
    product, most = exact(module, x)
    return found.dtype == x.dtype and bool(((found.double() - product).abs() <= most).all())


@torch.no_grad()
def exact(module: QuantizedModule, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The product y with the decoded weight in float64, without bias, (rows, out), and how far another may be from it:
    ``2u |y| + (6 + √k v / u) u ‖x * w‖`` for k columns, u half a step of x's type and v one of float32.

    The first term is the rounding of the result and of its scale. The second is that of inputs, weights, scales and offsets:
    independent errors of at most u add as a root of squares, of which six cover the largest of very many; and that of summing in
    float32, as much as k partial sums are rounded.
    """
    seen = module.incoming(x).double()
    unit, wide = torch.finfo(x.dtype).eps / 2, torch.finfo(torch.float32).eps / 2
    per_term = 6 * unit + module.shape[1] ** 0.5 * wide
    products, most = [], []
    for _, _, block in module.blocks():
        weight = block.double()
        products.append(seen @ weight.T)
        most.append(2 * unit * products[-1].abs() + per_term * (seen.square() @ weight.square_().T).sqrt_())
    return torch.cat(products, 1), torch.cat(most, 1)


@torch.no_grad()
def fastest(module: QuantizedModule, kernels: Sequence[Kernel], x: torch.Tensor) -> Kernel | None:
    """The kernel that needs the least time for x, or None where none is clearly faster than the reference."""
    calls: list[Callable[[], object]] = [lambda: reference(module, module.incoming(x))]
    able = [kernel for kernel in kernels if _run(module, kernel, x) is not None]
    calls += [lambda kernel=kernel: _run(module, kernel, x) for kernel in able]
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for number, call in enumerate(calls):
            started = time.perf_counter()
            call()
            best[number] = min(best[number], time.perf_counter() - started)
    quickest = min(range(len(calls)), key=best.__getitem__)
    return able[quickest - 1] if quickest and best[quickest] < CLEARLY * best[0] else None
