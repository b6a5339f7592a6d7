"""Up to 128 activations with any stored format: rows are decoded and multiplied in the cache, in one pass on all threads."""

import torch

from engine.decoding import torch_type
from engine.nn.storage import SMALL, QuantizedModule, bytes_of
from engine.nn.threads import kernels_in_parallel
from engine.schemes.base import Multiplier

PIECES = 2
"""Of each thread's rows, so that a thread that is held up is waited for less."""
HALVES = (torch.bfloat16, torch.float16)
HELD = 0.03
"""Of the codes' bytes: what decodes them is kept from call to call where it holds no more beside them."""
Piece = tuple[int, int, Multiplier]
"""First row, row after the last, and what multiplies by them."""


class FusedKernel:
    """Values times activations in float32, summed in float32 and rounded once.

    Values are rounded before, to the type that a reader decodes to, only for activations of a finer one.
    """

    name, dtypes, copies, quantizes = "fused", (torch.float32, *HALVES), False, False
    MOST_ROWS = 128
    """Each thread copies the activations; of more rows they would not stay in its cache, nor would decoding take long beside
    the product."""

    @classmethod
    def suits(cls, module: QuantizedModule) -> bool:
        return module.stored()["codes"].device.type == "cpu" and module.dtype in (torch.float32, *HALVES)

    def prepare(self, module: QuantizedModule) -> None:
        decoder, codes = module.decoder(), module.stored()["codes"]
        self._module, self._rows = module, module.shape[0]
        self._finest = torch.finfo(torch_type(decoder.dtype, module.layer.name)).eps
        kept = decoder.nbytes <= HELD * codes.nbytes
        self.nbytes = decoder.nbytes if kept else 0
        self._kept: dict[bool, list[Piece]] | None = {} if kept else None

    def run(self, x: torch.Tensor) -> torch.Tensor | None:
        rows = x.shape[0]
        if rows > self.MOST_ROWS:
            return None
        given, out = x.float().numpy(), torch.empty(self._rows, rows)
        found = out.numpy()

        def multiply(piece: Piece) -> None:
            first, end, run = piece
            run(given, found[first:end])

        kernels_in_parallel(multiply, self._pieces(rounded=torch.finfo(x.dtype).eps < self._finest))
        return out.T.to(x.dtype)

    def _pieces(self, *, rounded: bool) -> list[Piece]:
        if self._kept is None:
            return self._made(rounded)
        if rounded not in self._kept:
            self._kept[rounded] = self._made(rounded)
        return self._kept[rounded]

    def _made(self, rounded: bool) -> list[Piece]:
        module = self._module
        decoder, codes = module.decoder(), bytes_of(module.stored()["codes"]).numpy()
        size = decoder.codes_row_bytes
        return [
            (first, first + rows, decoder.multiplier(codes[first * size : (first + rows) * size], first, rows, rounded=rounded))
            for first, rows in self._chunks()
        ]

    def _chunks(self) -> list[tuple[int, int]]:
        whole = self._module.shape.numel() * self._module.dtype.itemsize
        return self._module.chunks(whole // PIECES) if whole > SMALL else [(0, self._rows)]
