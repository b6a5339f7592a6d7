"""What a number family must say about itself, and the interfaces of its encoder and decoder.

Modules of this package import no arithmetic when they are imported (a plan is made without torch or numba);
their encoders fetch ``engine.numerics`` when they are built.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine.records.dtypes import nbytes
from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import KEEP, Scheme, SchemeChoices
from engine.schemes.grouping import Grouping

if TYPE_CHECKING:
    import numpy as np

    from engine.measure.tally import Tally

OWN = "mono-quant"
"""Storage that only this engine reads: numbers that compressed-tensors has no name for."""

PART_ENDINGS = {
    "_packed": "codes", "_global_scale": "global_scale", "_scale_scale": "scale_scale", "_scale_mean": "scale_mean",
    "_scale": "scale", "_zero_point": "zero_point", "_shape": "shape",
}  # fmt: skip
"""Endings of a quantized weight's stored tensors, and the roles they stand for; longer endings first."""


def role_of(name: str) -> str:
    """What a stored tensor of a quantized layer is, by the ending of its name."""
    return next((role for ending, role in PART_ENDINGS.items() if name.endswith(ending)), "codes")


class Encoder(ABC):
    """Quantizes one layer, chunk by chunk; several threads may encode at once."""

    grouping: Grouping
    layer: LayerInfo
    """The layer as it is to be read: its output axis decides which rows a chunk has."""

    @abstractmethod
    def encode(self, raw: "np.ndarray", rows: int, parameters: Any, bin_scale: "np.float32", out: "np.ndarray", tally: "Tally"):
        """Fill ``out`` with the codes of ``rows`` rows, given their stored bytes and parameters; measure into ``tally``.

        ``out`` is used again and again (fresh memory is dear): every byte of it must be written.
        """


Multiplier = Callable[["np.ndarray", "np.ndarray"], None]


class Decoder(ABC):
    """Turns stored codes back into values of ``dtype``."""

    dtype: str
    codes_row_bytes: int

    @abstractmethod
    def decode(self, codes: "np.ndarray", row: int, rows: int) -> "np.ndarray":
        """Bytes of ``rows`` decoded rows from ``row`` on."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of what it holds beside the stored parts."""

    @abstractmethod
    def multiplier(self, codes: "np.ndarray", row: int, rows: int, *, rounded: bool = True) -> Multiplier:
        """What multiplies by ``rows`` decoded rows from ``row`` on, and may be called again and again, on any thread.

        It takes float32 vectors (n, cols) and fills ``out`` (rows, n), with sums in float32. ``rounded``: whether values are
        rounded to ``dtype`` before, which takes longer.
        """


class Family(ABC):
    """One number family: its grammar, its limits, its layout on disk and its codec."""

    names: tuple[str, ...]
    """Values of ``Scheme.family`` that are this family's."""
    choices: SchemeChoices
    examples: str
    shares_limit = False
    """Whether layers that a runtime fuses must share a scale of the whole tensor."""

    @abstractmethod
    def parse(self, text: str) -> Scheme | None:
        """The scheme that ``text`` names, or None if it is not of this family. Raises RecipeError."""

    @abstractmethod
    def format(self, scheme: Scheme) -> str:
        """The canonical name; ``parse`` reads it back."""

    @abstractmethod
    def problems(self, scheme: Scheme, layer: LayerInfo) -> list[str]:
        """Why this scheme cannot be applied to this layer, and what would work. Empty when it can."""

    @abstractmethod
    def parts(self, scheme: Scheme, layer: LayerInfo, activations: str) -> tuple[PartPlan, ...]:
        """The exact output tensors."""

    @abstractmethod
    def encoder(self, scheme: Scheme, layer: LayerInfo, parts: tuple[PartPlan, ...]) -> Encoder:
        """A new encoder for one layer."""

    def wider(self, scheme: Scheme) -> Scheme:
        """The next scheme with more bits that is worth going to, with the same granularity where it has one."""
        return KEEP

    def ragged(self, scheme: Scheme, layer: LayerInfo) -> str:
        """Why readers that want whole groups would refuse this layer, and what would work; empty when they would not."""
        return ""

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        """Names of the quantized activations that runtimes pair with these weights."""
        return ()

    def storage(self, scheme: Scheme, parts: tuple[PartPlan, ...], activations: str) -> str:
        """The compressed-tensors format of these parts, or ``OWN``."""
        return OWN

    def shape_of(self, scheme: Scheme, packed: tuple[int, ...]) -> tuple[int, ...] | None:
        """A weight's shape where that of its packed codes tells it."""
        return None

    def stored_problem(self, scheme: Scheme, layer: LayerInfo) -> str:
        """Why the stored parts of a layer, with its own shape known, do not fit the scheme; empty when they do."""
        return "" if len(layer.parts) == 1 else "it has parts that its scheme does not know"

    def decoder(self, scheme: Scheme, layer: LayerInfo, stored: "Mapping[str, np.ndarray]") -> Decoder:
        """A decoder for one stored layer; ``stored`` has the bytes of every part but the codes, by role."""
        raise TypeError(f"{self.choices.title} layers are stored as plain tensors")

    def quantization_args(self, scheme: Scheme) -> dict[str, Any] | None:
        """The ``weights`` entry of a configuration's group; None when the layer stays unquantized."""
        return None

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        """The inverse: the scheme that a config group describes, or None if it is not of this family."""
        return None


def part(name: str, dtype: str, shape: tuple[int, ...], role: str) -> PartPlan:
    return PartPlan(name, dtype, shape, nbytes(dtype, shape), role)
