"""Which product a linear module uses for so many rows: tried at first use, never guessed."""

import time
from collections.abc import Callable

import torch

from engine.nn.kernels import KERNELS, Kernel
from engine.nn.product import reference
from engine.nn.storage import QuantizedModule

BUCKETS = (1, 16, 64)
"""Most rows of each bucket; one more bucket has all above."""
CLEARLY = 0.9
"""A kernel must need at most this share of the reference's time."""
_faster: dict[tuple, bool] = {}
"""What was timed in this process: layers of one scheme and shape take equally long."""


class Choice:
    """The kernels of one module: ``run`` gives the product, or None where the reference is to be used."""

    def __init__(self) -> None:
        self.kernel: Kernel | None = None
        self.chosen: dict[int, bool] = {}

    @property
    def nbytes(self) -> int:
        return self.kernel.nbytes if self.kernel else 0

    def run(self, module: QuantizedModule, x: torch.Tensor) -> torch.Tensor | None:
        """x (rows, in) to (rows, out), without gradients."""
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or not len(x):
            return None
        bucket = sum(len(x) > most for most in BUCKETS)
        if bucket not in self.chosen:
            self._choose(module, len(x), bucket)
        if not self.chosen[bucket] or self.kernel is None:
            return None
        out = self.kernel.run(x.contiguous())
        return out if module.bias is None else out + module.bias.to(out.dtype)

    def _choose(self, module: QuantizedModule, rows: int, bucket: int) -> None:
        self.chosen[bucket] = False
        kind = next((kernel for kernel in KERNELS if kernel.suits(module)), None)
        key = (kind, module.scheme, module.shape, bucket, torch.get_num_threads())
        if kind is None or _faster.get(key) is False:
            return
        kernel = self.kernel or kind()
        if kernel is not self.kernel:
            kernel.prepare(module)
        probe = torch.randn(rows, module.shape[1], generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        if not agrees(module, kernel, probe):
            return
        if key not in _faster:
            _faster[key] = faster(lambda: kernel.run(probe), lambda: reference(module, probe))
        if _faster[key]:
            self.kernel, self.chosen[bucket] = kernel, True


@torch.no_grad()
def agrees(module: QuantizedModule, kernel: Kernel, x: torch.Tensor) -> bool:
    """Whether a kernel's result for x (rows, in) lies within the rounding of bfloat16 around the decoded weight's."""
    return bool(((kernel.run(x).float() - exact(module, x)).abs() <= tolerance(module, x)).all())


@torch.no_grad()
def exact(module: QuantizedModule, x: torch.Tensor) -> torch.Tensor:
    """The product with the decoded weight in float32, without bias, (rows, out)."""
    return torch.cat([x.float() @ weight.float().T for _, _, weight in module.blocks()], 1)


@torch.no_grad()
def tolerance(module: QuantizedModule, x: torch.Tensor) -> torch.Tensor:
    """``2u |y| + 6u ‖x * w‖`` for each output y, u = 2**-8 being half a step of bfloat16.

    The first term is the rounding of the result and of its scale. The second is that of weights, or of the scales and offsets
    of groups: independent errors of at most u add as a root of squares, of which six cover the largest of very many.
    """
    unit = torch.finfo(torch.bfloat16).eps / 2
    spread = torch.cat([x.float().square() @ weight.float().square().T for _, _, weight in module.blocks()], 1).sqrt()
    return 2 * unit * exact(module, x).abs() + 6 * unit * spread


@torch.no_grad()
def faster(kernel: Callable[[], torch.Tensor], other: Callable[[], torch.Tensor]) -> bool:
    """Whether the kernel is clearly faster: the best of some calls of each, in turn."""
    seconds = [[], []]
    for _ in range(4):
        for times, call in zip(seconds, (kernel, other), strict=True):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return min(seconds[0]) < CLEARLY * min(seconds[1])
