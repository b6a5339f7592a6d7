"""Up to 128 activations with any stored format: rows are decoded and multiplied in the cache, in one pass on all threads."""

from collections.abc import Callable

import torch

from engine.decoding import torch_type
from engine.nn.storage import QuantizedModule, bytes_of
from engine.nn.threads import kernels_in_parallel

PIECES = 2
"""Of each thread's rows, so that a thread that is held up is waited for less."""
HALVES = (torch.bfloat16, torch.float16)


class FusedKernel:
    """Values times activations in float32, summed in float32 and rounded once.

    Values are rounded before, to the type that a reader decodes to, only for activations of a finer one.
    """

    name, dtypes, copies, quantizes = "fused", (torch.float32, *HALVES), False, False
    MOST_ROWS = 128
    """Each thread copies the activations; of more rows they would not stay in its cache, nor would decoding take long beside
    the product."""

    def __init__(self) -> None:
        self.nbytes = 0

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        return module.stored()["codes"].device.type == "cpu" and module.dtype in (torch.float32, *HALVES)

    def prepare(self, module: QuantizedModule) -> None:
        self._module = module

    def run(self, x: torch.Tensor) -> torch.Tensor | None:
        if len(x) > self.MOST_ROWS:
            return None
        module = self._module
        decoder, codes, given = module.decoder(), bytes_of(module.stored()["codes"]).numpy(), x.float().numpy()
        out = torch.empty(module.shape[0], len(x))
        found, size = out.numpy(), decoder.codes_row_bytes
        rounded = torch.finfo(x.dtype).eps < torch.finfo(torch_type(decoder.dtype, module.layer.name)).eps

        def multiply(chunk: tuple[int, int]) -> None:
            first, last = chunk[0], sum(chunk)
            decoder.multiply(codes[first * size : last * size], first, chunk[1], given, found[first:last], rounded=rounded)

        self._carry_out(multiply)
        return out.T.to(x.dtype)

    def _carry_out(self, multiply: Callable[[tuple[int, int]], None]) -> None:
        module = self._module
        kernels_in_parallel(multiply, module.chunks(max(module.shape.numel() * module.dtype.itemsize // PIECES, 1)))


class AloneKernel(FusedKernel):
    """The same on the calling thread: where one core takes all that memory gives, a second only has to be woken."""

    name = "fused, one thread"

    def _carry_out(self, multiply: Callable[[tuple[int, int]], None]) -> None:
        multiply((0, self._module.shape[0]))
