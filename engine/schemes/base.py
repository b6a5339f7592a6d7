"""What a number family must say about itself, and the interfaces of its encoder and decoder.

Modules of this package import no arithmetic when they are imported (a plan is made without torch or numba);
their encoders fetch ``engine.numerics`` when they are built.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.records.dtypes import nbytes, numel
from engine.records.model import LayerInfo
from engine.records.plan import PartPlan
from engine.records.scheme import Scheme

if TYPE_CHECKING:
    import numpy as np

    from engine.measure.tally import Tally

Fit = Callable[["np.ndarray", "np.ndarray", Scheme, str], "tuple[np.ndarray, np.ndarray]"]
"""An algorithm's choice: (low, high, scheme, scale dtype) to (scale, zero point), each per group."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight seen as rows (output channels) of columns, the shape every encoder works on."""

    rows: int
    cols: int

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int) -> "Matrix":
        rows = shape[axis] if shape else 1
        return cls(rows, numel(shape) // rows if rows else 0)


class Encoder(ABC):
    """Quantizes one layer, chunk by chunk. ``fit`` comes first; ``encode`` may run in several threads."""

    group: int
    """Values that share one range in the first pass."""

    @abstractmethod
    def fit(self, low: "np.ndarray", high: "np.ndarray", limit: float, fit: Fit) -> None:
        """Take the ranges of all groups of the layer and its largest magnitude; decide the parameters."""

    @abstractmethod
    def encode(self, raw: "np.ndarray", row: int, rows: int, out: "np.ndarray", tally: "Tally") -> None:
        """Fill ``out`` with the codes of ``rows`` rows from ``row`` on, given their stored bytes; measure into ``tally``.

        ``out`` is used again and again (fresh memory is dear): every byte of it must be written.
        """

    @abstractmethod
    def small_parts(self) -> "Mapping[str, bytes]":
        """Bytes of the other parts, by role."""


class Decoder(ABC):
    """Turns stored codes back into values of ``dtype``."""

    dtype: str
    codes_row_bytes: int

    @abstractmethod
    def decode(self, codes: "np.ndarray", row: int, rows: int) -> "np.ndarray":
        """Bytes of ``rows`` decoded rows from ``row`` on."""


class Family(ABC):
    """One number family: its grammar, its limits, its layout on disk and its codec."""

    names: tuple[str, ...]
    """Values of ``Scheme.family`` that are this family's."""
    title: str
    examples: str

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

    def stored_problem(self, scheme: Scheme, layer: LayerInfo) -> str:
        """Why the stored parts of a layer, with its own shape known, do not fit the scheme; empty when they do."""
        return "" if len(layer.parts) == 1 else "it has parts that its scheme does not know"

    def decoder(self, scheme: Scheme, layer: LayerInfo, stored: "Mapping[str, np.ndarray]") -> Decoder:
        """A decoder for one stored layer; ``stored`` has the bytes of every part but the codes, by role."""
        raise TypeError(f"{self.title} layers are stored as plain tensors")

    def quantization_args(self, scheme: Scheme) -> dict[str, Any] | None:
        """The ``weights`` entry of a compressed-tensors config group; None when the layer stays unquantized."""
        return None

    def scheme_from_args(self, args: Mapping[str, Any]) -> Scheme | None:
        """The inverse: the scheme that a config group describes, or None if it is not of this family."""
        return None


def part(name: str, dtype: str, shape: tuple[int, ...], role: str) -> PartPlan:
    return PartPlan(name, dtype, shape, nbytes(dtype, shape), role)
